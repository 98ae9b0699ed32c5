"""The Lance table of a gallery: opening it, describing it, and changing it in one process at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from threading import RLock
from typing import Any

import pyarrow as pa
from filelock import FileLock

from sfsc.errors import SfscError, first_line
from sfsc.gallery.changes import Changes
from sfsc.gallery.columns import TYPES as INDEX_TYPES
from sfsc.gallery.conditions import EQUALITIES, EXACT, Condition, Value
from sfsc.gallery.manifests import Manifest, ManifestWatch
from sfsc.gallery.names import NUMBER_PREFIX, attribute_of, column_of
from sfsc.gallery.replacing import Pending
from sfsc.gallery.store import COLUMNS, EMBEDDING, FORMAT, ORIGINAL, Description, StoreUnavailable
from sfsc.gallery.upkeep import FULL_DISK, compact, join_segments, tidy

TABLE = "gallery.lance"
LOCK, BUILDING = ".lock", ".building.lock"
METADATA = b"gallery"
FIXED = (*COLUMNS, EMBEDDING)
OWN = (*FIXED, ORIGINAL)  # all columns but the attributes
TYPES = {**INDEX_TYPES, "text": pa.string()}  # those of the columns of an index, but for texts
KINDS = {type_: kind for kind, type_ in TYPES.items()}
NEEDED = ("id", "path", "width", "form", "fingerprint", "time")
CACHE = 64 << 20  # bytes for each of the caches
POLL_SECONDS = 0.005
TRIES = 5  # to open the version that the newest manifest describes
REMEDIES = dict.fromkeys(FULL_DISK, "free disk space and run the command again") | {
    "Permission denied": "check the write permissions",
    "Read-only file system": "copy it to a writable place",
}


@dataclass(frozen=True)
class Snapshot:
    """One version of the table. Later writes do not change it."""

    table: Path
    manifest: Manifest
    description: Description
    columns: Mapping[str, str]  # the stored name of each column and attribute
    session: Any = None  # the caches of Lance to use
    opened: Any = None  # the dataset, if it was opened already

    @cached_property
    def dataset(self) -> Any:
        """The version of the table, opened when it is first used."""
        if self.opened is not None:
            return self.opened
        return _opened(self.table, self.manifest.version, self.session)

    def sql(self, where: Sequence[Condition]) -> str | None:
        """Return conditions as a Lance filter, or None if there are no conditions."""
        return " AND ".join(_sql_of(condition, self.columns[condition.column]) for condition in where) or None

    def batches(
        self,
        names: Sequence[str],
        where: Sequence[Condition],
        embeddings: bool = False,
        originals: bool = False,
    ) -> Iterator[pa.RecordBatch]:
        """Yield columns of the rows that fulfil all conditions; the others add those for `unpacked`."""
        columns = {name: f"`{self.columns[name]}`" for name in names}
        columns |= {name: name for name in ("form", EMBEDDING) if embeddings}
        columns |= {ORIGINAL: f"`{ORIGINAL}`"} if originals else {}
        yield from self.dataset.scanner(columns=columns, filter=self.sql(where)).to_batches()


class LanceTable:
    """The table in a gallery's directory. Every call reads the current version."""

    def __init__(
        self,
        directory: Path,
        changes: Changes | None = None,
        remembered: Callable[[Manifest], tuple[Description, Mapping[str, str]] | None] = lambda _: None,
    ) -> None:
        """Use the table in a directory, and by default the records of its changes in the same directory.

        `remembered` returns the description and the stored names of the columns of a version, if they are
        known without opening the table: importing Lance takes longer than a search.
        """
        self.directory = directory
        self._remembered = remembered
        self._watch = ManifestWatch(directory / TABLE)
        self._changes = changes or Changes(directory)
        self._snapshot: Snapshot | None = None
        self._last: Any = None  # the dataset that was opened last to describe it
        self._session: Any = None
        self._left: Manifest | None = None  # by the last change of this process
        self._reading, self._writing = RLock(), RLock()
        self._processes = FileLock(directory / LOCK, poll_interval=POLL_SECONDS)

    def snapshot(self) -> Snapshot | None:
        """Return the current version on disk, or None before the table is created.

        Raises:
            SfscError: the table does not belong to a gallery, or was written by another version of sfsc.
        """
        with self._reading:
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
        with self._writing:
            self.directory.mkdir(parents=True, exist_ok=True)
            with self._processes:
                snapshot = self.snapshot()
                if snapshot is None or snapshot.manifest != self._left:
                    self._session = _new_session()  # caches of another table would not be noticed
                # A change moves its dataset to the new version, but a snapshot must stay the same.
                yield snapshot and replace(snapshot, session=self._session, opened=None)
                self._left = self._watch.newest()

    def commit(self, dataset: Any, pending: Pending, recorded: bool = True) -> Any:
        """Commit a change of the newest version, and return the next one. Call it only inside `writing`.

        The change is recorded for the processes that follow it, unless a column may come into use with it, as
        `recorded=False` says, or fall out of use.
        """
        from lance import LanceDataset

        before = self._watch.newest()
        same_columns = bool(pending.change.files) or not pending.emptied
        if recorded and same_columns and before is not None and before.version == dataset.version:
            self._changes.record(before, pending.change)
        return LanceDataset.commit(dataset, pending.transaction)

    def tidy(self, dataset: Any) -> None:
        """Merge small fragments if there are many, and remove old versions. Call it only inside `writing`."""
        tidy(dataset, partial(self.commit, recorded=not _unused(dataset)))

    def create(self, description: Description) -> None:
        """Create the empty table if it does not exist."""
        fields = [pa.field(name, TYPES[kind], name not in NEEDED) for name, kind in COLUMNS.items()]
        fields.append(pa.field(EMBEDDING, pa.large_binary(), nullable=False))
        schema = pa.schema(fields, metadata={METADATA: stored_description(description)})
        with self.writing() as snapshot:
            if snapshot is None:
                import lance

                lance.write_dataset(schema.empty_table(), self.directory / TABLE, mode="create")

    def fit(self, snapshot: Snapshot, attributes: Mapping[str, str]) -> Any:
        """Return the dataset with a column for each of the attributes. Call it only inside `writing`.

        Columns that an interrupted add has left are removed. An attribute of integers is converted if the
        new values are numbers.
        """
        dataset, stored = self.renamed(snapshot), snapshot.description.attributes
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

    def compact(self, dataset: Any) -> None:
        """Free the space of replaced rows, deleted rows and old versions. Call it only inside `writing`."""
        self._drop_unused(dataset)
        join_segments(dataset)
        compact(dataset)
        self._changes.clear()

    @contextmanager
    def building(self) -> Iterator[None]:
        """Lock out other processes that build an index; raise `filelock.Timeout` at once if one does."""
        with FileLock(self.directory / BUILDING).acquire(blocking=False):
            yield

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
        last = self._snapshot
        if last is not None and self._changes.between(last.manifest, manifest) is not None:
            return replace(last, manifest=manifest, opened=None)
        if remembered := self._remembered(manifest):
            return Snapshot(self.directory / TABLE, manifest, *remembered)
        dataset = self._at(manifest)
        # Lance cannot read a column named _rowid.
        if any(name.startswith("_") and name in _unused(dataset) for name in dataset.schema.names):
            with self._processes:
                dataset = _opened(self.directory / TABLE)
                self._drop_unused(dataset)
        for _ in range(TRIES):  # another process may write meanwhile
            if dataset.version == manifest.version:
                break
            dataset, manifest = _opened(self.directory / TABLE), self._watch.newest() or manifest
        self._last = dataset
        described = _describe(dataset, str(self.directory))
        opened = dataset if dataset.version == manifest.version else None
        return Snapshot(self.directory / TABLE, manifest, *described, opened=opened)

    def _at(self, manifest: Manifest) -> Any:
        """Open a version of the table, or the newest one if that version is gone.

        A version after the last one is opened with its caches, which takes a fraction of the time. Any other
        version may be of another table in the same directory, which the caches would hide.
        """
        if self._last is not None and self._last.version < manifest.version:
            with suppress(OSError, ValueError):
                return self._last.checkout_version(manifest.version)
        return _opened(self.directory / TABLE)

    def renamed(self, snapshot: Snapshot) -> Any:
        """Return the dataset with its attribute columns renamed as in the newest format.

        Call it only inside `writing`.
        """
        dataset, description = snapshot.dataset, snapshot.description
        renamed = {
            snapshot.columns[name]: column_of(name, kind) for name, kind in description.attributes.items()
        }
        if description.format < FORMAT:
            dataset.update_schema_metadata(
                {METADATA.decode(): stored_description(replace(description, format=FORMAT))}
            )
        if changes := [{"path": old, "name": new} for old, new in renamed.items() if old != new]:
            dataset.alter_columns(*changes)
        return dataset

    def _drop_unused(self, dataset: Any) -> None:
        if unused := _unused(dataset):
            dataset.drop_columns(unused)


