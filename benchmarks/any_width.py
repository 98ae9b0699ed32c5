"""Accuracy over the width: sub-models that were trained, and sub-models that were added afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from page import parser, section, table

from sfsc.data.dataset import Dataset
from sfsc.data.sources import open_dataset
from sfsc.embedding.embedded import Embedded, embed_images
from sfsc.family.family import Family
from sfsc.report.canvas import INK, add_grid, add_legend, new_figure, save
from sfsc.retrieval.matrix import retrieval_of
from sfsc.retrieval.ranking import positive_ranks
from sfsc.training.config import dataset_of, read_config

MEANING = """The families were extended with `sfsc submodel`. The table shows mAP in percent of self-tests,
M(w, w), and of queries in the full gallery, M(w, 1), as means over the runs ({runs}). *Line* is the
difference of an added width to the straight line between its trained neighbours."""
COLOURS = ("#2f78b7", "#d9742b", "#4b9b5d", "#7d8590")


def accuracies(run: Path, workers: int) -> dict[float, tuple[float, float]]:
    """Return M(w, w) and M(w, 1) in percent for each width of a run's family."""
    family, data = Family.load(run), open_dataset(dataset_of(run))
    embedders = {width: partial(family.embed_pixels, width=width) for width in family.widths}
    paths = [*data.query.paths, *data.gallery.paths]
    parts = embed_images(embedders, paths, family.image_size, workers, "embedding")
    vectors = Embedded.join(list(parts)).vectors
    count = len(data.query.paths)
    return {
        width: (
            _mean_ap(vectors[width][:count], vectors[width][count:], data),
            _mean_ap(vectors[width][:count], vectors[1.0][count:], data),
        )
        for width in family.widths
    }


def _mean_ap(queries: np.ndarray, gallery: np.ndarray, data: Dataset) -> float:
    return 100 * retrieval_of(positive_ranks(queries, gallery, data.query, data.gallery)).metrics["mAP"]


def line(widths: Sequence[float], trained: Sequence[float], values: Sequence[float]) -> list[float | None]:
    """Return how far each added width lies above the line between its trained neighbours."""
    known = [values[widths.index(width)] for width in trained]
    straight = np.interp(widths, trained, known)
    return [None if w in trained else v - s for w, v, s in zip(widths, values, straight, strict=True)]


def measured(runs: Sequence[Path], workers: int) -> tuple[list[float], list[float], np.ndarray]:
    """Return all widths, the trained ones, and (runs, widths, 2) accuracies in percent of equal runs."""
    found = [accuracies(run, workers) for run in runs]
    widths = sorted(set.intersection(*(set(one) for one in found)))
    added = Family.load(runs[0]).spec.added
    values = np.array([[one[width] for width in widths] for one in found])
    return widths, [width for width in widths if width not in added], values


def rows_of(widths: list[float], trained: list[float], values: np.ndarray) -> list[list[str]]:
    """Return the lines of the table of one kind of training."""
    columns = []
    for which in range(2):
        mean = values[:, :, which].mean(0).tolist()
        columns.append([f"{value:.1f}" for value in mean])
        columns.append(["" if o is None else f"{o:+.1f}" for o in line(widths, trained, mean)])
    kinds = ["trained" if width in trained else "added" for width in widths]
    return [[f"{w:g}", *rest] for w, *rest in zip(widths, kinds, *columns, strict=True)]


def draw(kinds: dict[str, tuple[list[float], list[float], np.ndarray]], path: Path) -> None:
    """Draw the self-tests over the width, trained ones with full marks."""
    figure, axes = new_figure((6.4, 3.8))
    for colour, (name, (widths, trained, values)) in zip(COLOURS, kinds.items(), strict=False):
        mean = values[:, :, 0].mean(0)
        axes.plot(widths, mean, "-o", color=colour, fillstyle="none", label=name)
        places = [widths.index(width) for width in trained]
        axes.plot(trained, mean[places], "o", color=colour)
    axes.set_xlabel("width; full marks were trained in every step")
    axes.set_ylabel("mAP of the self-test, percent")
    axes.yaxis.label.set_color(INK)
    add_grid(axes)
    add_legend(axes)
    save(figure, path)


def main() -> None:
    """Print the section, and draw the picture if it is asked for."""
    options = parser(__doc__)
    options.add_argument(
        "runs", nargs="+", type=Path, help="run folders; those with equal settings are averaged"
    )
    options.add_argument("--workers", type=int, default=1, help="threads that decode images")
    options.add_argument("--picture", type=Path, help="where to draw the self-tests over the width")
    given = options.parse_args()
    kinds: dict[str, list[Path]] = {}
    for run in given.runs:
        config = read_config(run)
        name = f"{config.random_widths} random widths" if config.random_widths else "fixed widths only"
        kinds.setdefault(name, []).append(run)
    found = {name: measured(runs, given.workers) for name, runs in kinds.items()}
    runs = ", ".join(f"{name}: {len(of_kind)}" for name, of_kind in kinds.items())
    rows = [[name, *row] for name, one in found.items() for row in rows_of(*one)]
    heading = ["training", "width", "", "M(w, w)", "line", "M(w, 1)", "line"]
    print(section("Any width", MEANING.format(runs=runs), table(heading, rows)))
    if given.picture:
        draw(found, given.picture)


if __name__ == "__main__":
    main()
