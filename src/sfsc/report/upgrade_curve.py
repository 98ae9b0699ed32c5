"""The table and the plot of an upgrade curve."""

from __future__ import annotations

from pathlib import Path

from sfsc.evaluation.upgrade_curve import UpgradeCurve
from sfsc.files.writing import write_atomic
from sfsc.report.accuracy_figures import accuracy_against_share
from sfsc.report.canvas import save

TABLE, FIGURE = "curve.csv", "curve.png"


def write_curve(curve: UpgradeCurve, folder: Path) -> list[Path]:
    """Write `curve.csv`, with fractions, and draw `curve.png` into a folder; return both paths.

    Raises:
        SfscError: matplotlib is not installed, or the files cannot be written.
    """
    lines = [["order", *(f"{share:g}" for share in curve.shares), "area"]]
    for order, values in curve.accuracies.items():
        lines.append([order, *(f"{value:.5f}" for value in values), f"{curve.area(order):.5f}"])
    write_atomic(folder / TABLE, "".join(f"{','.join(line)}\n" for line in lines).encode())
    save(accuracy_against_share(curve.shares, curve.accuracies), folder / FIGURE)
    return [folder / TABLE, folder / FIGURE]
