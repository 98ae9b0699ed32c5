"""The gallery gain of a result, beside the costs of a query and of a row of the gallery."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sfsc.retrieval.matrix import CompatibilityMatrix

FLOAT32 = 4  # bytes


@dataclass(frozen=True)
class Gains:
    """What narrow sub-models gain from the full sub-model's gallery, and what they cost.

    Attributes:
        gains: the gallery gain of each narrow width in mAP, a fraction.
        mean: the mean of `gains`.
        cost: the unit of `shares`: multiply-adds, or parameters in results of earlier versions.
        shares: the cost of a query at each narrow width, a fraction of its cost at full width.
        row: the bytes of an embedding in a gallery, the same for all widths; None if it is not known.
    """

    gains: dict[float, float]
    mean: float
    cost: str
    shares: dict[float, float]
    row: int | None


def show_gain(fraction: float) -> str:
    """Return a gain in points, with its sign."""
    return f"{100 * fraction:+z.1f}"


def gains_of(result: dict[str, Any]) -> Gains | None:
    """Return the gains in the content of evaluation.json; None for a single width."""
    widths, narrow = result["widths"], result["widths"][:-1]
    if not narrow:
        return None
    accuracies = {"mAP": np.array(result["metrics"]["mAP"], np.float64)}
    matrix = CompatibilityMatrix(tuple(widths), accuracies, queries=0, skipped=0, gallery=0)
    cost = "multiply_adds" if "multiply_adds" in result else "parameters"
    *costs, full = result[cost]
    tests = result.get("dimensions")  # earlier evaluations lack them
    return Gains(
        gains=dict(zip(narrow, matrix.gallery_gain().tolist(), strict=True)),
        mean=matrix.mean_gallery_gain(),
        cost=cost.replace("_", "-"),
        shares={width: one / max(full, 1) for width, one in zip(narrow, costs, strict=True)},
        row=FLOAT32 * tests[-1]["dimension"] if tests else None,
    )
