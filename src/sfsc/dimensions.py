"""Dimensions: how many of an embedding's first components stand alone, as an embedding of their own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sfsc.errors import SfscError


def all_dimensions(nested: Sequence[int], whole: int) -> tuple[int, ...]:
    """The nested dimensions of embeddings and that of the whole ones, ascending.

    Raises:
        SfscError: the nested ones do not increase from 2 to below `whole`.
    """
    dimensions = (*nested, whole)
    if nested and any(a >= b for a, b in zip((1, *dimensions), dimensions, strict=False)):
        raise SfscError(
            f"nested dimensions must increase from 2 on and stay below the embeddings' {whole}, "
            f"got {', '.join(map(str, nested))}"
        )
    return dimensions


def check_dimension(dimension: int, dimensions: Sequence[int]) -> None:
    """Raise `SfscError`, naming the dimensions that there are, where this is none of them."""
    if dimension not in dimensions:
        raise SfscError(
            f"dimension {dimension} is not one of this family's dimensions: {', '.join(map(str, dimensions))}"
        )


def shorten(embeddings: np.ndarray, dimension: int) -> np.ndarray:
    """The first components of embeddings (N, dim), brought to length 1: (N, dimension) float32.

    Where all of them are zero there is no direction, and they stay so.
    """
    first = embeddings[:, :dimension]
    lengths = np.linalg.norm(first, axis=1, keepdims=True)
    return (first / np.where(lengths > 0, lengths, 1)).astype(np.float32, copy=False)
