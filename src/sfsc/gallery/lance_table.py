"""The Lance table of a gallery: opening it, describing it, and changing it in one process at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from threading import RLock
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock

from sfsc.errors import SfscError, first_line
from sfsc.gallery.conditions import EQUALITIES, EXACT, Condition, Value
from sfsc.gallery.forms import DTYPES, decode
from sfsc.gallery.manifests import Manifest, ManifestWatch
from sfsc.gallery.names import NUMBER_PREFIX, attribute_of, column_of
from sfsc.gallery.store import COLUMNS, EMBEDDING, FORMAT, Description, StoreUnavailable

TABLE = "gallery.lance"
LOCK = ".lock"
METADATA = b"gallery"
FIXED = (*COLUMNS, EMBEDDING)
TYPES = {"text": pa.string(), "boolean": pa.bool_(), "integer": pa.int64(), "number": pa.float64()}
KINDS = {type_: kind for kind, type_ in TYPES.items()}
NEEDED = ("id", "path", "width", "form", "fingerprint", "time")
KEPT_VERSIONS = timedelta(minutes=10)  # because other processes may still read older versions
# Every add creates a fragment. Compacting whenever this many are small makes 2,000 adds ten times faster.
SMALL, MOST_SMALL = 100_000, 64
POLL_SECONDS = 0.005
REMEDIES = {
    "No space left": "free disk space and run the command again",
    "File too large": "free disk space and run the command again",
    "Permission denied": "check the write permissions",
    "Read-only file system": "copy it to a writable place",
}


@dataclass(frozen=True)
class Snapshot:
    """One version of the table. Later writes do not change it."""

    manifest: Manifest
    dataset: Any
    description: Description
    columns: Mapping[str, str]  # the stored name of each column and attribute

    def sql(self, where: Sequence[Condition]) -> str | None:
        """Return conditions as a Lance filter, or None if there are no conditions."""
        return " AND ".join(_sql_of(condition, self.columns[condition.column]) for condition in where) or None

    def batches(
        self, names: Sequence[str], where: Sequence[Condition], embeddings: bool = False
    ) -> Iterator[pa.RecordBatch]:
        """Yield columns of the rows that fulfil all conditions; `embeddings` adds those for `unpacked`."""
        columns = {name: f"`{self.columns[name]}`" for name in names}
        columns |= {name: name for name in ("form", EMBEDDING) if embeddings}
        yield from self.dataset.scanner(columns=columns, filter=self.sql(where)).to_batches()


class LanceTable:
    """The table in a gallery's directory. Every call reads the current version."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._watch = ManifestWatch(directory / TABLE)
        self._snapshot: Snapshot | None = None
        self._threads = RLock()
        self._processes = FileLock(directory / LOCK, poll_interval=POLL_SECONDS)

    def snapshot(self) -> Snapshot | None:
        """Return the current version on disk, or None before the table is created.

        Raises:
            SfscError: the table does not belong to a gallery, or was written by another version of sfsc.
        """
        with self._threads:
            manifest = self._watch.newest()
            if manifest is None:
                self._snapshot = None
                if any((self.directory / TABLE).glob("data/*")):
                    raise FileNotFoundError("its list of versions is missing")
            elif self._snapshot is None or self._snapshot.manifest != manifest:
                self._snapshot = self._open(manifest)
            return self._snapshot

    @contextmanager
    def writing(self) -> Iterator[Snapshot | None]:
        """Lock out all other writers, in this process and in others, and yield the current version."""
        with self._threads:
            self.directory.mkdir(parents=True, exist_ok=True)
            with self._processes:
                snapshot = self.snapshot()
                # A change moves its dataset to the new version, but a snapshot must stay the same.
                yield snapshot and replace(snapshot, dataset=lance.dataset(self.directory / TABLE))

    def create(self, description: Description) -> None:
        """Create the empty table if it does not exist."""
        fields = [pa.field(name, TYPES[kind], name not in NEEDED) for name, kind in COLUMNS.items()]
        fields.append(pa.field(EMBEDDING, pa.large_binary(), nullable=False))
        schema = pa.schema(fields, metadata={METADATA: _stored(description)})
        with self.writing() as snapshot:
            if snapshot is None:
                lance.write_dataset(schema.empty_table(), self.directory / TABLE, mode="create")

    def fit(self, snapshot: Snapshot, attributes: Mapping[str, str]) -> Any:
        """Return the dataset with a column for each of the attributes. Call it only inside `writing`.

        Columns that an interrupted add has left are removed. An attribute of integers is converted if the
        new values are numbers.
        """
        dataset, stored = self._renamed(snapshot), snapshot.description.attributes
        wanted = snapshot.description.with_attributes(attributes, str(self.directory)).attributes
        for name in (name for name, kind in stored.items() if kind != wanted[name]):
            self._make_numbers(dataset, name)
        self._drop_unused(dataset)
        if new := sorted(wanted.keys() - stored.keys()):
            columns = [(column_of(name, wanted[name]), TYPES[wanted[name]]) for name in new]
            dataset.add_columns(pa.schema(columns))
        return dataset

    def _make_numbers(self, dataset: Any, name: str) -> None:
        """Convert an attribute from integers to numbers in one commit."""
        integers = column_of(name)
        if dataset.count_rows(f"{integers} > {EXACT} OR {integers} < -{EXACT}"):
            raise SfscError(
                f"gallery {self.directory}: column {name} contains integers that float64 cannot represent, "
                "so it cannot become a column of numbers: pass these values as text, under another name"
            )
        dataset.add_columns({column_of(name, "number"): f"CAST({integers} AS DOUBLE)"})

    def tidy(self, dataset: Any) -> None:
        """Compact the table if it has many small fragments. Call it only inside `writing`."""
        small = sum(fragment.metadata.physical_rows < SMALL for fragment in dataset.get_fragments())
        if small >= MOST_SMALL:
            self.compact(dataset)

    def compact(self, dataset: Any) -> None:
        """Free the space of replaced rows, deleted rows and old versions. Call it only inside `writing`."""
        self._drop_unused(dataset)
        dataset.optimize.compact_files()
        dataset.cleanup_old_versions(KEPT_VERSIONS)

    def duplicates(self, dataset: Any) -> list[str]:
        """Return the ids that several rows share, sorted."""
        counted = dataset.to_table(columns=["id"]).group_by("id").aggregate([([], "count_all")])
        twice = counted.filter(pc.greater(counted["count_all"], 1))
        return sorted(twice["id"].to_pylist())

    def remove_duplicates(self, dataset: Any) -> None:
        """Keep only the newest row of each id, in one commit. Call it only inside `writing`."""
        twice = pa.array(self.duplicates(dataset), pa.string())
        if not len(twice):
            return
        rows = dataset.to_table(columns=["id", "time"], with_row_address=True)
        rows = rows.filter(pc.is_in(rows["id"], value_set=twice)).to_pylist()
        newest = {
            row["id"]: row["_rowaddr"] for row in sorted(rows, key=lambda r: (r["time"], r["_rowaddr"]))
        }
        older = {row["_rowaddr"] for row in rows} - {*newest.values()}
        dataset.delete(f"_rowaddr IN ({', '.join(map(str, older))})")

    @contextmanager
    def reported(self, action: str) -> Iterator[None]:
        """Convert errors of Lance and of the file system into one line that names the directory."""
        try:
            yield
        except SfscError:
            raise
        except (OSError, RuntimeError, ValueError, pa.ArrowException) as error:
            cause = re.sub(r", /\S+\.rs:\d+:\d+$", "", first_line(error))
            remedies = (remedy for sign, remedy in REMEDIES.items() if sign in str(error))
            remedy = next(remedies, "check the disk, or restore the directory from a copy")
            raise StoreUnavailable(
                f"gallery {self.directory} cannot be {action} ({cause}): {remedy}"
            ) from error

    def _open(self, manifest: Manifest) -> Snapshot:
        dataset = lance.dataset(self.directory / TABLE)
        if any(name.startswith("_") for name in _unused(dataset)):  # Lance cannot read a column named _rowid
            with self._processes:
                dataset = lance.dataset(self.directory / TABLE)
                self._drop_unused(dataset)
            manifest = self._watch.newest() or manifest
        description, columns = _describe(dataset, str(self.directory))
        return Snapshot(manifest, dataset, description, columns)

    def _renamed(self, snapshot: Snapshot) -> Any:
        """Return the dataset with its attribute columns renamed as in the newest format."""
        dataset, description = snapshot.dataset, snapshot.description
        renamed = {
            snapshot.columns[name]: column_of(name, kind) for name, kind in description.attributes.items()
        }
        if description.format < FORMAT:
            dataset.update_schema_metadata({METADATA.decode(): _stored(replace(description, format=FORMAT))})
        if changes := [{"path": old, "name": new} for old, new in renamed.items() if old != new]:
            dataset.alter_columns(*changes)
        return dataset

    def _drop_unused(self, dataset: Any) -> None:
        if unused := _unused(dataset):
            dataset.drop_columns(unused)


