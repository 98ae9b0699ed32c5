"""Alignment: what one sub-model makes of an image, another shall make of it too."""

from __future__ import annotations

import torch
from torch import Tensor


def alignment_loss(embeddings: Tensor, target: Tensor) -> Tensor:
    """The mean of 1 - cos(f, t) over the images of a batch.

    Args:
        embeddings: (batch, dim), of length 1.
        target: (batch, dim), of length 1, of the same images; no gradient reaches it.

    Returns:
        () float32 in [0, 2].
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        return 1 - (embeddings.float() * target.detach().float()).sum(1).mean()
