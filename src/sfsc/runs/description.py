"""What a folder says of its family: in the file of the weights, and in a copy that is read without them.

The weights and their description change together, since they are in one file. The copy, `family.json`, is
written after it. A save that was cut leaves no copy, or one that names the fingerprint of another family.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sfsc.errors import SfscError, first_line
from sfsc.files.json_text import parse_json
from sfsc.files.writing import read_json, write_json
from sfsc.runs.paths import DESCRIPTION_FILE, FAMILY_FILE

KEY = "family"  # of the metadata in the file of the weights; families of earlier versions lack it


def as_metadata(description: Mapping[str, Any]) -> dict[str, str]:
    """What the file of the weights says of itself."""
    return {KEY: json.dumps(description)}


def read_description(folder: Path) -> tuple[Any, Path]:
    """What a folder says of its family, as JSON gives it, and the file that says so.

    Raises:
        SfscError: it holds no family, or one of the two files is damaged.
    """
    return of_metadata(folder, _metadata(folder / FAMILY_FILE))


def of_metadata(folder: Path, metadata: Mapping[str, str] | None) -> tuple[Any, Path]:
    """As `read_description`, where the metadata of the weights were read."""
    path, weights = folder / DESCRIPTION_FILE, folder / FAMILY_FILE
    if metadata is None or KEY not in metadata:
        if not path.is_file():
            raise SfscError(f"{folder} contains no trained family: {DESCRIPTION_FILE} is missing")
        return read_json(path), path
    try:
        stored = parse_json(metadata[KEY])
        stored_fingerprint = stored["fingerprint"]
    except (ValueError, KeyError, TypeError):
        raise SfscError(f"{weights} is damaged: it does not describe a family") from None
    if path.exists():
        copy = read_json(path)
        if fingerprint(copy, path) == stored_fingerprint:
            return copy, path
    return stored, weights


def fingerprint(description: Any, path: Path) -> str:
    """Return the fingerprint in a description; raise `SfscError`, which names the file, if it is missing."""
    try:
        return str(description["fingerprint"])
    except (KeyError, TypeError) as error:
        raise SfscError(f"{path} does not describe a family: {error!r}") from None


def complete(folder: Path) -> None:
    """Write the copy of the description where a save that was cut has left none, or another one."""
    description, path = read_description(folder)
    if path != folder / DESCRIPTION_FILE:
        write_json(folder / DESCRIPTION_FILE, description)


def holds_family(folder: Path) -> bool:
    """Whether there is a family in a folder: its weights, and what they are."""
    weights = folder / FAMILY_FILE
    return weights.exists() and ((folder / DESCRIPTION_FILE).exists() or KEY in (_metadata(weights) or {}))


def _metadata(weights: Path) -> Mapping[str, str] | None:
    if not weights.exists():
        return None
    try:
        import safetensors
    except ModuleNotFoundError:  # an installation that cannot read weights goes by the copy
        return None
    try:
        with safetensors.safe_open(weights, "np") as file:
            return file.metadata()
    except (OSError, safetensors.SafetensorError) as error:
        raise SfscError(f"{weights} is damaged: {first_line(error)}") from None