def _unused(dataset: Any) -> list[str]:
    """Return the attribute columns that are not in use.

    A column is not in use if no rows were written with it, because the add was interrupted, or if its
    integers were converted to numbers.
    """
    fields = {field.name(): field.id() for field in dataset.lance_schema.fields()}
    used = {
        field
        for fragment in dataset.get_fragments()
        for file in fragment.metadata.files
        for field in file.fields
    }
    there = [name for name, id_ in fields.items() if name not in FIXED and id_ in used]
    numbers = {attribute_of(name) for name in there if name.startswith(NUMBER_PREFIX)}
    counting = [name for name in there if name.startswith(NUMBER_PREFIX) or attribute_of(name) not in numbers]
    return [name for name in fields if name not in (*FIXED, *counting)]


def _describe(dataset: Any, name: str) -> tuple[Description, dict[str, str]]:
    """Return the description of a gallery, and the stored name of each column and attribute."""
    metadata = dataset.schema.metadata or {}
    if METADATA not in metadata:
        older = b"fingerprint" in metadata
        reason = (
            "was written by an older sfsc: index again"
            if older
            else "is not a gallery: another program wrote its table"
        )
        raise SfscError(f"{name} {reason}")
    unused = _unused(dataset)
    fields = [field for field in dataset.schema if field.name not in (*FIXED, *unused)]
    try:
        attributes = {attribute_of(field.name): KINDS[field.type] for field in fields}
        stored = {**json.loads(metadata[METADATA]), "attributes": attributes}
        fixed = {column: dataset.schema.field(column).type for column in FIXED}
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise SfscError(f"{name} is not a gallery: another program wrote its table") from error
    if fixed != {column: TYPES[kind] for column, kind in COLUMNS.items()} | {EMBEDDING: pa.large_binary()}:
        raise SfscError(f"{name} is not a gallery: another program wrote its table")
    columns = {attribute_of(field.name): field.name for field in fields}
    return Description.from_json(stored, name), {name: name for name in COLUMNS} | columns


