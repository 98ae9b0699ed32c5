"""Market-1501 (Zheng et al. 2015): persons seen by six cameras."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sfsc.data.images import is_image
from sfsc.data.records import Dataset
from sfsc.errors import SfscError

_FOLDERS = {"bounding_box_train": "train", "query": "query", "bounding_box_test": "gallery"}
_NAME = re.compile(r"(-1|\d+)_(c\d+)s\d+_\d+_\d+\.jpg")
_JUNK = "-1"


def read_market1501(source: str, path: Path) -> Dataset:
    """The dataset in its original folders, without the junk images (identity -1).

    The distractors (identity 0000) stay in the gallery. Raises SfscError for a missing folder and for an
    image whose name does not say identity and camera.
    """
    rows = [row for name, split in _FOLDERS.items() for row in _read_folder(path / name, split)]
    return Dataset(
        source=source,
        paths=tuple(row[0] for row in rows),
        identities=np.array([row[1] for row in rows]),
        cameras=np.array([row[2] for row in rows]),
        splits=np.array([row[3] for row in rows]),
        image_size=(256, 128),
        mirrors=True,
    )


def _read_folder(folder: Path, split: str) -> Iterator[tuple[str, str, str, str]]:
    """(path, identity, camera, split) of each image, sorted."""
    if not folder.is_dir():
        raise SfscError(f"{folder} is missing: Market-1501 has the folders {', '.join(_FOLDERS)}")
    for image in sorted(folder.iterdir()):
        if not is_image(image):
            continue
        name = _NAME.fullmatch(image.name)
        if name is None:
            raise SfscError(f"{image}: the name is not like 0002_c1s1_000451_03.jpg")
        identity, camera = name.groups()
        if identity != _JUNK:
            yield str(image), identity, camera, split
