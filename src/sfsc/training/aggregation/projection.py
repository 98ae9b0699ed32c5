"""Projection: the conflicting components of gradients are removed."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def projection_weights(grams: Tensor, order: Tensor) -> Tensor:
    """Return the weights that sum the projected gradients, computed from inner products alone.

    For each i, g_i' starts as g_i. For each j != i in the given order, if <g_i', g_j> < 0, the component of
    g_i' along g_j is subtracted. The result is sum_i g_i' = sum_k w_k g_k (Yu et al., Gradient Surgery,
    NeurIPS 2020, algorithm 1; SFSC, CVPR 2023).

    Args:
        grams: (..., m, m) float32, one matrix for each group of parameters.
        order: (m, m) int64 on the CPU. Row i is a permutation of 0..m-1, in which i itself is skipped.

    Returns:
        (..., m) float32; all ones if no gradients conflict.
    """
    weights = torch.zeros_like(grams[..., 0])
    for coefficients in _projected(grams, order):
        weights += coefficients
    return weights


def agreement_weights(grams: Tensor, order: Tensor) -> Tensor:
    """Return the weights of a sum of projected gradients in which those count more that changed less.

    The projected gradient g_i' has the weight m s_i / sum_j s_j with s_i = sqrt((1 + cos(g_i', g_i)) / 2).
    (PrunNet, CVPR 2025, in which the cosine is that of a whole parameter. Here it is that of the group for
    which a Gram matrix is given. A gradient of zero has the cosine 1.)

    Args:
        grams: (..., m, m) float32, one matrix for each group of parameters.
        order: (m, m) int64 on the CPU, as for `projection_weights`.

    Returns:
        (..., m) float32; all ones if no gradients conflict.
    """
    projected = torch.stack([*_projected(grams, order)], -2)
    squares = grams.diagonal(dim1=-2, dim2=-1)
    products = (projected * grams).sum(-1)
    lengths = ((projected @ grams) * projected).sum(-1).clamp_min(0)
    cosines = products / (lengths * squares).sqrt().clamp_min(torch.finfo(grams.dtype).tiny)
    cosines = torch.where(squares > 0, cosines, 1.0)
    agreement = ((1 + cosines.clamp(-1, 1)) / 2).sqrt()
    shares = agreement.shape[-1] * agreement / agreement.sum(-1, keepdim=True).clamp_min(1e-8)
    return (shares[..., None] * projected).sum(-2)


def _projected(grams: Tensor, order: Tensor) -> Iterator[Tensor]:
    """Yield each projected gradient as its coefficients (..., m) of the gradients."""
    m = grams.shape[-1]
    squares = grams.diagonal(dim1=-2, dim2=-1)
    for i in range(m):
        coefficients = torch.zeros_like(squares)
        coefficients[..., i] = 1.0
        for j in order[i].tolist():
            if j != i:
                product = (coefficients * grams[..., j]).sum(-1)
                shift = product / squares[..., j].clamp_min(torch.finfo(grams.dtype).tiny)
                coefficients[..., j] -= shift.clamp(max=0.0)
        yield coefficients


def random_order(m: int, seed: int) -> Tensor:
    """Return an order for `projection_weights`, (m, m) int64 on the CPU, determined by the seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(m, generator=generator) for _ in range(m)])


def sum_weights(grams: Tensor, order: Tensor) -> Tensor:
    """Return the weights of the plain sum: (..., m) float32 ones for grams (..., m, m)."""
    return torch.ones_like(grams[..., 0])
