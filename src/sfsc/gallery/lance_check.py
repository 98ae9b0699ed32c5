"""Checking the rows and the files of a gallery's Lance table."""

from __future__ import annotations

from collections.abc import Iterator, Set
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sfsc.gallery.forms import DTYPES
from sfsc.gallery.lance_reading import DAMAGE, Key, count_parts, files_of, fragments_of, parts_of, read_apart
from sfsc.gallery.lance_table import TABLE, LanceTable, Snapshot
from sfsc.gallery.problems import AGAIN, CHECKED, column_problems, vector_problems
from sfsc.gallery.store import EMBEDDING, Description, Problem
from sfsc.gallery.uniqueness import Hashes, counts
from sfsc.progress import track

TRIES = 5
RESTORE = "restore a backup with `sfsc gallery restore`, or index the images into a new gallery"


def table_problems(table: LanceTable) -> Iterator[Problem]:
    """Yield what is wrong with a table: its files, its rows, and ids that several rows share.

    Rows are read in parts. Other processes can write meanwhile: a file that is missing because a writer has
    replaced it is no problem, and the rows that replace it are checked as well.
    """
    readable: set[Key] = set()
    broken: Set[Key] = set()
    there: dict[Key, Any] = {}
    hashes, snapshot, changed = Hashes(), table.snapshot(), True
    while snapshot is not None and changed:
        fragments = {key: one for key, one in fragments_of(snapshot).items() if key not in readable}
        yield from _fragment_problems(table, snapshot, fragments, readable, hashes)
        broken, snapshot = fragments.keys() - readable, table.snapshot()
        there = {} if snapshot is None else fragments_of(snapshot)
        changed = not broken <= there.keys()
    for key in broken & there.keys():
        for name in _damaged_files(table, there[key]):
            yield Problem("files that are missing or damaged", name, RESTORE)
    if repeated := hashes.repeated():
        remedy = "`sfsc gallery optimize` keeps the newest row of each"
        for id_ in _repeated_ids(table, broken, repeated):
            yield Problem("ids that several rows share", id_, remedy)


def _fragment_problems(
    table: LanceTable, snapshot: Snapshot, fragments: dict[Key, Any], readable: set[Key], hashes: Hashes
) -> Iterator[Problem]:
    """Yield what is wrong with the rows of fragments, and add those that can be read to `readable`."""
    read = read_apart(table.directory, fragments, readable)
    parts = (part for key, one in fragments.items() for part in _parts(snapshot, key, one, readable))
    total = 2 * count_parts(snapshot, fragments.values())
    for part in track(chain(read, parts), "verifying", total):
        if part is not None:
            hashes.add(part["id"].to_pylist())
            yield from _row_problems(part, snapshot.description)


def _parts(snapshot: Snapshot, key: Key, fragment: Any, readable: set[Key]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a fragment in parts if it is in `readable`; take it out if a writer removes it."""
    if key in readable:
        try:
            yield from parts_of(snapshot, fragment)
        except DAMAGE:
            readable.remove(key)


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


def _repeated_ids(table: LanceTable, broken: Set[Key], hashes: frozenset[int]) -> list[str]:
    """Return the ids with these hashes that several rows of a table share, apart from broken fragments."""
    for left in reversed(range(TRIES)):
        snapshot = table.snapshot()
        if snapshot is None:
            return []
        chosen = [one for key, one in fragments_of(snapshot).items() if key not in broken]
        batches = (batch for one in chosen for batch in one.scanner(columns=["id"]).to_batches())
        try:
            found = counts((batch["id"].to_pylist() for batch in batches), hashes)
        except DAMAGE:  # a writer has removed a file
            if not left:
                raise
        else:
            return sorted(id_ for id_, times in found.items() if times > 1)
    raise AssertionError("the last try returns or raises")


def _damaged_files(table: LanceTable, fragment: Any) -> list[str]:
    """Return the files of a fragment that are missing or too short, or all if none of them is."""
    folder, sizes = table.directory / TABLE, files_of(fragment)
    odd = [
        name
        for name, size in sizes.items()
        if not (folder / name).is_file() or (size and (folder / name).stat().st_size != size)
    ]
    return [f"{TABLE}/{name}" for name in odd or sizes]
