"""Resizing batches of training images for the sub-models that embed smaller ones."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from sfsc.notation import Size


def resized(images: Tensor, size: Size) -> Tensor:
    """Resize images to a size that is not larger, as decoding them straight to that size does.

    A pixel is the mean of the area that it covers, with fractions of the pixels at its border, as in
    `cv2.INTER_AREA`. The modes of `torch.nn.functional.interpolate` average other areas, so sub-models would
    be trained on sharper or softer images than they get later.

    Args:
        images: (batch, 3, height, width) floating-point.
        size: the (height, width) to resize to.

    Returns:
        (batch, 3, *size) of the same dtype on the same device; the images themselves if they have this size.
    """
    for dimension, to in ((2, size[0]), (3, size[1])):
        before = images.shape[dimension]
        if before != to:
            shares = _shares(before, to).to(images)
            images = shares @ images if dimension == 2 else images @ shares.T
    return images


@cache
def _shares(before: int, after: int) -> Tensor:
    """Return the share of each of `before` pixels in each of `after` larger ones, (after, before) float64."""
    edges = torch.linspace(0, before, after + 1, dtype=torch.float64)
    pixels = torch.arange(before, dtype=torch.float64)
    ends = torch.minimum(edges[1:, None], pixels + 1)
    starts = torch.maximum(edges[:-1, None], pixels)
    return (ends - starts).clamp(min=0) * after / before
