"""The evidential loss and the Dirichlet uncertainty of logits."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_LOGIT = 80.0  # exp(80) can be summed over thousands of classes in float32


def _exponential(logits: Tensor) -> Tensor:
    return logits.float().clamp(max=MAX_LOGIT).exp()


EVIDENCE: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": _exponential,
    "softplus": lambda logits: F.softplus(logits.float()),
}


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


def linear_logits(features: Tensor, classifier: Tensor) -> Tensor:
    """Compute the inner products of features and class vectors, in float32.

    There is no bias: identities are equally frequent in the batches of the P x K sampler.

    Args:
        features: (batch, dim), of any length.
        classifier: (classes, dim), of any length.

    Returns:
        (batch, classes) float32.
    """
    with torch.autocast(features.device.type, enabled=False):
        return features.float() @ classifier.float().T


def evidential_loss(
    logits: Tensor, labels: Tensor, evidence: str = "exp", kl: float = 0.0, smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Compute the expected cross-entropy under the Dirichlet distribution that the logits define.

    With evidence e_c, alpha_c = e_c + 1 and S = sum_c alpha_c, a sample of class y has the loss
    digamma(S) - digamma(alpha_y) and the uncertainty u = C / S (SFSC, CVPR 2023; Sensoy et al., Evidential
    Deep Learning, NeurIPS 2018, equation 4). Optionally, evidence of wrong classes is penalised by
    KL[Dir(alpha~) || Dir(1)] with alpha~ = (alpha - 1) (1 - y) + 1 (the same paper, equation 5).

    Args:
        logits: (batch, classes) of any float dtype; computed in float32.
        labels: (batch,) int64.
        evidence: exp, e_c = exp(z_c) with logits clamped at 80, or softplus, e_c = log(1 + exp(z_c)).
        kl: the weight of the penalty.
        smoothing: the share of the label that is distributed over all classes, in [0, 1).

    Returns:
        The mean loss and the mean uncertainty (detached, in (0, 1]), both () float32.
    """
    with torch.autocast(logits.device.type, enabled=False):
        found = EVIDENCE[evidence](logits)
        classes = found.shape[1]
        strength = found.sum(1) + classes
        alpha = found.gather(1, labels[:, None]).squeeze(1) + 1
        loss = (torch.digamma(strength) - torch.digamma(alpha)).mean()
        if smoothing:
            of_all = torch.digamma(strength) - torch.digamma(found + 1).mean(1)
            loss = (1 - smoothing) * loss + smoothing * of_all.mean()
        if kl:
            loss = loss + kl * _divergence(found.scatter(1, labels[:, None], 0.0) + 1).mean()
        return loss, (classes / strength.detach()).mean()


def _divergence(alpha: Tensor) -> Tensor:
    """Return KL[Dir(alpha) || Dir(1)], (batch,) float32, for alpha (batch, classes) float32."""
    total = alpha.sum(1)
    classes = torch.full_like(total, alpha.shape[1])
    normalisers = torch.lgamma(total) - torch.lgamma(alpha).sum(1) - torch.lgamma(classes)
    return normalisers + ((alpha - 1) * (torch.digamma(alpha) - torch.digamma(total)[:, None])).sum(1)


def uncertainty(logits: Tensor) -> Tensor:
    """Return the mean uncertainty u = C / S with evidence exp(z) of logits (batch, classes), () float32."""
    evidence = _exponential(logits)
    classes = evidence.shape[1]
    return (classes / (evidence.sum(1) + classes)).mean()
