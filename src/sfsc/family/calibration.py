"""Calibration: a rotation and a shift of a narrow sub-model's embeddings towards the full sub-model's."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Calibration(nn.Module):
    """Maps embeddings f to normalise(f R + b); a new calibration is the identity.

    `rotation` is R, (dim, dim) float32, and `shift` is b, (dim,) float32. `fit` computes them. The input is
    (batch, dim) float32 of length 1, and so is the output.
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
        """Compute, in place, the rotation and the shift that bring embeddings closest to their targets.

        The shift maps the mean of the embeddings to the mean of the targets. The rotation solves the
        orthogonal Procrustes problem, min |(F - mean F) R - (T - mean T)|, by a singular value decomposition
        (Schönemann, Psychometrika 1966).

        Args:
            embeddings: (n, dim) embeddings of n images by the narrow sub-model.
            target: (n, dim) embeddings of the same images by the full sub-model.
        """
        embeddings, target = embeddings.double(), target.double()
        centre, goal = embeddings.mean(0), target.mean(0)
        left, _, right = torch.linalg.svd((embeddings - centre).T @ (target - goal))
        rotation = left @ right
        self.rotation.copy_(rotation)
        self.shift.copy_(goal - centre @ rotation)
