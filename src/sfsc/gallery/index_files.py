"""The files of a gallery's index: its rows as they are searched, mapped into memory, with inverted lists.

An index belongs to one version of the table and is never changed. A newer one is written beside it, and the
file `current` then names the newer one. Everything in an index can be made from the table again; no content
of its files is trusted.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from sfsc.errors import SfscError
from sfsc.files.schema import conform
from sfsc.files.writing import as_json, read_bytes, read_json, write_atomic
from sfsc.gallery.column_files import read_column, write_column
from sfsc.gallery.columns import TYPES, Columns
from sfsc.gallery.forms import DTYPES
from sfsc.gallery.lists import Lists, open_lists, write_array, write_lists
from sfsc.gallery.manifests import Manifest
from sfsc.gallery.residency import Residency
from sfsc.gallery.segment import Segment, hashes_of, lengths_of
from sfsc.gallery.store import Description

FORMAT = 2  # in format 1, codes had six bits for each component, and texts were whole
HEADER = "index.json"
CURRENT = "current"
UNFINISHED = ".unfinished-"

Key = tuple[str, ...]
Track = Callable[[Iterable[int], str], Iterable[int]]


class Fragment(NamedTuple):
    """A fragment of the table: the names of its files, its deletions, and its rows that are in the index."""

    files: Key
    deletions: Mapping[str, str] | None
    rows: int


@dataclass(frozen=True)
class Header:
    """The description of an index.

    Attributes:
        format: the version of this format.
        version: the number of the table's version.
        manifest: the SHA-256 of the manifest of this version, in hexadecimal digits.
        description: the description of the gallery.
        columns: the stored name of each column and attribute.
        form: the numeric form of the vectors.
        fragments: the fragments with their rows, in the order of the rows; each as `Fragment`.
        probes: the number of lists that a search probes.
        sizes: the size of each file in bytes.
    """

    format: int
    version: int
    manifest: str
    description: Mapping[str, Any]
    columns: Mapping[str, str]
    form: str
    fragments: list[tuple[list[str], Mapping[str, str] | None, int]]
    probes: int
    sizes: Mapping[str, int]

    @property
    def rows(self) -> int:
        """The number of rows."""
        return sum(rows for *_, rows in self.fragments)


class StoredIndex(NamedTuple):
    """An index that was opened: its rows, their positions in their fragments, (n,) uint32, and the lists."""

    header: Header
    segment: Segment
    offsets: np.ndarray
    lists: Lists


class Source(NamedTuple):
    """What an index is made from: one version of a table.

    Attributes:
        manifest: its manifest.
        description: the description of the gallery.
        columns: the stored name of each column and attribute.
        form: the form in which all rows can be compared.
        fragments: its fragments.
        vectors: yields the rows of a fragment, by its place in `fragments`, in parts: (k, dim) of the form,
            and their (k,) uint32 positions in the fragment.
        column: returns all values of a column, by the name of the column or attribute.
    """

    manifest: Manifest
    description: Description
    columns: Mapping[str, str]
    form: str
    fragments: Sequence[Fragment]
    vectors: Callable[[int], Iterable[tuple[np.ndarray, np.ndarray]]]
    column: Callable[[str], pa.ChunkedArray]


def current(directory: Path) -> Path | None:
    """Return the folder of the newest index in the directory of indexes, or None."""
    with suppress(SfscError, UnicodeDecodeError):
        name = read_bytes(directory / CURRENT, 100).decode()
        if name.isalnum():
            return directory / name
    return None


def read_header(folder: Path) -> Header:
    """Read the description of the index in a folder.

    Raises:
        SfscError: it is missing, damaged, or of another format.
        ValueError: it has another content than an index has.
    """
    header: Header = conform(read_json(folder / HEADER), Header)
    if header.format != FORMAT:
        raise ValueError(f"its format is {header.format}")
    if header.form not in DTYPES or any(rows < 0 for *_, rows in header.fragments):
        raise ValueError("its rows are not described")
    return header


def open_index(folder: Path, header: Header, memory: float) -> StoredIndex:
    """Map the files of an index, and keep at most `memory` bytes of them in memory.

    Raises:
        SfscError, ValueError, OSError, pa.ArrowException: a file is missing, damaged or does not fit.
    """
    description = Description.from_json(header.description, str(folder))
    rows, dimension = header.rows, description.dimension
    found = {path.name: path.stat().st_size for path in folder.iterdir() if path.name != HEADER}
    if {name: found.get(name) for name in header.sizes} != header.sizes:
        raise ValueError("a file was cut short")
    dtype = np.dtype(DTYPES[header.form])
    vectors = _mapped(folder / "vectors", dtype, (rows, dimension))
    lengths = None if header.form == "float32" else _mapped(folder / "lengths", np.float32, (rows,))
    read = {
        name: read_column(folder / f"column-{place}", rows, kind)
        for place, (name, kind) in enumerate(description.columns.items())
    }
    arrays = {name: array for name, (array, _) in read.items()}
    columns = Columns(arrays, rows, {name: ends for name, (_, ends) in read.items()})
    segment = Segment.of(vectors, columns, lengths)
    hashes = _mapped(folder / "hashes", np.uint32, (2, rows))
    segment = replace(segment, hashes=(hashes[0], hashes[1]))
    offsets = _mapped(folder / "offsets", np.uint32, (rows,))
    lists = open_lists(folder, rows, dimension, header.probes)
    if memory < sum(header.sizes.values()):
        buffers = [buffer for array in arrays.values() for buffer in array.buffers() if buffer]
        spans = [(buffer.address, buffer.size) for buffer in buffers]
        spans += [(a.ctypes.data, a.nbytes) for a in (vectors, lengths, hashes, offsets) if a is not None]
        residency = Residency(memory, [*spans, lists.span])
        segment = replace(segment, touched=residency.touched)
    return StoredIndex(header, segment, offsets, lists)


def write_index(directory: Path, source: Source, track: Track) -> Path:
    """Write an index into a new folder in a directory, without making it the current one.

    Returns:
        The folder.

    Raises:
        OSError: the disk is full or not writable. Nothing is left behind.
    """
    directory.mkdir(exist_ok=True)
    token = secrets.token_hex(8)
    folder = directory / f"{UNFINISHED}{token}"
    folder.mkdir()
    try:
        rows = _write_rows(folder, source, track)
        probes = write_lists(folder, rows, track)
        header = Header(
            format=FORMAT,
            version=source.manifest.version,
            manifest=source.manifest.digest,
            description=source.description.to_json(),
            columns=dict(source.columns),
            form=source.form,
            fragments=[(list(part.files), part.deletions, part.rows) for part in source.fragments],
            probes=probes,
            sizes={path.name: _synced_size(path) for path in sorted(folder.iterdir())},
        )
        write_atomic(folder / HEADER, as_json(asdict(header)))
        return folder.rename(directory / token)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def make_current(folder: Path) -> None:
    """Make an index the current one of its directory, and remove all others.

    Processes that have mapped the others can continue to use them.
    """
    write_atomic(folder.parent / CURRENT, folder.name.encode())
    for other in folder.parent.iterdir():
        if other.is_dir() and other != folder:
            shutil.rmtree(other, ignore_errors=True)


def _write_rows(folder: Path, source: Source, track: Track) -> Segment:
    """Write vectors, lengths, positions and columns; return the rows, without their columns."""
    count, dimension = sum(part.rows for part in source.fragments), source.description.dimension
    dtype, done = np.dtype(DTYPES[source.form]), 0
    with (folder / "vectors").open("wb") as vectors, (folder / "offsets").open("wb") as offsets:
        for place in track(range(len(source.fragments)), "reading rows"):
            for part, positions in source.vectors(place):
                vectors.write(np.ascontiguousarray(part, dtype).data)
                offsets.write(np.ascontiguousarray(positions, np.uint32).data)
                done += len(part)
    if done != count:
        raise ValueError("the table has other rows than it says")
    rows = _mapped(folder / "vectors", dtype, (count, dimension))
    lengths = None
    if source.form != "float32":
        lengths = lengths_of(rows)
        write_array(folder / "lengths", lengths)
    _write_hashes(folder / "hashes", source.column("id"))
    for place, (name, kind) in enumerate(source.description.columns.items()):
        write_column(folder / f"column-{place}", source.column(name).cast(TYPES[kind]))
    return Segment.of(rows, Columns({}, count), lengths)


def _write_hashes(file: Path, ids: pa.ChunkedArray) -> None:
    """Write the hashes of the ids in ascending order, and then the numbers of their rows."""
    hashes = np.concatenate([hashes_of(chunk.to_pylist()) for chunk in ids.chunks])
    order = np.argsort(hashes, kind="stable")
    with file.open("wb") as written:
        written.write(hashes[order].data)
        written.write(order.astype(np.uint32).data)


def _mapped(file: Path, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Map an array whose file must have the right size."""
    size = np.dtype(dtype).itemsize * int(np.prod(shape))
    if file.stat().st_size != size:
        raise ValueError(f"{file.name} has {file.stat().st_size} bytes instead of {size}")
    return np.memmap(file, dtype, "r", shape=shape).view(np.ndarray) if size else np.empty(shape, dtype)


def _synced_size(path: Path) -> int:
    """Make a file durable, and return its size."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_size
