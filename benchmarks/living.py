"""Change and search a gallery in several processes at once, and check every answer."""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import count, cycle
from pathlib import Path

import numpy as np
from changes import COUNT, FEW, embeddings, index_few, names_of, quiet
from checks import TOP, Found, compared, contents
from filelock import FileLock
from page import parser, section, table

from sfsc import Gallery
from sfsc.gallery import index

WRITERS, READERS = 2, 3
IDS = 1000  # that one writer writes
QUERIES = 8  # at once
OPTIMIZED = 50  # a writer optimizes the gallery instead of every such change
WRITES = ("add", "replace", "delete", "optimize")
READS = ("exact search", "approximate search", "count", "list of ids")
PROBLEMS = ("errors", "missing", "deleted", "repeated")
SAME = 0.9999  # minimum score of an embedding with itself
Tally = Counter[tuple[str, str]]  # by operation, what was done or found
ROW = np.dtype([("pending", bool), ("changes", np.int64), ("number", np.int64), ("there", bool)])
EXPLANATION = """
{writers} processes add, replace and delete up to {count} rows at once, each of {ids:,} ids of its own; every
{optimized}th time, they optimize the gallery. {readers} processes search it for {queries} embeddings at once,
exactly and approximately, count its rows and list its ids, for {minutes:g} minutes. The gallery has an index,
which is renewed meanwhile. A row is *settled* if its last change was acknowledged before an answer was asked
for, and no other change of it began before the answer was there. An answer must contain all settled rows
that are stored and asked for, with their newest embeddings (others are *missing*), no settled row that was
deleted (*deleted*), and no id twice (*repeated*). A count must be the number of the settled rows that are
stored, give or take the rows that are not settled."""


class Marks:
    """What the writers have acknowledged of each row, in a file that all processes share."""

    def __init__(self, folder: Path, new: bool = False) -> None:
        self._lock = FileLock(folder / "marks.lock", poll_interval=0.001)
        self._rows = np.memmap(folder / "marks", ROW, "w+" if new else "r+", shape=WRITERS * IDS)

    def copy(self) -> np.ndarray:
        """Return the state of all rows at one moment."""
        with self._lock:
            return np.array(self._rows)

    def begin(self, ids: Sequence[int]) -> None:
        """Note that a change of these rows begins."""
        with self._lock:
            self._rows["pending"][ids] = True

    def end(self, ids: Sequence[int], number: int) -> None:
        """Note that a change has stored these rows with a number, or deleted them if the number is 0."""
        with self._lock:
            self._rows["there"][ids] = number > 0
            self._rows["changes"][ids] += 1
            self._rows["pending"][ids] = False
            if number:
                self._rows["number"][ids] = number


def main() -> None:
    """Print the section."""
    arguments = parser(__doc__)
    arguments.add_argument("--minutes", type=float, default=10.0)
    minutes = arguments.parse_args().minutes
    with tempfile.TemporaryDirectory() as folder:
        Marks(Path(folder), new=True)
        tally = run(Path(folder), 60 * minutes)
        found, rows, findings = at_the_end(Path(folder))
    explanation = EXPLANATION.format(
        **{"writers": WRITERS, "readers": READERS, "count": COUNT, "ids": IDS, "optimized": OPTIMIZED},
        **{"queries": QUERIES, "minutes": minutes},
    )
    columns = ("done", *PROBLEMS)
    lines = [[name, *(f"{tally[name, what]:,}" for what in columns)] for name in (*WRITES, *READS)]
    end = f"""At the end, the gallery contains {rows:,} rows. Of the rows that were acknowledged,
    **{found.counts["lost"]}** are missing or have another embedding, and **{found.counts["came back"]}** rows
    are there that were deleted. `verify` finds **{findings}** problems."""
    print(section("Writers and readers", explanation, table(("operation", *columns), lines), end))


