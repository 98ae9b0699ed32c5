"""The upkeep of a gallery's table: small fragments, old versions, indexes of columns, repeated ids.

Call these functions only while other writers are locked out (`LanceTable.writing`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sfsc.gallery.replacing import Pending, merging

KEPT, KEPT_AT_FIRST = "sfsc.kept_seconds", 60.0  # old versions are kept because others may still read them
LONGEST_KEPT = 1e9  # seconds
CLEANED_EVERY = 256  # versions
# Every add creates a fragment. Whenever there are this many between two of these sizes, they are merged, with
# those that are smaller. Larger ones stay as they are: they need not be written again, nor read again by the
# processes that have read them.
SMALL, MOST_SMALL = (64, 1_024, 16_384), 16
LARGE = 100_000  # rows; `optimize` merges fragments of fewer rows
WORN, WORN_FROM, WORN_AT_REST = 0.5, 4_096, 0.1  # share of deleted rows from which a fragment is rewritten
LOOKED_UP_FROM = 20_000  # rows; with fewer, a scan is as fast as an index of a column
LOOKED_UP = {"id": "BTREE", "path": "BTREE", "identity": "BTREE", "camera": "BITMAP"}
MOST_NEW = 65_536  # rows that no segment of the indexes covers; they are scanned
GROWTH = 4  # ratio of the sizes of consecutive segments of an index, at least
FULL_DISK = ("No space left", "File too large", "Disk quota exceeded")  # in messages of the system


def tidy(dataset: Any, commit: Callable[[Any, Pending], object]) -> None:
    """Merge small fragments if there are many of one size or another, and remove old versions.

    Each size is a multiple of the smaller one, so that the rows of many small adds are rewritten only a few
    times. If the disk is full, this is left to a later change.

    Args:
        dataset: the newest version.
        commit: commits a change of it.
    """
    with room_permitting():
        _tidy(dataset, commit)


@contextmanager
def room_permitting() -> Iterator[None]:
    """Ignore that the disk is full: the change that this follows is stored, and has not failed."""
    try:
        yield
    except OSError as error:
        if not any(sign in str(error) for sign in FULL_DISK):
            raise


def _tidy(dataset: Any, commit: Callable[[Any, Pending], object]) -> None:
    covered, fragments = _covered(dataset), dataset.get_fragments()
    new = [part for part in fragments if part.fragment_id not in covered]
    sizes = [part.physical_rows for part in new]
    small = merged_below(sizes)
    worn = {part.fragment_id for part in fragments if _is_worn(part)}
    if small == SMALL[0] and not worn:  # in a fraction of the time of a compaction
        commit(dataset, merging(dataset, [part for part in new if part.physical_rows < small]))
    elif small or worn:  # rewriting covered rows takes long, because their whole segment is written again
        compact(dataset, small or SMALL[0], WORN, covered - worn)
    elif dataset.version % CLEANED_EVERY == 0:
        remove_old_versions(dataset)
    if sum(sizes) > MOST_NEW:
        index_columns(dataset, patient=True)


def merged_below(sizes: Sequence[int]) -> int:
    """Return below how many rows fragments of these sizes should be merged, or 0 if none should.

    Only fragments of one class of sizes count. If smaller ones counted, too, the largest fragment would be
    written again with every few new ones, instead of once.
    """
    classes = pairwise((0, *SMALL))
    return next((most for least, most in classes if sum(least <= n < most for n in sizes) >= MOST_SMALL), 0)


def _is_worn(fragment: Any) -> bool:
    return bool(fragment.num_deletions > max(WORN_FROM, WORN * fragment.physical_rows))


def compact(dataset: Any, small: int = LARGE, worn: float = WORN_AT_REST, kept: Iterable[int] = ()) -> None:
    """Merge neighbouring fragments of fewer rows, rewrite worn ones, and remove old versions.

    The fragments with the numbers `kept` stay as they are.
    """
    dataset.optimize.compact_files(
        target_rows_per_fragment=small, materialize_deletions_threshold=worn, excluded_fragment_ids=[*kept]
    )
    remove_old_versions(dataset)


def remove_old_versions(dataset: Any, unfinished: bool = False) -> None:
    """Remove the versions that need not be kept any longer, and the files that only they contain.

    `unfinished` also removes the files of writers that were killed, which no version contains.
    """
    seconds = min(float(dataset.config().get(KEPT, KEPT_AT_FIRST)), LONGEST_KEPT)
    dataset.cleanup_old_versions(
        timedelta(seconds=seconds), error_if_tagged_old_versions=False, delete_unverified=unfinished
    )


def index_columns(dataset: Any, patient: bool = False) -> None:
    """Let an index of each column by which rows are looked up cover all rows, unless there are few rows.

    With `patient`, the indexes lag behind by some rows, which are scanned: that of ids by the fewest, because
    every change looks up ids.
    """
    rows = dataset.count_rows()
    if rows < LOOKED_UP_FROM:
        return
    most = dict.fromkeys(LOOKED_UP, max(LARGE, rows // 4)) | {"id": MOST_NEW} if patient else {}
    lagging = [name for name in LOOKED_UP if _new(dataset, name) > most.get(name, 0)]
    if lagging:
        # Lance merges no fragments of different segments, so small ones are merged before they are indexed.
        compact(dataset, SMALL[-1], WORN, kept=_covered(dataset))
    for name in lagging:
        _cover(dataset, name)


def _cover(dataset: Any, name: str) -> None:
    """Let the index of a column cover all rows.

    An index consists of segments. New rows get a segment of their own, which replaces those before it that
    are not much larger: so every row is indexed again only a few times, and there are few segments.
    """
    segments, sizes, new = _segments(dataset, name), _sizes(dataset), _new(dataset, name)
    if not segments:
        dataset.create_scalar_index(name, LOOKED_UP[name])
        return
    merged = 0
    for segment in reversed(segments):
        rows = sum(sizes.get(number, 0) for number in segment)
        if rows > GROWTH * new:
            break
        new, merged = new + rows, merged + 1
    dataset.optimize.optimize_indices(num_indices_to_merge=merged, index_names=[f"{name}_idx"])


def join_segments(dataset: Any) -> None:
    """Make one segment of each index, so that fragments of different segments can be merged."""
    for name in LOOKED_UP:
        if (segments := len(_segments(dataset, name))) > 1:
            names = [f"{name}_idx"]
            dataset.optimize.optimize_indices(num_indices_to_merge=segments, index_names=names)


def _segments(dataset: Any, name: str) -> list[set[int]]:
    """Return the numbers of the fragments that each segment of the index of a column covers."""
    indices = (index for index in dataset.describe_indices() if index.field_names == [name])
    return [{*segment.fragment_ids} for index in indices for segment in index.segments]


def _covered(dataset: Any) -> set[int]:
    """Return the numbers of the fragments that some index covers."""
    return {number for name in LOOKED_UP for segment in _segments(dataset, name) for number in segment}


def _new(dataset: Any, name: str) -> int:
    """Return the number of rows that the index of a column does not cover."""
    covered = {number for segment in _segments(dataset, name) for number in segment}
    return sum(rows for number, rows in _sizes(dataset).items() if number not in covered)


def _sizes(dataset: Any) -> dict[int, int]:
    """Return the rows of each fragment by its number, with those that were deleted."""
    return {part.fragment_id: part.physical_rows for part in dataset.get_fragments()}


def duplicates(dataset: Any) -> list[str]:
    """Return the ids that several rows share, sorted."""
    counted = dataset.to_table(columns=["id"]).group_by("id").aggregate([([], "count_all")])
    twice = counted.filter(pc.greater(counted["count_all"], 1))
    return sorted(twice["id"].to_pylist())


def remove_duplicates(dataset: Any) -> None:
    """Keep only the newest row of each id, in one commit."""
    twice = pa.array(duplicates(dataset), pa.string())
    if not len(twice):
        return
    rows = dataset.to_table(columns=["id", "time"], with_row_address=True)
    rows = rows.filter(pc.is_in(rows["id"], value_set=twice)).to_pylist()
    newest = {row["id"]: row["_rowaddr"] for row in sorted(rows, key=lambda r: (r["time"], r["_rowaddr"]))}
    older = {row["_rowaddr"] for row in rows} - {*newest.values()}
    dataset.delete(f"_rowaddr IN ({', '.join(map(str, older))})")
