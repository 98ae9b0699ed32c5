"""Arrays of embeddings in `.npy` files, as `sfsc embed` writes them."""

from __future__ import annotations

import math
import tokenize
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy

from sfsc.errors import SfscError, first_line
from sfsc.gallery.imports.ids import matched
from sfsc.gallery.imports.source import Part, Source
from sfsc.gallery.problems import rows_per_part

MAGIC = b"\x93NUMPY"
LONGEST_HEADER = 10_000
READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
# What numpy raises while it reads a header that is not one.
ODD = (ValueError, SyntaxError, TypeError, OverflowError, RecursionError, MemoryError, tokenize.TokenError)


class _Header(NamedTuple):
    shape: tuple[int, int]
    dtype: Any
    start: int  # of the rows in the file, in bytes


def open_npy(path: Path, ids: Path | None) -> Source:
    """Return the rows of an array (N, dim) of floats, with ids from a file.

    Args:
        path: a `.npy` file.
        ids: a file with an id per line; by default the file `.txt` of the same name.

    Raises:
        SfscError: the file is damaged or contains another array, or there are no ids.
    """
    header = read_header(path)
    names = ids or path.with_suffix(".txt")
    if not names.exists():
        raise SfscError(
            f"{path} contains no ids, and there is no {names}: write one id per line into it "
            "(sfsc gallery import --ids takes another file)"
        )
    rows, dimension = header.shape
    return Source(path, rows, dimension, lambda: _parts(path, header, names))


def read_header(path: Path) -> _Header:
    """Read the header of an array, and compare it with the size of the file.

    Raises:
        SfscError: the header is damaged, or the file is not an array of floats with two dimensions.
    """
    try:
        with path.open("rb") as file:
            version = npy.read_magic(file)
            if version not in READERS:
                raise ValueError(f"version {version} is unknown")
            with warnings.catch_warnings():  # of arrays that Python 2 wrote, which are read all the same
                warnings.simplefilter("ignore", UserWarning)
                shape, in_columns, dtype = READERS[version](file, max_header_size=LONGEST_HEADER)
            start, size = file.tell(), path.stat().st_size
    except ODD as error:
        raise SfscError(f"{path} is damaged: its header cannot be read ({first_line(error)})") from None
    except OSError as error:
        raise SfscError(f"cannot read {path}: {error.strerror}") from error
    if len(shape) != 2 or dtype.kind != "f" or in_columns:
        order = " in Fortran order" if in_columns else ""
        raise SfscError(
            f"{path} contains {dtype} of shape {shape}{order}: save a C-ordered array (N, dim) of float32"
        )
    if min(shape) < 0 or start + math.prod(shape) * dtype.itemsize != size:
        raise SfscError(
            f"{path} is damaged: an array of shape {shape} does not fit its size of {size:,} bytes"
        )
    return _Header(shape, dtype, start)


def _parts(path: Path, header: _Header, ids: Path) -> Iterator[Part]:
    rows, dimension = header.shape
    try:
        with path.open("rb") as file:
            file.seek(header.start)
            start = 0
            for names in matched(ids, rows, path, rows_per_part(dimension)):
                count = len(names) * dimension
                values = np.frombuffer(file.read(count * header.dtype.itemsize), header.dtype)
                if len(values) < count:
                    raise SfscError(f"{path} has become shorter: import it again when it is complete")
                yield Part(path, start, values.reshape(-1, dimension), {"id": names})
                start += len(names)
    except OSError as error:
        raise SfscError(f"cannot read {path}: {error.strerror}") from error
