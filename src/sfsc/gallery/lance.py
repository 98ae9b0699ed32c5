"""The gallery's store on one machine: a LanceDB table in a directory, searched in memory."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from threading import RLock
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sfsc.errors import SfscError
from sfsc.gallery.conditions import Condition, Value
from sfsc.gallery.forms import DTYPES, decode, encode
from sfsc.gallery.memory import MemoryIndex, release_unused
from sfsc.gallery.store import COLUMNS, EMBEDDING, Description, Hit, StoreUnavailable

TABLE = "gallery"
VERSIONS = f"{TABLE}.lance/_versions"
# Every add leaves a fragment behind; compacted this often, 2,000 small adds take 24 s instead of 220 s.
ADDS_PER_COMPACTION = 64
PART = 1 << 11  # rows read at once, 1 MB at 128 dimensions: of larger parts, lance leaves more memory unused
KEPT_VERSIONS = timedelta(minutes=10)  # what another process may still be reading
REPEATED = ("identity", "camera", "width", "form", "fingerprint")  # columns of few different values
TYPES = {"text": pa.string(), "boolean": pa.bool_(), "integer": pa.int64(), "number": pa.float64()}
NEEDED = ("id", "path", "width", "form", "fingerprint", "time")


class LanceStore:
    """A `Store` in the directory `path`; the description is in the schema of the table.

    With `create` the directory may be missing or empty; without, it stays as it is and must hold the table.
    The first search reads all rows into memory; later ones read what was added since, by any process.
    """

    def __init__(self, path: Path, *, create: bool) -> None:
        self._path = path
        self._opened: Any = None
        self._versions = path / VERSIONS
        self._version, self._changed = -1, -1
        self._manifests = path, path  # of this version and the next
        self._described: tuple[int, Description] | None = None
        self._memory: MemoryIndex | None = None
        self._memory_version = -1
        self._shortened: dict[int, tuple[int, MemoryIndex]] = {}  # by dimension, with the version
        self._newest = 0.0  # the time of the newest row in memory
        self._stamped = 0.0  # that of the newest row that was written from here
        self._lock = RLock()
        with self._reported("opened"):
            self._check_directory(create)
            self._database = lancedb.connect(path, read_consistency_interval=timedelta(0))
        if self.describe() is None and not create:
            raise SfscError(f"{path} is not a gallery: nothing was ever stored in it")

    def describe(self) -> Description | None:
        """See `Store`."""
        table = self._table()
        if table is None:
            return None
        with self._reported("read"):
            version = self._newest_version()
            if self._described is None or self._described[0] != version:
                self._described = version, self._read_description(table.schema)
            return self._described[1]

    def _read_description(self, schema: pa.Schema) -> Description:
        metadata = schema.metadata or {}
        if b"gallery" not in metadata:
            old = b"fingerprint" in metadata
            reason = (
                "was written by an older sfsc: index again"
                if old
                else "is not a gallery: its table is of another program"
            )
            raise SfscError(f"{self._path} {reason}")
        kinds = {type_: kind for kind, type_ in TYPES.items()}
        attributes = {
            field.name: kinds[field.type] for field in schema if field.name not in (*COLUMNS, EMBEDDING)
        }
        return Description.from_json(
            {**json.loads(metadata[b"gallery"]), "attributes": attributes}, str(self._path)
        )

    def create(self, description: Description) -> None:
        """See `Store`."""
        fields = [pa.field(n, TYPES[kind], n not in NEEDED) for n, kind in description.columns.items()]
        fields.append(pa.field(EMBEDDING, pa.large_binary(), nullable=False))
        stored = {name: value for name, value in description.to_json().items() if name != "attributes"}
        schema = pa.schema(fields, metadata={"gallery": json.dumps(stored)})
        with self._reported("written"):
            self._opened = self._database.create_table(TABLE, schema=schema, exist_ok=True)

    def extend(self, attributes: Mapping[str, str]) -> None:
        """See `Store`."""
        with self._lock, self._reported("written"):
            self._existing().add_columns(
                pa.schema([(name, TYPES[kind]) for name, kind in attributes.items()])
            )
            self._memory = None

    def upsert(self, embeddings: np.ndarray, form: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """See `Store`."""
        with self._lock, self._reported("written"):
            table = self._existing()
            stamp = [self._stamp()] * len(embeddings)
            values = {**columns, "form": [form] * len(embeddings), "time": stamp}
            rows = pa.table({**values, EMBEDDING: _packed(encode(embeddings, form))}, schema=table.schema)
            table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(rows)
            if table.version % ADDS_PER_COMPACTION == 0:
                table.optimize(cleanup_older_than=KEPT_VERSIONS)

    def delete(self, where: Sequence[Condition]) -> None:
        """See `Store`."""
        with self._lock, self._reported("written"):
            self._existing().delete(_sql(where))

    def search(
        self, queries: np.ndarray, top: int, where: Sequence[Condition], exact: bool
    ) -> list[list[Hit]]:
        """See `Store`."""
        with self._lock, self._reported("read"):
            return self._current().search(queries, top, where, exact)

    def search_shortened(self, queries: np.ndarray, top: int, where: Sequence[Condition]) -> list[list[Hit]]:
        """See `Store`."""
        with self._lock, self._reported("read"):
            return self._current_shortened(queries.shape[1]).search(queries, top, where, exact=True)

    def rows(
        self, where: Sequence[Condition], columns: Sequence[str], embeddings: bool = False
    ) -> Iterator[tuple[dict[str, list[Any]], np.ndarray | None]]:
        """See `Store`."""
        wanted = list(dict.fromkeys([*columns, *(["form", EMBEDDING] if embeddings else [])]))
        with self._reported("read"):
            for batch in self._batches(wanted, where):
                values = {name: batch[name].to_pylist() for name in columns}
                yield values, self._unpacked(batch) if embeddings else None

    def count(self, where: Sequence[Condition] = ()) -> int:
        """See `Store`."""
        with self._reported("read"):
            table = self._table()
            return 0 if table is None else table.count_rows(_sql(where) if where else None)

    def optimize(self) -> None:
        """See `Store`."""
        with self._lock, self._reported("written"):
            self._existing().optimize(cleanup_older_than=KEPT_VERSIONS)
            self._current().prepare()

    def close(self) -> None:
        """See `Store`."""
        self._memory = None
        self._shortened.clear()

    def _current(self) -> MemoryIndex:
        """The rows in memory, brought to what the table holds now."""
        table = self._existing()
        version = self._newest_version()
        if self._memory is not None and version != self._memory_version:
            newer = [Condition("time", ">", (self._newest,))]
            parts = [*map(self._part, self._batches([*_columns(table), EMBEDDING], newer))]
            if parts:
                vectors, tables = zip(*parts, strict=True)
                self._memory.extend(np.concatenate(vectors), pa.concat_tables(tables))
            # Rows that were deleted leave no trace but their number.
            if self._memory.stale or len(self._memory) != table.count_rows():
                self._memory = None
        if self._memory is None:
            self._memory = self._load(version)
        self._memory_version = version
        return self._memory

    def _current_shortened(self, dimension: int) -> MemoryIndex:
        """The rows' first components in memory, made anew where rows have changed since they were."""
        memory = self._current()
        version, shortened = self._shortened.get(dimension, (None, memory))
        if version != self._memory_version:
            shortened = memory.shortened(dimension)
            self._shortened[dimension] = self._memory_version, shortened
        return shortened

    def _load(self, version: int) -> MemoryIndex:
        """All rows of a version."""
        table = self._database.open_table(TABLE)
        table.checkout(version)
        description = self.describe()
        assert description is not None
        memory = MemoryIndex(description.dimension, map(self._part, _in_parts(table)))
        release_unused()
        return memory

    def _part(self, batch: pa.RecordBatch) -> tuple[np.ndarray, pa.Table]:
        """Embeddings and columns of a batch as they are kept in memory; the newest row's time is remembered.

        They are copied: any column of a batch keeps all of it in memory, with the embeddings.
        """
        if len(batch):
            self._newest = max(self._newest, pc.max(batch["time"]).as_py())
        columns = {name: batch[name] for name in batch.schema.names if name != EMBEDDING}
        kept = pa.table(columns | {name: columns[name].dictionary_encode() for name in REPEATED})
        return self._unpacked(batch), kept.take(pa.array(np.arange(len(batch))))

    def _batches(self, columns: list[str], where: Sequence[Condition]) -> Iterator[pa.RecordBatch]:
        query = self._existing().search().select(columns)
        yield from (query.where(_sql(where)) if where else query).to_batches()

    def _unpacked(self, batch: pa.RecordBatch) -> np.ndarray:
        """(N, dim) float32 of length 1, of rows in any forms."""
        description = self.describe()
        assert description is not None
        vectors = np.empty((len(batch), description.dimension), np.float32)
        forms = batch["form"].to_numpy(zero_copy_only=False)
        for form in np.unique(forms):
            chosen = forms == form
            packed = batch[EMBEDDING] if chosen.all() else batch[EMBEDDING].filter(pa.array(chosen))
            offsets = np.frombuffer(packed.buffers()[1], np.int64)[
                packed.offset : packed.offset + len(packed) + 1
            ]
            data = np.frombuffer(packed.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
            vectors[chosen] = decode(data.view(DTYPES[form]).reshape(len(packed), -1))
        return vectors

    def _stamp(self) -> float:
        """A time later than that of every row, whatever the clock says: by it, newer rows are known."""
        if time.time() <= self._stamped or not self._stamped:
            times = [max(part["time"], default=0.0) for part, _ in self.rows([], ["time"])]
            self._stamped = max(times, default=0.0)
        self._stamped = max(time.time(), self._stamped + 1e-6)
        return self._stamped

    def _newest_version(self) -> int:
        """The number of the newest version of the table.

        The table takes longer to tell than a search for one query may. What is written changes the time of
        the directory of manifests and, should times be too coarse for that, leaves a manifest of the next
        number there.
        """
        changed = self._versions.stat().st_mtime_ns
        this, following = self._manifests
        if changed != self._changed or not this.exists() or following.exists():
            self._changed, self._version = changed, self._existing().version
            self._manifests = self._manifest(self._version), self._manifest(self._version + 1)
        return self._version

    def _manifest(self, version: int) -> Path:
        return self._versions / f"{2**64 - 1 - version:020}.manifest"

    def _check_directory(self, create: bool) -> None:
        path = self._path
        found = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
        if not path.exists() and not create:
            raise SfscError(f"gallery {path} does not exist: add embeddings to it first, or check the path")
        if (path.exists() and not path.is_dir()) or found - {f"{TABLE}.lance"}:
            raise SfscError(f"{path} is not a gallery, but holds other files: choose another directory")

    def _table(self) -> Any:
        """The table; None before its creation was committed."""
        if self._opened is None:
            directory = self._path / f"{TABLE}.lance"
            with self._reported("read"):
                if any(directory.glob("_versions/*.manifest")) or any(directory.glob("data/*")):
                    self._opened = self._database.open_table(TABLE)
        return self._opened

    def _existing(self) -> Any:
        table = self._table()
        assert table is not None, "the gallery asks for rows only where there is a table"
        return table

    @contextmanager
    def _reported(self, action: str) -> Iterator[None]:
        """Turn what lance and the file system raise into one line that names the directory."""
        try:
            yield
        except (OSError, RuntimeError, ValueError) as error:
            cause = re.sub(r", /\S+\.rs:\d+:\d+$", "", str(error).partition("\n")[0])
            raise StoreUnavailable(
                f"gallery {self._path} cannot be {action} ({cause}): "
                "check the disk, or restore the directory from a copy"
            ) from error


def _in_parts(table: Any) -> Iterator[pa.RecordBatch]:
    """All rows; not by one scan, which reads ahead and holds much of them twice."""
    yield pa.RecordBatch.from_pylist([], table.schema)
    for start in range(0, table.count_rows(), PART):
        yield from table.search().offset(start).limit(PART).to_batches()


def _columns(table: Any) -> list[str]:
    return [name for name in table.schema.names if name != EMBEDDING]


def _packed(rows: np.ndarray) -> pa.Array:
    """Each of (N, dim) rows as its bytes."""
    size = rows.shape[1] * rows.itemsize
    offsets = np.arange(len(rows) + 1, dtype=np.int64) * size
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(rows))]
    return pa.Array.from_buffers(pa.large_binary(), len(rows), buffers)


def _sql(where: Sequence[Condition]) -> str:
    return " AND ".join(_sql_of(condition) for condition in where)


def _sql_of(condition: Condition) -> str:
    values = [_literal(value) for value in condition.values]
    if condition.operator == "=":
        return f"`{condition.column}` IN ({', '.join(values)})"
    return f"`{condition.column}` {condition.operator} {values[0]}"


def _literal(value: Value) -> str:
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value).lower()
