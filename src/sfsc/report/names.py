"""The names of sub-models in tables and figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sfsc.image_sizes import name_of


def names_of(evaluation: Mapping[str, Any]) -> list[str]:
    """Return the names of the sub-models in the content of evaluation.json, narrow first.

    A name is the width, such as 0.5, and the image size if it is not the full sub-model's, such as 0.25@48.
    """
    widths, sizes = evaluation["widths"], evaluation.get("image_sizes")
    if sizes is None:  # they are equal, or the evaluation is of an earlier version
        return [f"{width:g}" for width in widths]
    return [name_of(width, tuple(size), tuple(sizes[-1])) for width, size in zip(widths, sizes, strict=True)]
