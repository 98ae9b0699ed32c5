"""Decisions in tables and figures: score distributions, error curves, calibration and consistency."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sfsc.evaluation.decisions import factor
from sfsc.report.canvas import INK, add_grid, as_label, new_figure
from sfsc.report.figures import MISSED, WIDTH_SCALE
from sfsc.report.names import names_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MATCH, OTHER = "#2f78b7", MISSED
MOST_SIDE = 6  # sub-models in a figure of distributions; more would be too small to read

Tables = dict[str, list[list[str]]]


def decision_tables(evaluation: dict[str, Any]) -> Tables:
    """Return tables of the decisions in evaluation.json, each a heading and rows, by their captions."""
    decisions = evaluation["decisions"]
    labels = _labels(evaluation)
    tables: Tables = {}
    for place, rate in enumerate(decisions["rates"]):
        if all(cell["fnmr"][place] is not None for cell in _cells(decisions)):
            rows = [[_interval(cell["fnmr"][place]) for cell in row] for row in decisions["cells"]]
            tables[f"FNMR % at FMR {rate:g} ± 95 % interval"] = _matrix(labels, rows)
    for place, share in enumerate(decisions["alarms"]):
        if all(cell["identified"][place] is not None for cell in _cells(decisions)):
            rows = [[f"{100 * cell['identified'][place]:.1f}" for cell in row] for row in decisions["cells"]]
            tables[f"identified in an open set, % (DIR), at {share:.0%} false alarms"] = _matrix(labels, rows)
    if decisions["fitted_on"] is not None:
        rows = [[f"{100 * cell['calibration']['error']:.1f}" for cell in row] for row in decisions["cells"]]
        tables["calibration error of probabilities, %"] = _matrix(labels, rows)
        tables["real FMR in all cells, as a multiple of the wanted one"] = _consistency(decisions)
        if evaluation.get("exported"):
            tables["real FMR of exported files' queries, over that of their sub-models"] = _files(evaluation)
    return tables


def _consistency(decisions: dict[str, Any]) -> list[list[str]]:
    heading = ["wanted FMR", "one threshold", "furthest", "maps", "furthest"]
    rows = []
    for place, wanted in enumerate(decisions["rates"]):
        row = [f"{wanted:g}"]
        for key in ("fmr_one_threshold", "fmr"):
            real = [cell[key][place] for cell in _cells(decisions)]
            known = [rate / wanted for rate in real if rate is not None]
            worst = factor(wanted, real)
            row += [f"{min(known):.2f} to {max(known):.2f}", _factor(worst)] if known else ["-"] * 2
        rows.append(row)
    return [heading, *rows]


def _files(evaluation: dict[str, Any]) -> list[list[str]]:
    """Compare queries by files with those by their sub-models, at the same thresholds, in all galleries."""
    decisions, widths = evaluation["decisions"], evaluation["widths"]
    rows = []
    for place, (label, width) in enumerate(evaluation["exported"].items(), len(widths)):
        pairs = [*zip(decisions["cells"][place], decisions["cells"][widths.index(width)], strict=True)]
        rows.append([label, *(_ratios(pairs[: len(widths)], at) for at in range(len(decisions["rates"])))])
    return [["exported", *(f"at FMR {rate:g}" for rate in decisions["rates"])], *rows]


def _ratios(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]], at: int) -> str:
    known = [file["fmr"][at] / own["fmr"][at] for file, own in pairs if file["fmr"][at] and own["fmr"][at]]
    return f"{min(known):.2f} to {max(known):.2f}" if known else "-"


def _factor(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if value < 1000 else "> 1000"


def _interval(values: Sequence[float]) -> str:
    value, low, high = (100 * one for one in values)
    return f"{value:.1f} ±{(high - low) / 2:.1f}"


def _matrix(labels: Sequence[str], rows: Sequence[Sequence[str]]) -> list[list[str]]:
    return [["query \\ gallery", *labels], *([label, *row] for label, row in zip(labels, rows, strict=True))]


def _labels(evaluation: dict[str, Any]) -> list[str]:
    return [*names_of(evaluation), *evaluation.get("exported", {})]


def _cells(decisions: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for row in decisions["cells"] for cell in row]


def score_distributions(evaluation: dict[str, Any]) -> Figure:
    """Draw the cosines of matching and of other pairs for every pair of sub-models, on one scale.

    Args:
        evaluation: the content of evaluation.json, with "decisions". Up to `MOST_SIDE` sub-models are drawn.
    """
    from matplotlib.figure import Figure

    cells = [row[:MOST_SIDE] for row in evaluation["decisions"]["cells"][:MOST_SIDE]]
    labels, side = _labels(evaluation), len(cells)
    figure = Figure(figsize=(1.3 + 1.35 * side, 1.0 + 1.15 * side), layout="constrained")
    panels = figure.subplots(side, side, sharex=True, sharey=True, squeeze=False)
    for (row, column), axes in np.ndenumerate(panels):
        cell = cells[row][column]
        edges = np.linspace(-1, 1, len(cell["matching"]) + 1)
        for key, colour in (("others", OTHER), ("matching", MATCH)):
            axes.stairs(cell[key], edges, color=colour, fill=True, alpha=0.55, label=key)
        axes.tick_params(colors=INK, labelsize=8, left=False, labelleft=False)
        axes.spines[:].set_color(INK)
        axes.spines[["top", "right", "left"]].set_visible(False)
        if row == 0:
            axes.set_title(as_label(labels[column]), fontsize=9, color=INK)
        if column == 0:
            axes.set_ylabel(as_label(labels[row]), fontsize=9, color=INK)
    handles = panels[0, 0].get_legend_handles_labels()
    figure.legend(
        handles[0],
        ["other pairs", "matching pairs"],
        loc="outside upper right",
        ncols=2,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
    )
    figure.supxlabel("cosine; columns: gallery width", fontsize=10, color=INK)
    figure.supylabel("query width", fontsize=10, color=INK)
    return figure


def error_curves(evaluation: dict[str, Any]) -> Figure:
    """Draw false non-matches against false matches for self-tests, and for queries in the full gallery."""
    decisions, widths = evaluation["decisions"], evaluation["widths"]
    figure, axes = new_figure((5.0, 3.6))
    full = len(widths) - 1
    for place, width in enumerate(widths):
        colour = WIDTH_SCALE(place / max(full, 1))
        for column, style in ((place, "-"), (full, "--")) if place < full else ((full, "-"),):
            points = np.array(decisions["cells"][place][column]["curve"], dtype=float).reshape(-1, 2)
            label = f"{width:g} → {widths[column]:g}"
            axes.plot(points[:, 0], points[:, 1], style, color=colour, linewidth=1.6, label=label)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.set_ylim(0, 1)
    axes.set_xlabel("false match rate")
    axes.set_ylabel("false non-match rate")
    add_grid(axes)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    return figure


def calibration_curves(evaluation: dict[str, Any]) -> Figure:
    """Draw the observed share of matches against the probability, for every pair of sub-models."""
    decisions, widths = evaluation["decisions"], evaluation["widths"]
    figure, axes = new_figure((4.4, 3.8))
    axes.plot([0, 1], [0, 1], ":", color=INK, linewidth=1.2)
    for place, width in enumerate(widths):
        colour = WIDTH_SCALE(place / max(len(widths) - 1, 1))
        for column, cell in enumerate(decisions["cells"][place]):
            bins, label = cell["calibration"], f"query width {width:g}" if column == 0 else None
            axes.plot(
                bins["predicted"], bins["observed"], color=colour, alpha=0.8, linewidth=1.2, label=label
            )
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_xlabel("probability of a match")
    axes.set_ylabel("share of matches")
    add_grid(axes)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    return figure
