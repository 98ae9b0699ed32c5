"""Measure what re-ranking the first hits does to every cell of the compatibility matrix of trained runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from neighbours import clustered
from page import parser, section, table

from sfsc import CompatibilityMatrix, Family
from sfsc.data import open_dataset
from sfsc.embedding.image_set import embed_all
from sfsc.evaluation.evaluate import tested_paths
from sfsc.evaluation.other_rankings import rerank_images
from sfsc.retrieval.matrix import compatibility_matrix
from sfsc.retrieval.reranking import RULES
from sfsc.training.config import dataset_of

EXPLANATION = """
Each run was evaluated on the data set named, on identities that training never saw, without re-ranking and
with the first {depth} items of each ranking re-ranked by each rule at its default settings. Accuracies are
mAP in percent. M(q, g) means queries of width q in a gallery of width g; *cells* counts the cells of the
matrix that re-ranking raised."""
COST = """
Re-ranking the first {depth} hits of one query, in {dimension} dimensions, takes the median time of {count}
queries: {times}."""


def main() -> None:
    """Print the section."""
    arguments = parser(__doc__)
    arguments.add_argument("runs", nargs="*", default=["runs/emoji"], help="run folders, or RUN=KIND:PATH")
    arguments.add_argument("--depth", type=int, default=100, help="items of each ranking that are re-ranked")
    arguments.add_argument("--workers", type=int, default=2, help="threads that decode images")
    chosen = arguments.parse_args()
    rows, full = [], []
    for named in chosen.runs:
        run, _, source = named.partition("=")
        for line, cells in measured(Path(run), source or dataset_of(Path(run)), chosen.depth, chosen.workers):
            rows.append(line)
            full += cells
    heading = ["data set", "rule", "M(small, small)", "M(small, 1)", "M(1, 1)", "mean of all", "cells"]
    cells = ["data set", "rule", "query", "in the gallery of each width, without → with"]
    explanation = EXPLANATION.format(depth=chosen.depth)
    parts = [table(heading, rows), table(cells, full), cost(chosen.depth)]
    print(section("Re-ranking", explanation, *parts))


def measured(run: Path, source: str, depth: int, workers: int) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Yield a line of the summary, and the lines of all cells, without re-ranking and by each rule."""
    family, dataset = Family.load(run), open_dataset(source)
    images = embed_all(family, tested_paths(dataset), workers)
    query, gallery = images.of(dataset.query.paths), images.of(dataset.gallery.paths)
    plain = compatibility_matrix(
        {width: query[width] for width in family.widths},
        {width: gallery[width] for width in family.widths},
        dataset.query,
        dataset.gallery,
    )
    before = plain.metrics["mAP"]
    name = f"{source.partition(':')[0]}, {plain.queries:,} queries, {plain.gallery:,} rows"
    yield [name, "none", *summary(plain), ""], []
    for rule in RULES:
        matrix = rerank_images(dataset, images, plain, rule, depth).matrix
        after = matrix.metrics["mAP"]
        raised = f"{int((after > before).sum())} of {after.size}"
        cells = [
            [
                name,
                rule,
                f"{width:g}",
                ", ".join(f"{100 * a:.1f} → {100 * b:.1f}" for a, b in zip(*pair, strict=True)),
            ]
            for width, *pair in zip(plain.widths, before, after, strict=True)
        ]
        yield [name, rule, *summary(matrix), raised], cells


def summary(matrix: CompatibilityMatrix) -> list[str]:
    """Return the corners of a matrix and the mean of its cells, in percent."""
    values = matrix.metrics["mAP"]
    return [f"{100 * value:.1f}" for value in (values[0, 0], values[0, -1], values[-1, -1], values.mean())]


def cost(depth: int, dimension: int = 128, count: int = 20) -> str:
    """Return a sentence with the time of re-ranking the hits of one query by each rule."""
    rows, queries = clustered(depth, count, dimension)
    times = []
    for name, rule in RULES.items():
        seconds = []
        for query in queries:
            start = time.perf_counter()
            rule(query, rows)
            seconds.append(time.perf_counter() - start)
        times.append(f"{1000 * np.median(seconds):.2f} ms by {name}")
    return COST.format(depth=depth, dimension=dimension, count=count, times=", ".join(times))


if __name__ == "__main__":
    main()
