"""Measure a gallery of many rows: writing, searching compared with FAISS and numpy, disk and memory."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from statistics import median

import numpy as np
from neighbours import (
    CENTRES,
    NOISE,
    by_lance,
    by_numpy,
    clustered,
    flat_index,
    lance_lists,
    recall,
    refined_lists,
)
from page import met, parser, section, table
from threadpoolctl import threadpool_limits
from timing import Call, ratio, take_turns

from sfsc import Gallery
from sfsc.gallery.forms import DTYPES
from sfsc.gallery.lists import CANDIDATES
from sfsc.progress import track

TOP = 10
ADDED = 50_000  # rows of each `add`
FRESH_RUNS = 5
NAMES = ("numpy", "FAISS", "Lance", "gallery")
FILTERED = 100  # queries for the recall with conditions
FILTERS = {"50%": "part<50", "10%": "part<10", "1%": "part=0"}
LEAST_RECALL, APPROXIMATE_TIME, EXACT_TIME, MEMORY, FIRST = 0.95, 1.5, 1.2, 0.5, 1.0
FRESH = """
import sys, time
start = float(sys.argv[3])
import numpy
from sfsc.gallery import Gallery
query = numpy.load(sys.argv[2])
def resident():
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
import sfsc.gallery.lance
before = resident()
with Gallery.open(sys.argv[1]) as gallery:
    gallery.search(query[:1], "f", exact=False)
    first = time.time() - start
    for one in query:
        gallery.search(one[None], "f", exact=False)
    approximate = resident() - before
    gallery.search(query[:1], "f")
    print(first, approximate, resident() - before)
