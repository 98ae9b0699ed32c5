"""Images listed in a csv file with the columns path, identity, split and, optionally, camera."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sfsc.data.dataset import SPLITS, Dataset
from sfsc.data.table import Row, check_distinct, read_table
from sfsc.errors import SfscError

COLUMNS = ("path", "identity", "split")


def read_csv(source: str, path: Path) -> Dataset:
    """Read the data set in a csv file. Relative image paths start at the folder of the file.

    Raises:
        SfscError: a column or a value is missing or wrong, or an image is listed twice. The message names the
            file, the line and the column.
    """
    return read_listed(source, path, image_size=(224, 224), mirrors=True)


def read_listed(source: str, path: Path, image_size: tuple[int, int], mirrors: bool) -> Dataset:
    """Read a data set as `read_csv` does, with the given image size and symmetry."""
    rows = read_table(path, COLUMNS, ["camera"])
    for row in rows:
        _check(row, f"{path}, line {row.line}")
    paths = [_find(path.parent, row.values["path"]) for row in rows]
    check_distinct(path, zip((row.line for row in rows), paths, strict=True))
    return Dataset(
        source=source,
        paths=tuple(paths),
        identities=np.array([row.values["identity"] for row in rows]),
        cameras=np.array([row.values["camera"] for row in rows])
        if rows and "camera" in rows[0].values
        else None,
        splits=np.array([row.values["split"] for row in rows]),
        image_size=image_size,
        mirrors=mirrors,
    )


def _find(folder: Path, name: str) -> str:
    """Return the path of an image; replace backslashes by slashes if the file exists only then."""
    turned = folder / name.replace("\\", "/")
    path = folder / name
    return str(turned if turned != path and turned.exists() and not path.exists() else path)


def _check(row: Row, place: str) -> None:
    for column, value in row.values.items():
        if not value:
            raise SfscError(f"{place}, column {column}: is empty")
    if row.values["split"] not in SPLITS:
        raise SfscError(f"{place}, column split: {row.values['split']!r} is not one of {', '.join(SPLITS)}")
