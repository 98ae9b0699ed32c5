"""Calibration: moves a narrow sub-model's embeddings onto the full one's space."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Calibration(nn.Module):
    """Maps embeddings f, (batch, dim) of length 1, to normalise(f R + b); as made, to themselves.

    `rotation` is R, (dim, dim), and `shift` is b, (dim,), both float32; `fit` finds them.
    """

    rotation: Tensor
    shift: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("rotation", torch.eye(dim))
        self.register_buffer("shift", torch.zeros(dim))

    def forward(self, embeddings: Tensor) -> Tensor:
        return F.normalize(embeddings @ self.rotation + self.shift)

    def fit(self, embeddings: Tensor, target: Tensor) -> None:
        """Find the rotation and the shift that bring embeddings nearest to their targets, in place.

        The shift brings the mean to the mean; the rotation solves the orthogonal Procrustes problem, min
        |(F - mean F) R - (T - mean T)|, by a singular value decomposition (Schönemann, Psychometrika 1966).

        Args:
            embeddings: (n, dim), the sub-model's, of n images.
            target: (n, dim), the full sub-model's, of the same images.
        """
        embeddings, target = embeddings.double(), target.double()
        centre, goal = embeddings.mean(0), target.mean(0)
        left, _, right = torch.linalg.svd((embeddings - centre).T @ (target - goal))
        rotation = left @ right
        self.rotation.copy_(rotation)
        self.shift.copy_(goal - centre @ rotation)
