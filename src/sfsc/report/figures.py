"""Figures of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sfsc.errors import missing_extra
from sfsc.report.canvas import INK, add_grid, add_legend, as_label, new_figure

try:
    import matplotlib
    from matplotlib.colors import LinearSegmentedColormap, Normalize
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
    from matplotlib.ticker import PercentFormatter
except ImportError as error:
    raise missing_extra("matplotlib", "train") from error

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike, NDArray

Curve = Literal["loss", "uncertainty", "conflicts"]

MISSED = "#f08a24"
PANELS = 3  # in a row
POINTS = 400  # maximum number of points of a curve; a figure cannot show more
# Lightness falls steadily, so the order survives colour blindness; both ends stand out on white and black.
WIDTH_SCALE = LinearSegmentedColormap.from_list("widths", ["#f0943a", "#dd5f6b", "#b04aa8", "#6a55d8"])
CELL_SCALE = LinearSegmentedColormap.from_list("cells", ["#dceaf7", "#7fb2dc", "#2f78b7", "#123f70"])
AXIS_LABELS: dict[Curve, str] = {
    "loss": "loss",
    "uncertainty": "uncertainty",
    "conflicts": "conflicting pairs",
}


def heat_map(
    values: ArrayLike,
    widths: Sequence[float | str],
    criterion: ArrayLike | None,
    title: str,
    limits: tuple[float, float] | None = None,
    exported: Sequence[str] = (),
    old: Sequence[bool] = (),
) -> Figure:
    """Draw the compatibility matrix in percent: rows are query widths, columns are gallery widths.

    Args:
        values: (n, n) floats, fractions in 0..1, for m widths followed by n - m exported files.
        widths: the m widths, or the names of the sub-models.
        criterion: (m, m) bools, whether each cross-test meets the criterion; the diagonal is ignored. If
            None, cross-tests are not marked.
        title: the title of the figure.
        limits: the fractions at the ends of the colour scale, to compare several matrices; by default the
            extremes of `values`.
        exported: the labels of the exported files, and of an old model if there is one.
        old: for each width, whether the last cell of its row, in the gallery of an old model, meets the
            criterion; empty without an old model.
    """
    matrix = np.asarray(values, dtype=float)
    met = None if criterion is None else np.asarray(criterion, dtype=bool)
    lowest, highest = limits or (matrix.min(), matrix.max())
    colours = CELL_SCALE(Normalize(lowest, highest, clip=True)(matrix))
    side = max(4.8, 1.2 + 0.9 * len(matrix))
    figure, axes = new_figure((side, side + 0.1))
    axes.set_title(as_label(title, 100), loc="left", fontsize=11, fontweight="bold", color=INK)
    for query, gallery in np.ndindex(matrix.shape):
        mark = ""
        if query == gallery:
            mark = "self-test"
        elif met is not None and max(query, gallery) < len(met):
            mark = "✓" if met[query, gallery] else "✗"
        elif query < len(old) and gallery == len(matrix) - 1:
            mark = "✓" if old[query] else "✗"
        _cell(axes, (gallery, query), float(matrix[query, gallery]), colours[query, gallery], mark)
    _square(axes, [*_names(widths), *map(as_label, exported)], "gallery width", "query width")
    if met is not None:
        key = "✓ meets the criterion  ·  ✗ falls short of it"
        below: dict[str, Any] = {"xycoords": axes.xaxis.label, "ha": "center", "va": "top"}
        axes.annotate(key, (0.5, -0.5), fontsize=9, color=INK, **below)
    return figure


def training_curves(log: Sequence[dict[str, Any]], widths: Sequence[float | str], key: Curve) -> Figure:
    """Draw one curve per width against the epoch: a moving mean, with the logged values faint behind it.

    A long log is drawn as `POINTS` means of neighbouring lines.

    Args:
        log: the lines of log.jsonl, each with "epoch" and, under `key`, m floats in the order of `widths`,
            or None for missing values.
        widths: the m widths, or the names of the sub-models.
        key: the values to draw.
    """
    epochs = _thin(np.array([line["epoch"] for line in log], dtype=float))
    values = _thin(np.array([line[key] for line in log], dtype=float))
    figure, axes = new_figure((5.0, 3.0))
    for name, colour, column in zip(_names(widths), width_colours(len(widths)), values.T, strict=True):
        known = ~np.isnan(column)
        if known.any():
            times, curve = epochs[known], column[known]
            axes.plot(times, curve, color=colour, alpha=0.25, linewidth=0.8)
            axes.plot(times, _smooth(curve), color=colour, linewidth=1.8, label=f"width {name}")
    axes.set_xlabel("epoch")
    axes.set_ylabel(AXIS_LABELS[key])
    if key == "conflicts":
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_ylim(bottom=0)
    add_grid(axes)
    add_legend(axes)
    return figure


def conflict_map(log: Sequence[dict[str, Any]]) -> Figure:
    """Draw the share of conflicting pairs in each group of parameters over the epochs, first layers on top.

    Args:
        log: the lines of log.jsonl, each with "epoch" and "conflicts_by_group", (groups,) fractions.
    """
    shares = _thin(np.array([line["conflicts_by_group"] for line in log], dtype=float))
    epochs, groups = log[-1]["epoch"], shares.shape[1]
    figure, axes = new_figure((5.0, 3.4))
    extent = (0.0, float(epochs), groups + 0.5, 0.5)
    image = axes.imshow(
        shares.T, aspect="auto", extent=extent, cmap=CELL_SCALE, vmin=0, interpolation="nearest"
    )
    axes.set_xlabel("epoch")
    axes.set_ylabel("group of parameters, first to last")
    bar = figure.colorbar(image, ax=axes, format=PercentFormatter(1.0, decimals=0))
    bar.ax.tick_params(colors=INK, labelsize=9)
    bar.outline.set_visible(False)
    return figure


def cosine_map(cosines: ArrayLike, widths: Sequence[float | str]) -> Figure:
    """Draw (m, m) mean cosines between the embeddings of one image by two sub-models, in percent."""
    matrix = np.asarray(cosines, dtype=float)
    colours = CELL_SCALE(Normalize(matrix.min(), 1.0)(matrix))
    figure, axes = new_figure((4.8, 4.6))
    for row, column in np.ndindex(matrix.shape):
        _cell(axes, (column, row), float(matrix[row, column]), colours[row, column], "")
    _square(axes, _names(widths), "width", "width")
    return figure


def embedding_map(projection: dict[str, Any]) -> Figure:
    """Draw the embeddings of images of a few identities by every sub-model, in two dimensions.

    Colours are identities, markers are widths, and a line connects the embeddings of one image.

    Args:
        projection: "widths" (m,), "identities" (n,) and "points" (m, n, 2), as in evaluation.json.
    """
    points = np.array(projection["points"], dtype=float)
    names = list(dict.fromkeys(projection["identities"]))
    palette = matplotlib.colormaps["tab10"]
    colours = [palette(names.index(identity) % 10) for identity in projection["identities"]]
    figure, axes = new_figure((5.0, 4.4))
    for image, colour in enumerate(colours):
        axes.plot(*points[:, image].T, color=colour, alpha=0.3, linewidth=0.8)
    marks = ["o", "s", "^", "D", "v", "P", "X", "*"]
    for index, (width, of_width) in enumerate(zip(projection["widths"], points, strict=True)):
        mark: dict[str, Any] = {"marker": marks[index % len(marks)], "s": 26, "label": f"width {width:g}"}
        axes.scatter(of_width[:, 0], of_width[:, 1], c=colours, edgecolors="none", **mark)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    add_legend(axes)
    return figure


def _names(widths: Sequence[float | str]) -> list[str]:
    return [width if isinstance(width, str) else f"{width:g}" for width in widths]


def _square(axes: Axes, labels: Sequence[str], along: str, down: str) -> None:
    """Set up the axes of a heat map with a cell for each pair of labels, the first at the top left."""
    axes.set_xticks(range(len(labels)), labels)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel(along)
    axes.set_ylabel(down)
    axes.set(xlim=(-0.5, len(labels) - 0.5), ylim=(len(labels) - 0.5, -0.5), aspect="equal")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _cell(axes: Axes, at: tuple[int, int], value: float, colour: NDArray[np.float64], mark: str) -> None:
    """Draw one cell of a heat map, outlined if it is a self-test or does not meet the criterion."""
    x, y = at
    edge, style = {"self-test": (INK, "solid"), "✗": (MISSED, "dashed")}.get(mark, ("none", "solid"))
    outline: dict[str, Any] = {"edgecolor": edge, "linestyle": style, "linewidth": 2}
    axes.add_patch(Rectangle((x - 0.45, y - 0.45), 0.9, 0.9, facecolor=tuple(colour), **outline))
    dark = np.dot(colour[:3], (0.299, 0.587, 0.114)) < 0.47
    text: dict[str, Any] = {"ha": "center", "color": "white" if dark else "black"}
    axes.text(x, y, f"{100 * value:.1f}", va="bottom" if mark else "center", fontsize=12, **text)
    axes.text(x, y + 0.08, mark, va="top", fontsize=8 if mark == "self-test" else 11, **text)


def width_colours(count: int) -> list[tuple[float, float, float, float]]:
    """Return one colour per width, the same in every figure of a family."""
    return [WIDTH_SCALE(position) for position in np.linspace(0, 1, count)]


def _thin(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([part.mean(axis=0) for part in np.array_split(values, min(len(values), POINTS))])


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the centred moving mean over a twentieth of the values, with a shorter window at both ends."""
    kernel = np.ones(max(1, len(values) // 20))
    return np.convolve(values, kernel, "same") / np.convolve(np.ones_like(values), kernel, "same")
