"""The names of sub-models in tables and figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sfsc.notation import name_of


def names_of(evaluation: Mapping[str, Any]) -> list[str]:
    """Return the names of the sub-models in the content of evaluation.json, narrow first.

    A name is the width, and the depth and the image size if they are not the full sub-model's, such as
    0.25/0.5@48.
    """
    widths = evaluation["widths"]
    # An evaluation does not contain what is equal for all sub-models.
    sizes = evaluation.get("image_sizes", [(1, 1)] * len(widths))
    depths = evaluation.get("depths", [1.0] * len(widths))
    return [
        name_of(width, tuple(size), tuple(sizes[-1]), depth)
        for width, size, depth in zip(widths, sizes, depths, strict=True)
    ]
