"""Images in one folder per identity."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sfsc.data.images import is_image
from sfsc.data.records import SPLITS, Dataset, held_out
from sfsc.errors import SfscError


def read_folder(source: str, path: Path) -> Dataset:
    """The dataset of `path/SPLIT/IDENTITY/*`, or of `path/IDENTITY/*`, half of the identities for testing.

    Raises SfscError if `path` holds folders of both kinds.
    """
    folders = _subfolders(path)
    named = [folder for folder in folders if folder.name in SPLITS]
    if named and len(named) < len(folders):
        other = next(folder for folder in folders if folder not in named)
        raise SfscError(f"{path}: the folder {other.name} stands beside {named[0].name}: move one of them")
    if named:
        rows = [(*row, folder.name) for folder in named for row in _identities(folder)]
    else:
        testing = held_out(folder.name for folder in folders)
        rows = [(*row, "test" if row[1] in testing else "train") for row in _identities(path)]
    return Dataset(
        source=source,
        paths=tuple(image for image, _, _ in rows),
        identities=np.array([identity for _, identity, _ in rows]),
        cameras=None,
        splits=np.array([split for _, _, split in rows]),
        image_size=(224, 224),
        mirrors=True,
    )


def _identities(path: Path) -> Iterator[tuple[str, str]]:
    """(image path, identity) for all images of all identity folders, sorted."""
    for folder in _subfolders(path):
        for image in sorted(folder.iterdir()):
            if is_image(image):
                yield str(image), folder.name


def _subfolders(path: Path) -> list[Path]:
    return sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))
