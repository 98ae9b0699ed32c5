"""What can be cut of a network: units of channels that belong together, in groups.

Two tensors share a channel when the network adds them, filters them depthwise, normalises them, and so on.
Channels that belong together form a unit: a sub-model keeps all of it or none. Units that occur in the same
parameters form a group: a sub-model keeps the first of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from sfsc.errors import SfscError
from sfsc.switchable.labels import WHOLE
from sfsc.widths import cut


@dataclass(frozen=True)
class ChannelGroup:
    """`size` units that are cut as one, each of `channels` channels where it has the fewest."""

    size: int
    channels: int

    def kept(self, width: float, multiple: int) -> int:
        """The units of a sub-model: ceil(width * size), then up to a multiple of channels, at most all."""
        if multiple < 1:
            raise SfscError(f"round_to is a number of channels, at least 1, got {multiple}")
        step = multiple // math.gcd(multiple, self.channels)
        return min(self.size, math.ceil(cut(self.size, width) / step) * step)


@dataclass(frozen=True)
class Layout:
    """The units along one dimension of a parameter.

    `groups`: (n,) int64, the group of each position, -1 where it is never cut. `units`: (n,) int64, its
    place in the group.
    """

    groups: Tensor
    units: Tensor

    def kept(self, counts: Sequence[int]) -> Tensor:
        """The positions, increasing, that stay when each group keeps this many units."""
        limits = torch.tensor([*counts, 1])[self.groups]  # index -1 is the last: never cut
        return torch.where(self.groups < 0, 0, self.units).lt(limits).nonzero().flatten()


@dataclass(frozen=True)
class Structure:
    """What can be cut.

    groups: in the order in which the network meets them.
    layouts: for each parameter and buffer that is cut, by name: the layout of each dimension that is.
    sizes: for each module that keeps sizes for its own code, by name: the layout that each attribute counts.
    """

    groups: list[ChannelGroup]
    layouts: dict[str, dict[int, Layout]]
    sizes: dict[str, dict[str, Layout]] = field(default_factory=dict)

    def counts(self, width: float, multiple: int = 1) -> list[int]:
        """How many units each group keeps."""
        return [group.kept(width, multiple) for group in self.groups]


@dataclass(frozen=True)
class LabelledGraph:
    """An exported graph, and for each node the group and the unit of its elements.

    `inputs` are the graph's inputs: names in the network's state, constants, and the example. `sizes` are,
    by module name, the layouts of dimensions whose size the module's own code may have to know.
    """

    module: fx.GraphModule
    example: Tensor
    inputs: list[str | Any]
    units: dict[fx.Node, tuple[Tensor, Tensor]]
    sizes: dict[str, list[Layout]]

    def inputs_from(self, state: Mapping[str, Tensor]) -> list[Any]:
        """The inputs, with the parameters and buffers of this state."""
        return [state[value].cpu() if isinstance(value, str) else value for value in self.inputs]


class Numbering:
    """Numbers groups, and the units in each, in the order in which the parameters meet them."""

    def __init__(self, dimensions: list[tuple[str, int, Tensor]], layers: int, labels: int) -> None:
        """Number so many labels by where they occur; the first `layers` dimensions are layers' weights."""
        occurrences = _occurrences(dimensions)
        numbers: dict[tuple[tuple[int, int], ...], int] = {}
        sizes: list[int] = []
        self.group_of = torch.full((labels,), -1)
        self.unit_of = torch.zeros(labels, dtype=torch.int64)
        for label, where in occurrences.items():
            number = numbers.setdefault(tuple(where.items()), len(numbers))
            if number == len(sizes):
                sizes.append(0)
            self.group_of[label], self.unit_of[label] = number, sizes[number]
            sizes[number] += 1
        fewest = [min((count for index, count in where if index < layers), default=1) for where in numbers]
        self.groups = [ChannelGroup(*pair) for pair in zip(sizes, fewest, strict=True)]

    def of(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The group (-1 for none) and the unit of each label, in the same shape."""
        cuttable = labels > WHOLE
        index = labels.clamp_min(WHOLE)
        return torch.where(cuttable, self.group_of[index], -1), torch.where(cuttable, self.unit_of[index], 0)

    def layout(self, labels: Tensor) -> Layout:
        """The layout of a dimension with these labels."""
        return Layout(*self.of(labels))


def _occurrences(dimensions: list[tuple[str, int, Tensor]]) -> dict[int, dict[int, int]]:
    """For each label but `WHOLE`, how often it occurs in which of the dimensions."""
    occurrences: dict[int, dict[int, int]] = {}
    for index, (_, _, labels) in enumerate(dimensions):
        for label in labels.tolist():
            if label > WHOLE:
                where = occurrences.setdefault(label, {})
                where[index] = where.get(index, 0) + 1
    return occurrences
