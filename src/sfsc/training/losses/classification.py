"""The cross-entropy of a classifier's logits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sfsc.training.losses.evidential import uncertainty


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """Compute the cross-entropy of the softmax of the logits, and their uncertainty for the log.

    Args:
        logits: (batch, classes) of any float dtype; computed in float32.
        labels: (batch,) int64.
        smoothing: the share of the label that is distributed over all classes, in [0, 1).

    Returns:
        The mean loss and the mean uncertainty (detached, in (0, 1]), both () float32.
    """
    with torch.autocast(logits.device.type, enabled=False):
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)
        return loss, uncertainty(logits.detach())
