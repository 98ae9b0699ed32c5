"""Measure a gallery of many rows: writing, searching compared with FAISS and numpy, disk and memory."""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import shutil
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from statistics import median

import faiss
import numpy as np
from neighbours import CENTRES, NOISE, by_numpy, clustered, flat_index, recall, refined_lists
from page import met, parser, section, table
from threadpoolctl import threadpool_limits
from timing import Call, ratio, take_turns

from sfsc import Gallery
from sfsc.gallery.forms import DTYPES
from sfsc.gallery.memory import CANDIDATES
from sfsc.progress import track

TOP = 10
ADDED = 50_000  # rows of each `add`
FILTERS = {"1%": "part=0", "50%": "part<50"}
LEAST_RECALL, APPROXIMATE_TIME, EXACT_TIME, MEMORY = 0.95, 1.3, 1.2, 1.5
INTRODUCTION = """
{rows:,} rows of {dim} dimensions and {queries} queries are drawn around {centres} centres, so that rows of
one centre have a cosine of about {cosine:.2f}. Each row has an id, a path, an identity, a camera and a
number. Searches ask for {top} hits and use {threads} threads. The aims are listed below; the last one is
relative to {vectors:.0f} MB, the size of the vectors in float32."""
WRITING = """
The rows are written by `Gallery.add`, {added:,} at once. The table shows the bytes per row on disk, of the
whole folder and of the embedding alone."""
LOADING = """
The gallery is searched in a fresh process. The table shows the seconds to open it and answer the first query,
which loads all rows; the seconds of the first approximate search, which builds the index; and how much the
resident memory grows by both."""
SEARCHING = """
*FAISS* is `IndexFlatIP` and, for the approximate search, the same kind of index as the gallery's: it probes
{probes} of {lists} lists with six bits for each component, and exactly compares {candidates} times as many
rows as requested (`IndexRefineFlat`). *numpy* is a matrix product and `argpartition`. Times are medians; for
one query, the 95th percentile follows. Ratios are medians over the rounds, in which all took turns. Recall is
the share of the best {top} rows that are found. The gallery returns all columns of the rows, FAISS and numpy
only their numbers."""
FILTERING = """
The time of an exact search among the rows that fulfil a condition, relative to a search among all rows; the
searches took turns."""

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
    writing = [[form, *write(rows, folder, form)] for form in track(DTYPES, "writing")]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        loaded = pool.apply(load, (folder / "float32", queries[:1], chosen.threads))
    with Gallery.open(folder / "float32") as gallery:
        searches = list(compare(gallery, rows, queries, chosen.seconds))
        filters = [row for size in (1, len(queries)) for row in filtered(gallery, queries[:size], chosen)]
        lists, probes = chosen_lists(gallery)
    introduction = {"rows": len(rows), "queries": len(queries), "centres": CENTRES, "top": TOP}
    introduction |= {"dim": chosen.dim, "cosine": 1 / (1 + NOISE**2), "threads": chosen.threads}
    return section(
        "A gallery of many rows",
        INTRODUCTION.format(**introduction, vectors=rows.nbytes / 1e6),
        table(("aim", "wanted", "found", ""), aims(searches, loaded.bytes / rows.nbytes)),
        WRITING.format(added=ADDED),
        table(("form", "rows/s", "bytes per row", "embedding"), writing),
        LOADING,
        table(("loading", "index", "memory", "memory / vectors"), [loaded.cells(rows.nbytes)]),
        SEARCHING.format(lists=lists, probes=probes, candidates=CANDIDATES, top=TOP),
        table(
            ("search", "queries", "numpy", "FAISS", "gallery", "gallery / FAISS", "recall", "of FAISS"),
            [search.cells() for search in searches],
        ),
        FILTERING,
        table(("queries", "rows", "time / unfiltered"), filters),
    )


def write(rows: np.ndarray, folder: Path, form: str) -> list[str]:
    """Write a gallery; return rows per second, bytes per row, and bytes of the embedding.

    Only the float32 gallery is kept.
    """
    took = 0.0
    with Gallery.open(folder / form, create=True) as gallery:
        for start in range(0, len(rows), ADDED):
            took += add(gallery, rows[start : start + ADDED], start, form)
    stored = sum(file.stat().st_size for file in (folder / form).rglob("*") if file.is_file())
    if form != "float32":
        shutil.rmtree(folder / form)
    embedding = rows.shape[1] * np.dtype(DTYPES[form]).itemsize
    return [f"{len(rows) / took:,.0f}", f"{stored / len(rows):.0f}", f"{embedding}"]


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
class Loaded:
    """The seconds to load the rows and build the index, and the memory that both take."""

    loading: float
    indexing: float
    bytes: int

    def cells(self, vectors: int) -> list[str]:
        """Return the numbers as text."""
        times = [f"{seconds:.1f} s" for seconds in (self.loading, self.indexing)]
        return [*times, f"{self.bytes / 1e6:.0f} MB", f"{self.bytes / vectors:.2f}"]


