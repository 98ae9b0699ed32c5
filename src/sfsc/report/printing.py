"""Lines and values as every command prints them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from rich.console import Console

T = TypeVar("T")


def print_line(line: str) -> None:
    """Print a line as it is: neither wrapped nor coloured."""
    Console().print(line, highlight=False, markup=False, soft_wrap=True)


def known(value: T | None, show: Callable[[T], str]) -> str:
    """Return a value as `show` writes it, or "-" if it is not known."""
    return "-" if value is None else show(value)
