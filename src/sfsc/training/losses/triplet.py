"""The triplet loss with the hardest examples of a batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

MARGIN = 0.3  # of Luo et al., Bag of Tricks and a Strong Baseline, CVPRW 2019


def triplet_loss(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Compute the triplet loss of each image with its farthest positive and its nearest negative.

    The mean over the images a of max(0, d(a, p) - d(a, n) + 0.3) with Euclidean distances, where p is the
    farthest image of the identity of a in the batch and n the nearest image of another identity (Hermans et
    al., In Defense of the Triplet Loss, 2017, equation 5).

    Args:
        embeddings: (batch, dim), of length 1.
        labels: (batch,) int64.

    Returns:
        () float32; 0 if the batch has a single identity.
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        vectors = embeddings.float()
        # Of unit vectors; the gradient of the square root at 0, a copy's distance, would be infinite.
        distances = (2 - 2 * vectors @ vectors.T).clamp_min(1e-6).sqrt()
        same = labels[:, None] == labels
        farthest = distances.masked_fill(~same, 0.0).amax(1)
        nearest = distances.masked_fill(same, torch.inf).amin(1)
        return F.relu(farthest - nearest + MARGIN).mean()
