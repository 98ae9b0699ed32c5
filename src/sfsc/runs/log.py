"""Reading the log of a training run, JSON lines with means over several steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NotRequired, TypedDict

from sfsc.errors import SfscError
from sfsc.files.json_text import parse_json
from sfsc.files.schema import conform
from sfsc.files.writing import read_bytes

LOG_FILE = "log.jsonl"

Means = list[float | None]


class LogLine(TypedDict):
    """A line of the log. Recipes can leave out the fields that are not required."""

    epoch: float
    loss: Means
    step: NotRequired[int]
    seconds: NotRequired[float]
    uncertainty: NotRequired[Means | None]
    conflicts: NotRequired[Means | None]
    conflicts_by_group: NotRequired[Means | None]


def read_log(run: Path) -> list[dict[str, Any]]:
    """Return the lines of the log of a run, each a `LogLine`; none if there is no log.

    Raises:
        SfscError: the log cannot be read, or a line is damaged; the message gives its number.
    """
    path = run / LOG_FILE
    if not path.exists():
        return []
    return [log_line(line, path, number) for number, line in enumerate(read_bytes(path).splitlines(), 1)]


def log_line(text: bytes, path: Path, number: int) -> dict[str, Any]:
    """Parse line `number` of the log at `path`; raise `SfscError` if it is damaged."""
    try:
        line: dict[str, Any] = conform(parse_json(text), LogLine)
    except ValueError as error:
        raise SfscError(f"{path}, line {number}: {error}; restore it, or repeat the run") from None
    return line
