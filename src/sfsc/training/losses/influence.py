"""The influence loss of backward-compatible training."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from sfsc.training.losses.evidential import cosine_logits


def influence_loss(embeddings: Tensor, classifier: Tensor, labels: Tensor, scale: float) -> Tensor:
    """Compute the cross-entropy of a sub-model's embeddings under another model's frozen classifier.

    It pulls the embeddings to where the other model expects their identities (Shen et al., Towards
    Backward-Compatible Representation Learning, CVPR 2020, equation 4).

    Args:
        embeddings: (batch, dim), of length 1.
        classifier: (classes, dim), of any length; it receives no gradient.
        labels: (batch,) int64.
        scale: the logit of cosine 1.

    Returns:
        () float32.
    """
    return F.cross_entropy(cosine_logits(embeddings, classifier.detach(), scale), labels)
