"""The gallery's store on one machine: a Lance table in a directory, searched in an index."""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from threading import Event, RLock, Thread
from typing import Any

import numpy as np
import pyarrow as pa
from filelock import Timeout

from sfsc.data.walking import is_system_entry
from sfsc.errors import SfscError
from sfsc.gallery.backup import backup_table
from sfsc.gallery.changes import Changes
from sfsc.gallery.conditions import Condition
from sfsc.gallery.follower import Follower
from sfsc.gallery.forms import encode
from sfsc.gallery.index import MOST_NEW, Index
from sfsc.gallery.index_files import Track
from sfsc.gallery.lance_check import table_problems
from sfsc.gallery.lance_table import TABLE, TYPES, LanceTable, Snapshot
from sfsc.gallery.names import attribute_of
from sfsc.gallery.packing import packed, unpacked
from sfsc.gallery.replacing import removal, replacement, with_originals
from sfsc.gallery.rewriting import moving, moving_again, rewrite
from sfsc.gallery.store import (
    BRIDGE_ERROR,
    COLUMNS,
    EMBEDDING,
    FORMAT,
    ORIGINAL,
    Description,
    Hit,
    Move,
    Problem,
    StoreUnavailable,
)
from sfsc.gallery.upkeep import KEPT, duplicates, index_columns, remove_duplicates
from sfsc.gallery.view import View
from sfsc.progress import say, track

TRIES = 5  # for one read, because another process may remove old files before they are read


class _Closed(Exception):
    """Raised in the thread that builds an index when the gallery is closed."""


