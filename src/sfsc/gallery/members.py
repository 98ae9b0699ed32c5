"""Members of an index: segments of rows with the fragments of the table that their rows come from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sfsc.gallery.changes import Change
from sfsc.gallery.columns import Columns, whole
from sfsc.gallery.deletions import deleted_positions, identity_of, places_of
from sfsc.gallery.forms import DTYPES
from sfsc.gallery.index_files import Fragment, Header, Key, Source
from sfsc.gallery.lance_table import Snapshot
from sfsc.gallery.packing import stored
from sfsc.gallery.segment import Segment
from sfsc.gallery.store import EMBEDDING
from sfsc.gallery.view import Part

PART = 1 << 14  # rows read at once
FEW = 1 << 10  # rows of a fragment that are taken in less time than a scan needs to begin


@dataclass(frozen=True)
class Held:
    """The rows of a fragment in a segment: from `start` to `stop`."""

    deletions: Mapping[str, str] | None
    start: int
    stop: int


@dataclass(frozen=True)
class Member:
    """A segment with the fragments that its rows come from.

    Attributes:
        part: the segment, with its lists if it has any.
        offsets: (n,) uint32, the positions of the rows in their fragments; they ascend in each fragment.
        held: the fragments, by the names of their files.
        mapped: whether the rows are mapped from the files of an index; otherwise they are in memory.
    """

    part: Part
    offsets: np.ndarray
    held: Mapping[Key, Held]
    mapped: bool = False

    @property
    def worn(self) -> bool:
        """Whether so many rows were removed that the others should be read again."""
        segment = self.part.segment
        return not segment.living or (not self.mapped and segment.dead > segment.living)


def held_by(header: Header) -> dict[Key, Held]:
    """Return the fragments of an index, with the places of their rows."""
    held, start = {}, 0
    for files, deletions, rows in header.fragments:
        held[tuple(files)] = Held(deletions, start, start + rows)
        start += rows
    return held


def followed(member: Member, fragments: Mapping[Key, Any], table: Path) -> Member:
    """Return a member without the rows that are no longer in the table."""
    segment, held, gone = member.part.segment, {}, [np.empty(0, np.int64)]
    for key, one in member.held.items():
        fragment = fragments.get(key)
        if fragment is not None and identity_of(fragment) == one.deletions:
            held[key] = one
            continue
        if fragment is not None:
            deleted = deleted_positions(fragment, table)
            rows = one.start + places_of(deleted, member.offsets[one.start : one.stop])
            left = np.count_nonzero(segment.mask(slice(one.start, one.stop)))
            left -= np.count_nonzero(segment.is_present(rows))
            if left == fragment.physical_rows - fragment.num_deletions:
                held[key] = replace(one, deletions=identity_of(fragment))
                gone.append(rows)
                continue
        gone.append(np.arange(one.start, one.stop))
    removed = np.concatenate(gone)
    if len(removed):
        segment = segment.without(removed)
    return replace(member, part=replace(member.part, segment=segment), held=held)


def converted(segment: Segment, kinds: Mapping[str, str]) -> Segment | None:
    """Return a segment whose attributes have these kinds, or None if it must be read again.

    Integers become numbers. Other kinds change only if the directory is replaced.
    """
    kept = segment.columns.kinds
    changed = {name: kind for name, kind in kinds.items() if kept.get(name, kind) != kind}
    if any((kept[name], kind) != ("integer", "number") for name, kind in changed.items()):
        return None
    return replace(segment, columns=segment.columns.converted(changed)) if changed else segment


def differences(member: Member, snapshot: Snapshot) -> Iterator[str]:
    """Yield the ids of rows of a snapshot that a member has with another embedding or another id."""
    segment, form = member.part.segment, str(member.part.segment.vectors.dtype)
    names = ["id", "form", EMBEDDING]
    for fragment in snapshot.dataset.get_fragments():
        held = member.held.get(key_of(fragment))
        if held is None:
            continue
        offsets = member.offsets[held.start : held.stop]
        for batch in fragment.scanner(columns=names, with_row_address=True, batch_size=PART).to_batches():
            places = np.searchsorted(offsets, positions_of(batch))
            known = places < len(offsets)
            rows = held.start + places[known]
            there = batch.filter(pa.array(known))
            ids = there["id"].to_pylist()
            same = (segment.vectors[rows] == stored(there, segment.vectors.shape[1], form)).all(axis=1)
            same &= np.array(segment.columns.take(["id"], rows)[0], object) == np.array(ids, object)
            yield from (id_ for id_, equal in zip(ids, same, strict=True) if not equal)


def joined(members: Sequence[Member]) -> Member:
    """Return one member in memory with the rows of several that were not removed."""
    parts, columns, offsets, held, start = [], [], [], {}, 0
    for member in members:
        segment, mask = member.part.segment, member.part.segment.mask()
        rows = np.flatnonzero(mask)
        columns.append(segment.columns.chosen(rows) if segment.dead else segment.columns)
        parts.append((segment, rows))
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
    together = Columns.joined(columns, names)
    return Member(Part(Segment.of(vectors, together)), np.concatenate(offsets), held)


def read_member(snapshot: Snapshot, fragments: Mapping[Key, Any]) -> Member:
    """Read fragments into memory."""
    held, start, tables, offsets = {}, 0, [], []
    for key, fragment in fragments.items():
        table, positions = _rows_of(fragment, [*snapshot.columns.values(), EMBEDDING], snapshot.table)
        held[key] = Held(identity_of(fragment), start, start + len(table))
        start += len(table)
        tables.append(table)
        offsets.append(positions)
    return Member(Part(_segment_of(snapshot, pa.concat_tables(tables))), np.concatenate(offsets), held)


def changed(members: Sequence[Member], change: Change, snapshot: Snapshot) -> list[Member]:
    """Return members after a change that was recorded.

    Their fragments keep the deletions that they had; `followed` compares these with the table again.
    """
    ids, left = change.rows["id"].to_pylist(), []
    for member in members:
        segment = member.part.segment
        if not len(gone := segment.with_ids(ids)):
            left.append(member)
            continue
        fewer = replace(member, part=replace(member.part, segment=segment.without(gone)))
        if member.mapped or not fewer.worn:
            left.append(fewer)
        elif fewer.part.segment.living:
            left.append(joined([fewer]))
    if not change.files:
        return left
    held = {tuple(change.files): Held(None, 0, len(ids))}
    part = Part(_segment_of(snapshot, change.rows))
    return [*left, Member(part, np.arange(len(ids), dtype=np.uint32), held)]


def _segment_of(snapshot: Snapshot, rows: pa.Table) -> Segment:
    """Return rows of the table in memory."""
    form = _common_form(rows["form"])
    dimension = snapshot.description.dimension
    vectors = np.concatenate([stored(batch, dimension, form) for batch in rows.to_batches() if len(batch)])
    arrays = {name: whole(rows[column]) for name, column in snapshot.columns.items()}
    return Segment.of(vectors, Columns(arrays, len(rows)).encoded())


def _rows_of(fragment: Any, names: Sequence[str], table: Path) -> tuple[pa.Table, np.ndarray]:
    """Return columns of the rows of a fragment, and their positions in it: (n,) uint32."""
    count = fragment.physical_rows - fragment.num_deletions
    if count > FEW:
        rows = fragment.scanner(columns=names, with_row_address=True).to_table()
        return rows.select(names), positions_of(rows)
    every = np.arange(fragment.physical_rows, dtype=np.uint32)
    return fragment.take(range(count), columns=names), np.delete(every, deleted_positions(fragment, table))


def _common_form(forms: pa.ChunkedArray) -> str:
    """Return the form in which rows of these forms can be compared."""
    found = {*forms.unique().to_pylist()}
    if unknown := found - DTYPES.keys():
        raise ValueError(f"a row is stored in the unknown form {min(map(str, unknown))!r}")
    return found.pop() if len(found) == 1 else "float32"


def source_of(snapshot: Snapshot) -> Source:
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
            yield stored(batch, dimension, form), positions_of(batch)

    return Source(
        manifest=snapshot.manifest,
        description=snapshot.description,
        columns=snapshot.columns,
        form=form,
        fragments=[
            Fragment(key_of(fragment), identity_of(fragment), fragment.physical_rows - fragment.num_deletions)
            for fragment in fragments
        ],
        vectors=vectors,
        column=column,
    )


def key_of(fragment: Any) -> Key:
    """Return the names of the files of a fragment."""
    return tuple(file.path for file in fragment.data_files())


def positions_of(rows: pa.Table | pa.RecordBatch) -> np.ndarray:
    """Return the positions of rows in their fragment: (n,) uint32."""
    return (rows["_rowaddr"].to_numpy() & 0xFFFFFFFF).astype(np.uint32)
