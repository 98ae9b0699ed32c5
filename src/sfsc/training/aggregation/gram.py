"""Inner products and weighted sums of nested gradients.

The gradients of a shared parameter for m sub-models are a list of m *corners*, narrow first. The i-th corner
has the shape of the parameter's part in sub-model i and covers the first entries of the (i+1)-th corner. It
represents a gradient that is zero elsewhere. No full copies are made.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def channel_grams(corners: Sequence[Tensor]) -> Tensor:
    """Compute the inner products of nested gradients for each output channel, the first dimension.

    Returns:
        (channels, m, m) float32 on their device, without waiting. Products with a sub-model that lacks the
        channel are 0.
    """
    m, channels = len(corners), channel_count(corners[-1])
    grams = corners[0].new_zeros(channels, m, m, dtype=torch.float32)
    for i in range(m):
        for j in range(i, m):
            products = corners[i].float() * _within(corners[j], corners[i]).float()
            products = products.reshape(channel_count(products), -1).sum(1)
            grams[: len(products), i, j] = products
            grams[: len(products), j, i] = products
    return grams


def channel_count(tensor: Tensor) -> int:
    """Return the number of output channels of a parameter or its gradient; a single number is one."""
    return tensor.shape[0] if tensor.ndim else 1


def gram_matrix(corners: Sequence[Tensor]) -> Tensor:
    """Compute the (m, m) float32 inner products of nested gradients on their device, without waiting."""
    m = len(corners)
    products = [
        (corners[i].float() * _within(corners[j], corners[i]).float()).sum()
        for i in range(m)
        for j in range(i, m)
    ]
    upper = corners[0].new_zeros(m, m, dtype=torch.float32)
    rows, columns = torch.triu_indices(m, m, device=upper.device)
    upper[rows, columns] = torch.stack(products)
    return upper + upper.triu(1).T


def combine(corners: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Compute the weighted sum of nested gradients in the memory of the last and largest.

    Args:
        corners: m nested gradients; the last one is overwritten.
        weights: (m,) float32, or (channels, m) for a weight of each output channel.
    """
    total = corners[-1].mul_(_for_each(weights, -1, corners[-1]))
    for index in range(len(corners) - 1):
        part = corners[index]
        _within(total, part).add_(part * _for_each(weights, index, part))
    return total


def _for_each(weights: Tensor, index: int, part: Tensor) -> Tensor:
    """Return the weights of a sub-model in a shape that multiplies its gradients."""
    chosen = weights[..., index].reshape(-1)[: channel_count(part)]
    return chosen.view(-1, *[1] * (part.ndim - 1)) if part.ndim else chosen[0]


def conflicts(grams: Tensor) -> Tensor:
    """Return the share of each sub-model's pairs with the others whose inner product is negative.

    Args:
        grams: (groups, m, m) float32.

    Returns:
        (groups, m) float32 in [0, 1].
    """
    return (grams < 0).sum(-1).float() / max(1, grams.shape[-1] - 1)


def _within(tensor: Tensor, part: Tensor) -> Tensor:
    for dimension, size in enumerate(part.shape):
        tensor = tensor.narrow(dimension, 0, size)
    return tensor
