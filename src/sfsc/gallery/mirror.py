"""A copy of a table's rows in memory that follows the changes on disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from sfsc.gallery.lance_table import Snapshot, unpacked
from sfsc.gallery.memory import MemoryIndex, release_unused
from sfsc.gallery.store import EMBEDDING

PART = 1 << 11  # rows that are read at once; with larger parts, Lance leaves more memory unused
REPEATED = ("identity", "camera", "width", "form", "fingerprint")  # columns with few distinct values
MOST_NEW = 1 / 2  # maximum ratio of new rows to rows in memory; if more are new, all rows are read again

Key = tuple[str, ...]
Part = tuple[np.ndarray, pa.Table]


@dataclass(frozen=True)
class _Held:
    """A fragment in memory. Its rows begin at `start`, and have `offsets`, (n,) uint32, in the fragment."""

    deletions: Any
    start: int
    offsets: np.ndarray


class Mirror:
    """Holds the rows of a table in memory, and follows the table from one version to any other.

    A Lance table consists of fragments. Their files never change and have random names, and a separate file
    lists the deleted rows of a fragment. The fragments therefore show which rows are equal on disk and in
    memory, whether the table was changed by additions and deletions or replaced by another table.
    """

    def __init__(self) -> None:
        self._index: MemoryIndex | None = None
        self._snapshot: Snapshot | None = None
        self._kinds: dict[str, str] = {}
        self._held: dict[Key, _Held] = {}

    def follow(self, snapshot: Snapshot) -> MemoryIndex:
        """Return the rows of a snapshot, reading only those that are not in memory yet."""
        if self._index is None or self._snapshot is not snapshot:
            self._snapshot = None  # in case reading fails
            index = self._updated(snapshot)
            self._index = self._loaded(snapshot) if index is None or index.stale else index
            self._index.attributes = [*snapshot.description.attributes]
            self._snapshot = snapshot
        return self._index

    def clear(self) -> None:
        """Release all rows."""
        self._index, self._snapshot, self._kinds, self._held = None, None, {}, {}

    def _loaded(self, snapshot: Snapshot) -> MemoryIndex:
        """Read all rows, fragment by fragment, because one scan reads ahead and holds many rows twice."""
        self.clear()
        reader = _Reader(snapshot, 0)
        index = MemoryIndex.of(snapshot.description.dimension, reader.parts(_fragments(snapshot)))
        self._held, self._kinds = reader.held, dict(snapshot.description.columns)
        release_unused()
        return index

    def _updated(self, snapshot: Snapshot) -> MemoryIndex | None:
        """Update the rows in memory to a snapshot; return None if all rows must be read again."""
        index, kinds = self._index, snapshot.description.columns
        if index is None or snapshot.description.dimension != index.dimension:
            return None
        if any(self._kinds.get(name, kind) != kind for name, kind in kinds.items()):
            return None
        fragments = _fragments(snapshot)
        self._held = {
            key: left
            for key, held in self._held.items()
            if (left := _follow_fragment(index, held, fragments.get(key)))
        }
        new = {key: fragment for key, fragment in fragments.items() if key not in self._held}
        if sum(fragment.metadata.physical_rows for fragment in new.values()) > MOST_NEW * len(index.alive):
            return None
        if new:
            reader = _Reader(snapshot, len(index.alive))
            vectors, tables = zip(*reader.parts(new), strict=True)
            index.extend(np.concatenate(vectors), pa.concat_tables(tables))
            self._held |= reader.held
            self._kinds |= kinds
        return index


def _follow_fragment(index: MemoryIndex, held: _Held, fragment: Any) -> _Held | None:
    """Remove the deleted rows of a fragment; return None if it is gone or must be read again."""
    if fragment is not None and _deletions(fragment) == held.deletions:
        return held
    rows = held.start + np.arange(len(held.offsets))
    if fragment is not None:
        present = _addresses(fragment.scanner(columns=[], with_row_address=True).to_table())
        kept = np.isin(held.offsets, present)
        if kept.sum() == len(present) and index.alive[rows[kept]].all():
            index.remove(rows[~kept])
            return replace(held, deletions=_deletions(fragment))
    index.remove(rows)
    return None


class _Reader:
    """Reads fragments of a snapshot. Their rows are placed in memory from `start` on."""

    def __init__(self, snapshot: Snapshot, start: int) -> None:
        self.held: dict[Key, _Held] = {}
        self._snapshot = snapshot
        self._start = start
        self._names = {column: name for name, column in snapshot.columns.items()}

    def parts(self, fragments: Mapping[Key, Any]) -> Iterator[Part]:
        """Yield the rows in parts of up to `PART`, after an empty part, so that there is at least one."""
        schema = pa.schema([field for field in self._snapshot.dataset.schema if field.name in self._columns])
        yield self._part(pa.RecordBatch.from_pylist([], schema))
        for key, fragment in fragments.items():
            offsets = [np.empty(0, np.uint32)]
            scanner = fragment.scanner(columns=self._columns, with_row_address=True, batch_size=PART)
            for batch in scanner.to_batches():
                offsets.append(_addresses(batch))
                yield self._part(batch)
            self.held[key] = _Held(_deletions(fragment), self._start, np.concatenate(offsets))
            self._start += len(self.held[key].offsets)

    @property
    def _columns(self) -> list[str]:
        return [*self._names, EMBEDDING]

    def _part(self, batch: pa.RecordBatch) -> Part:
        """Return the embeddings and columns of a batch as they are kept in memory.

        They are copied, because a column of a batch would keep the whole batch in memory.
        """
        columns = {name: batch[column] for column, name in self._names.items()}
        kept = pa.table(columns | {name: columns[name].dictionary_encode() for name in REPEATED})
        return unpacked(batch, self._snapshot.description.dimension), kept.take(
            pa.array(np.arange(len(batch)))
        )


def _fragments(snapshot: Snapshot) -> dict[Key, Any]:
    """Return the fragments of a snapshot, by the names of their files."""
    fragments = snapshot.dataset.get_fragments()
    return {tuple(file.path for file in fragment.metadata.files): fragment for fragment in fragments}


def _deletions(fragment: Any) -> Any:
    file = fragment.metadata.deletion_file
    return None if file is None else file.asdict()


def _addresses(rows: pa.Table | pa.RecordBatch) -> np.ndarray:
    """Return the positions of rows in their fragment: (n,) uint32."""
    return (rows["_rowaddr"].to_numpy() & 0xFFFFFFFF).astype(np.uint32)
