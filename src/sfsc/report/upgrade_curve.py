"""The table and the plot of an upgrade curve."""

from __future__ import annotations

from pathlib import Path

from sfsc.evaluation.upgrade_curve import UpgradeCurve
from sfsc.files.writing import write_atomic
from sfsc.report.canvas import INK, add_grid, add_legend, new_figure, save
from sfsc.report.figures import MISSED, WIDTH_SCALE

TABLE, FIGURE = "curve.csv", "curve.png"
STYLES = {"random": "--", "queries": "-.", "width": ":", "age": (0, (1, 3))}


def write_curve(curve: UpgradeCurve, folder: Path) -> list[Path]:
    """Write `curve.csv`, with fractions, and draw `curve.png` into a folder; return both paths.

    Raises:
        SfscError: matplotlib is not installed, or the files cannot be written.
    """
    lines = [["order", *(f"{share:g}" for share in curve.shares), "area"]]
    for order, values in curve.accuracies.items():
        lines.append([order, *(f"{value:.5f}" for value in values), f"{curve.area(order):.5f}"])
    write_atomic(folder / TABLE, "".join(f"{','.join(line)}\n" for line in lines).encode())
    figure, axes = new_figure((5.4, 3.4))
    for place, (order, values) in enumerate(curve.accuracies.items()):
        colour = MISSED if order == "uncertainty" else WIDTH_SCALE(place / len(curve.accuracies))
        axes.plot(curve.shares, values, linestyle=STYLES.get(order, "-"), color=colour, label=order)
    axes.set_xlabel("share of the rows that was embedded again")
    axes.set_ylabel("mAP", color=INK)
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.yaxis.set_major_formatter("{x:.1%}")
    add_grid(axes)
    add_legend(axes)
    save(figure, folder / FIGURE)
    return [folder / TABLE, folder / FIGURE]
