"""Measure a gallery of ten million int8 rows: building, memory, searches and their recall."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from gallery import ADDED, FRESH, LEAST_RECALL, TOP, add, calls, size_of
from neighbours import CENTRES, NOISE, by_numpy, clustered_parts, recall
from page import met, parser, section, table
from timing import take_turns

from sfsc import Gallery
from sfsc.gallery.segment import best
from sfsc.progress import track

FORM = "int8"
COMPARED = 200  # queries whose recall is measured
MEMORY = 4e9
INTRODUCTION = """
{rows:,} rows of {dim} dimensions and {queries} queries are drawn around {centres} centres, so that rows of
one centre have a cosine of about {cosine:.2f}. They are stored in the form {form}, each with an id, a path,
an identity, a camera and a number, by `Gallery.add`, {added:,} at once, and indexed by `Gallery.refresh`.
*Memory* of building is the greatest resident memory of the process that does this; of searches, the growth of
that of a fresh process by {queries} approximate searches and an exact one. In float32, the vectors alone take
{vectors:,.0f} MB."""
SEARCHING = """
Searches ask for {top} hits. For one query at once, the 95th percentile follows the median. Recall is the
share of the best {top} stored rows that are found, and of the best {top} rows before they were rounded to
{form}, for {compared} queries."""


def main() -> None:
    """Print the section."""
    arguments = parser(__doc__)
    arguments.add_argument("--rows", type=int, default=10_000_000, help="at least 20,000")
    arguments.add_argument("--dim", type=int, default=128)
    arguments.add_argument("--queries", type=int, default=1000, help="queries in a batch")
    arguments.add_argument("--seconds", type=float, default=30, help="time for each kind of search")
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(report(chosen, Path(folder) / FORM))


def report(chosen: Namespace, folder: Path) -> str:
    """Return the section."""
    queries, parts = clustered_parts(chosen.rows, chosen.queries, chosen.dim, ADDED)
    with Gallery.open(folder, create=True) as gallery:
        adding, unrounded = fill(gallery, parts, queries[:COMPARED], chosen.rows)
        start = time.perf_counter()
        gallery.refresh()
        indexing = time.perf_counter() - start
        building = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    first, approximate, memory = fresh(folder, queries)
    with Gallery.open(folder) as gallery:
        searches = list(searched(gallery, queries, unrounded, chosen.seconds))
    found, index = searches[0].recall, size_of(folder / "index")
    figures = [
        ["rows added per second", "", f"{chosen.rows / adding:,.0f}", ""],
        ["indexing", "", f"{indexing:.0f} s", ""],
        ["memory, building", *within(building)],
        ["memory, approximate searches", *within(approximate)],
        ["memory, and an exact one", *within(memory)],
        ["recall@10", f"{LEAST_RECALL} or more", f"{found:.3f}", met(found >= LEAST_RECALL)],
        ["first answer of a fresh process", "", f"{first:.2f} s", ""],
        ["table on disk", "", f"{(size_of(folder) - index) / 1e6:,.0f} MB", ""],
        ["index on disk", "", f"{index / 1e6:,.0f} MB", ""],
    ]
    introduction = {"rows": chosen.rows, "queries": chosen.queries, "centres": CENTRES, "dim": chosen.dim}
    introduction |= {"cosine": 1 / (1 + NOISE**2), "form": FORM, "added": ADDED}
    return section(
        "Ten million rows",
        INTRODUCTION.format(**introduction, vectors=4 * chosen.rows * chosen.dim / 1e6),
        table(("figure", "wanted", "found", ""), figures),
        SEARCHING.format(top=TOP, form=FORM, compared=min(COMPARED, chosen.queries)),
        table(
            ("search", "queries", "time", "per query", "recall", "before rounding"),
            [search.cells() for search in searches],
        ),
    )


def within(size: float) -> list[str]:
    """Return the cells of a line about memory."""
    return [f"{MEMORY / 1e6:,.0f} MB at most", f"{size / 1e6:,.0f} MB", met(size <= MEMORY)]


def fill(
    gallery: Gallery, parts: Iterator[np.ndarray], queries: np.ndarray, rows: int
) -> tuple[float, np.ndarray]:
    """Add all rows; return the seconds of adding, and the numbers of the best rows: (Q, TOP)."""
    took, nearest = 0.0, (np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32))
    for start in track(range(0, rows, ADDED), "writing"):
        part = next(parts)
        took += add(gallery, part, start, FORM)
        numbers = by_numpy(part, queries, TOP)
        scores = np.einsum("qkd,qd->qk", part[numbers], queries)
        nearest = best(
            (np.hstack([nearest[0], start + numbers]), np.hstack([nearest[1], scores])),
            TOP,
        )
    return took, nearest[0]


def fresh(folder: Path, queries: np.ndarray) -> tuple[float, float, float]:
    """Search in a fresh process; return the seconds to its first answer, and its memory in bytes."""
    np.save(folder.parent / "queries", queries)
    command = [sys.executable, "-c", FRESH, str(folder), str(folder.parent / "queries.npy")]
    run = subprocess.run([*command, str(time.time())], check=True, capture_output=True, text=True)
    first, approximate, memory = (float(word) for word in run.stdout.split())
    return first, approximate, memory


@dataclass(frozen=True)
class Searched:
    """Searches of one kind with some queries at once: their seconds, and their recall.

    Attributes:
        kind: approximate or exact.
        queries: the queries at once.
        seconds: the seconds of each search.
        recall: the share of the best stored rows that are found.
        unrounded: the share of the best rows before they were rounded.
    """

    kind: str
    queries: int
    seconds: list[float]
    recall: float
    unrounded: float

    def cells(self) -> list[str]:
        """Return the numbers as text."""
        middle = 1000 * median(self.seconds)
        slow = f", {1000 * np.quantile(self.seconds, 0.95):.1f}" if self.queries == 1 else ""
        times = [f"{middle:.1f}{slow} ms", f"{middle / self.queries:.2f} ms"]
        return [self.kind, f"{self.queries}", *times, f"{self.recall:.3f}", f"{self.unrounded:.3f}"]


def searched(
    gallery: Gallery, queries: np.ndarray, unrounded: np.ndarray, seconds: float
) -> Iterator[Searched]:
    """Search approximately, for one query and for all at once, and exactly for one."""
    exact = numbers_of(gallery, queries, True)
    for kind, sizes in {"approximate": (1, len(queries)), "exact": (1,)}.items():
        found = exact if kind == "exact" else numbers_of(gallery, queries, False)
        recalls = recall(found, exact), recall(found, unrounded)
        search = partial(gallery.search, fingerprint="f", top=TOP, exact=kind == "exact")
        for size in sizes:
            times = take_turns(calls({kind: search}, queries, size), seconds)
            yield Searched(kind, size, times[kind], *recalls)


def numbers_of(gallery: Gallery, queries: np.ndarray, exact: bool) -> np.ndarray:
    """Return the numbers of the rows that a search finds for the first queries: (COMPARED, TOP)."""
    found = gallery.search(queries[:COMPARED], "f", TOP, exact=exact)
    return np.array([[int(hit.id) for hit in hits] for hits in found])


if __name__ == "__main__":
    main()
