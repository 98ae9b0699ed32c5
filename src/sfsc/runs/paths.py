"""The files of a run that others ask for by name, and where the paths in its settings lead to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from sfsc.errors import SfscError
from sfsc.files.writing import read_json

CONFIG_FILE = "config.json"
DESCRIPTION_FILE = "family.json"
FAMILY_FILE = "family.safetensors"
ENVIRONMENT_FILE = "environment.json"
STARTED_IN = "started_in"  # its entry for the working folder


def started_in(run: Path) -> Path | None:
    """The working folder in which a run was started; None where it does not say."""
    try:
        folder = read_json(run / ENVIRONMENT_FILE).get(STARTED_IN)
    except (SfscError, AttributeError):
        return None
    return Path(folder) if isinstance(folder, str) else None


def find(path: str, run: Path) -> str:
    """The absolute path of what a run's settings name, wherever this process works; where it is gone, `path`.

    A relative path is tried from the working folder, from the folder in which the run was started, and from
    the folders above the run. So is an absolute one that leads nowhere, if it began with the folder in which
    the run was started: the run may have been moved together with what is beside it.
    """
    return next((place for place in places(path, run) if os.path.exists(place)), path)


def places(path: str, run: Path) -> Iterator[str]:
    """The absolute paths that `find` tries, in its order."""
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
