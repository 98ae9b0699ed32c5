"""Replacing and removing rows of a gallery's table, found by their ids, in one commit.

Call these functions only while other writers are locked out (`LanceTable.writing`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sfsc.gallery.changes import Change
from sfsc.gallery.store import ORIGINAL

SCAN_FROM = (
    0.01  # ids, as a share of the rows: of more, reading the ids of all rows is faster than looking up
)
SCANNED = 1 << 20  # rows whose ids are compared at once


class Pending(NamedTuple):
    """A change of rows whose files are written, but which no version contains yet.

    Attributes:
        transaction: commits the change.
        change: the rows that it removes and adds.
        removed: the number of rows that it removes.
        emptied: the numbers of the fragments that it removes.
    """

    transaction: Any
    change: Change
    removed: int
    emptied: Sequence[int]


def replacement(dataset: Any, rows: pa.Table) -> Pending:
    """Add rows, and remove those with the same ids.

    Lance's own `merge_insert` joins all columns of rows that no index covers, and is limited in memory.
    """
    addresses = _addresses(dataset, rows["id"].combine_chunks())
    changed, emptied = _without(dataset, addresses)
    return _added(dataset, rows, changed, emptied, len(addresses))


def removal(dataset: Any, ids: Sequence[str]) -> Pending:
    """Remove the rows with these ids."""
    from lance import LanceOperation, Transaction

    wanted = pa.array(ids, pa.string())
    addresses = _addresses(dataset, wanted)
    changed, emptied = _without(dataset, addresses)
    operation = LanceOperation.Delete(changed, emptied, f"id IN ({literals(wanted)})")
    transaction = Transaction(dataset.version, operation)
    change = Change(transaction.uuid, pa.table({"id": wanted}))
    return Pending(transaction, change, len(addresses), emptied)


def _added(
    dataset: Any, rows: pa.Table, changed: Sequence[Any], emptied: Sequence[int], removed: int
) -> Pending:
    """Write rows into new files; other fragments lose rows, or all of them."""
    from lance import LanceOperation, Transaction
    from lance.fragment import write_fragments

    written = write_fragments(rows, dataset)
    transaction = Transaction(dataset.version, LanceOperation.Update([*emptied], [*changed], written))
    files = [file.path for fragment in written for file in fragment.files]
    indexed = rows.select([name for name in rows.schema.names if name != ORIGINAL])
    return Pending(transaction, Change(transaction.uuid, indexed, files), removed, emptied)


def merging(dataset: Any, fragments: Sequence[Any]) -> Pending:
    """Write the rows of fragments, which no index covers, into one fragment."""
    rows = dataset.scanner(fragments=[*fragments]).to_table()
    return _added(dataset, rows, [], [part.fragment_id for part in fragments], len(rows))


def with_originals(dataset: Any, rows: pa.Table) -> pa.Table:
    """Return rows with the original embeddings of the stored rows that they will replace.

    A row that will be stored in another form gets none, because an original is stored in the form of its row.
    """
    if ORIGINAL not in dataset.schema.names:
        return rows
    ids = rows["id"].combine_chunks()
    there = dataset.to_table(columns=["id", "form", ORIGINAL], filter=f"id IN ({literals(ids)})")
    places = pc.index_in(ids, value_set=there["id"].combine_chunks())
    same = pc.equal(there["form"].take(places), rows["form"])
    originals = pc.if_else(same, there[ORIGINAL].take(places), pa.scalar(None, pa.large_binary()))
    place = rows.schema.get_field_index(ORIGINAL)
    return rows.set_column(place, rows.schema.field(place), originals)


def literals(values: pa.Array) -> str:
    """Return texts as a list of SQL."""
    return ", ".join("'" + value.replace("'", "''") + "'" for value in values.to_pylist())


def _addresses(dataset: Any, ids: pa.Array) -> np.ndarray:
    """Return the addresses of the rows that have one of these ids: (k,) uint64."""
    if len(ids) < SCAN_FROM * dataset.count_rows():
        found = dataset.scanner(columns=[], filter=f"id IN ({literals(ids)})", with_row_address=True)
        return found.to_table()["_rowaddr"].to_numpy()
    parts = _parts(dataset.scanner(columns=["id"], with_row_address=True).to_batches())
    found = [part["_rowaddr"].filter(pc.is_in(part["id"], value_set=ids)).to_numpy() for part in parts]
    return np.concatenate([np.empty(0, np.uint64), *found])


def _parts(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Yield batches joined to tables of many rows, the last one maybe of none."""
    joined, rows = [], 0
    for batch in batches:
        joined.append(batch)
        rows += len(batch)
        if rows >= SCANNED:
            yield pa.Table.from_batches(joined)
            joined, rows = [], 0
    if joined:
        yield pa.Table.from_batches(joined)


def _without(dataset: Any, addresses: np.ndarray) -> tuple[list[Any], list[int]]:
    """Delete rows from their fragments, without a commit.

    Returns:
        The fragments that keep other rows, and the numbers of those that do not.
    """
    changed, removed = [], []
    for number in np.unique(addresses >> 32).tolist():
        own = ", ".join(map(str, addresses[addresses >> 32 == number].tolist()))
        left = dataset.get_fragment(number).delete(f"_rowaddr IN ({own})")
        if left is None:
            removed.append(number)
        else:
            changed.append(left)
    return changed, removed
