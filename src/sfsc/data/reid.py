"""Re-identification sets in their original folders: Market-1501, VeRi-776, MSMT17."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sfsc.data.images import is_image
from sfsc.data.records import Dataset
from sfsc.errors import SfscError

PERSON, VEHICLE = (256, 128), (256, 256)

Row = tuple[str, str, str, str]  # path, identity, camera, split


@dataclass(frozen=True)
class _Layout:
    """A set whose file names say identity and camera, in one folder for each split."""

    title: str
    folders: dict[str, str]
    name: re.Pattern[str]
    example: str
    image_size: tuple[int, int]
    junk: str | None = None


_MARKET = _Layout(
    title="Market-1501",
    folders={"bounding_box_train": "train", "query": "query", "bounding_box_test": "gallery"},
    name=re.compile(r"(-1|\d+)_(c\d+)s\d+_\d+_\d+\.jpg(?:\.jpg)?"),  # as shipped, 48 names end twice
    example="0002_c1s1_000451_03.jpg",
    image_size=PERSON,
    junk="-1",
)
_VERI = _Layout(
    title="VeRi-776",
    folders={"image_train": "train", "image_query": "query", "image_test": "gallery"},
    name=re.compile(r"(\d+)_(c\d+)_\d+_\d+\.jpg"),
    example="0001_c001_00016450_0.jpg",
    image_size=VEHICLE,
)
_MSMT_LISTS = {
    "list_train.txt": ("train", "train"),
    "list_val.txt": ("train", "train"),
    "list_query.txt": ("test", "query"),
    "list_gallery.txt": ("test", "gallery"),
}
_MSMT_FOLDERS = {"train": ("train", "mask_train_v2"), "test": ("test", "mask_test_v2")}
_MSMT_NAME = re.compile(r"(\d+)/\d+_\d+_(\d+)_[^/]*\.jpg")


def read_market1501(source: str, path: Path) -> Dataset:
    """Market-1501 (Zheng et al. 2015), persons seen by six cameras, without the junk images (identity -1).

    The distractors (identity 0000) stay in the gallery. Raises SfscError for a missing folder and for an
    image whose name does not say identity and camera.
    """
    return _dataset(source, _named(path, _MARKET), _MARKET.image_size)


def read_veri776(source: str, path: Path) -> Dataset:
    """VeRi-776 (Liu et al. 2016), vehicles seen by twenty cameras; SfscError as for Market-1501."""
    return _dataset(source, _named(path, _VERI), _VERI.image_size)


def read_msmt17(source: str, path: Path) -> Dataset:
    """MSMT17 (Wei et al. 2018), V1 or V2, persons seen by fifteen cameras, with its lists of images.

    The validation images are trained on too. Raises SfscError for a missing list or folder and for a line
    that is not as it should be.
    """
    return _dataset(source, _listed(path), PERSON)


def _dataset(source: str, rows: Iterable[Row], image_size: tuple[int, int]) -> Dataset:
    rows = list(rows)
    return Dataset(
        source=source,
        paths=tuple(row[0] for row in rows),
        identities=np.array([row[1] for row in rows]),
        cameras=np.array([row[2] for row in rows]),
        splits=np.array([row[3] for row in rows]),
        image_size=image_size,
        mirrors=True,
    )


def _named(path: Path, layout: _Layout) -> Iterator[Row]:
    for name, split in layout.folders.items():
        folder = path / name
        if not folder.is_dir():
            raise SfscError(
                f"{folder} is missing: {layout.title} has the folders {', '.join(layout.folders)}"
            )
        for image in sorted(folder.iterdir()):
            if not is_image(image):
                continue
            match = layout.name.fullmatch(image.name)
            if match is None:
                raise SfscError(f"{image}: the name is not like {layout.example}")
            identity, camera = match.groups()
            if identity != layout.junk:
                yield str(image), identity, camera, split


def _listed(path: Path) -> Iterator[Row]:
    for list_name, (part, split) in _MSMT_LISTS.items():
        folder = next((path / name for name in _MSMT_FOLDERS[part] if (path / name).is_dir()), None)
        if folder is None or not (path / list_name).is_file():
            raise SfscError(f"{path} is not MSMT17: it lacks {list_name} or the folder {part}")
        for line in (path / list_name).read_text().splitlines():
            image = line.split(" ")[0]
            match = _MSMT_NAME.fullmatch(image)
            if match is None:
                raise SfscError(
                    f"{path / list_name}: {line!r} is not like 0000/0000_000_01_0303morning_0015_0.jpg 0"
                )
            identity, camera = match.groups()
            # Training and test persons are both numbered from 0.
            yield str(folder / image), f"{part}/{identity}", camera, split