def run(folder: Path, seconds: float) -> Tally:
    """Run all processes; return how often each operation was done, and what was found."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(WRITERS + READERS, context, begin_process) as pool:
        pool.submit(fill, folder).result()
        tasks = [pool.submit(write, folder, number, seconds) for number in range(WRITERS)]
        tasks += [pool.submit(read, folder, number, seconds) for number in range(READERS)]
        return sum((task.result() for task in tasks), Counter())


def begin_process() -> None:
    """Prepare a process: small galleries have an index, which is renewed after few changes."""
    quiet()
    index_few()
    index.LEAST_STALE = FEW


def fill(folder: Path) -> None:
    """Make the gallery with a half of all rows."""
    ids = [*range(0, WRITERS * IDS, 2)]
    with Gallery.open(folder / "gallery", create=True) as gallery:
        add(gallery, ids, 1)
        gallery.optimize()
    Marks(folder).end(ids, 1)


def add(gallery: Gallery, ids: Sequence[int], number: int) -> None:
    """Add or replace rows."""
    names = names_of(ids)
    gallery.add(embeddings(ids, number), names, paths=names, width=1.0, fingerprint="f")


def write(folder: Path, writer: int, seconds: float) -> Tally:
    """Change rows until the time is over."""
    generator, marks, tally = np.random.default_rng(writer), Marks(folder), Tally()
    until = time.monotonic() + seconds
    with Gallery.open(folder / "gallery", maintain=True) as gallery:
        gallery.search(embeddings([0], 1), "f")  # only a gallery that was searched maintains its index
        for number in count(2):
            if time.monotonic() > until:
                break
            operation = str(generator.choice(WRITES[:3])) if number % OPTIMIZED else "optimize"
            there = marks.copy()["there"][writer * IDS : (writer + 1) * IDS]
            able = writer * IDS + np.flatnonzero(there != (operation == "add"))
            size = 0 if operation == "optimize" else min(int(generator.integers(1, COUNT + 1)), len(able))
            ids = generator.choice(able, size, replace=False).tolist()
            try:
                change(gallery, marks, operation, ids, number)
                tally[operation, "done"] += 1
            except Exception as error:
                report(operation, error)
                tally[operation, "errors"] += 1
    return tally


def change(gallery: Gallery, marks: Marks, operation: str, ids: Sequence[int], number: int) -> None:
    """Make a change, and note before and after it which rows it changes."""
    marks.begin(ids)
    if operation == "optimize":
        gallery.optimize()
    elif operation == "delete" and ids:
        gallery.delete(names_of(ids))
    elif ids:
        add(gallery, ids, number)
    marks.end(ids, 0 if operation == "delete" else number)


def read(folder: Path, reader: int, seconds: float) -> Tally:
    """Ask for answers and check them until the time is over."""
    generator, marks, tally = np.random.default_rng(WRITERS + reader), Marks(folder), Tally()
    until = time.monotonic() + seconds
    with Gallery.open(folder / "gallery") as gallery:
        for operation in cycle(READS):
            if time.monotonic() > until:
                break
            before = marks.copy()
            asked = generator.choice(np.flatnonzero(before["number"]), QUERIES, replace=False).tolist()
            try:
                problems = answer(gallery, operation, before, marks, asked)
                tally.update({(operation, what): times for what, times in problems.items()})
                tally[operation, "done"] += 1
            except Exception as error:
                report(operation, error)
                tally[operation, "errors"] += 1
    return tally


def answer(
    gallery: Gallery, operation: str, before: np.ndarray, marks: Marks, asked: Sequence[int]
) -> Counter[str]:
    """Get an answer, and return what is wrong with it."""
    if operation == "count":
        found = len(gallery)
        settled = settled_in(before, marks.copy())
        least = int((before["there"] & settled).sum())
        most = least + int((~settled).sum())
        return Counter(missing=max(0, least - found), deleted=max(0, found - most))
    if operation == "list of ids":
        lists = [[int(id_) for id_ in gallery.column("id")]]
        settled = settled_in(before, marks.copy())
        wanted = [{*np.flatnonzero(before["there"] & settled).tolist()}]
        seen = [{*lists[0]}]
    else:
        queries = np.concatenate([embeddings([id_], before["number"][id_]) for id_ in asked])
        hits = gallery.search(queries, "f", TOP, exact=operation == "exact search")
        settled = settled_in(before, marks.copy())
        lists = [[int(hit.id) for hit in own] for own in hits]
        wanted = [{id_} if before["there"][id_] and settled[id_] else set() for id_ in asked]
        seen = [{int(hit.id) for hit in own if hit.score > SAME} for own in hits]
    deleted = {*np.flatnonzero(~before["there"] & settled).tolist()}
    return Counter(
        missing=sum(len(one - there) for one, there in zip(wanted, seen, strict=True)),
        deleted=sum(len(deleted & {*ids}) for ids in lists),
        repeated=sum(len(ids) - len({*ids}) for ids in lists),
    )


def settled_in(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Return which rows did not change between two states: (n,) bool."""
    return ~before["pending"] & ~now["pending"] & (before["changes"] == now["changes"])


def at_the_end(folder: Path) -> tuple[Found, int, int]:
    """Compare the gallery with what was acknowledged; return also its rows, and what `verify` finds."""
    quiet()
    marks = Marks(folder).copy()
    rows = {int(id_): int(marks["number"][id_]) for id_ in np.flatnonzero(marks["there"])}
    with Gallery.open(folder / "gallery") as gallery:
        findings = sum(finding.count for finding in gallery.verify().findings)
        return compared(contents(gallery), rows, None), len(gallery), findings


def report(operation: str, error: Exception) -> None:
    """Print an error of an operation."""
    print(f"{operation}: {error!r}", file=sys.stderr)


if __name__ == "__main__":
    main()
