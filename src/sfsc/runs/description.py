"""The description of a family in its folder, stored in the file of the weights and in a copy.

The weights and their description are in one file and therefore change together. The copy, `family.json`, can
be read without the weights and is written after them. If a save is interrupted, the copy is missing or has
the fingerprint of another family.
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

KEY = "family"  # in the metadata of the weights; earlier versions did not write it


def as_metadata(description: Mapping[str, Any]) -> dict[str, str]:
    """Return the metadata for the file of the weights."""
    return {KEY: json.dumps(description)}


def read_description(folder: Path) -> tuple[Any, Path]:
    """Return the description of the family in a folder, as parsed JSON, and the file that contains it.

    Raises:
        SfscError: the folder contains no family, or one of the two files is damaged.
    """
    return of_metadata(folder, _metadata(folder / FAMILY_FILE))


def of_metadata(folder: Path, metadata: Mapping[str, str] | None) -> tuple[Any, Path]:
    """Return the same as `read_description`, given the metadata of the weights or None if they have none."""
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
    """Write the copy of the description if an interrupted save left none, or that of another family."""
    description, path = read_description(folder)
    if path != folder / DESCRIPTION_FILE:
        write_json(folder / DESCRIPTION_FILE, description)


def holds_family(folder: Path) -> bool:
    """Return whether a folder contains a family, that is, weights and their description."""
    weights = folder / FAMILY_FILE
    return weights.exists() and ((folder / DESCRIPTION_FILE).exists() or KEY in (_metadata(weights) or {}))


def _metadata(weights: Path) -> Mapping[str, str] | None:
    if not weights.exists():
        return None
    try:
        import safetensors
    except ModuleNotFoundError:  # without safetensors, the copy is used
        return None
    try:
        with safetensors.safe_open(weights, "np") as file:
            return file.metadata()
    except (OSError, safetensors.SafetensorError) as error:
        raise SfscError(f"{weights} is damaged: {first_line(error)}") from None
