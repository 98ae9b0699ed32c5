"""Reading re-identification data sets in their original form: Market-1501, VeRi-776 and MSMT17."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sfsc.data.dataset import Dataset
from sfsc.data.walking import cannot_be_read, find_root, say_passed_over, walk
from sfsc.errors import SfscError

PERSON, VEHICLE = (256, 128), (256, 256)

Row = tuple[str, str, str, str]  # path, identity, camera, split


@dataclass(frozen=True)
class _Layout:
    """A data set with one folder per split, whose file names contain the identity and the camera.

    Attributes:
        title: the name of the data set.
        folders: the split of each folder.
        name: matches a file name; its groups are the identity and the camera.
        example: an example of a file name.
        image_size: the (height, width) in pixels that suits the images.
        junk: an identity whose images are left out.
        lists: for a folder, a file that lists the images which belong to the data set. It may be missing.
        numbered: a prefix for the identities of each split, if splits use the same numbers for others.
    """

    title: str
    folders: Mapping[str, str]
    name: re.Pattern[str]
    example: str
    image_size: tuple[int, int]
    junk: str | None = None
    lists: Mapping[str, str] = field(default_factory=dict)
    numbered: Mapping[str, str] = field(default_factory=dict)


_MARKET = _Layout(
    title="Market-1501",
    folders={"bounding_box_train": "train", "query": "query", "bounding_box_test": "gallery"},
    name=re.compile(r"(-1|\d+)_(c\d+)s\d+_\d+_\d+\.jpg(?:\.jpg)?"),  # some original names end twice
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
    lists={"image_train": "name_train.txt", "image_query": "name_query.txt", "image_test": "name_test.txt"},
)
# MSMT17 is also distributed in the folders of Market-1501.
_MSMT_REPACKED = _Layout(
    title="MSMT17",
    folders=_MARKET.folders,
    name=re.compile(r"(\d+)_(c\d+)_\w+\.jpg"),
    example="0000_c1_0000.jpg",
    image_size=PERSON,
    numbered={"train": "train/", "query": "test/", "gallery": "test/"},
)
_MSMT_LISTS = {
    "list_train.txt": ("train", "train"),
    "list_val.txt": ("train", "train"),
    "list_query.txt": ("test", "query"),
    "list_gallery.txt": ("test", "gallery"),
}
_MSMT_FOLDERS = {"train": ("train", "mask_train_v2"), "test": ("test", "mask_test_v2")}  # of V1 and V2
_MSMT_NAME = re.compile(r"(\d+)/\d+_\d+_(\d+)_[^/]*\.jpe?g")


def read_market1501(source: str, path: Path) -> Dataset:
    """Read Market-1501, persons seen by six cameras (Zheng et al., ICCV 2015).

    Junk images (identity -1) are left out. Distractors (identity 0000) stay in the gallery.

    Raises:
        SfscError: a folder is missing, or the name of an image does not contain identity and camera.
    """
    return _named(source, path, _MARKET)


def read_veri776(source: str, path: Path) -> Dataset:
    """Read VeRi-776, vehicles seen by twenty cameras (Liu et al. 2016).

    If the lists `name_train.txt`, `name_query.txt` and `name_test.txt` exist, only the images that they list
    are used.

    Raises:
        SfscError: a folder is missing, or the name of an image does not contain identity and camera.
    """
    return _named(source, path, _VERI)


def read_msmt17(source: str, path: Path) -> Dataset:
    """Read MSMT17, V1 or V2, persons seen by fifteen cameras (Wei et al. 2018).

    The images are found by the lists of the data set; the validation images are part of the training images.
    A copy in the folders of Market-1501 is read without lists.

    Raises:
        SfscError: a list or a folder is missing, or a line or the name of an image has an unexpected form.
    """
    root = find_root(path, [*_MSMT_LISTS, next(iter(_MSMT_REPACKED.folders))])
    if (root / next(iter(_MSMT_REPACKED.folders))).is_dir():
        return _named(source, root, _MSMT_REPACKED)
    return _dataset(source, _listed(root), PERSON)


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


def _named(source: str, path: Path, layout: _Layout) -> Dataset:
    root = find_root(path, [*layout.folders][:1])
    rows, walks, remarks = [], [], []
    for name, split in layout.folders.items():
        folder = root / name
        if not folder.is_dir():
            raise SfscError(
                f"{folder} is missing: {layout.title} has the folders {', '.join(layout.folders)}"
            )
        found = walk(folder)
        walks.append(found)
        images = found.images
        list_file = root / layout.lists.get(name, "")
        if list_file.is_file():
            images = [str(folder / image) for image in sorted(_read_list(list_file))]
            remarks += _differences(found.images, images, list_file.name)
        rows += [
            (image, layout.numbered.get(split, "") + identity, camera, split)
            for image, (identity, camera) in ((image, _parse(image, layout)) for image in images)
            if identity != layout.junk
        ]
    say_passed_over(source, walks, [*cannot_be_read(walks), *remarks])
    return _dataset(source, rows, layout.image_size)


def _differences(there: list[str], listed: list[str], name: str) -> list[str]:
    """Return remarks about images that are not listed, and about listed images that are missing."""
    unlisted, missing = sorted({*there} - {*listed}), sorted({*listed} - {*there})
    said = []
    if unlisted:
        said.append(f"skipped images that {name} does not list: {len(unlisted)}, such as {unlisted[0]}")
    if missing:
        said.append(f"images that {name} lists are missing: {len(missing)}, such as {missing[0]}")
    return said


def _parse(image: str, layout: _Layout) -> tuple[str, str]:
    """Return the identity and the camera from the name of an image."""
    match = layout.name.fullmatch(Path(image).name)
    if match is None:
        raise SfscError(
            f"{image}: the name is not like {layout.example}, which contains identity and camera in "
            f"{layout.title}: remove it if it does not belong there"
        )
    return match[1], match[2]


def _listed(root: Path) -> Iterator[Row]:
    for list_name, (part, split) in _MSMT_LISTS.items():
        folder = next((root / name for name in _MSMT_FOLDERS[part] if (root / name).is_dir()), None)
        if folder is None or not (root / list_name).is_file():
            raise SfscError(
                f"{root} is not MSMT17: it lacks {list_name} or the folder {' or '.join(_MSMT_FOLDERS[part])}"
            )
        for image, line in _read_list(root / list_name).items():
            match = _MSMT_NAME.fullmatch(image)
            if match is None:
                raise SfscError(
                    f"{root / list_name}, line {line}: {image} is not like "
                    "0000/0000_000_01_0303morning_0015_0.jpg"
                )
            identity, camera = match.groups()
            # Training and test persons are both numbered from 0.
            yield str(folder / image), f"{part}/{identity}", camera, split


def _read_list(file: Path) -> dict[str, int]:
    """Return the number of each line by the first word of the line."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise SfscError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SfscError(f"{file} is not text in UTF-8: {error}") from error
    return {line.split()[0]: number for number, line in enumerate(lines, 1) if line.strip()}
