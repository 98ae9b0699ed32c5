"""The index of a gallery: the rows of the table, mapped from files or read into memory, as it changes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa

from sfsc.errors import SfscError, first_line
from sfsc.gallery.changes import Changes
from sfsc.gallery.index_files import (
    CURRENT,
    Key,
    Track,
    current,
    make_current,
    open_index,
    read_header,
    write_index,
)
from sfsc.gallery.lance_table import TABLE, Snapshot
from sfsc.gallery.manifests import Manifest
from sfsc.gallery.members import (
    Member,
    changed,
    converted,
    differences,
    followed,
    held_by,
    joined,
    key_of,
    read_member,
    source_of,
)
from sfsc.gallery.store import Description, Problem
from sfsc.gallery.view import Part, View
from sfsc.progress import say

FOLDER = "index"
INDEXED_FROM = 20_000  # rows; fewer are read into memory faster than files are opened
MOST_NEW = 0.5  # ratio of new rows to indexed ones; if more are new, the index is made again first
STALE, LEAST_STALE = 0.05, 5_000  # changed rows, as a share and at least, when the files should be renewed
LISTED_FROM = 4_096  # rows in memory that get lists
GROWTH = 8  # ratio of the sizes of consecutive segments in memory, at least
AT_ONCE = 1_024  # rows in memory that are one segment in any case: another one slows down every search
RENEW = "`sfsc gallery optimize` makes the index again"
# The files of a damaged index raise any of these.
DAMAGE = (SfscError, ValueError, OSError, pa.ArrowException, KeyError)


class Index:
    """Follows a table from one version to any other, and reads only what has changed.

    A Lance table consists of fragments. Their files never change and have random names, and a separate file
    lists the deleted rows of a fragment. The fragments therefore show which rows are equal on disk and here,
    whether the table was changed by additions and deletions or replaced by another table.

    Most rows are mapped from the files of an index (`index_files`); those that came later are in memory.
    Small changes are taken from their records (`changes`), if there are any.
    """

    def __init__(self, directory: Path, changes: Changes, memory: float = math.inf) -> None:
        """Use the index of the gallery in a directory, and keep at most `memory` bytes of it in memory."""
        self._directory = directory
        self._changes = changes
        self._memory = memory
        self._home = directory / FOLDER
        self._scratch: TemporaryDirectory[str] | None = None
        self.clear()

    def clear(self) -> None:
        """Release all rows."""
        self._members: list[Member] = []
        self._snapshot: Snapshot | None = None
        self._view: View | None = None
        self._folder: Path | None = None

    def discard(self) -> None:
        """Leave the files behind, because all rows were replaced; the next index removes them."""
        self.clear()
        (self._home / CURRENT).unlink(missing_ok=True)

    def remembered(self, manifest: Manifest) -> tuple[Description, Mapping[str, str]] | None:
        """Return the description and the stored names of the columns of a version, if the index is of it."""
        with suppress(*DAMAGE):
            folder = current(self._home)
            if folder is None:
                return None
            header = self._header if folder == self._folder else read_header(folder)
            if header.manifest == manifest.digest:
                return Description.from_json(header.description, str(self._directory)), header.columns
        return None

    def follow(self, snapshot: Snapshot, most_new: float = MOST_NEW) -> View | None:
        """Return the rows of a snapshot, reading only those that are not here yet.

        Returns:
            The rows, or None if so many are new that the files should be written first: more than the share
            `most_new` of those in the files.
        """
        if self._view is None or self._snapshot is not snapshot:
            before, self._snapshot = self._snapshot, None  # in case reading fails
            if self._adopt(snapshot):
                before = None
            known = self._is_of(snapshot) or self._follow_records(before, snapshot)
            if not known and not self._update(snapshot, most_new):
                return None
            attributes = snapshot.description.attributes
            self._view = View(tuple(member.part for member in self._members), tuple(attributes))
            self._snapshot = snapshot
        return self._view

    def problems(self, snapshot: Snapshot) -> Iterator[Problem]:
        """Yield where the files differ from a snapshot. Rows are read in parts."""
        folder = current(self._home)
        if folder is None:
            return
        try:
            header = read_header(folder)
            files = open_index(folder, header, self._memory)
        except DAMAGE:
            yield Problem("indexes that cannot be used", f"{FOLDER}/{folder.name}", RENEW)
            return
        member = Member(Part(files.segment, files.lists), files.offsets, held_by(header))
        for row in differences(member, snapshot):
            yield Problem("rows that differ in the index", row, RENEW)
        if not np.array_equal(np.sort(files.lists.rows()), np.arange(len(files.segment))):
            yield Problem("indexes whose lists lack rows", f"{FOLDER}/{folder.name}", RENEW)

    @property
    def view(self) -> View | None:
        """The rows that were searched last, as far as changes were followed; None before the first search."""
        return self._view

    @property
    def used(self) -> bool:
        """Whether rows were searched."""
        return self._view is not None

    @property
    def stale(self) -> bool:
        """Whether so many rows have changed that the files should be written again."""
        new = sum(len(member.part.segment) for member in self._members if not member.mapped)
        if self._base is None:
            return new >= INDEXED_FROM
        indexed = self._base.part.segment
        return new + indexed.dead > max(LEAST_STALE, STALE * len(indexed))

    @property
    def _base(self) -> Member | None:
        """The rows that are mapped from files, or None if no files are in use."""
        return self._members[0] if self._members and self._members[0].mapped else None

    def build(self, snapshot: Snapshot, track: Track) -> None:
        """Write the files of a snapshot, for all processes that use the gallery; not of few rows.

        Raises:
            OSError: the disk is full, or the directory is not writable.
        """
        if snapshot.dataset.count_rows() >= INDEXED_FROM:
            make_current(write_index(self._home, source_of(snapshot), track))
            self._snapshot = None  # the files are used at the next call of `follow`

    def build_aside(self, snapshot: Snapshot, track: Track) -> None:
        """Write the files of a snapshot into a temporary directory, for this process alone."""
        if self._scratch is None:
            self._scratch = TemporaryDirectory(prefix="sfsc-index-", ignore_cleanup_errors=True)
            self._home = Path(self._scratch.name)
        self.build(snapshot, track)

    def _adopt(self, snapshot: Snapshot) -> bool:
        """Replace what is here by the current files, unless they are in use; return whether it did."""
        folder = current(self._home)
        if folder is None or folder == self._folder:
            return False
        try:
            self._open(folder, snapshot.description)
        except DAMAGE as error:
            if folder.exists():
                say(f"gallery {self._directory}: its index cannot be used ({first_line(error)})")
            return False
        return True

    def _open(self, folder: Path, description: Description) -> None:
        header = read_header(folder)
        files = open_index(folder, header, self._memory / 2)
        if files.segment.vectors.shape[1] != description.dimension:
            raise ValueError("it belongs to a gallery of another dimension")
        part = Part(files.segment, files.lists)
        self._members = [Member(part, files.offsets, held_by(header), mapped=True)]
        self._header, self._folder = header, folder

    def _is_of(self, snapshot: Snapshot) -> bool:
        """Return whether all rows are here, and as the files have them."""
        base = self._base
        if base is None or len(self._members) > 1 or base.part.segment.dead:
            return False
        return self._header.manifest == snapshot.manifest.digest

    def _follow_records(self, before: Snapshot | None, snapshot: Snapshot) -> bool:
        """Follow the changes since the version `before`, which is here, if they are recorded."""
        changes = None if before is None else self._changes.between(before.manifest, snapshot.manifest)
        if changes is None:
            return False
        with suppress(*DAMAGE):  # what was followed until then is compared with the table
            for change in changes:
                self._members = changed(self._members, change, snapshot)
            if any(change.files for change in changes):
                self._merge()
            return True
        return False

    def _update(self, snapshot: Snapshot, most_new: float) -> bool:
        """Follow all fragments, and read the new ones unless they are too many; return whether it did."""
        fragments = {key_of(fragment): fragment for fragment in snapshot.dataset.get_fragments()}
        kinds = snapshot.description.attributes
        table = self._directory / TABLE
        self._members = [followed(member, fragments, table) for member in self._members]
        self._members = [
            replace(member, part=replace(member.part, segment=segment))
            for member in self._members
            if not member.worn and (segment := converted(member.part.segment, kinds))
        ]
        known = {key for member in self._members for key in member.held}
        new = {key: fragment for key, fragment in fragments.items() if key not in known}
        rows = sum(fragment.physical_rows - fragment.num_deletions for fragment in new.values())
        indexed = 0 if self._base is None else len(self._base.part.segment)
        much = rows >= max(INDEXED_FROM, most_new * indexed) or self._too_large(new, rows)
        if much and most_new < math.inf:
            return False
        if new and rows:
            self._members.append(read_member(snapshot, new))
            self._merge()
        return True

    def _too_large(self, new: Mapping[Key, Any], rows: int) -> bool:
        """Return whether the rows in memory would need more than half of what is allowed."""
        if self._memory == math.inf or rows < INDEXED_FROM:
            return False
        there = sum(member.part.segment.nbytes for member in self._members if not member.mapped)
        size = sum(file.file_size_bytes or 0 for fragment in new.values() for file in fragment.metadata.files)
        return there + size > self._memory / 2

    def _merge(self) -> None:
        """Merge the last segments in memory, so that each is several times as large as the next."""
        *rest, last = self._members
        small, size = [last], len(last.part.segment)
        while rest:
            larger = len(rest[-1].part.segment)
            apart = larger > GROWTH * size and larger + size > AT_ONCE
            if apart or rest[-1].part.lists is not None:
                break
            small.insert(0, rest.pop())
            size += larger
        self._members = [*rest, joined(small)] if len(small) > 1 else self._members
        last = self._members[-1]
        lists = None if self._base is None else self._base.part.lists
        if lists is not None and last.part.lists is None and len(last.part.segment) >= LISTED_FROM:
            listed = replace(last.part, lists=lists.of(last.part.segment))
            self._members[-1] = replace(last, part=listed)
