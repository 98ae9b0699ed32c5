"""Writing a comparison of recipes as Markdown tables, heat maps and an HTML page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from sfsc.errors import missing_extra
from sfsc.evaluation.compare import Comparison, Contestant, folder_of, mean_and_deviation
from sfsc.files.writing import write_atomic
from sfsc.images.names import as_text
from sfsc.report.accuracy_figures import accuracy_against_cost
from sfsc.report.canvas import save, to_svg
from sfsc.report.figures import heat_map
from sfsc.report.result_figures import draw_evaluation
from sfsc.retrieval.matrix import CompatibilityMatrix
from sfsc.runs.results import ACCURACY_FIGURE, EVALUATION_FILE

try:
    from jinja2 import Environment, StrictUndefined
except ImportError as error:
    raise missing_extra("jinja2", "train") from error

TABLES_FILE = "comparison.md"
PAGE_FILE = "comparison.html"

Matrices = Sequence[CompatibilityMatrix]
Table = list[list[str]]


def write_comparison(comparison: Comparison, out: str | Path) -> Path:
    """Write comparison.md, comparison.html, accuracy.png and a heat map for each recipe into a folder.

    Args:
        comparison: the result of `compare`.
        out: the folder of the comparison.

    Returns:
        The path of the HTML page.

    Raises:
        SfscError: a file cannot be written.
    """
    out = Path(out)
    for contestant in comparison.contestants:
        for seed in range(comparison.seeds):
            _draw_evaluations(folder_of(out, contestant.name, seed))
    figures, costs = heat_maps(comparison), accuracy_figure(comparison)
    save(costs, out / ACCURACY_FIGURE)
    for contestant in comparison.contestants:
        save(figures[contestant.name], folder_of(out, contestant.name, 0).parent / "matrix.png")
    tables = all_tables(comparison)
    text = "\n\n".join(f"**{caption}**\n\n{_markdown(table)}" for caption, table in tables.items())
    write_atomic(out / TABLES_FILE, f"{text}\n".encode())
    jinja = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    files = resources.files("sfsc.report")
    page = jinja.from_string(files.joinpath("comparison.html").read_text("utf-8")).render(
        comparison=comparison,
        style=files.joinpath("style.css").read_text("utf-8"),
        tables=tables,
        figures={name: to_svg(figure) for name, figure in figures.items()},
        accuracy=to_svg(costs),
    )
    write_atomic(out / PAGE_FILE, as_text(page).encode())
    return out / PAGE_FILE


def _draw_evaluations(run: Path) -> None:
    """Draw the figures of all evaluations in and below a run folder that do not have them."""
    for path in sorted(run.rglob(EVALUATION_FILE)):
        if not path.with_name(ACCURACY_FIGURE).exists():  # this figure is drawn last
            draw_evaluation(path.parent)


def all_tables(comparison: Comparison) -> dict[str, Table]:
    """Return all tables by caption; the first row of each table is its header."""
    tables = {"Recipes": summary(comparison, lambda c: c.matrices)}
    if any(contestant.calibrated for contestant in comparison.contestants):
        caption = "After calibration on the training images, without labels"
        tables[caption] = summary(comparison, lambda c: c.calibrated)
    if any(contestant.target for contestant in comparison.contestants):
        tables["Calibration on images of the target domain, without labels"] = targets(comparison)
    if any(contestant.old for contestant in comparison.contestants):
        tables["The old model: mAP in its gallery, and of its queries"] = old_tests(comparison)
    tables["Costs"] = costs(comparison)
    tables["mAP by query width (rows) and gallery width (columns)"] = blocks(comparison, lambda c: c.matrices)
    if any(contestant.calibrated for contestant in comparison.contestants):
        tables["The same after calibration"] = blocks(comparison, lambda c: c.calibrated)
    return tables


def summary(comparison: Comparison, of: Callable[[Contestant], Matrices]) -> Table:
    """Return a row for each recipe: mean results, and the number of cells that meet the criterion by seed."""
    table = [
        [
            "recipe",
            "self-tests",
            "cross-tests",
            "smallest to full",
            "full",
            "gallery gain",
            "criterion met, by seed",
        ]
    ]
    for contestant in comparison.contestants:
        if matrices := of(contestant):
            table.append([contestant.name, *_results(matrices)])
    return table


def _results(matrices: Matrices) -> list[str]:
    accuracies = [matrix.metrics["mAP"] for matrix in matrices]
    met = ", ".join(str(matrix.cells_met()) for matrix in matrices)
    return [
        _spread([matrix.self_tests() for matrix in matrices]),
        _spread([matrix.cross_tests() for matrix in matrices]),
        _spread([accuracy[0, -1] for accuracy in accuracies]),
        _spread([accuracy[-1, -1] for accuracy in accuracies]),
        _spread([matrix.mean_gallery_gain() for matrix in matrices]),
        f"{met} of {matrices[0].cells}",
    ]


def targets(comparison: Comparison) -> Table:
    """Return a row for each recipe and calibration, on test identities that no calibration has seen."""
    table = [
        [
            "recipe",
            "calibrated on",
            "self-tests",
            "cross-tests",
            "smallest to full",
            "gallery gain",
            "criterion met",
        ]
    ]
    for contestant in comparison.contestants:
        for images, matrices in contestant.target.items():
            self_tests, cross_tests, to_full, _, gain, met = _results(matrices)
            table.append([contestant.name, images, self_tests, cross_tests, to_full, gain, met])
    return table


def costs(comparison: Comparison) -> Table:
    """Return a row for each recipe: the costs of training, storage and search."""
    table = [["recipe", "multiply-adds of training", "time of training", "parameters stored", "galleries"]]
    for contestant in comparison.contestants:
        table.append(
            [
                contestant.name,
                f"{contestant.multiply_adds / 1e12:,.1f} T",
                f"{contestant.seconds / 60:.1f} min",
                f"{contestant.parameters / 1e6:.2f} M",
                str(contestant.galleries),
            ]
        )
    return table


def blocks(comparison: Comparison, of: Callable[[Contestant], Matrices]) -> Table:
    """Return a block of rows for each recipe, with one row for each query width, as in the paper."""
    widths = comparison.contestants[0].matrices[0].widths
    table = [["recipe", "query", *(f"{width:g}" for width in widths)]]
    for contestant in comparison.contestants:
        if matrices := of(contestant):
            mean, deviation = mean_and_deviation([matrix.metrics["mAP"] for matrix in matrices])
            for row, width in enumerate(widths):
                cells = [_cell(m, d) for m, d in zip(mean[row], deviation[row], strict=True)]
                table.append([contestant.name, f"{width:g}", *cells])
    return table


def old_tests(comparison: Comparison) -> Table:
    """Return rows for each recipe: the column and the row of the old model, and the criterion by width."""
    widths = comparison.contestants[0].matrices[0].widths
    table = [["recipe", "test", *(f"{width:g}" for width in widths), "old"]]
    for contestant in comparison.contestants:
        if not (tests := contestant.old):
            continue
        own = _spread([one["self_test"]["mAP"] for one in tests])
        for part, said in (("column", "in the old gallery"), ("row", "old queries")):
            mean, deviation = mean_and_deviation([np.array(one[part]["mAP"][: len(widths)]) for one in tests])
            cells = [_cell(m, d) for m, d in zip(mean, deviation, strict=True)]
            table.append([contestant.name, said, *cells, own])
        met = np.sum([one["criterion"] for one in tests], axis=0)
        seeds = [f"{count} of {len(tests)}" for count in met]
        table.append([contestant.name, "criterion met, seeds", *seeds, ""])
    return table


def accuracy_figure(comparison: Comparison) -> Any:
    """Draw the accuracy of each recipe against the cost of a query, in self-tests and in the full gallery."""
    means = _mean_matrices(comparison)
    return accuracy_against_cost(
        {c.name: (c.query_multiply_adds, means[c.name]) for c in comparison.contestants}
    )


def heat_maps(comparison: Comparison) -> dict[str, Any]:
    """Draw the mean matrix of each recipe; all heat maps share one colour scale."""
    means = _mean_matrices(comparison)
    limits = float(min(map(np.min, means.values()))), float(max(map(np.max, means.values())))
    figures = {}
    for contestant in comparison.contestants:
        matrix = CompatibilityMatrix(
            contestant.matrices[0].widths, {"mAP": means[contestant.name]}, queries=0, skipped=0, gallery=0
        )
        title = f"{contestant.name}, mAP in percent"
        figures[contestant.name] = heat_map(
            matrix.metrics["mAP"], matrix.widths, matrix.criterion(), title, limits
        )
    return figures


def _mean_matrices(comparison: Comparison) -> dict[str, np.ndarray]:
    """Return the mean mAP matrix of each recipe over the seeds."""
    return {
        contestant.name: np.mean([matrix.metrics["mAP"] for matrix in contestant.matrices], axis=0)
        for contestant in comparison.contestants
    }


def _spread(values: Sequence[float]) -> str:
    mean, deviation = mean_and_deviation(np.array(values))
    return _cell(float(mean), float(deviation))


def _cell(mean: float, deviation: float) -> str:
    return f"{100 * mean:z.1f}" + ("" if np.isnan(deviation) else f" ± {100 * deviation:.1f}")


def _markdown(table: Table) -> str:
    lines = [table[0], ["---"] * len(table[0]), *table[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
