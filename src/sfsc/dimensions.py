"""Nested dimensions: prefixes of an embedding that can be used as shorter embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sfsc.errors import SfscError


def all_dimensions(nested: Sequence[int], whole: int) -> tuple[int, ...]:
    """Return the nested dimensions followed by the full dimension, in ascending order.

    Raises:
        SfscError: the nested dimensions do not increase, or one of them is below 2 or not below `whole`.
    """
    dimensions = (*nested, whole)
    if nested and any(a >= b for a, b in zip((1, *dimensions), dimensions, strict=False)):
        raise SfscError(
            f"nested dimensions must increase, start at 2 or more and stay below the embedding dimension "
            f"{whole}, got {', '.join(map(str, nested))}"
        )
    return dimensions


def check_dimension(dimension: int, dimensions: Sequence[int]) -> None:
    """Raise `SfscError` if `dimension` is not in `dimensions`; the message lists the valid ones."""
    if dimension not in dimensions:
        raise SfscError(
            f"dimension {dimension} is not one of this family's dimensions: {', '.join(map(str, dimensions))}"
        )


def shorten(embeddings: np.ndarray, dimension: int) -> np.ndarray:
    """Shorten (N, dim) embeddings to their first components, normalised: (N, dimension) float32.

    A row whose first components are all zero has no direction and stays zero.
    """
    first = embeddings[:, :dimension]
    lengths = np.linalg.norm(first, axis=1, keepdims=True)
    return (first / np.where(lengths > 0, lengths, 1)).astype(np.float32, copy=False)
