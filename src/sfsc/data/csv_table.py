"""Images listed in a csv file with the columns path, identity, split and, optionally, camera."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from sfsc.data.records import SPLITS, Dataset
from sfsc.errors import SfscError

COLUMNS = ("path", "identity", "split")


def read_csv(source: str, path: Path) -> Dataset:
    """The dataset of a csv file; relative image paths start at its folder.

    Raises SfscError naming the file, line and column if a column or a value is missing or wrong.
    """
    return read_table(source, path, image_size=(224, 224), mirrors=True)


def read_table(source: str, path: Path, image_size: tuple[int, int], mirrors: bool) -> Dataset:
    """As `read_csv`, for a table whose images have this size and symmetry."""
    rows = _read_rows(path)
    return Dataset(
        source=source,
        paths=tuple(str(path.parent / row["path"]) for row in rows),
        identities=np.array([row["identity"] for row in rows]),
        cameras=np.array([row["camera"] for row in rows]) if rows and "camera" in rows[0] else None,
        splits=np.array([row["split"] for row in rows]),
        image_size=image_size,
        mirrors=mirrors,
    )


def _read_rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or ()
            for column in COLUMNS:
                if column not in columns:
                    raise SfscError(f"{path}, line 1: there is no column {column!r}")
            used = (*COLUMNS, "camera") if "camera" in columns else COLUMNS
            return [_check(row, used, f"{path}, line {reader.line_num}") for row in reader]
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise SfscError(f"{path} is not a csv file in UTF-8: {error}") from error


def _check(row: dict[str, str], columns: tuple[str, ...], place: str) -> dict[str, str]:
    for column in columns:
        if not row[column]:
            raise SfscError(f"{place}, column {column}: is empty")
    if row["split"] not in SPLITS:
        raise SfscError(f"{place}, column split: {row['split']!r} is none of {', '.join(SPLITS)}")
    return {column: row[column] for column in columns}