"""
INTRODUCTION = """
{rows:,} rows of {dim} dimensions and {queries} queries are drawn around {centres} centres, so that rows of
one centre have a cosine of about {cosine:.2f}. Each row has an id, a path, an identity, a camera and a
number. Searches ask for {top} hits and use {threads} threads. The aims are listed below; those of memory are
relative to {vectors:.0f} MB, the size of the vectors in float32."""
WRITING = """
The rows are written by `Gallery.add`, {added:,} at once, and indexed by `Gallery.refresh`. The table shows
the rows written per second, the seconds of indexing, and the bytes per row on disk: of the table, of the
index, and of the embedding alone. Then a fresh process opens the gallery: the seconds from its start to its
first approximate answer, with all imports, and how much its resident memory grows by {queries} approximate
searches, and by an exact one after them."""
SEARCHING = """
*FAISS* is `IndexFlatIP` and, for the approximate search, the same kind of index as the gallery's: it probes
{probes} of {lists} lists with four bits for each component, and exactly compares {candidates} times as many
rows as requested (`IndexRefineFlat`). *numpy* is a matrix product and `argpartition`. Times are medians; for
one query, the 95th percentile follows. Ratios are medians over the rounds, in which all took turns. Recall is
the share of the best {top} rows that are found. *Lance* is Lance's own index of this kind (IVF_SQ). The
gallery returns all columns of the rows, the others only their numbers."""
FILTERING = """
Searches among the rows that fulfil a condition: milliseconds of approximate and exact ones, which took turns,
their ratio, and the recall of the approximate ones."""

Search = Callable[[np.ndarray], object]


def main() -> None:
    """Print the section."""
    arguments = parser(__doc__)
    arguments.add_argument("--rows", type=int, default=1_000_000, help="at least 20,000")
    arguments.add_argument("--dim", type=int, default=128)
    arguments.add_argument("--queries", type=int, default=1000, help="queries in a batch")
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--seconds", type=float, default=20, help="time for each comparison")
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(chosen.threads):
        print(report(chosen, Path(folder)))


def report(chosen: Namespace, folder: Path) -> str:
    """Return the section."""
    rows, queries = clustered(chosen.rows, chosen.queries, chosen.dim)
    written = {form: write(rows, queries, folder / form) for form in track(DTYPES, "writing")}
    with Gallery.open(folder / "float32") as gallery:
        searches = list(compare(gallery, rows, queries, folder / "lance", chosen.seconds))
        filters = list(filtered(gallery, queries, chosen.seconds))
        lists, probes = chosen_lists(gallery)
    introduction = {"rows": len(rows), "queries": len(queries), "centres": CENTRES, "top": TOP}
    introduction |= {"dim": chosen.dim, "cosine": 1 / (1 + NOISE**2), "threads": chosen.threads}
    return section(
        "A gallery of many rows",
        INTRODUCTION.format(**introduction, vectors=rows.nbytes / 1e6),
        table(("aim", "wanted", "found", ""), aims(searches, filters, written, rows.nbytes)),
        WRITING.format(added=ADDED, queries=len(queries)),
        table(Written.HEADING, [[form, *one.cells()] for form, one in written.items()]),
        SEARCHING.format(lists=lists, probes=probes, candidates=CANDIDATES, top=TOP),
        table(
            (
                "search",
                "queries",
                "numpy",
                "FAISS",
                "Lance",
                "gallery",
                "gallery / FAISS",
                "recall",
                "of FAISS",
            ),
            [search.cells() for search in searches],
        ),
        FILTERING,
        table(
            ("rows", "approximate", "exact", "approximate / exact", "recall"),
            [one.cells() for one in filters],
        ),
    )


@dataclass(frozen=True)
class Written:
    """A gallery of one form: how fast it was written and indexed, its size, and its first answer."""

    HEADING = (
        *("form", "rows/s", "indexing", "table", "index", "embedding"),
        *("first answer", "memory, approximate", "and exact"),
    )
    rate: float
    indexing: float
    sizes: tuple[float, float, int]
    first: float
    memory: tuple[int, int]

    def cells(self) -> list[str]:
        """Return the numbers as text."""
        sizes = [f"{size:.0f}" for size in self.sizes]
        memory = [f"{size / 1e6:.0f} MB" for size in self.memory]
        return [f"{self.rate:,.0f}", f"{self.indexing:.1f} s", *sizes, f"{self.first:.2f} s", *memory]


def write(rows: np.ndarray, queries: np.ndarray, folder: Path) -> Written:
    """Write a gallery of the form that its folder is named after, and open it in a fresh process."""
    form, took = folder.name, 0.0
    with Gallery.open(folder, create=True) as gallery:
        for start in range(0, len(rows), ADDED):
            took += add(gallery, rows[start : start + ADDED], start, form)
        start = time.perf_counter()
        gallery.refresh()
        indexing = time.perf_counter() - start
    stored, index = size_of(folder), size_of(folder / "index")
    embedding = rows.shape[1] * np.dtype(DTYPES[form]).itemsize
    sizes = (stored - index) / len(rows), index / len(rows), embedding
    np.save(folder.parent / "queries", queries)
    fresh = [sys.executable, "-c", FRESH, str(folder), str(folder.parent / "queries.npy")]
    runs = [
        subprocess.run([*fresh, str(time.time())], check=True, capture_output=True, text=True).stdout
        for _ in range(FRESH_RUNS)
    ]
    first, *memory = np.median([[float(word) for word in run.split()] for run in runs], axis=0)
    return Written(len(rows) / took, indexing, sizes, float(first), (int(memory[0]), int(memory[1])))


def size_of(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def add(gallery: Gallery, rows: np.ndarray, first: int, form: str) -> float:
    """Add rows, numbered from `first`, and return the seconds that this takes."""
    numbers = range(first, first + len(rows))
    ids = [f"{number:08d}" for number in numbers]
    columns = {
        "paths": [f"images/{name}.jpg" for name in ids],
        "identities": [str(number % CENTRES) for number in numbers],
        "cameras": [str(number % 6) for number in numbers],
        "attributes": {"part": [number % 100 for number in numbers]},
    }
    start = time.perf_counter()
    gallery.add(rows, ids, **columns, width=1.0, fingerprint="f", form=form)
    return time.perf_counter() - start


@dataclass(frozen=True)
class Compared:
    """A kind of search with some queries at once: the seconds of each round, and the recall."""

    kind: str
    queries: int
    seconds: Mapping[str, list[float]]
    recall: float
    faiss_recall: float

    @property
    def ratio(self) -> float:
        """The gallery's time relative to that of FAISS."""
        return ratio(self.seconds["gallery"], self.seconds["FAISS"])

    def cells(self) -> list[str]:
        """Return the numbers as text."""
        times = [self._time(self.seconds.get(name)) for name in NAMES]
        recalls = [f"{self.recall:.3f}", f"{self.faiss_recall:.3f}"]
        return [self.kind, f"{self.queries}", *times, f"{self.ratio:.2f}", *recalls]

    def _time(self, seconds: list[float] | None) -> str:
        if seconds is None:
            return "-"
        slow = f", {1000 * np.quantile(seconds, 0.95):.1f}" if self.queries == 1 else ""
        return f"{1000 * median(seconds):.1f}{slow} ms"


def compare(
    gallery: Gallery, rows: np.ndarray, queries: np.ndarray, folder: Path, budget: float
) -> Iterator[Compared]:
    """Compare exact and approximate searches, for one query and for all at once."""
    best = by_numpy(rows, queries, TOP)
    for kind, searches in track(kinds(gallery, rows, queries, folder).items(), "searching"):
        found = gallery.search(queries, "f", TOP, exact=kind == "exact")
        numbers = np.array([[int(hit.id) for hit in hits] for hits in found])
        recalls = recall(numbers, best), recall(searches["FAISS"](queries)[1], best)
        for size in (1, len(queries)):
            yield Compared(kind, size, take_turns(calls(searches, queries, size), budget), *recalls)


