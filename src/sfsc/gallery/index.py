"""The index of a gallery: the rows of the table, mapped from files or read into memory, as it changes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa

from sfsc.errors import SfscError, first_line
from sfsc.gallery.columns import Columns, whole
from sfsc.gallery.forms import DTYPES
from sfsc.gallery.index_files import (
    Fragment,
    Header,
    Key,
    Source,
    Track,
    current,
    digest,
    make_current,
    open_index,
    read_header,
    write_index,
)
from sfsc.gallery.lance_table import TABLE, Snapshot, stored
from sfsc.gallery.manifests import Manifest
from sfsc.gallery.segment import Segment
from sfsc.gallery.store import EMBEDDING, Description
from sfsc.gallery.view import Part, View
from sfsc.progress import say

FOLDER = "index"
PART = 1 << 14  # rows read at once
INDEXED_FROM = 20_000  # rows; fewer are read into memory faster than files are opened
MOST_NEW = 0.5  # ratio of new rows to indexed ones; if more are new, the index is made again first
STALE, LEAST_STALE = 0.05, 5_000  # changed rows, as a share and at least, when the files should be renewed
LISTED_FROM = 4_096  # rows in memory that get lists
GROWTH = 8  # ratio of the sizes of consecutive segments in memory, at least
# The files of a damaged index raise any of these.
DAMAGE = (SfscError, ValueError, OSError, pa.ArrowException, KeyError)


@dataclass(frozen=True)
class _Held:
    """The rows of a fragment in a segment: from `start` to `stop`."""

    deletions: Mapping[str, Any] | None
    start: int
    stop: int


@dataclass(frozen=True)
class _Member:
    """A segment with the fragments that its rows come from.

    `offsets`, (n,) uint32, are the positions of the rows in their fragments; they ascend in each fragment.
    """

    part: Part
    offsets: np.ndarray
    held: Mapping[Key, _Held]


class Index:
    """Follows a table from one version to any other, and reads only what has changed.

    A Lance table consists of fragments. Their files never change and have random names, and a separate file
    lists the deleted rows of a fragment. The fragments therefore show which rows are equal on disk and here,
    whether the table was changed by additions and deletions or replaced by another table.

    Most rows are mapped from the files of an index (`index_files`); those that came later are in memory.
    """

    def __init__(self, directory: Path, memory: float = math.inf) -> None:
        """Use the index of the gallery in a directory, of which up to `memory` bytes stay in memory."""
        self._directory = directory
        self._memory = memory
        self._home = directory / FOLDER
        self._scratch: TemporaryDirectory[str] | None = None
        self.clear()

    def clear(self) -> None:
        """Release all rows."""
        self._members: list[_Member] = []
        self._snapshot: Snapshot | None = None
        self._view: View | None = None
        self._folder: Path | None = None

    def remembered(self, manifest: Manifest) -> tuple[Description, Mapping[str, str]] | None:
        """Return the description and the stored names of the columns of a version, if the index is of it."""
        with suppress(*DAMAGE):
            folder = current(self._home)
            header = None if folder is None else read_header(folder)
            if header is not None and header.manifest == digest(manifest.content):
                return Description.from_json(header.description, str(self._directory)), header.columns
        return None

    def follow(self, snapshot: Snapshot, most_new: float = MOST_NEW) -> View | None:
        """Return the rows of a snapshot, reading only those that are not here yet.

        Returns:
            The rows, or None if so many are new that the files should be written first: more than the share
            `most_new` of those in the files.
        """
        if self._view is None or self._snapshot is not snapshot:
            self._snapshot = None  # in case reading fails
            self._adopt(snapshot)
            if not self._is_of(snapshot) and not self._update(snapshot, most_new):
                return None
            attributes = snapshot.description.attributes
            self._view = View(tuple(member.part for member in self._members), tuple(attributes))
            self._snapshot = snapshot
        return self._view

    @property
    def used(self) -> bool:
        """Whether rows were searched."""
        return self._view is not None

    @property
    def stale(self) -> bool:
        """Whether so many rows have changed that the files should be written again."""
        base = sum(len(member.part.segment) for member in self._members if member.part.lists is not None)
        changed = sum(
            member.part.segment.dead if number == 0 and self._folder else len(member.part.segment)
            for number, member in enumerate(self._members)
        )
        if self._folder is None:
            return changed >= INDEXED_FROM
        return changed > max(LEAST_STALE, STALE * base)

    def build(self, snapshot: Snapshot, track: Track) -> None:
        """Write the files of a snapshot, for all processes that use the gallery; not of few rows.

        Raises:
            OSError: the disk is full, or the directory is not writable.
        """
        source = _source(snapshot)
        if sum(part.rows for part in source.fragments) >= INDEXED_FROM:
            make_current(write_index(self._home, source, track))
            self._snapshot = None  # the files are used at the next call of `follow`

    def build_aside(self, snapshot: Snapshot, track: Track) -> None:
        """Write the files of a snapshot into a temporary directory, for this process alone."""
        if self._scratch is None:
            self._scratch = TemporaryDirectory(prefix="sfsc-index-", ignore_cleanup_errors=True)
            self._home = Path(self._scratch.name)
        self.build(snapshot, track)

    def _adopt(self, snapshot: Snapshot) -> None:
        """Replace what is here by the current files, unless they are in use already."""
        folder = current(self._home)
        if folder is None or folder == self._folder:
            return
        try:
            self._open(folder, snapshot.description)
        except DAMAGE as error:
            if folder.exists():
                say(f"gallery {self._directory}: its index cannot be used ({first_line(error)})")

    def _open(self, folder: Path, description: Description) -> None:
        header = read_header(folder)
        files = open_index(folder, header, self._memory / 2)
        if files.segment.vectors.shape[1] != description.dimension:
            raise ValueError("it belongs to a gallery of another dimension")
        self._members = [_Member(Part(files.segment, files.lists), files.offsets, _held(header))]
        self._header, self._folder = header, folder

    def _is_of(self, snapshot: Snapshot) -> bool:
        """Return whether all rows are here, and as the files have them."""
        same = self._folder is not None and self._header.manifest == digest(snapshot.manifest.content)
        return same and len(self._members) == 1 and not self._members[0].part.segment.dead

    def _update(self, snapshot: Snapshot, most_new: float) -> bool:
        """Follow all fragments, and read the new ones unless they are too many; return whether it did."""
        fragments = {_key(fragment): fragment for fragment in snapshot.dataset.get_fragments()}
        kinds = snapshot.description.attributes
        table = self._directory / TABLE
        self._members = [_followed(member, fragments, table) for member in self._members]
        self._members = [
            replace(member, part=replace(member.part, segment=segment))
            for member in self._members
            if member.part.segment.living and (segment := _converted(member.part.segment, kinds))
        ]
        if self._folder and not (self._members and self._members[0].part.lists):
            self._folder = None
        known = {key for member in self._members for key in member.held}
        new = {key: fragment for key, fragment in fragments.items() if key not in known}
        rows = sum(fragment.physical_rows - fragment.num_deletions for fragment in new.values())
        base = len(self._members[0].part.segment) if self._folder else 0
        much = rows >= max(INDEXED_FROM, most_new * base) or self._too_large(new, rows)
        if much and most_new < math.inf:
            return False
        if new and rows:
            self._members.append(_read(snapshot, new))
            self._merge()
        return True

    def _too_large(self, new: Mapping[Key, Any], rows: int) -> bool:
        """Return whether the rows in memory would need more than half of what is allowed."""
        if self._memory == math.inf or rows < INDEXED_FROM:
            return False
        there = sum(member.part.segment.nbytes for member in self._members if member.part.lists is None)
        size = sum(file.file_size_bytes or 0 for fragment in new.values() for file in fragment.metadata.files)
        return there + size > self._memory / 2

    def _merge(self) -> None:
        """Merge the last segments in memory, so that each is several times as large as the next."""
        least = 2 if self._folder else 1
        while len(self._members) > least:
            *rest, larger, last = self._members
            sizes = len(larger.part.segment), len(last.part.segment)
            if sizes[0] > GROWTH * sizes[1] or larger.part.lists is not None:
                break
            self._members = [*rest, _joined([larger, last])]
        last = self._members[-1]
        lists = self._members[0].part.lists
        if lists is not None and last.part.lists is None and len(last.part.segment) >= LISTED_FROM:
            listed = replace(last.part, lists=lists.of(last.part.segment))
            self._members[-1] = replace(last, part=listed)


def _held(header: Header) -> dict[Key, _Held]:
    """Return the fragments of an index, with the places of their rows."""
    held, start = {}, 0
    for files, deletions, rows in header.fragments:
        held[tuple(files)] = _Held(deletions, start, start + rows)
        start += rows
    return held


def _followed(member: _Member, fragments: Mapping[Key, Any], table: Path) -> _Member:
    """Return a member without the rows that are no longer in the table."""
    segment, held, gone = member.part.segment, {}, [np.empty(0, np.int64)]
    for key, one in member.held.items():
        fragment = fragments.get(key)
        if fragment is not None and _deletions(fragment) == one.deletions:
            held[key] = one
            continue
        rows = np.arange(one.start, one.stop)
        if fragment is not None:
            offsets = member.offsets[one.start : one.stop]
            deleted = _deleted(fragment, offsets, table)
            left = segment.mask(slice(one.start, one.stop)) & ~deleted
            if left.sum() == fragment.physical_rows - fragment.num_deletions:
                held[key] = replace(one, deletions=_deletions(fragment))
                rows = rows[deleted]
        gone.append(rows)
    removed = np.concatenate(gone)
    if len(removed):
        segment = segment.without(removed)
    return replace(member, part=replace(member.part, segment=segment), held=held)


def _converted(segment: Segment, kinds: Mapping[str, str]) -> Segment | None:
    """Return a segment whose attributes have these kinds, or None if it must be read again.

    Integers become numbers. Other kinds change only if the directory is replaced.
    """
    kept = segment.columns.kinds
    changed = {name: kind for name, kind in kinds.items() if kept.get(name, kind) != kind}
    if any((kept[name], kind) != ("integer", "number") for name, kind in changed.items()):
        return None
    return replace(segment, columns=segment.columns.converted(changed)) if changed else segment


def _deleted(fragment: Any, offsets: np.ndarray, table: Path) -> np.ndarray:
    """Return whether each of the rows at (n,) ascending positions in a fragment is deleted: (n,) bool."""
    deletions = _deletions(fragment)
    if deletions is None:
        return np.zeros(len(offsets), bool)
    if deletions["file_type"] == "array":
        file = pa.OSFile(str(table / fragment.deletion_file()))
        positions = pa.ipc.open_file(file).read_all()[0].to_numpy()
        places = np.searchsorted(offsets, positions)
        there = places < len(offsets)
        places = places[there][offsets[places[there]] == positions[there]]
        deleted = np.zeros(len(offsets), bool)
        deleted[places] = True
        return deleted
    present = np.zeros(fragment.physical_rows, bool)
    present[_positions(fragment.scanner(columns=[], with_row_address=True).to_table())] = True
    return ~present[offsets]


def _joined(members: Sequence[_Member]) -> _Member:
    """Return one member in memory with the rows of several that were not removed."""
    parts, offsets, held, start = [], [], {}, 0
    for member in members:
        segment, mask = member.part.segment, member.part.segment.mask()
        parts.append((segment, np.flatnonzero(mask)))
        offsets.append(member.offsets[mask])
        ends = np.concatenate([[0], np.cumsum(mask)])
        for key, one in member.held.items():
            held[key] = replace(one, start=start + int(ends[one.start]), stop=start + int(ends[one.stop]))
        start += segment.living
    dtypes = {segment.vectors.dtype for segment, _ in parts}
    if len(dtypes) == 1:
        vectors = np.concatenate([segment.vectors[rows] for segment, rows in parts])
    else:
        vectors = np.concatenate([segment.decoded(rows) for segment, rows in parts])
    names = dict.fromkeys(name for segment, _ in parts for name in segment.columns.arrays)
    columns = Columns.joined([segment.columns.chosen(rows) for segment, rows in parts], names)
    return _Member(Part(Segment.of(vectors, columns)), np.concatenate(offsets), held)


def _read(snapshot: Snapshot, fragments: Mapping[Key, Any]) -> _Member:
    """Read fragments into memory."""
    names, held, start = [*snapshot.columns.values(), EMBEDDING], {}, 0
    tables = []
    for key, fragment in fragments.items():
        tables.append(fragment.scanner(columns=names, with_row_address=True).to_table())
        held[key] = _Held(_deletions(fragment), start, start + len(tables[-1]))
        start += len(tables[-1])
    rows = pa.concat_tables(tables)
    form = _common_form(rows["form"])
    dimension = snapshot.description.dimension
    vectors = np.concatenate([stored(batch, dimension, form) for batch in rows.to_batches() if len(batch)])
    arrays = {name: whole(rows[column]) for name, column in snapshot.columns.items()}
    return _Member(Part(Segment.of(vectors, Columns(arrays, start).encoded())), _positions(rows), held)


def _common_form(forms: pa.ChunkedArray) -> str:
    """Return the form in which rows of these forms can be compared."""
    found = {*forms.unique().to_pylist()}
    if unknown := found - DTYPES.keys():
        raise ValueError(f"a row is stored in the unknown form {min(map(str, unknown))!r}")
    return found.pop() if len(found) == 1 else "float32"


def _source(snapshot: Snapshot) -> Source:
    """Return all rows of a snapshot, to read them in parts."""
    fragments = snapshot.dataset.get_fragments()
    dimension = snapshot.description.dimension

    def column(name: str) -> pa.ChunkedArray:
        tables = [fragment.to_table(columns=[snapshot.columns[name]]) for fragment in fragments]
        return pa.concat_tables(tables)[0]

    form = _common_form(column("form"))

    def vectors(place: int) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        scanner = fragments[place].scanner(
            columns=["form", EMBEDDING], with_row_address=True, batch_size=PART
        )
        for batch in scanner.to_batches():
            yield stored(batch, dimension, form), _positions(batch)

    return Source(
        version=snapshot.manifest.version,
        manifest=snapshot.manifest.content,
        description=snapshot.description,
        columns=snapshot.columns,
        form=form,
        fragments=[
            Fragment(_key(fragment), _deletions(fragment), fragment.physical_rows - fragment.num_deletions)
            for fragment in fragments
        ],
        vectors=vectors,
        column=column,
    )


def _key(fragment: Any) -> Key:
    """Return the names of the files of a fragment."""
    return tuple(file.path for file in fragment.metadata.files)


def _deletions(fragment: Any) -> dict[str, Any] | None:
    file = fragment.metadata.deletion_file
    return None if file is None else file.asdict()


def _positions(rows: pa.Table | pa.RecordBatch) -> np.ndarray:
    """Return the positions of rows in their fragment: (n,) uint32."""
    return (rows["_rowaddr"].to_numpy() & 0xFFFFFFFF).astype(np.uint32)