def _stored(description: Description) -> str:
    """Return the description as stored in the metadata of the table; its columns describe the attributes."""
    return json.dumps({name: value for name, value in description.to_json().items() if name != "attributes"})


def unpacked(batch: pa.RecordBatch, dimension: int) -> np.ndarray:
    """Decode a batch with the columns form and embedding to (N, dimension) float32 of length 1."""
    vectors = np.empty((len(batch), dimension), np.float32)
    forms = batch["form"].to_numpy(zero_copy_only=False)
    for form in np.unique(forms):
        if form not in DTYPES:
            raise ValueError(f"a row is stored in the unknown form {form!r}")
        chosen = forms == form
        packed = batch[EMBEDDING] if chosen.all() else batch[EMBEDDING].filter(pa.array(chosen))
        offsets = np.frombuffer(packed.buffers()[1], np.int64)[
            packed.offset : packed.offset + len(packed) + 1
        ]
        data = np.frombuffer(packed.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
        vectors[chosen] = decode(data.view(DTYPES[form]).reshape(len(packed), -1))
    return vectors


def packed(rows: np.ndarray) -> pa.Array:
    """Return the bytes of each row of an (N, dim) array."""
    size = rows.shape[1] * rows.itemsize
    offsets = np.arange(len(rows) + 1, dtype=np.int64) * size
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(rows))]
    return pa.Array.from_buffers(pa.large_binary(), len(rows), buffers)


def _sql_of(condition: Condition, column: str) -> str:
    values = ", ".join(_literal(value) for value in condition.values if value is not None)
    if condition.operator not in EQUALITIES:
        return f"`{column}` {condition.operator} {values}"
    if condition.operator == "!=":
        return f"`{column}` NOT IN ({values})" if values else f"`{column}` IS NOT NULL"
    either = [f"`{column}` IN ({values})"] if values else []
    either += [f"`{column}` IS NULL"] if None in condition.values else []
    return f"({' OR '.join(either)})"


def _literal(value: Value) -> str:
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value).lower()
