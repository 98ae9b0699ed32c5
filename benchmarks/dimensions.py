"""Measure what shorter embeddings save and cost, with and without training for nested dimensions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from page import parser, section, table
from storage import store

from sfsc import CompatibilityMatrix, Family
from sfsc.data import Dataset, open_dataset
from sfsc.dimensions import shorten
from sfsc.embedding.image_set import ImageSet, embed_all
from sfsc.evaluation.compare import mean_and_deviation
from sfsc.evaluation.evaluate import tested_paths
from sfsc.files.writing import read_json
from sfsc.gallery.forms import DTYPES
from sfsc.retrieval.ranking import evaluate_ranking
from sfsc.runs.results import EVALUATION_FILE
from sfsc.training.config import read_config

EXPLANATION = """
Families of {backbone} with embeddings of {dim} dimensions were trained on `{dataset}` by `{recipe}` with and
without `nested_dims: {nested}`, {seeds} seeds of each. {queries:,} queries are searched in a gallery of
{rows:,} rows that the full sub-model wrote. The first column is the number of first components of queries and
rows that are compared; rows are stored in each numeric form. M(q, g) is the mAP in percent, mean and
deviation over the seeds, of queries of width q in a gallery of width g. Bytes are those of the embedding."""
COST = """
The option also changes whole embeddings: over the seeds, the mean of the self-tests is {nested[0]} with the
option and {plain[0]} without it, and the mean of the cross-tests is {nested[1]} and {plain[1]}."""


def main() -> None:
    """Print the section."""
    arguments = parser(__doc__)
    arguments.add_argument(
        "--comparison", type=Path, default=Path("runs/compare-nested"), help="folder of sfsc compare"
    )
    arguments.add_argument("--nested", default="sfsc-nested", help="its folder with nested dimensions")
    arguments.add_argument("--plain", default="sfsc", help="its folder without nested dimensions")
    arguments.add_argument("--workers", type=int, default=2, help="threads that decode images")
    chosen = arguments.parse_args()
    kinds = {kind: sorted((chosen.comparison / kind).glob("seed*")) for kind in (chosen.nested, chosen.plain)}
    config, family = read_config(kinds[chosen.nested][0]), Family.load(kinds[chosen.nested][0])
    dataset = open_dataset(config.dataset)
    sets = {
        kind: [embed_all(Family.load(run), tested_paths(dataset), chosen.workers) for run in runs]
        for kind, runs in kinds.items()
    }
    explanation = EXPLANATION.format(
        backbone=config.backbone,
        dim=family.dimension,
        dataset=dataset.source,
        recipe=config.recipe,
        nested=list(config.nested_dims),
        seeds=len(kinds[chosen.nested]),
        queries=len(dataset.query.paths),
        rows=len(dataset.gallery.paths),
    )
    widths = (family.widths.ratios[0], 1.0)
    tests = [f"M({width:g}, 1)" for width in widths]
    heading = [
        "dimensions",
        "rows",
        "bytes per row",
        *tests,
        *(f"{test}, without the option" for test in tests),
    ]
    rows = rows_of([*sets.values()], dataset, family.dimensions, widths)
    cost = COST.format(nested=costs(kinds[chosen.nested]), plain=costs(kinds[chosen.plain]))
    print(section("Dimensions", explanation, table(heading, rows), cost))


def rows_of(
    kinds: Sequence[Sequence[ImageSet]],
    dataset: Dataset,
    dimensions: Sequence[int],
    widths: tuple[float, float],
) -> Iterator[list[str]]:
    """Yield a row of the table for each dimension and form, the largest dimension first.

    Every kind has a set of images for each seed.
    """
    for dimension in reversed(dimensions):
        for form in DTYPES:
            size, cells = 0.0, []
            for images in kinds:
                found = [accuracies(one, dataset, dimension, form, widths) for one in images]
                size = found[0][0]
                cells += spread([accuracy for _, accuracy in found])
            yield [str(dimension), form, f"{size:.0f}", *cells]


def accuracies(
    images: ImageSet, dataset: Dataset, dimension: int, form: str, widths: tuple[float, float]
) -> tuple[float, list[float]]:
    """Return the bytes of a row, and the mAP of queries by each width in the full sub-model's gallery."""
    stored, size = store(shorten(images.of(dataset.gallery.paths)[1.0], dimension), [form])
    queries = images.of(dataset.query.paths)
    return size, [
        evaluate_ranking(shorten(queries[width], dimension), stored, dataset.query, dataset.gallery).mean_ap
        for width in widths
    ]


def costs(runs: Sequence[Path]) -> list[str]:
    """Return the means of the self-tests and of the cross-tests over the seeds."""
    matrices = [CompatibilityMatrix.from_json(read_json(run / EVALUATION_FILE)) for run in runs]
    return spread([[matrix.self_tests(), matrix.cross_tests()] for matrix in matrices])


def spread(values: Sequence[Sequence[float]]) -> list[str]:
    """Return mean and deviation over the seeds, in percent; a single seed has no deviation."""
    pairs = zip(*mean_and_deviation(np.array(values)), strict=True)
    return [f"{100 * mean:.1f}" + ("" if np.isnan(sd) else f" ± {100 * sd:.1f}") for mean, sd in pairs]


if __name__ == "__main__":
    main()
