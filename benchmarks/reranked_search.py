"""Measure what re-ranking its first hits adds to a search in a large gallery: time and memory."""

from __future__ import annotations

import multiprocessing
import tempfile
from argparse import Namespace
from functools import partial
from pathlib import Path

import numpy as np
from duplicates import peak
from live import build, timed
from neighbours import clustered
from page import parser, section, table

from sfsc import Gallery
from sfsc.gallery.answering import Wanted, answer
from sfsc.progress import track
from sfsc.retrieval.reranking import RULES

EXPLANATION = """
A gallery of {rows:,} float32 rows of {dim} dimensions, which are clustered, is searched for one query at a
time, for ten hits. The first {depth} rows of the gallery's answer are re-ranked by each rule; searches
without and with re-ranking take turns. *Memory* is the growth of the process's peak memory by the searches
of a line, which are {queries} each; the rows of the gallery take {size:.0f} MB."""


def main() -> None:
    """Print the section."""
    arguments = parser(__doc__)
    arguments.add_argument("--rows", type=int, default=1_000_000)
    arguments.add_argument("--dim", type=int, default=128)
    arguments.add_argument("--queries", type=int, default=100)
    arguments.add_argument("--depths", type=int, nargs="*", default=[100, 1000], help="rows re-ranked")
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # In a process of its own, whose peak memory does not count here.
        builder = multiprocessing.get_context("spawn").Process(target=fill, args=(Path(folder), chosen))
        builder.start()
        builder.join()
        queries = np.load(Path(folder) / "queries.npy")
        with Gallery.open(Path(folder) / "gallery") as gallery:
            lines = [line for depth in chosen.depths for line in measured(gallery, queries, depth)]
    explanation = EXPLANATION.format(
        **vars(chosen), depth=" or ".join(map(str, chosen.depths)), size=4 * chosen.rows * chosen.dim / 1e6
    )
    heading = ("rows re-ranked", "rule", "approximate", "re-ranked", "exact", "re-ranked", "memory")
    print(section("Re-ranking in a large gallery", explanation, table(heading, lines)))


def fill(folder: Path, chosen: Namespace) -> None:
    """Write the gallery, and the queries into a file."""
    rows, queries = clustered(chosen.rows, chosen.queries, chosen.dim)
    np.save(folder / "queries.npy", queries)
    build(folder / "gallery", rows, "float32")


def measured(gallery: Gallery, queries: np.ndarray, depth: int) -> list[tuple[object, ...]]:
    """Return a line for each rule."""
    return [line(gallery, queries, rule, depth) for rule in RULES]


def line(gallery: Gallery, queries: np.ndarray, rule: str, depth: int) -> tuple[object, ...]:
    """Return the median times of searches without and with a rule, and the memory that they take."""
    kinds = [(exact, name) for exact in (False, True) for name in (None, rule)]
    taken: dict[tuple[bool, str | None], list[float]] = {kind: [] for kind in kinds}
    answer(gallery, queries[:1], "f", Wanted(exact=True))
    before = peak()
    for query in track(queries, f"{rule}, {depth} rows"):
        for exact, name in kinds:
            wanted = Wanted(exact=exact, rerank=name, rerank_depth=depth)
            taken[exact, name].append(timed(partial(answer, gallery, query[None], "f", wanted)))
    times = [f"{1000 * np.median(taken[kind]):.1f} ms" for kind in kinds]
    return depth, rule, *times, f"{(peak() - before) / 1e6:.0f} MB"


if __name__ == "__main__":
    main()
