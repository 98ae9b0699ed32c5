"""The gallery's store on one machine: a Lance table in a directory, searched in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import RLock
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from sfsc.data.walking import is_system_entry
from sfsc.errors import SfscError
from sfsc.gallery.backup import backup_table
from sfsc.gallery.conditions import Condition
from sfsc.gallery.forms import encode
from sfsc.gallery.lance_check import table_problems
from sfsc.gallery.lance_table import TABLE, TYPES, LanceTable, Snapshot, packed, unpacked
from sfsc.gallery.memory import MemoryIndex
from sfsc.gallery.mirror import Mirror
from sfsc.gallery.names import attribute_of
from sfsc.gallery.store import COLUMNS, EMBEDDING, Description, Hit, Problem, StoreUnavailable

TRIES = 5  # for one read, because another process may remove old files before they are read

Result = TypeVar("Result")


class LanceStore:
    """A `Store` in a directory.

    With `create`, the directory may be missing or empty until the first write. Otherwise it must contain a
    gallery at every call. The first search reads all rows into memory; later searches only read the changes,
    including those of other processes.
    """

    def __init__(self, path: Path, *, create: bool) -> None:
        self._path = path
        self._may_be_missing = create
        self._mirror = Mirror()
        self._shortened: dict[int, tuple[Snapshot, MemoryIndex]] = {}
        self._lock = RLock()
        self._check_directory()
        self._table = LanceTable(path)
        self.describe()

    def describe(self) -> Description | None:
        """See `Store`."""
        snapshot = self._snapshot()
        return None if snapshot is None else snapshot.description

    def create(self, description: Description) -> None:
        """See `Store`."""
        with self._table.reported("written"):
            self._table.create(description)

    def upsert(
        self,
        embeddings: np.ndarray,
        form: str,
        columns: Mapping[str, Sequence[Any]],
        attributes: Mapping[str, str],
    ) -> None:
        """See `Store`."""
        count = len(embeddings)
        rows = {**columns, "form": [form] * count, "time": [time.time()] * count}
        kinds = {**COLUMNS, **attributes}
        arrays = {name: pa.array(values, TYPES[kinds[name]]) for name, values in rows.items()}
        with self._table.reported("written"), self._table.writing() as snapshot:
            assert snapshot is not None, "the gallery adds rows only if the table exists"
            dataset = self._table.fit(snapshot, attributes)
            table = _in_columns(arrays | {EMBEDDING: packed(encode(embeddings, form))}, dataset.schema)
            merge = dataset.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
            merge.execute(table)
            self._table.tidy(dataset)

    def delete(self, where: Sequence[Condition]) -> int:
        """See `Store`."""
        with self._table.reported("written"), self._table.writing() as snapshot:
            if snapshot is None:
                return 0
            return int(snapshot.dataset.delete(snapshot.sql(where))["num_deleted_rows"])

    def search(
        self, queries: np.ndarray, top: int, where: Sequence[Condition], exact: bool
    ) -> list[list[Hit]]:
        """See `Store`."""
        return self._reading(
            lambda snapshot: self._mirror.follow(snapshot).search(queries, top, where, exact)
        )

    def search_shortened(self, queries: np.ndarray, top: int, where: Sequence[Condition]) -> list[list[Hit]]:
        """See `Store`."""

        def search(snapshot: Snapshot) -> list[list[Hit]]:
            return self._shorter(snapshot, queries.shape[1]).search(queries, top, where, exact=True)

        return self._reading(search)

    def rows(
        self, where: Sequence[Condition], columns: Sequence[str], embeddings: bool = False
    ) -> Iterator[tuple[dict[str, list[Any]], np.ndarray | None]]:
        """See `Store`."""
        snapshot = self._snapshot()
        if snapshot is None:
            return
        with self._table.reported("read"):
            for batch in snapshot.batches(columns, where, embeddings):
                vectors = unpacked(batch, snapshot.description.dimension) if embeddings else None
                yield {name: batch[name].to_pylist() for name in columns}, vectors

    def count(self, where: Sequence[Condition] = ()) -> int:
        """See `Store`."""
        snapshot = self._snapshot()
        if snapshot is None:
            return 0
        with self._table.reported("read"):
            return int(snapshot.dataset.count_rows(snapshot.sql(where)))

    def duplicates(self) -> list[str]:
        """See `Store`."""
        snapshot = self._snapshot()
        if snapshot is None:
            return []
        with self._table.reported("read"):
            return self._table.duplicates(snapshot.dataset)

    def problems(self) -> Iterator[Problem]:
        """See `Store`."""
        with self._table.reported("read"):
            yield from table_problems(self._table)

    def backup(self, out: Path) -> int:
        """See `Store`."""
        with self._table.reported("read"):
            return backup_table(self._table, out)

    def optimize(self) -> None:
        """See `Store`."""
        with self._table.reported("written"), self._table.writing() as snapshot:
            if snapshot is not None:
                self._table.remove_duplicates(snapshot.dataset)
                self._table.compact(snapshot.dataset)
        self._reading(lambda snapshot: self._mirror.follow(snapshot).prepare())

    def close(self) -> None:
        """See `Store`."""
        with self._lock:
            self._mirror.clear()
            self._shortened.clear()

    def _snapshot(self) -> Snapshot | None:
        """Return the current version of the table, or None before its creation."""
        with self._table.reported("read"):
            snapshot = self._table.snapshot()
        if snapshot is None and not self._may_be_missing:
            raise StoreUnavailable(f"{self._path} is not a gallery: it is empty")
        self._may_be_missing = snapshot is None
        return snapshot

    def _reading(self, read: Callable[[Snapshot], Result]) -> Result:
        """Call a function with the newest version, again if another process has removed that meanwhile."""
        with self._lock:
            for left in reversed(range(TRIES)):
                snapshot = self._snapshot()
                assert snapshot is not None, "the gallery reads rows only if the table exists"
                try:
                    with self._table.reported("read"):
                        return read(snapshot)
                except StoreUnavailable:
                    self._mirror.clear()
                    if not left or self._snapshot() is snapshot:
                        raise
        raise AssertionError("the last try returns or raises")

    def _shorter(self, snapshot: Snapshot, dimension: int) -> MemoryIndex:
        """Return an index of the first components of all rows, rebuilt if rows have changed."""
        index = self._mirror.follow(snapshot)
        seen, shortened = self._shortened.get(dimension, (None, index))
        if seen is not snapshot:
            shortened = index.shortened(dimension)
            self._shortened[dimension] = snapshot, shortened
        return shortened

    def _check_directory(self) -> None:
        path = self._path
        if not path.exists() and not self._may_be_missing:
            raise SfscError(f"gallery {path} does not exist: add embeddings to it first, or check the path")
        if (path / TABLE).is_dir() or not path.exists():
            return
        others = [entry.name for entry in path.iterdir()] if path.is_dir() else [path.name]
        if others := [name for name in others if not is_system_entry(name)]:
            raise SfscError(f"{path} is not a gallery, but contains {others[0]}: choose another directory")


def _in_columns(arrays: Mapping[str, pa.Array], schema: pa.Schema) -> pa.Table:
    """Return a table with a schema, from arrays of equal length by the names of columns and attributes."""
    count = len(arrays[EMBEDDING])
    columns = [
        arrays[name].cast(field.type)
        if (name := attribute_of(field.name)) in arrays
        else pa.nulls(count, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)
