"""Progress bars and remarks on standard error."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import cache
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")


@cache
def say(line: str) -> None:
    """Print a line on standard error, but only the first time."""
    if os.environ.get("RANK", "0") == "0":  # only one of the processes that torchrun starts prints
        Console(stderr=True).print(line, highlight=False, markup=False, soft_wrap=True)


def track(
    iterable: Iterable[T], description: str, total: int | None = None, completed: int = 0
) -> Iterator[T]:
    """Yield the items of `iterable` with a progress bar on standard error that shows the remaining time.

    `total` is required if the iterable has no length. `completed` is the position at which a resumed job
    starts.
    """
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        console=Console(stderr=True),
        disable=is_silent_rank(),
        speed_estimate_period=60,
    ) as progress:
        yield from progress.track(iterable, total, completed=completed, description=description)


def is_silent_rank() -> bool:
    """Return whether torchrun started this process and another rank prints for all."""
    return os.environ.get("RANK", "0") != "0"
