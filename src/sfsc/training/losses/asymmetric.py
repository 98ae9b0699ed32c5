"""The contrastive loss of asymmetric metric learning."""

from __future__ import annotations

import torch
from torch import Tensor

MARGIN = 0.5


def asymmetric_loss(embeddings: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Compute the contrastive loss between a sub-model's and a teacher's embeddings of the same batch.

    An image a is pulled towards the teacher's embeddings of all images p of its identity, including its own,
    and pushed away from images n of other identities whose cosine s exceeds the margin m = 0.5:

        mean over a of   mean_p (1 - s(a, p))  +  sum_n max(0, s(a, n) - m) / |p|

    (Budnik and Avrithis, Asymmetric Metric Learning for Knowledge Transfer, CVPR 2021: the contrastive loss
    with asymmetric similarity and the anchor's own image among the positives.)

    Args:
        embeddings: (batch, dim), of length 1.
        teacher: (batch, dim), of length 1, of the same images; it receives no gradient.
        labels: (batch,) int64.

    Returns:
        () float32.
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        cosines = embeddings.float() @ teacher.detach().float().T
        same = labels[:, None] == labels
        costs = torch.where(same, 1 - cosines, (cosines - MARGIN).clamp_min(0))
        return (costs.sum(1) / same.sum(1)).mean()
