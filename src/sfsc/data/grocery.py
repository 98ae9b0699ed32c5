"""Reading the Grocery Store Dataset: photos of products in shops, and a catalogue picture of each product."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sfsc.data.dataset import Dataset
from sfsc.data.table import read_columns, read_table
from sfsc.data.walking import find_root
from sfsc.errors import SfscError

CLASSES = "classes.csv"
LISTS = {"train.txt": "train", "val.txt": "train", "test.txt": "query"}
NAME, NUMBER, PICTURE = "Class Name (str)", "Class ID (int)", "Iconic Image Path (str)"
REPOSITORY = "https://github.com/marcusklasson/GroceryStoreDataset"


def read_grocery(source: str, path: Path) -> Dataset:
    """Read the Grocery Store Dataset (Klasson et al., WACV 2019).

    Identity = product, camera = "photo" or "catalogue". The photos of `train.txt` and `val.txt` are for
    training, those of `test.txt` are the queries, and the catalogue pictures are the gallery. Training and
    test photos show the same products.

    Raises:
        SfscError: a file is missing, or a line has an unexpected form.
    """
    root = find_root(path, [CLASSES])
    if not (root / CLASSES).is_file():
        raise SfscError(f"{root / CLASSES} is missing: clone {REPOSITORY}, and name its folder")
    rows = [*_images(root)]
    missing = [row[0] for row in rows if not os.path.isfile(row[0])]
    if missing:
        raise SfscError(f"{missing[0]} is missing, and {len(missing) - 1} more: clone {REPOSITORY} again")
    paths, identities, cameras, splits = zip(*rows, strict=True)
    return Dataset(
        source=source,
        paths=paths,
        identities=np.array(identities),
        cameras=np.array(cameras),
        splits=np.array(splits),
        image_size=(224, 224),
        mirrors=False,
    )


def _images(root: Path) -> Iterator[tuple[str, str, str, str]]:
    """Yield path, identity, camera and split of every image."""
    products = [row.values for row in read_table(root / CLASSES, [NAME, NUMBER, PICTURE])]
    names = {values[NUMBER]: values[NAME] for values in products}
    for name, split in LISTS.items():
        for line, values in read_columns(root / name, ["path", "product", "group"]):
            if values["product"] not in names:
                raise SfscError(
                    f"{root / name}, line {line}: {CLASSES} has no product {values['product']}: "
                    f"clone {REPOSITORY} again"
                )
            yield str(root / values["path"]), names[values["product"]], "photo", split
    for values in products:
        yield str(root / values[PICTURE].lstrip("/")), values[NAME], "catalogue", "gallery"
