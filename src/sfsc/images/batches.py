"""Checking batches of images, with the same messages for every model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sfsc.errors import SfscError, first_line

COLOURS = 3
# Resizing can move fractions slightly outside [0, 1]. Values further outside are bytes or normalised colours.
LEAST, MOST = -0.5, 1.5


def as_pixels(images: Any, size: tuple[int, int]) -> np.ndarray:
    """Check a batch of images and return it as a contiguous, writable array, which every library accepts.

    Args:
        images: (batch, height, width, 3) uint8 RGB, or an object that numpy converts to such an array.
        size: the (height, width) that the images must have.

    Raises:
        SfscError: the images have another shape or dtype, or are not an array.
    """
    try:
        pixels = np.asarray(images)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SfscError(f"images must be an array: {first_line(error)}") from None
    check_batch(pixels.shape, str(pixels.dtype), (*size, COLOURS), ("uint8",))
    return np.require(pixels, requirements=["C", "W"])


def check_batch(
    shape: Sequence[int], dtype: str, expected: Sequence[int | None], dtypes: Sequence[str]
) -> None:
    """Raise `SfscError` with a remedy if a batch of images has another shape or dtype.

    Args:
        shape: the shape of the batch.
        dtype: the name of its dtype.
        expected: the shape of each image, with the colours first or last; None where any size is accepted.
        dtypes: the names of the accepted dtypes.
    """
    remedy = _shape_remedy(tuple(shape), tuple(expected))
    if remedy is None and dtype not in dtypes:
        remedy = "round colours from 0 to 255 to uint8; multiply colours from 0 to 1 by 255 first"
    if remedy is not None:
        sizes = ", ".join("any" if size is None else str(size) for size in expected)
        wanted = f"{' or '.join(dtypes)} of shape (batch, {sizes})"
        raise SfscError(f"images must be {wanted}, got {dtype} of {tuple(shape)}: {remedy}")


def check_fractions(least: float, most: float) -> None:
    """Raise `SfscError` if the smallest or largest of floating-point colours is outside [0, 1]."""
    if not (least >= LEAST and most <= MOST):
        raise SfscError(
            f"floating-point images must be in [0, 1], got {least:g} to {most:g}: divide colours from 0 to "
            "255 by 255; the model itself normalises them"
        )


def _shape_remedy(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> str | None:
    """Return the remedy for a wrong shape, or None if the shape is right."""
    if _fits(shape, expected):
        return "images[None] makes a batch of one image"
    if len(shape) != 4:
        return "pass a batch of RGB images"
    if _fits(shape[1:], expected):
        return None
    first = expected[0] == COLOURS
    if _fits((shape[3], *shape[1:3]) if first else (*shape[2:], shape[1]), expected):
        return f"move the colours with {'permute(0, 3, 1, 2)' if first else 'transpose(0, 2, 3, 1)'}"
    if shape[1 if first else 3] != COLOURS:
        return "make them RGB"
    return "resize them, or read them in this size with sfsc.data.decode(path, (height, width))"


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    pairs = zip(shape, expected, strict=False)
    return len(shape) == len(expected) and all(size in (None, found) for found, size in pairs)
