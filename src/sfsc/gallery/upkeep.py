"""The upkeep of a gallery's table: small fragments, old versions, indexes of columns, repeated ids.

Call these functions only while other writers are locked out (`LanceTable.writing`).
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

KEPT, KEPT_AT_FIRST = "sfsc.kept_seconds", 60.0  # old versions are kept because others may still read them
LONGEST_KEPT = 1e9  # seconds
CLEANED_EVERY = 256  # versions
# Every add creates a fragment. Whenever this many have fewer rows than one of these sizes, they are merged.
SMALL, MOST_SMALL = (4_096, 100_000), 16
LOOKED_UP_FROM = 20_000  # rows; with fewer, a scan is as fast as an index of a column
LOOKED_UP = {"id": "BTREE", "path": "BTREE", "identity": "BTREE", "camera": "BITMAP"}


def tidy(dataset: Any) -> None:
    """Merge small fragments if there are many of one size or another, and remove old versions.

    Each size is a multiple of the smaller one, so that the rows of many small adds are rewritten only a few
    times.
    """
    sizes = [fragment.physical_rows for fragment in dataset.get_fragments()]
    for small in SMALL:
        if sum(size < small for size in sizes) >= MOST_SMALL:
            compact(dataset, small)
            break
    else:
        if dataset.version % CLEANED_EVERY == 0:
            remove_old_versions(dataset)
    if _not_looked_up(dataset) > max(SMALL[-1], sum(sizes) / 4):
        index_columns(dataset)


def compact(dataset: Any, rows: int | None = None) -> None:
    """Merge fragments of fewer rows, by default those that Lance finds small, and remove old versions."""
    dataset.optimize.compact_files(target_rows_per_fragment=rows)
    remove_old_versions(dataset)


def remove_old_versions(dataset: Any) -> None:
    """Remove the versions that need not be kept any longer, and the files that only they contain."""
    seconds = min(float(dataset.config().get(KEPT, KEPT_AT_FIRST)), LONGEST_KEPT)
    dataset.cleanup_old_versions(timedelta(seconds=seconds), error_if_tagged_old_versions=False)


def index_columns(dataset: Any) -> None:
    """Index the columns by which rows are looked up, unless there are few rows."""
    if dataset.count_rows() >= LOOKED_UP_FROM and _not_looked_up(dataset):
        there = {name for index in dataset.describe_indices() for name in index.field_names}
        dataset.optimize.optimize_indices()
        for name in LOOKED_UP.keys() - there:
            dataset.create_scalar_index(name, LOOKED_UP[name])


def _not_looked_up(dataset: Any) -> int:
    """Return the number of rows that the index of ids does not cover."""
    indices = (index for index in dataset.describe_indices() if index.field_names == ["id"])
    covered = {one for index in indices for segment in index.segments for one in segment.fragment_ids}
    return sum(part.physical_rows for part in dataset.get_fragments() if part.fragment_id not in covered)


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
