"""A backbone with its embedding head: images in, unit vectors out."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Embedder(nn.Module):
    """Colour normalisation, backbone, global average pooling, linear to `dim`, BatchNorm, L2.

    Maps (batch, 3, height, width) float32 RGB images in [0, 1] to (batch, dim) float32 embeddings of
    length 1. A sub-model of a family is an instance of this class with smaller tensors.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        channels: int,
        dim: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        self.backbone = backbone
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(channels, dim, bias=False)
        self.norm = nn.BatchNorm1d(dim)

    def forward(self, images: Tensor) -> Tensor:
        features = self.backbone((images - self.mean) / self.std)
        return F.normalize(self.norm(self.linear(self.pool(features).flatten(1))))
