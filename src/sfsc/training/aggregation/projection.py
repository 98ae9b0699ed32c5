"""Projection: gradients that conflict lose the part in which they do."""

from __future__ import annotations

import torch
from torch import Tensor


def projection_weights(grams: Tensor, order: Tensor) -> Tensor:
    """The weights that sum the projected gradients, from their inner products alone.

    For each i, g_i' starts as g_i; for each j != i in the given order, where <g_i', g_j> < 0, g_i' loses its
    part along g_j. The result is sum_i g_i' = sum_k w_k g_k (Yu et al., Gradient Surgery, NeurIPS 2020,
    algorithm 1; SFSC, CVPR 2023).

    Args:
        grams: (..., m, m) float32, one matrix for each group of parameters.
        order: (m, m) int64 on the CPU, row i a permutation of 0..m-1 (i itself is skipped).

    Returns:
        (..., m) float32: all ones where nothing conflicts.
    """
    m = grams.shape[-1]
    squares = grams.diagonal(dim1=-2, dim2=-1)
    weights = torch.zeros_like(squares)
    for i in range(m):
        coefficients = torch.zeros_like(squares)
        coefficients[..., i] = 1.0
        for j in order[i].tolist():
            if j != i:
                product = (coefficients * grams[..., j]).sum(-1)
                shift = product / squares[..., j].clamp_min(torch.finfo(grams.dtype).tiny)
                coefficients[..., j] -= shift.clamp(max=0.0)
        weights += coefficients
    return weights


def random_order(m: int, seed: int) -> Tensor:
    """An order for `projection_weights`: (m, m) int64 on the CPU, equal wherever the seed is."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(m, generator=generator) for _ in range(m)])


def sum_weights(grams: Tensor, order: Tensor) -> Tensor:
    """The weights of the plain sum: (..., m) float32 ones for grams (..., m, m)."""
    return torch.ones_like(grams[..., 0])