class LanceStore:
    """A `Store` in a directory.

    With `create`, the directory may be missing or empty until the first write. Otherwise it must contain a
    gallery at every call. The rows are searched in an `Index`, which follows the changes by all processes.
    """

    def __init__(self, path: Path, *, create: bool, maintain: bool = False, memory: float = math.inf) -> None:
        self._path = path
        self._may_be_missing = create
        self._maintain = maintain
        changes = Changes(path)
        self._index = Index(path, changes, memory)
        self._shortened: dict[int, tuple[View, View]] = {}
        self._lock = RLock()
        self._builder: Thread | None = None
        self._follower = Follower(self._keep_up)
        self._closed = Event()
        if find_spec("lance") is None:  # it is imported when it is needed, which takes a second
            raise ModuleNotFoundError("lance", name="lance")
        self._check_directory()
        self._table = LanceTable(path, changes, self._index.remembered)
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
        keep_originals: bool = False,
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
            table = with_originals(dataset, table) if keep_originals else table
            same_columns = dataset.version == snapshot.manifest.version
            self._table.tidy(self._table.commit(dataset, replacement(dataset, table), same_columns))
        self._keep_up()

    def move(self, to: Description, move: Move, token: str) -> int:
        """See `Store`."""
        with self._table.reported("written"), self._table.writing() as snapshot:
            assert snapshot is not None, "the gallery moves rows only if the table exists"
            before = snapshot.description
            after = before.moved(to, str(self._path))
            rows = rewrite(self._table, snapshot, after, token, moving(before, after, move))
        self._replaced()
        return rows

    def move_again(self, dimension: int, move: Move, token: str) -> int:
        """See `Store`."""
        with self._table.reported("written"), self._table.writing() as snapshot:
            assert snapshot is not None, "the gallery moves rows only if the table exists"
            moved = f"{snapshot.sql([Condition(BRIDGE_ERROR, '!=', (None,))])} AND `{ORIGINAL}` IS NOT NULL"
            rows = int(snapshot.dataset.count_rows(moved))
            rewrite(self._table, snapshot, snapshot.description, token, moving_again(dimension, move))
        self._replaced()
        return rows

    def originals(
        self, where: Sequence[Condition], dimension: int
    ) -> Iterator[tuple[list[str], np.ndarray, np.ndarray]]:
        """See `Store`."""
        snapshot = self._snapshot()
        if snapshot is None or not snapshot.description.bridged_from:
            return
        with self._table.reported("read"):
            for batch in snapshot.batches(["id"], where, embeddings=True, originals=True):
                kept = batch.filter(batch[ORIGINAL].is_valid())
                originals = unpacked(kept, dimension, ORIGINAL)
                yield kept["id"].to_pylist(), originals, unpacked(kept, snapshot.description.dimension)

    def drop_originals(self) -> int:
        """See `Store`."""
        with self._table.reported("written"), self._table.writing() as snapshot:
            assert snapshot is not None, "the gallery has originals only if the table exists"
            plain = replace(snapshot.description, bridged_from="", format=FORMAT)
            rows = rewrite(self._table, snapshot, plain, "drop")
        self._replaced()
        return rows

    def delete(self, where: Sequence[Condition]) -> int:
        """See `Store`."""
        with self._table.reported("written"), self._table.writing() as snapshot:
            if snapshot is None:
                return 0
            dataset = snapshot.dataset
            if ids := _ids_alone(where):
                pending = removal(dataset, ids)
                deleted = pending.removed
                dataset = self._table.commit(dataset, pending) if deleted else dataset
            else:
                deleted = int(dataset.delete(snapshot.sql(where))["num_deleted_rows"])
            self._table.tidy(dataset)
        self._keep_up()
        return deleted

    def search(
        self, queries: np.ndarray, top: int, where: Sequence[Condition], exact: bool
    ) -> list[list[Hit]]:
        """See `Store`."""
        return self._view().search(queries, top, where, exact)

    def search_shortened(self, queries: np.ndarray, top: int, where: Sequence[Condition]) -> list[list[Hit]]:
        """See `Store`."""
        view, dimension = self._view(), queries.shape[1]
        with self._lock:
            seen, shortened = self._shortened.get(dimension, (None, view))
            if seen is not view:
                shortened = view.shortened(dimension)
                self._shortened[dimension] = view, shortened
        return shortened.search(queries, top, where, exact=True)

    def rows(
        self, where: Sequence[Condition], columns: Sequence[str], embeddings: bool = False
    ) -> Iterator[tuple[dict[str, list[Any]], np.ndarray | None]]:
        """See `Store`."""
        snapshot = self._snapshot()
        if snapshot is None:
            return
        if self._index.used and (ids := _ids_alone(where)):
            yield from self._view().rows(ids, columns, embeddings)
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
            return duplicates(snapshot.dataset)

    def problems(self) -> Iterator[Problem]:
        """See `Store`."""
        with self._table.reported("read"):
            yield from table_problems(self._table)
            if (snapshot := self._snapshot()) is not None:
                yield from self._index.problems(snapshot)

    def backup(self, out: Path) -> int:
        """See `Store`."""
        with self._table.reported("read"):
            return backup_table(self._table, out)

    def optimize(self, keep: float | None = None) -> None:
        """See `Store`."""
        with self._table.reported("written"), self._table.writing() as snapshot:
            if snapshot is None:
                return
            if keep is not None:
                snapshot.dataset.update_config({KEPT: str(keep)})
            remove_duplicates(snapshot.dataset)
            self._table.compact(snapshot.dataset)
        self._build(track)
        self._view()

    def refresh(self) -> None:
        """See `Store`."""
        if self._snapshot() is None:
            return
        self._view()
        if self._index.stale:
            self._build(track)
            self._view()

    def close(self) -> None:
        """See `Store`."""
        self._closed.set()
        self._follower.close()
        if self._builder is not None:
            self._builder.join()
        with self._lock:
            self._index.clear()
            self._shortened.clear()

    def _view(self) -> View:
        """Return the newest version, read again if another process has removed old files meanwhile."""
        with self._lock:
            if self._maintain:
                self._follower.searched()
            for left in reversed(range(TRIES)):
                snapshot = self._existing()
                try:
                    return self._followed(snapshot) or self._indexed()
                except StoreUnavailable:
                    self._index.clear()
                    if not left or self._snapshot() is snapshot:
                        raise
        raise AssertionError("the last try returns or raises")

    def _followed(self, snapshot: Snapshot) -> View | None:
        """Return the rows of a version, or None if the index should be made first.

        If the index is maintained, searches do not wait for it.
        """
        most_new = math.inf if self._maintain and self._index.used else MOST_NEW
        with self._table.reported("read"):
            return self._index.follow(snapshot, most_new)

    def _indexed(self) -> View:
        """Make the index first, because so many rows are new, and return the newest version."""
        say(f"gallery {self._path}: making its index")
        self._build(track)
        with self._table.reported("read"):
            view = self._index.follow(self._existing(), most_new=math.inf)
        assert view is not None, "any number of rows may be new"
        return view

    def _keep_up(self) -> bool:
        """Follow the last change, if rows were searched before, and renew the index beside it.

        Returns:
            Whether there was a change.
        """
        with self._lock:
            view = self._index.view
            if view is None:
                return False
            with suppress(SfscError):  # the next search tries again
                self._followed(self._existing())
            building = self._builder is not None and self._builder.is_alive()
            if self._maintain and self._index.stale and not building:
                self._builder = Thread(target=self._renew, name="gallery index")
                self._builder.start()
            return self._index.view is not view

    def _replaced(self) -> None:
        """Forget all rows, because the table has others."""
        with self._lock:
            self._index.discard()
            self._shortened.clear()

    def _renew(self) -> None:
        """Build the index in a thread of its own; give up if the gallery is closed."""
        with suppress(StoreUnavailable, _Closed):  # the next change tries again
            self._build(self._until_closed)

    def _until_closed(self, iterable: Iterable[int], _: str) -> Iterator[int]:
        for item in iterable:
            if self._closed.is_set():
                raise _Closed
            yield item

    def _build(self, track: Track) -> None:
        """Write the index of the newest version, unless another process does so at the moment.

        If the directory is not writable, the index is written elsewhere, for this process alone.
        """
        with self._table.reported("indexed"), suppress(Timeout):
            try:
                with self._table.building():
                    with self._table.writing() as snapshot:
                        if snapshot is not None:
                            index_columns(snapshot.dataset)
                    self._index.build(self._existing(), track)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                    raise
                self._index.build_aside(self._existing(), track)

    def _existing(self) -> Snapshot:
        """Return the current version of a table that exists."""
        snapshot = self._snapshot()
        assert snapshot is not None, "the gallery reads rows only if the table exists"
        return snapshot

    def _snapshot(self) -> Snapshot | None:
        """Return the current version of the table, or None before its creation."""
        with self._table.reported("read"):
            snapshot = self._table.snapshot()
        if snapshot is None and not self._may_be_missing:
            raise StoreUnavailable(f"{self._path} is not a gallery: it is empty")
        self._may_be_missing = snapshot is None
        return snapshot

    def _check_directory(self) -> None:
        path = self._path
        if not path.exists() and not self._may_be_missing:
            raise SfscError(f"gallery {path} does not exist: add embeddings to it first, or check the path")
        if (path / TABLE).is_dir() or not path.exists():
            return
        others = [entry.name for entry in path.iterdir()] if path.is_dir() else [path.name]
        if others := [name for name in others if not is_system_entry(name)]:
            raise SfscError(f"{path} is not a gallery, but contains {others[0]}: choose another directory")


def _ids_alone(where: Sequence[Condition]) -> list[str]:
    """Return the ids of rows if conditions select them by these alone."""
    if len(where) != 1 or (where[0].column, where[0].operator) != ("id", "="):
        return []
    return [str(id_) for id_ in where[0].values if id_ is not None]


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
