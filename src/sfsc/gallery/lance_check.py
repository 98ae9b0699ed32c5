"""Checking the rows and the files of a gallery's Lance table."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sfsc.gallery.forms import DTYPES
from sfsc.gallery.lance_reading import Key, count_parts, files_of, fragments_of, parts_of, read_apart
from sfsc.gallery.lance_table import TABLE, LanceTable, Snapshot
from sfsc.gallery.problems import AGAIN, CHECKED, column_problems, vector_problems
from sfsc.gallery.store import EMBEDDING, Description, Problem
from sfsc.gallery.uniqueness import Hashes, counts
from sfsc.progress import track

RESTORE = "restore a backup with `sfsc gallery restore`, or index the images into a new gallery"


def table_problems(table: LanceTable) -> Iterator[Problem]:
    """Yield what is wrong with a table: its files, its rows, and ids that several rows share.

    Rows are read in parts. Other processes can write meanwhile: a file that is missing because a writer has
    replaced it is no problem, and the rows that replace it are checked as well.
    """
    readable: set[Key] = set()
    hashes, snapshot, changed = Hashes(), table.snapshot(), True
    while snapshot is not None and changed:
        fragments = {key: one for key, one in fragments_of(snapshot).items() if key not in readable}
        yield from _fragment_problems(table, snapshot, fragments, readable, hashes)
        before, snapshot = fragments.keys() - readable, table.snapshot()
        there = {} if snapshot is None else fragments_of(snapshot)
        changed = not before <= there.keys()
    for key in before & there.keys():
        for name in _damaged_files(table, there[key]):
            yield Problem("files that are missing or damaged", name, RESTORE)
    if snapshot is not None:
        yield from _repeated_ids(snapshot, readable, hashes.repeated())


def _fragment_problems(
    table: LanceTable, snapshot: Snapshot, fragments: dict[Key, Any], readable: set[Key], hashes: Hashes
) -> Iterator[Problem]:
    """Yield what is wrong with the rows of fragments, and add those that can be read to `readable`."""
    read = read_apart(table.directory, fragments, readable)
    parts = (part for key, one in fragments.items() if key in readable for part in parts_of(snapshot, one))
    total = 2 * count_parts(snapshot, fragments.values())
    for part in track(chain(read, parts), "verifying", total):
        if part is not None:
            hashes.add(part["id"].to_pylist())
            yield from _row_problems(part, snapshot.description)


def _row_problems(part: pa.RecordBatch, description: Description) -> Iterator[Problem]:
    """Yield what is wrong with rows, whose embeddings are the stored bytes."""
    columns = {name: part[name].to_pylist() for name in CHECKED}
    yield from column_problems(columns, description)
    ids, forms = np.array(columns["id"], object), np.array(columns["form"], object)
    sizes = pc.binary_length(part[EMBEDDING]).to_numpy(zero_copy_only=False)
    for form, dtype in DTYPES.items():
        fit = sizes == description.dimension * np.dtype(dtype).itemsize
        for id_ in ids[(forms == form) & ~fit]:
            yield Problem("rows whose embedding has another size", str(id_), AGAIN)
        chosen = (forms == form) & fit
        data = b"".join(part[EMBEDDING].filter(pa.array(chosen)).to_pylist())
        vectors = np.frombuffer(data, dtype).reshape(-1, description.dimension)
        yield from vector_problems(ids[chosen], vectors)


def _repeated_ids(snapshot: Snapshot, readable: set[Key], hashes: frozenset[int]) -> Iterator[Problem]:
    """Yield the ids with these hashes that several rows share."""
    chosen = [fragment for key, fragment in fragments_of(snapshot).items() if key in readable and hashes]
    batches = (batch for one in chosen for batch in one.scanner(columns=["id"]).to_batches())
    for id_, times in sorted(counts((batch["id"].to_pylist() for batch in batches), hashes).items()):
        if times > 1:
            remedy = "`sfsc gallery optimize` keeps the newest row of each"
            yield Problem("ids that several rows share", id_, remedy)


def _damaged_files(table: LanceTable, fragment: Any) -> list[str]:
    """Return the files of a fragment that are missing or too short, or all if none of them is."""
    folder, sizes = table.directory / TABLE, files_of(fragment)
    odd = [
        name
        for name, size in sizes.items()
        if not (folder / name).is_file() or (size and (folder / name).stat().st_size != size)
    ]
    return [f"{TABLE}/{name}" for name in odd or sizes]
