"""Figures of accuracy against what it costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sfsc.errors import missing_extra
from sfsc.evaluation.upgrade_curve import REFITTED
from sfsc.report.canvas import INK, add_grid, add_legend, as_label, new_figure, new_panels
from sfsc.report.figures import MISSED, PANELS, WIDTH_SCALE, width_colours
from sfsc.report.names import names_of

try:
    from matplotlib.ticker import LogLocator, MaxNLocator, PercentFormatter
except ImportError as error:
    raise missing_extra("matplotlib", "train") from error

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

    from sfsc.deploy.evolution import Candidate
    from sfsc.deploy.searching import Search

# The colour and marker of each runtime and numeric form.
FORM_MARKS = {
    ("onnx", "int8"): ("#d9742b", "s"),
    ("onnx", "float32"): ("#2f78b7", "o"),
    ("torch", "float32"): ("#7d8590", "^"),
}


def accuracy_against_size(evaluation: dict[str, Any]) -> Figure:
    """Draw the mAP of self-tests, and of queries in the full gallery, against the number of parameters.

    Args:
        evaluation: the content of evaluation.json. The figure uses "widths" and "parameters" (m each,
            ascending), "metrics" with "mAP", fractions of shape (m, m) or larger, and "baseline" with "name"
            and "mAP".
    """
    millions = np.array(evaluation["parameters"], dtype=float) / 1e6
    own = len(millions)  # exported files follow the sub-models
    matrix = np.array(evaluation["metrics"]["mAP"], dtype=float)[:own, :own]
    colours = width_colours(own)
    figure, axes = new_figure((5.0, 3.4))
    self_tests, against_largest = matrix.diagonal(), matrix[:, -1]
    axes.plot(millions, self_tests, "-o", color=INK, linewidth=1, markersize=6, label="self-test")
    axes.scatter(millions, self_tests, s=40, color=colours, zorder=3)
    hollow: dict[str, Any] = {"marker": "s", "facecolors": "none", "linewidths": 1.8, "zorder": 3}
    label = "query by this width, gallery by the largest"
    axes.plot(
        millions, against_largest, "--s", color=INK, linewidth=1, markersize=9, fillstyle="none", label=label
    )
    axes.scatter(millions, against_largest, s=81, edgecolors=colours, **hollow)
    _baseline(axes, evaluation["baseline"])
    axes.set_xscale("log")
    ticks = zip(millions, names_of(evaluation), strict=True)
    axes.set_xticks(millions, [f"{size:.2g} M\n{name}" for size, name in ticks])
    axes.minorticks_off()
    axes.set_xlabel("parameters and width of the sub-model")
    axes.set_ylabel("mAP")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    add_grid(axes)
    add_legend(axes)
    return figure


def accuracy_of_cascade(cascade: Mapping[str, Any]) -> Figure:
    """Draw the mAP of a cascade, and of each of its sub-models alone, against the mean cost of a query.

    Args:
        cascade: "cascade" in evaluation.json.
    """
    figure, axes = new_figure((5.0, 3.4))
    full = cascade["alone"][-1]["multiply_adds"]

    def points(lines: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
        return [one["multiply_adds"] / full for one in lines], [one["mAP"] for one in lines]

    axes.plot(*points(cascade["limits"]), "-o", color=INK, linewidth=1, markersize=5, label="cascade")
    axes.scatter(
        *points(cascade["alone"]), s=60, marker="s", color=width_colours(len(cascade["alone"])), zorder=3
    )
    for one in cascade["alone"]:
        place = (one["multiply_adds"] / full, one["mAP"])
        axes.annotate(f"{one['width']:g}", place, (0, 8), textcoords="offset points", ha="center", fontsize=9)
    axes.set_xlabel("mean multiply-adds of a query, share of the full sub-model's")
    axes.set_ylabel("mAP")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    add_grid(axes)
    add_legend(axes)
    return figure


def accuracy_against_cost(accuracies: Mapping[str, tuple[Sequence[float], ArrayLike]]) -> Figure:
    """Draw a panel for each recipe: the mAP of self-tests, and in the full gallery, against the query's cost.

    The distance between the two curves is the gallery gain.

    Args:
        accuracies: for each recipe, the multiply-adds of a query at each of m widths, ascending, and the
            (m, m) mAP, fractions.
    """
    columns = min(PANELS, len(accuracies))
    size = 3.0 * columns, 0.5 + 2.3 * math.ceil(len(accuracies) / columns)
    figure, panels = new_panels(size, len(accuracies), columns)
    for axes, (name, (costs, values)) in zip(panels, accuracies.items(), strict=True):
        millions, matrix = np.array(costs, dtype=float) / 1e6, np.array(values, dtype=float)
        axes.plot(millions, matrix[:, -1], "--s", color=MISSED, linewidth=1.4, label="in the full gallery")
        axes.plot(millions, matrix.diagonal(), "-o", color=INK, linewidth=1, markersize=5, label="self-test")
        axes.set_title(as_label(name), loc="left", fontsize=10, fontweight="bold", color=INK)
        axes.set_xscale("log")
        axes.set_xticks(millions, [f"{cost:.2g}" for cost in millions])
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        add_grid(axes)
    panels[0].set_ylim(bottom=0)
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside upper right",
        ncols=2,
        frameon=False,
        labelcolor=INK,
    )
    figure.supxlabel("millions of multiply-adds of a query", fontsize=10, color=INK)
    figure.supylabel("mAP", fontsize=10, color=INK)
    return figure


def accuracy_against_share(shares: Sequence[float], accuracies: Mapping[str, Sequence[float]]) -> Figure:
    """Draw the mAP after shares of a gallery were embedded again, a curve for each order.

    Args:
        shares: k ascending fractions.
        accuracies: for each order, k mAP, fractions. Those with a refit have the colours of their orders, and
            their lines are not dashed.
    """
    figure, axes = new_figure((5.4, 3.4))
    orders = [order for order in accuracies if not order.endswith(REFITTED)]
    for order, values in accuracies.items():
        name = order.removesuffix(REFITTED)
        axes.plot(
            shares,
            values,
            linestyle="--" if order in orders else "-",
            marker=".",
            color=WIDTH_SCALE(orders.index(name) / len(orders)),
            label=as_label(order) if order in orders else None,
        )
    again = "; solid: refitted" if len(accuracies) > len(orders) else ""
    axes.set_xlabel(f"share of rows embedded again{again}")
    axes.set_ylabel("mAP")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
    add_grid(axes)
    add_legend(axes)
    return figure


def accuracy_against_latency(profile: dict[str, Any]) -> Figure:
    """Draw the mAP of every sub-model in every numeric form against its latency.

    Args:
        profile: the content of profile.json. The figure uses "width", "runtime", "form", "p50" in seconds
            and "accuracy", a fraction, of its "rows". Rows without an accuracy are left out.
    """
    rows = [row for row in profile["rows"] if row["accuracy"] is not None]
    figure, axes = new_figure((5.6, 3.6))
    for (runtime, form), (colour, marker) in FORM_MARKS.items():
        points = [row for row in rows if (row["runtime"], row["form"]) == (runtime, form)]
        if points:
            place = [1000 * row["p50"] for row in points], [row["accuracy"] for row in points]
            line: dict[str, Any] = {"color": colour, "marker": marker, "linewidth": 1.2, "markersize": 7}
            axes.plot(*place, **line, label=f"{runtime} {form}")
    for row in rows:
        # The forms of a width have similar accuracies, so the label of the fastest is on the left.
        fastest = min(other["p50"] for other in rows if other["width"] == row["width"])
        offset = (-15, 7) if row["p50"] == fastest else (15, -7)
        text: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "va": "center", "fontsize": 9}
        text["color"] = FORM_MARKS[row["runtime"], row["form"]][0]
        axes.annotate(f"{row['width']:g}", (1000 * row["p50"], row["accuracy"]), offset, **text)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.set_xlabel("milliseconds for one image, median")
    axes.set_ylabel("mAP against the full gallery")
    axes.yaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.margins(x=0.12, y=0.14)
    add_grid(axes)
    add_legend(axes)
    return figure


def accuracy_of_search(search: Search) -> Figure:
    """Draw the mAP of all points that a search evaluated against their times, and mark those that matter."""
    trained = [one for one in search.candidates if one.trained]
    figure, axes = new_figure((5.6, 3.6))

    def places(candidates: Sequence[Candidate]) -> tuple[list[float], list[float]]:
        return [1000 * one.p50 for one in candidates], [one.accuracy for one in candidates]

    axes.plot(*places(search.candidates), ".", color=INK, alpha=0.25, markersize=5, label="evaluated")
    axes.plot(*places(search.front), "-o", color=MISSED, linewidth=1.4, markersize=4, label="front")
    axes.plot(*places(trained), "s", color="#2f78b7", markersize=8, label="trained")
    axes.plot(*places([search.winner]), "*", color=INK, markersize=13, label="chosen, measured")
    for one, x, y in zip(trained, *places(trained), strict=True):
        axes.annotate(one.name, (x, y), (0, -13), textcoords="offset points", ha="center", fontsize=9)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.set_xlabel("milliseconds for one image, median, as predicted")
    axes.set_ylabel("mAP against the full gallery")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.margins(x=0.08, y=0.14)
    add_grid(axes)
    add_legend(axes)
    return figure


def _baseline(axes: Axes, baseline: dict[str, Any]) -> None:
    axes.axhline(baseline["mAP"], color=INK, linestyle=":", linewidth=1.2)
    axes.annotate(
        as_label(baseline["name"]),
        xy=(1, baseline["mAP"]),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="right",
        fontsize=9,
        color=INK,
    )
