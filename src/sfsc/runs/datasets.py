"""Handling the path in the name of a data set, KIND:PATH, or of a view such as validation:KIND:PATH."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from sfsc.data.sources import KINDS, LONGEST_NAME, split_view
from sfsc.runs.paths import find


def split_name(name: str) -> tuple[str, str] | None:
    """Split the name of a data set into the prefix and the path; return None for other texts."""
    first, _, rest = name.partition(":")
    if len(name) > LONGEST_NAME:
        return None
    if first in KINDS and rest:
        return f"{first}:", rest
    if (view := split_view(name)) and (inner := split_name(view[1])):
        return f"{view[0]}{inner[0]}", inner[1]
    return None


def relocated(name: str, place: Callable[[str], str]) -> str:
    """Return the name of a data set with `place` applied to its path; other texts are returned unchanged."""
    parts = split_name(name)
    return f"{parts[0]}{place(parts[1])}" if parts else name


def absolute(name: str) -> str:
    """Return the name of a data set with an absolute path."""
    return relocated(name, os.path.abspath)


def found(name: str, run: Path) -> str:
    """Return a name in the settings or results of a run with the path at which the data set is now."""
    return relocated(name, lambda path: find(path, run))


def same(one: str, other: str) -> bool:
    """Return whether two names with absolute paths mean the same data set, also through links."""
    return relocated(one, os.path.realpath) == relocated(other, os.path.realpath)
