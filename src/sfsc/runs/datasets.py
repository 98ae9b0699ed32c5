"""The place of a data set in its name: the PATH of KIND:PATH, or of a view such as validation:KIND:PATH."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from sfsc.data.sources import KINDS, LONGEST_NAME, RESPLITS
from sfsc.runs.paths import find


def split_name(name: str) -> tuple[str, str] | None:
    """What stands before the path in a data set's name, and the path; None where it names none."""
    first, _, rest = name.partition(":")
    if len(name) > LONGEST_NAME:
        return None
    if first in KINDS and rest:
        return f"{first}:", rest
    if first in RESPLITS and (inner := split_name(rest)):
        return f"{first}:{inner[0]}", inner[1]
    return None


def relocated(name: str, place: Callable[[str], str]) -> str:
    """The name of a data set with another path: what `place` makes of its own. What names none stays."""
    parts = split_name(name)
    return f"{parts[0]}{place(parts[1])}" if parts else name


def absolute(name: str) -> str:
    """The name of a data set with an absolute path."""
    return relocated(name, os.path.abspath)


def found(name: str, run: Path) -> str:
    """The name of a data set as a run's settings or results give it, with the path where it is now."""
    return relocated(name, lambda path: find(path, run))


def same(one: str, other: str) -> bool:
    """Whether two names, whose paths are absolute, are of one data set: links may lead to it."""
    return relocated(one, os.path.realpath) == relocated(other, os.path.realpath)
