"""Flat FAISS indexes in files: IndexFlatIP and IndexFlatL2, also in an IndexIDMap.

Only these are read, by the few lines below, because FAISS itself trusts the sizes that a file states. The
layout is that of `faiss/impl/index_write.cpp`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sfsc.errors import SfscError
from sfsc.gallery.imports.ids import matched, read_ids
from sfsc.gallery.imports.source import Part, Source
from sfsc.gallery.problems import rows_per_part

FLAT = (b"IxFI", b"IxF2", b"IxFl")
NUMBERED = (b"IxMp", b"IxM2")
INDEXES = (b"Ix", b"IH", b"Iw")  # the first bytes of most indexes
METRICS = (0, 1)  # inner product and L2
HEADER = "<iqqqBi"  # dimension, rows, two unused numbers, whether it is trained, metric


@dataclass(frozen=True)
class _Flat:
    """The place of (rows, dimension) float32 in a file, and of int64 ids if there are any."""

    rows: int
    dimension: int
    start: int
    ids: int | None


def open_faiss(path: Path, ids: Path | None) -> Source:
    """Return the rows of a flat index. The id of a row is the line of `ids` with its number.

    Args:
        path: a file that `faiss.write_index` wrote.
        ids: a file with one id per line. The FAISS id 0 has the first line. It may be missing if the index
            is an IndexIDMap; the numbers are then the ids.

    Raises:
        SfscError: the file contains another index or is damaged, or there are no ids.
    """
    flat = read_flat(path)
    if ids is None and flat.ids is None:
        raise SfscError(f"{path} contains no ids: give --ids FILE, with one id per line")
    return Source(path, flat.rows, flat.dimension, lambda: _parts(path, flat, ids))


def read_flat(path: Path) -> _Flat:
    """Read the headers of an index, and compare them with the size of the file.

    Raises:
        SfscError: the file contains another index or is damaged.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            return _read_flat(file, path, size)
    except struct.error:
        raise SfscError(f"{path} is damaged: it ends in its header") from None
    except OSError as error:
        raise SfscError(f"cannot read {path}: {error.strerror}") from error


def _read_flat(file: BinaryIO, path: Path, size: int) -> _Flat:
    kind = file.read(4)
    numbered = kind in NUMBERED
    if numbered:
        _unpack(file, HEADER)
        kind = file.read(4)
    if kind not in FLAT:
        raise SfscError(
            f"{path} contains a FAISS index of the kind {kind!r}, which does not keep the embeddings: "
            "give an IndexFlatIP or IndexFlatL2, also in an IndexIDMap, or a .npy file"
        )
    dimension, rows, _, _, _, metric = _unpack(file, HEADER)
    if metric not in METRICS:
        raise SfscError(f"{path} has the metric {metric}: only inner product and L2 compare directions")
    components, start = _unpack(file, "<Q")[0], file.tell()
    end = start + 4 * components + (8 + 8 * rows if numbered else 0)
    if dimension < 1 or rows < 0 or components != dimension * rows or end != size:
        raise SfscError(
            f"{path} is damaged: {rows} rows of {dimension} dimensions do not fit its size of {size:,} bytes"
        )
    if numbered:
        file.seek(start + 4 * components)
        if _unpack(file, "<Q")[0] != rows:
            raise SfscError(f"{path} is damaged: it has not one id for each row")
    return _Flat(rows, dimension, start, file.tell() if numbered else None)


def _unpack(file: BinaryIO, layout: str) -> tuple[Any, ...]:
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def _parts(path: Path, flat: _Flat, ids: Path | None) -> Iterator[Part]:
    size = rows_per_part(flat.dimension)
    start = 0
    try:
        with path.open("rb") as file:
            for names in _ids(path, flat, ids, size):
                file.seek(flat.start + 4 * start * flat.dimension)
                values = np.frombuffer(file.read(4 * len(names) * flat.dimension), "<f4")
                if len(values) < len(names) * flat.dimension:
                    raise SfscError(f"{path} has become shorter: import it again when it is complete")
                yield Part(path, start, values.reshape(-1, flat.dimension), {"id": names})
                start += len(names)
    except OSError as error:
        raise SfscError(f"cannot read {path}: {error.strerror}") from error


def _ids(path: Path, flat: _Flat, ids: Path | None, size: int) -> Iterator[list[str]]:
    """Yield the ids of the rows in parts."""
    if flat.ids is None:
        assert ids is not None
        yield from matched(ids, flat.rows, path, size)
        return
    lines = None if ids is None else [*read_ids(ids)]
    with path.open("rb") as file:
        file.seek(flat.ids)
        for start in range(0, flat.rows, size):
            count = min(size, flat.rows - start)
            numbers = np.frombuffer(file.read(8 * count), "<i8").tolist()
            yield [str(n) if lines is None else _line(lines, n, path, ids) for n in numbers]


def _line(lines: list[str], number: int, path: Path, ids: Path | None) -> str:
    if 0 <= number < len(lines):
        return lines[number]
    raise SfscError(
        f"{path} has the id {number}, but {ids} has {len(lines)} lines, from id 0 on: leave out --ids to "
        "use the numbers as ids"
    )
