"""The names of files in a run folder, and the search for paths that its settings contain."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from sfsc.errors import SfscError
from sfsc.files.writing import read_json

CONFIG_FILE = "config.json"
DESCRIPTION_FILE = "family.json"
FAMILY_FILE = "family.safetensors"
ENVIRONMENT_FILE = "environment.json"
ADAPTATION_FILE = "adaptation.json"
OLD_FILE = "old.safetensors"
OLD_BRIDGE_FILE = "old-bridge.safetensors"
FIXED_TEACHER_FILE = "teacher.safetensors"
STARTED_IN = "started_in"  # the entry of ENVIRONMENT_FILE for the working folder


def split_detail(name: str) -> tuple[str, str]:
    """Split SOURCE:DETAIL, such as RUN:WIDTH, into both; the second part is empty if there is none.

    A path that exists is not split, nor is python:module:function, nor the drive from a path.
    """
    path, _, detail = name.rpartition(":")
    plain = os.path.exists(name) or name.startswith("python:") or len(path) < 2
    return (name, "") if plain or not re.fullmatch(r"[\w.-]{1,64}", detail) else (path, detail)


def started_in(run: Path) -> Path | None:
    """Return the working folder in which a run was started, or None if it is unknown."""
    try:
        folder = read_json(run / ENVIRONMENT_FILE).get(STARTED_IN)
    except (SfscError, AttributeError):
        return None
    return Path(folder) if isinstance(folder, str) else None


def find(path: str, run: Path) -> str:
    """Return the absolute path of a file or folder in the settings of a run, or `path` if it is missing.

    A relative path is tried from the working folder, from the folder in which the run was started, and from
    the folders above the run. An absolute path is tried first as it is. If it is inside the folder in which
    the run was started, its relative part is tried too, because the run may have been moved with its data.
    """
    return next((place for place in places(path, run) if os.path.exists(place)), path)


def places(path: str, run: Path) -> Iterator[str]:
    """Yield the absolute paths that `find` tries, in this order."""
    yield os.path.abspath(path)
    start = started_in(run)
    if start is not None:
        yield os.path.abspath(start / path)
    if Path(path).is_absolute():
        if start is None or not Path(path).is_relative_to(start):
            return
        path = str(Path(path).relative_to(start))
    for folder in Path(os.path.abspath(run)).parents:
        yield str(folder / path)
