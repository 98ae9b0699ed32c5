"""The evidential loss and the Dirichlet uncertainty of logits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_LOGIT = 80.0  # exp(80) can be summed over thousands of classes in float32


def cosine_logits(embeddings: Tensor, classifier: Tensor, scale: float) -> Tensor:
    """Compute scaled cosines between embeddings and class directions, in float32.

    Args:
        embeddings: (batch, dim), of length 1.
        classifier: (classes, dim), of any length.
        scale: the logit of cosine 1.

    Returns:
        (batch, classes) float32.
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        return scale * embeddings.float() @ F.normalize(classifier.float()).T


def evidential_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the expected cross-entropy under the Dirichlet distribution that the logits define.

    With evidence e_c = exp(z_c), alpha_c = e_c + 1 and S = sum_c alpha_c, a sample of class y has the loss
    digamma(S) - digamma(alpha_y) and the uncertainty u = C / S (SFSC, CVPR 2023; Sensoy et al., Evidential
    Deep Learning, NeurIPS 2018, equation 4).

    Args:
        logits: (batch, classes) of any float dtype; computed in float32 and clamped at 80.
        labels: (batch,) int64.

    Returns:
        The mean loss and the mean uncertainty (detached, in (0, 1]), both () float32.
    """
    with torch.autocast(logits.device.type, enabled=False):
        evidence = logits.float().clamp(max=MAX_LOGIT).exp()
        classes = evidence.shape[1]
        strength = evidence.sum(1) + classes
        alpha = evidence.gather(1, labels[:, None]).squeeze(1) + 1
        loss = (torch.digamma(strength) - torch.digamma(alpha)).mean()
        return loss, (classes / strength.detach()).mean()


def uncertainty(logits: Tensor) -> Tensor:
    """Return the mean uncertainty u = C / S of logits (batch, classes), () float32 in (0, 1]."""
    evidence = logits.float().clamp(max=MAX_LOGIT).exp()
    classes = evidence.shape[1]
    return (classes / (evidence.sum(1) + classes)).mean()
