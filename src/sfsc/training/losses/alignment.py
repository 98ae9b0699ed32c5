"""Alignment of a sub-model's embeddings with those of another model."""

from __future__ import annotations

import torch
from torch import Tensor


def alignment_loss(embeddings: Tensor, target: Tensor) -> Tensor:
    """Compute the mean of 1 - cos(f, t) over the images of a batch.

    Args:
        embeddings: (batch, dim), of length 1.
        target: (batch, dim), of length 1, of the same images; it receives no gradient.

    Returns:
        () float32 in [0, 2].
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        return 1 - (embeddings.float() * target.detach().float()).sum(1).mean()
