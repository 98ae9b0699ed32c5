"""A fixed classifier: directions with equal angles between them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sfsc.errors import SfscError


def simplex(classes: int, dimension: int) -> Tensor:
    """Return the first vertices of the regular simplex of `dimension` + 1 vertices around the origin.

    The cosine between any two of them is -1 / `dimension` (Pernici et al., Regular Polytope Networks, TNNLS
    2021: the d-simplex, here centred and normalised). A vertex depends on its number and the dimension only,
    so that networks that are trained apart have the same classifier.

    Returns:
        (classes, dimension) float32, of length 1.

    Raises:
        SfscError: there are more classes than vertices.
    """
    if classes > dimension + 1:
        raise SfscError(
            f"the d-simplex in {dimension} dimensions has directions for {dimension + 1} identities, but "
            f"there are {classes}: set embedding_dim to {classes - 1} or more, or classifier to learned"
        )
    last = torch.full((1, dimension), (1 - (dimension + 1) ** 0.5) / dimension, dtype=torch.float64)
    vertices = torch.cat([torch.eye(dimension, dtype=torch.float64), last])
    return F.normalize(vertices - vertices.mean(0))[:classes].float()
