"""Tables with a column of embeddings: Parquet files and Lance tables."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from sfsc.errors import SfscError, first_line
from sfsc.gallery.imports.source import Part, Source
from sfsc.gallery.problems import rows_per_part
from sfsc.gallery.store import EMBEDDING

VECTOR = "vector"  # what LanceDB calls the column
DIMENSIONS = b"sfsc.dimensions"  # in the metadata of a file that `sfsc gallery export` wrote
ODD = (OSError, RuntimeError, ValueError, KeyError, TypeError, OverflowError, MemoryError, pa.ArrowException)


def open_parquet(path: Path) -> Source:
    """Return the rows of a Parquet file, or of all Parquet files in a folder.

    Columns: `embedding`, lists of floats of equal length; `id`, `path` or both; optionally the other columns
    of a gallery. All further columns are attributes.

    Raises:
        SfscError: a file is damaged, or has other columns.
    """
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    opened = [_ParquetTable(file) for file in files]
    filled = [table for table in opened if table.rows] or opened[:1]
    if not filled:
        raise SfscError(f"{path} contains no Parquet files")
    dimension = filled[0].dimension()

    def parts() -> Iterator[Part]:
        for table in filled:
            yield from table.parts(dimension)

    rows = sum(table.rows for table in filled)
    return Source(path, rows, dimension, parts, filled[0].dimensions())


def open_lance(path: Path) -> Source:
    """Return the rows of a Lance table, such as a table of LanceDB, with columns as for `open_parquet`.

    Raises:
        SfscError: the table is damaged, refers to files elsewhere, or has other columns.
    """
    table = _LanceTable(path)
    dimension = table.dimension()
    return Source(path, table.rows, dimension, lambda: table.parts(dimension))


class _Table(ABC):
    """A file or folder with rows, and the columns that are read from it."""

    def __init__(self, path: Path, schema: pa.Schema, rows: int) -> None:
        self.path, self.rows = path, rows
        self.vector = next((name for name in (EMBEDDING, VECTOR) if name in schema.names), None)
        if self.vector is None or not {"id", "path"} & {*schema.names}:
            raise SfscError(
                f"{path} has the columns {', '.join(schema.names[:10])}: a column embedding or vector, and a "
                "column id or path are required"
            )
        if not _is_vector(schema.field(self.vector).type):
            raise SfscError(
                f"{path}: column {self.vector} has type {schema.field(self.vector).type}: lists of float32 "
                "are required"
            )
        self.type = schema.field(self.vector).type
        self.columns = [name for name in schema.names if name not in (self.vector, "time")]
        for name in self.columns:
            if not _is_value(schema.field(name).type):
                raise SfscError(
                    f"{path}: column {name} has type {schema.field(name).type}: convert it to text, numbers "
                    "or booleans, or leave it out"
                )

    @abstractmethod
    def batches(self, columns: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
        """Yield columns of all rows in batches of at most `size` rows."""

    def dimension(self) -> int:
        """Return the dimension of the first row."""
        if pa.types.is_fixed_size_list(self.type):
            return int(self.type.list_size)
        try:
            first = next((batch for batch in self.batches([self.vector or ""], 1) if len(batch)), None)
        except ODD as error:
            raise _damaged(self.path, error) from error
        return 1 if first is None else len(first.column(0)[0].as_py() or ())

    def parts(self, dimension: int) -> Iterator[Part]:
        """Yield the rows in parts."""
        start, batches = 0, self.batches([*self.columns, self.vector or ""], rows_per_part(dimension))
        while True:
            try:
                batch = next(batches, None)
                if batch is None:
                    return
                batch.validate(full=True)
                columns = {name: batch[name].to_pylist() for name in self.columns}
            except ODD as error:
                raise _damaged(self.path, error) from error
            columns.setdefault("id", columns.get("path", []))
            _check_ids(columns["id"], self.path, start)
            part = Part(self.path, start, np.empty((0, dimension)), columns)
            yield part._replace(embeddings=_vectors(batch[self.vector], dimension, part))
            start += len(batch)


class _ParquetTable(_Table):
    def __init__(self, path: Path) -> None:
        try:
            with parquet.ParquetFile(path) as file:
                self._metadata = file.schema_arrow.metadata or {}
                super().__init__(path, file.schema_arrow, file.metadata.num_rows)
        except ODD as error:
            raise _damaged(path, error) from error

    def batches(self, columns: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
        with parquet.ParquetFile(self.path) as file:
            yield from file.iter_batches(size, columns=[*columns])

    def dimensions(self) -> tuple[int, ...]:
        """Return the dimensions of the family, if `sfsc gallery export` wrote the file."""
        try:
            stored = json.loads(self._metadata.get(DIMENSIONS, b"[]"))
        except (ValueError, RecursionError) as error:
            raise _damaged(self.path, error) from error
        if not isinstance(stored, list) or not all(type(size) is int for size in stored):
            raise SfscError(f"{self.path} is damaged: its dimensions are not integers")
        return tuple(stored)


class _LanceTable(_Table):
    def __init__(self, path: Path) -> None:
        import lance

        try:
            self._dataset = lance.dataset(path)
            rows = self._dataset.count_rows()
        except ODD as error:
            raise _damaged(path, error) from error
        if self._dataset.base_paths():
            raise SfscError(f"{path} refers to files outside its folder: copy the table, and import the copy")
        super().__init__(path, self._dataset.schema, rows)

    def batches(self, columns: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
        yield from self._dataset.scanner(columns=[*columns], batch_size=size).to_batches()


def _vectors(values: Any, dimension: int, part: Part) -> np.ndarray:
    """Return lists of floats as (N, dimension)."""
    lengths = [len(values)] if len(values) == 0 else values.value_lengths().to_pylist()
    for place, length in enumerate(lengths if len(values) else ()):
        if length != dimension:
            size = "no embedding" if length is None else f"an embedding of {length} dimensions"
            raise SfscError(f"{part.row(place)} has {size} instead of {dimension}: correct or remove it")
    flat = values.flatten()
    if flat.null_count:
        place = int(np.flatnonzero(flat.is_null().to_numpy(zero_copy_only=False))[0]) // dimension
        raise SfscError(f"{part.row(place)} lacks components of its embedding: correct or remove it")
    return np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(-1, dimension)


def _check_ids(ids: Sequence[Any], path: Path, start: int) -> None:
    if None in ids:
        raise SfscError(f"{path}: row {start + [*ids].index(None)} has no id: every row needs one")


def _is_vector(type_: pa.DataType) -> bool:
    types = pa.types
    lists = types.is_list(type_) or types.is_large_list(type_) or types.is_fixed_size_list(type_)
    return bool(lists and types.is_floating(type_.value_type))


def _is_value(type_: pa.DataType) -> bool:
    types = pa.types
    if types.is_dictionary(type_):
        return _is_value(type_.value_type)
    text = types.is_string(type_) or types.is_large_string(type_) or types.is_null(type_)
    return bool(text or types.is_integer(type_) or types.is_floating(type_) or types.is_boolean(type_))


def _damaged(path: Path, error: Exception) -> SfscError:
    if isinstance(error, SfscError):
        return error
    return SfscError(f"{path} cannot be read ({first_line(error)}): it is damaged or of another kind")