def load(folder: Path, query: np.ndarray, threads: int) -> Loaded:
    """Measure the first searches of a gallery in a fresh process."""
    importlib.import_module("sfsc.gallery.lance")
    with threadpool_limits(threads), Gallery.open(folder) as gallery:
        before, start = resident(), time.perf_counter()
        gallery.search(query, "f")
        loaded = time.perf_counter()
        gallery.search(query, "f", exact=False)
        indexed = time.perf_counter()
        gc.collect()
        return Loaded(loaded - start, indexed - loaded, resident() - before)


def resident() -> int:
    """Return the resident memory of this process in bytes, on Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


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
        times = [self._time(self.seconds.get(name)) for name in ("numpy", "FAISS", "gallery")]
        recalls = [f"{self.recall:.3f}", f"{self.faiss_recall:.3f}"]
        return [self.kind, f"{self.queries}", *times, f"{self.ratio:.2f}", *recalls]

    def _time(self, seconds: list[float] | None) -> str:
        if seconds is None:
            return "-"
        slow = f", {1000 * np.quantile(seconds, 0.95):.1f}" if self.queries == 1 else ""
        return f"{1000 * median(seconds):.1f}{slow} ms"


def compare(gallery: Gallery, rows: np.ndarray, queries: np.ndarray, budget: float) -> Iterator[Compared]:
    """Compare exact and approximate searches, for one query and for all at once."""
    best = by_numpy(rows, queries, TOP)
    for kind, searches in track(kinds(gallery, rows, queries).items(), "searching"):
        found = gallery.search(queries, "f", TOP, exact=kind == "exact")
        numbers = np.array([[int(hit.id) for hit in hits] for hits in found])
        recalls = recall(numbers, best), recall(searches["FAISS"](queries)[1], best)
        for size in (1, len(queries)):
            yield Compared(kind, size, take_turns(calls(searches, queries, size), budget), *recalls)


def kinds(gallery: Gallery, rows: np.ndarray, queries: np.ndarray) -> dict[str, dict[str, Search]]:
    """Return the searches that are compared, by kind and implementation."""
    gallery.search(queries[:1], "f", TOP, exact=False)
    refined = refined_lists(rows, *chosen_lists(gallery))
    flat = flat_index(rows)
    return {
        "exact": {
            "numpy": lambda some: by_numpy(rows, some, TOP),
            "FAISS": lambda some: flat.search(some, TOP),
            "gallery": lambda some: gallery.search(some, "f", TOP),
        },
        "approximate": {
            "FAISS": lambda some: refined.search(some, TOP),
            "gallery": lambda some: gallery.search(some, "f", TOP, exact=False),
        },
    }


def chosen_lists(gallery: Gallery) -> tuple[int, int]:
    """Return how many lists the gallery has, and how many it probes; neither number is public."""
    coded = faiss.downcast_index(gallery._store._mirror._index._lists.base_index)
    return coded.nlist, coded.nprobe


def calls(searches: Mapping[str, Search], queries: np.ndarray, size: int) -> dict[str, Call]:
    """Return a call of each search for the next queries, which are the same in the same round."""
    return {name: partial(search_next, search, parts(queries, size)) for name, search in searches.items()}


def parts(queries: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Return an endless iterator over batches of `size` queries."""
    return cycle([queries[start : start + size] for start in range(0, len(queries), size)])


def search_next(search: Search, queries: Iterator[np.ndarray]) -> None:
    """Search for the next queries."""
    search(next(queries))


def aims(searches: list[Compared], memory: float) -> Iterator[list[str]]:
    """Yield the rows of the table of aims."""
    approximate = [search for search in searches if search.kind == "approximate"]
    found = approximate[0].recall
    yield ["approximate, recall@10", f"{LEAST_RECALL} or more", f"{found:.3f}", met(found >= LEAST_RECALL)]
    for search in approximate:
        limit = search.ratio <= APPROXIMATE_TIME
        name = f"approximate, {search.queries} at once, gallery / FAISS"
        yield [name, f"{APPROXIMATE_TIME} at most", f"{search.ratio:.2f}", met(limit)]
    exact = next(search for search in searches if search.kind == "exact" and search.queries > 1)
    name = f"exact, {exact.queries} at once, gallery / FAISS"
    yield [name, f"{EXACT_TIME} at most", f"{exact.ratio:.2f}", met(exact.ratio <= EXACT_TIME)]
    yield ["memory / vectors", f"{MEMORY} at most", f"{memory:.2f}", met(memory <= MEMORY)]


def filtered(gallery: Gallery, queries: np.ndarray, chosen: Namespace) -> Iterator[list[str]]:
    """Yield a row for each filter."""
    searches = {name: partial(gallery.search, queries, "f", TOP, [where]) for name, where in FILTERS.items()}
    times = take_turns({"all": lambda: gallery.search(queries, "f", TOP), **searches}, chosen.seconds)
    for name in FILTERS:
        yield [f"{len(queries)}", name, f"{ratio(times[name], times['all']):.2f}"]


if __name__ == "__main__":
    main()
