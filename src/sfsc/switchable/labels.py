"""Labels: the channel that each element of an activation belongs to.

A label tensor has the rank of the tensor that it describes, and size 1 along every dimension along which its
labels are equal. A label is the number of a channel, `WHOLE` for channels that are never cut (those of an
image or of the embedding), or `NONE` for elements without a channel (padding, a mean over channels).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

WHOLE = 0
NONE = -1

ValueLabels = Tensor | list[Tensor] | None  # of a node's value, of each of its values, or no labels


class Partition:
    """A union-find structure of the labels that stand for the same channel."""

    def __init__(self) -> None:
        self.parent = torch.tensor([WHOLE])

    def new(self, count: int) -> Tensor:
        """Return (count,) int64 labels of new channels."""
        labels = torch.arange(len(self.parent), len(self.parent) + count)
        self.parent = torch.cat([self.parent, labels])
        return labels

    def find(self, labels: Tensor) -> Tensor:
        """Return the smallest label of each label's class, in the same shape; `NONE` remains `NONE`."""
        found = self.parent[labels.clamp_min(WHOLE)]
        while True:
            further = self.parent[found]
            if torch.equal(further, found):
                return torch.where(labels < WHOLE, labels, found)
            found = further

    def unify(self, a: Tensor, b: Tensor) -> None:
        """Tie the labels at equal places of two tensors, which are broadcast; `NONE` is not tied."""
        a, b = torch.broadcast_tensors(a, b)
        pairs = torch.stack([a.reshape(-1), b.reshape(-1)])
        pairs = pairs[:, (pairs >= WHOLE).all(0)]
        while True:
            pairs = self.find(pairs)
            pairs = pairs[:, pairs[0] != pairs[1]].unique(dim=1)
            if pairs.numel() == 0:
                return
            low, high = pairs.amin(0), pairs.amax(0)
            self.parent.scatter_reduce_(0, high, low, "amin")


def compact(labels: Tensor) -> Tensor:
    """Return the labels with size 1 along every dimension along which they do not differ."""
    for dimension in range(labels.ndim):
        if labels.shape[dimension] > 1:
            first = labels.narrow(dimension, 0, 1)
            if labels.stride(dimension) == 0 or bool((labels == first).all()):
                labels = first
    return labels


def along(labels: Tensor, dimensions: Sequence[int]) -> bool:
    """Return whether compact labels differ along any of these dimensions."""
    return any(labels.shape[dimension] > 1 for dimension in dimensions)


def placed(vector: Tensor, dimension: int, rank: int) -> Tensor:
    """Return (n,) labels as a label tensor of this rank that differs along one dimension."""
    shape = [1] * rank
    shape[dimension] = -1
    return vector.view(shape)
