"""The files in which Lance lists the deleted rows of a fragment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyroaring import BitMap


def identity_of(fragment: Any) -> dict[str, str] | None:
    """Return what identifies the deletions of a fragment: their file, whose name is random."""
    file = fragment.deletion_file()
    return None if file is None else {"file": file}


def deleted_positions(fragment: Any, table: Path) -> np.ndarray:
    """Return the positions of the deleted rows in a fragment: (k,) uint32, in ascending order.

    Lance lists few rows as an Arrow array, and many as a 32-bit Roaring bitmap in the portable format
    (https://github.com/RoaringBitmap/RoaringFormatSpec).

    Args:
        fragment: the fragment.
        table: the directory of the table.

    Raises:
        OSError: the file is missing.
        ValueError, pa.ArrowException: the file is damaged.
    """
    file = fragment.metadata.deletion_file
    if file is None:
        return np.empty(0, np.uint32)
    path = table / fragment.deletion_file()
    if file.file_type == "array":
        return np.sort(_listed(path))
    return _in_bitmap(path)


def _listed(path: Path) -> np.ndarray:
    alone = pa.ipc.IpcReadOptions(use_threads=False)  # another thread would be waited for on a busy machine
    return pa.ipc.open_file(path.read_bytes(), options=alone).read_all()[0].to_numpy()


def _in_bitmap(path: Path) -> np.ndarray:
    return np.array(BitMap.deserialize(path.read_bytes()).to_array(), np.uint32)


def places_of(positions: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return the places in `offsets`, (n,) ascending, of the positions that are there: (k,) int64."""
    places = np.searchsorted(offsets, positions)
    there = places < len(offsets)
    places, positions = places[there], positions[there]
    return places[offsets[places] == positions]