def _opened(table: Path, version: int | None = None, session: Any = None) -> Any:
    """Open a version of a table, by default the newest one."""
    import lance

    return lance.dataset(table, version=version, session=_new_session() if session is None else session)


def _new_session() -> Any:
    """Return caches of Lance, which make a change several times as fast if only this process makes any."""
    import lance

    caches: Any = lance  # its type hints lack the class
    return caches.Session(index_cache_size_bytes=CACHE, metadata_cache_size_bytes=CACHE)


def _unused(dataset: Any) -> list[str]:
    """Return the attribute columns that are not in use.

    A column is not in use if no rows were written with it, because the add was interrupted, or if its
    integers were converted to numbers.
    """
    fields = {field.name(): field.id() for field in dataset.lance_schema.fields()}
    used = {
        field
        for fragment in dataset.get_fragments()
        for file in fragment.data_files()
        for field in file.fields
    }
    there = [name for name, id_ in fields.items() if name not in OWN and id_ in used]
    numbers = {attribute_of(name) for name in there if name.startswith(NUMBER_PREFIX)}
    counting = [name for name in there if name.startswith(NUMBER_PREFIX) or attribute_of(name) not in numbers]
    return [name for name in fields if name not in (*OWN, *counting)]


def _describe(dataset: Any, name: str) -> tuple[Description, dict[str, str]]:
    """Return the description of a gallery, and the stored name of each column and attribute."""
    schema = dataset.schema
    metadata = schema.metadata or {}
    if METADATA not in metadata:
        older = b"fingerprint" in metadata
        reason = (
            "was written by an older sfsc: index again"
            if older
            else "is not a gallery: another program wrote its table"
        )
        raise SfscError(f"{name} {reason}")
    unused = _unused(dataset)
    fields = [field for field in schema if field.name not in (*OWN, *unused)]
    try:
        attributes = {attribute_of(field.name): KINDS[field.type] for field in fields}
        stored = {**json.loads(metadata[METADATA]), "attributes": attributes}
        fixed = {column: schema.field(column).type for column in FIXED}
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise SfscError(f"{name} is not a gallery: another program wrote its table") from error
    if fixed != {column: TYPES[kind] for column, kind in COLUMNS.items()} | {EMBEDDING: pa.large_binary()}:
        raise SfscError(f"{name} is not a gallery: another program wrote its table")
    columns = {attribute_of(field.name): field.name for field in fields}
    return Description.from_json(stored, name), {name: name for name in COLUMNS} | columns


def stored_description(description: Description) -> str:
    """Return the description as stored in the metadata of the table; its columns describe the attributes."""
    return json.dumps({name: value for name, value in description.to_json().items() if name != "attributes"})


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
