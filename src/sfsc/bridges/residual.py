"""A residual network on top of a linear map, trained with torch."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from sfsc.bridges.space_map import SpaceMap

EPOCHS, BATCH = 60, 256
RATE, DECAY = 2e-3, 1e-2
MOST_STEPS = 3000
HIDDEN = 2  # units for each dimension of the larger space


def add_residual(linear: SpaceMap, rows: np.ndarray, targets: np.ndarray, seed: int) -> SpaceMap:
    """Train a hidden layer that corrects a linear map.

    This is a residual bottleneck transform (Wang et al., Unified representation learning for cross model
    compatibility, BMVC 2020). The correction starts at zero.
    The loss is the mean of 1 - cos; the linear map is trained with it.

    Args:
        linear: a linear map from the space of the rows into that of the targets.
        rows: (n, from) float32 of length 1.
        targets: (n, to) float32 of length 1.
        seed: the seed of the first weights and of the batches.
    """
    random = torch.Generator().manual_seed(seed)
    size, to = linear.dimensions
    hidden = HIDDEN * max(size, to)
    x, y = torch.from_numpy(rows), torch.from_numpy(targets)
    inner = torch.randn(size, hidden, generator=random) / size**0.5
    arrays = [torch.tensor(linear.matrix), torch.tensor(linear.shift), inner]
    arrays += [torch.zeros(hidden), torch.zeros(hidden, to)]
    weights = [array.requires_grad_() for array in arrays]
    steps = min(MOST_STEPS, EPOCHS * -(-len(x) // BATCH))
    optimizer = torch.optim.AdamW(weights, RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        batch = torch.randint(len(x), (min(BATCH, len(x)),), generator=random)
        matrix, shift, first, bias, last = weights
        mapped = x[batch] @ matrix + shift + torch.relu(x[batch] @ first + bias) @ last
        loss = (1 - F.cosine_similarity(mapped, y[batch])).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    trained = [weight.detach().numpy() for weight in weights]
    return SpaceMap.of(*trained, linear.error)
