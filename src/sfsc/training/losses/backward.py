"""The loss that makes new embeddings compatible with those of an old model."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sfsc.training.losses.asymmetric import asymmetric_loss
from sfsc.training.losses.evidential import cosine_logits


def backward_loss(
    embeddings: Tensor,
    old: Tensor,
    classifier: Tensor,
    labels: Tensor,
    scale: float,
    influence: float,
    contrast: float,
) -> Tensor:
    """Compute the loss of the first k components of new embeddings towards the embeddings of an old model.

    The influence loss is the cross-entropy of the new embeddings under the old model's classifier (Shen et
    al., Towards Backward-Compatible Representation Learning, CVPR 2020, equation 4). The contrastive loss
    compares each new embedding with the old embeddings of the batch, as `asymmetric_loss` does.

    Args:
        embeddings: (batch, dim), of any length; their first k components are normalised.
        old: (batch, k) float32, of length 1, the old embeddings of the same images.
        classifier: (classes, k) float32, the old model's direction of each class.
        labels: (batch,) int64.
        scale: the logit of cosine 1.
        influence: the weight of the influence loss.
        contrast: the weight of the contrastive loss.

    Returns:
        () float32. Old embeddings and classifier receive no gradient.
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        first = F.normalize(embeddings[:, : old.shape[1]].float())
        logits = cosine_logits(first, classifier.detach(), scale)
        return influence * F.cross_entropy(logits, labels) + contrast * asymmetric_loss(first, old, labels)