def kinds(
    gallery: Gallery, rows: np.ndarray, queries: np.ndarray, folder: Path
) -> dict[str, dict[str, Search]]:
    """Return the searches that are compared, by kind and implementation."""
    gallery.search(queries[:1], "f", TOP, exact=False)
    lists, probes = chosen_lists(gallery)
    refined, own = refined_lists(rows, lists, probes), lance_lists(rows, lists, folder)
    flat = flat_index(rows)
    return {
        "exact": {
            "numpy": lambda some: by_numpy(rows, some, TOP),
            "FAISS": lambda some: flat.search(some, TOP),
            "gallery": lambda some: gallery.search(some, "f", TOP),
        },
        "approximate": {
            "FAISS": lambda some: refined.search(some, TOP),
            "Lance": lambda some: by_lance(own, some, TOP, probes),
            "gallery": lambda some: gallery.search(some, "f", TOP, exact=False),
        },
    }


def chosen_lists(gallery: Gallery) -> tuple[int, int]:
    """Return how many lists the gallery has, and how many it probes; neither number is public."""
    lists = gallery._store._view().parts[0].lists
    return lists.count, lists.probes


def calls(searches: Mapping[str, Search], queries: np.ndarray, size: int) -> dict[str, Call]:
    """Return a call of each search for the next queries, which are the same in the same round."""
    return {name: partial(search_next, search, parts(queries, size)) for name, search in searches.items()}


def parts(queries: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Return an endless iterator over batches of `size` queries."""
    return cycle([queries[start : start + size] for start in range(0, len(queries), size)])


def search_next(search: Search, queries: Iterator[np.ndarray]) -> None:
    """Search for the next queries."""
    search(next(queries))


def aims(
    searches: list[Compared], filters: list[Filtered], written: Mapping[str, Written], vectors: int
) -> Iterator[list[str]]:
    """Yield the rows of the table of aims."""
    approximate = [search for search in searches if search.kind == "approximate"]
    recalls = {"all rows": approximate[0].recall} | {one.name: one.recall for one in filters}
    for name, found in recalls.items():
        yield [f"recall@10, {name}", f"{LEAST_RECALL} or more", f"{found:.3f}", met(found >= LEAST_RECALL)]
    for one in filters:
        name, shown = f"approximate / exact, {one.name}", round(one.ratio, 2)
        yield [name, "below 1", f"{shown:.2f}", met(shown < 1)]
    exact = next(search for search in searches if search.kind == "exact" and search.queries > 1)
    for search, limit in [*((search, APPROXIMATE_TIME) for search in approximate), (exact, EXACT_TIME)]:
        name = f"{search.kind}, {search.queries} at once, gallery / FAISS"
        yield [name, f"{limit} at most", f"{search.ratio:.2f}", met(search.ratio <= limit)]
    for form, one in written.items():
        yield [f"first answer, {form}", f"{FIRST:g} s at most", f"{one.first:.2f} s", met(one.first <= FIRST)]
    memory = written["int8"].memory[1] / vectors
    yield ["memory / vectors, int8", f"{MEMORY} at most", f"{memory:.2f}", met(memory <= MEMORY)]


@dataclass(frozen=True)
class Filtered:
    """Searches with a condition: the seconds of each round, and the recall of the approximate ones."""

    name: str
    seconds: Mapping[str, list[float]]
    recall: float

    @property
    def ratio(self) -> float:
        """The time of an approximate search relative to an exact one."""
        return ratio(self.seconds["approximate"], self.seconds["exact"])

    def cells(self) -> list[str]:
        """Return the numbers as text."""
        times = [f"{1000 * median(self.seconds[kind]):.1f} ms" for kind in ("approximate", "exact")]
        return [self.name, *times, f"{self.ratio:.2f}", f"{self.recall:.3f}"]


def filtered(gallery: Gallery, queries: np.ndarray, budget: float) -> Iterator[Filtered]:
    """Yield the comparison for each filter."""
    for name, where in FILTERS.items():
        searches = {
            kind: partial(gallery.search, fingerprint="f", top=TOP, where=[where], exact=kind == "exact")
            for kind in ("approximate", "exact")
        }
        found = {
            kind: np.array([[int(hit.id) for hit in hits] for hits in search(queries[:FILTERED])])
            for kind, search in searches.items()
        }
        times = take_turns(calls(searches, queries, 1), budget)
        yield Filtered(name, times, recall(found["approximate"], found["exact"]))


if __name__ == "__main__":
    main()
