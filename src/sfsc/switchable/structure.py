"""The structure of a network: the units of channels that can be cut, in groups.

Two tensors share a channel when the network adds them, filters them depthwise, normalises them, and so on.
Channels that belong together form a unit: a sub-model keeps all channels of a unit or none. Units that occur
in the same parameters form a group: a sub-model keeps the first units of a group.
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
from sfsc.switchable.stages import Stage
from sfsc.widths import cut


@dataclass(frozen=True)
class ChannelGroup:
    """A group of `size` units, each with `channels` channels in the layer where it has the fewest."""

    size: int
    channels: int

    def kept(self, width: float, multiple: int) -> int:
        """Return the units kept: ceil(width * size), rounded up to a multiple of channels, at most `size`."""
        if multiple < 1:
            raise SfscError(f"round_to is a number of channels, at least 1, got {multiple}")
        step = multiple // math.gcd(multiple, self.channels)
        return min(self.size, math.ceil(cut(self.size, width) / step) * step)


@dataclass(frozen=True)
class Layout:
    """The units along one dimension of a parameter.

    Attributes:
        groups: (n,) int64, the group of each position, or -1 if the position is never cut.
        units: (n,) int64, the index of each position's unit in its group.
    """

    groups: Tensor
    units: Tensor

    def kept(self, counts: Sequence[int]) -> Tensor:
        """Return the positions, increasing, that remain when each group keeps `counts` units."""
        limits = torch.tensor([*counts, 1])[self.groups]  # index -1 is the last limit: never cut
        return torch.where(self.groups < 0, 0, self.units).lt(limits).nonzero().flatten()


@dataclass(frozen=True)
class Structure:
    """The parts of a network that can be cut.

    Attributes:
        groups: the groups, in the order in which they occur in the network.
        layouts: the layout of each dimension that can be cut, by name of the parameter or buffer.
        sizes: the layout of each attribute that stores a size for the module's own code, by module name.
        stages: the names of the blocks of each stage. All but the first can be left out.
    """

    groups: list[ChannelGroup]
    layouts: dict[str, dict[int, Layout]]
    sizes: dict[str, dict[str, Layout]] = field(default_factory=dict)
    stages: tuple[Stage, ...] = ()

    def counts(self, width: float | Sequence[float], multiple: int = 1) -> list[int]:
        """Return the number of units that each group keeps, of one channel ratio or one for each group.

        Raises:
            SfscError: the number of ratios is not that of the groups.
        """
        ratios = [width] * len(self.groups) if isinstance(width, int | float) else width
        if len(ratios) != len(self.groups):
            raise SfscError(f"there are {len(ratios)} ratios for {len(self.groups)} groups of channels")
        return [group.kept(ratio, multiple) for group, ratio in zip(self.groups, ratios, strict=True)]


@dataclass(frozen=True)
class LabelledGraph:
    """An exported graph with the group and the unit of each element of its values.

    Attributes:
        module: the graph.
        example: the example input.
        inputs: the inputs of the graph: names in the network's state, constants, and the example.
        units: the groups and the units of the elements of each node's value.
        sizes: the layouts of dimensions whose size may occur in a module's own code, by module name.
    """

    module: fx.GraphModule
    example: Tensor
    inputs: list[str | Any]
    units: dict[fx.Node, tuple[Tensor, Tensor]]
    sizes: dict[str, list[Layout]]

    def inputs_from(self, state: Mapping[str, Tensor]) -> list[Any]:
        """Return the inputs, with the parameters and buffers of this state."""
        return [state[value].cpu() if isinstance(value, str) else value for value in self.inputs]


class Numbering:
    """Numbers for groups, and for the units in each group, in the order in which they occur in parameters."""

    def __init__(self, dimensions: list[tuple[str, int, Tensor]], layers: int, labels: int) -> None:
        """Number labels by where they occur; the first `layers` dimensions are those of layers' weights."""
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
        """Return the group (-1 for none) and the unit of each label, in the same shape."""
        cuttable = labels > WHOLE
        index = labels.clamp_min(WHOLE)
        return torch.where(cuttable, self.group_of[index], -1), torch.where(cuttable, self.unit_of[index], 0)

    def layout(self, labels: Tensor) -> Layout:
        """Return the layout of a dimension with these labels."""
        return Layout(*self.of(labels))


def _occurrences(dimensions: list[tuple[str, int, Tensor]]) -> dict[int, dict[int, int]]:
    """Return how often each label except `WHOLE` occurs in each dimension that contains it."""
    occurrences: dict[int, dict[int, int]] = {}
    for index, (_, _, labels) in enumerate(dimensions):
        for label in labels.tolist():
            if label > WHOLE:
                where = occurrences.setdefault(label, {})
                where[index] = where.get(index, 0) + 1
    return occurrences
