"""The ledger of channels: the labels of values and parameters of a graph, and which labels are tied."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from sfsc.errors import SfscError
from sfsc.switchable.labels import NONE, WHOLE, Partition, ValueLabels, along, compact


def shape_of(node: fx.Node) -> torch.Size:
    """Return the shape of a node's value."""
    return node.meta["val"].shape


def module_of(node: fx.Node) -> str:
    """Return the dotted name of the module whose code a node comes from; empty for the network itself."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return stack[-1][0] if stack else ""


def no_cut(node: fx.Node, reason: str) -> SfscError:
    """Return the error for a node whose channels cannot be cut."""
    module = module_of(node) or "the network itself"
    remedy = f"; keep={[module]!r} leaves it whole" if module_of(node) else ""
    return SfscError(f"{module} cannot be cut: {reason}{remedy}")


class Ledger:
    """The labels of every value and parameter of a graph, which the rules enter and tie."""

    def __init__(self, names: Mapping[str, str], values: Mapping[fx.Node, Any]) -> None:
        """Create an empty ledger.

        Args:
            names: the name of the parameter or buffer of each placeholder of the graph.
            values: the value that each node computed from an example; filled while the graph runs.
        """
        self.names = names
        self.values = values
        self.partition = Partition()
        self._labels: dict[fx.Node, ValueLabels] = {}
        self._weighed: dict[str, dict[int, Tensor]] = {}
        self._raw: dict[str, Tensor] = {}
        self._sizes: dict[str, list[Tensor]] = {}

    def enter(self, node: fx.Node, labels: ValueLabels) -> None:
        """Enter the labels of a node's value; None if it has no channels."""
        self._labels[node] = labels

    def keep_whole(self, nodes: Sequence[fx.Node]) -> None:
        """Mark the channels of these values as never cut."""
        for node in nodes:
            self.partition.unify(self.labels(node), torch.tensor(WHOLE))

    def is_labelled(self, node: fx.Node) -> bool:
        """Return whether a node's value may have channels."""
        return self._labels.get(node) is not None or node.name in self.names

    def is_cut(self, node: fx.Node) -> bool:
        """Return whether the channels of a node's value differ along a dimension."""
        labels = self.labels(node)
        return along(labels, range(labels.ndim))

    def all_labels(self, node: fx.Node) -> ValueLabels:
        """Return the labels of a node's value, or of each of its values; `WHOLE` for a constant."""
        if node.name in self.names and node not in self._labels:
            self._labels[node] = self._raw_labels(node)
        labels = self._labels.get(node)
        if labels is None:
            value = node.meta["val"]
            return torch.full([1] * (value.ndim if isinstance(value, Tensor) else 0), WHOLE)
        if isinstance(labels, list):
            return [compact(self.partition.find(part)) for part in labels]
        return compact(self.partition.find(labels))

    def labels(self, node: fx.Node) -> Tensor:
        """Return the compact labels of a node's value."""
        labels = self.all_labels(node)
        assert isinstance(labels, Tensor)
        return labels

    def _raw_labels(self, node: fx.Node) -> Tensor:
        """Return new labels for a parameter that is not a layer's weight, one for each of its elements."""
        name, shape = self.names[node.name], shape_of(node)
        if name in self._weighed:
            raise self._two_roles(name)
        self._raw[name] = self.partition.new(math.prod(shape)).view(shape)
        return self._raw[name]

    def full_labels(self, node: fx.Node) -> Tensor:
        """Return the labels of a node's value, expanded to the shape of the value."""
        return self.labels(node).expand(shape_of(node))

    def arguments_with_labels(self, node: fx.Node) -> tuple[Any, Any]:
        """Return the node's arguments with each floating-point tensor replaced by its labels."""

        def replace(value: fx.Node) -> Any:
            if isinstance(value.meta["val"], Tensor) and not value.meta["val"].is_floating_point():
                return self.value(value)
            return self.full_labels(value)

        return fx.map_arg(node.args, replace), fx.map_arg(node.kwargs, replace)

    def value(self, node: fx.Node) -> Any:
        """Return the value that the node computed from the example."""
        return self.values[node]

    def new_channels(self, count: int) -> Tensor:
        """Return (count,) labels for a layer's output; a single channel cannot be cut."""
        return self.partition.new(count) if count > 1 else torch.tensor([WHOLE])

    def merge(self, labels: Tensor, dimensions: Sequence[int]) -> Tensor:
        """Tie all channels along these dimensions, and return compact labels."""
        for dimension in dimensions:
            if labels.shape[dimension] > 1:
                best = labels.amax(dimension, keepdim=True)
                self.partition.unify(labels, best)
                labels = self.partition.find(best)
        return labels

    def join(self, a: Tensor, b: Tensor) -> Tensor:
        """Tie the channels at equal places of two label tensors, and return both in one, broadcast."""
        self.partition.unify(a, b)
        return compact(self.partition.find(torch.where(a == NONE, b, a)))

    def tie_across(self, node: fx.Node, dimension: int) -> Tensor:
        """Tie the channels over all dimensions but one, and return (n,) labels along that dimension."""
        labels = self.labels(node)
        others = [d for d in range(labels.ndim) if d != dimension % labels.ndim]
        vector = self.merge(labels, others).flatten().expand(shape_of(node)[dimension])
        return vector.clamp_min(WHOLE)

    def tie_groups(self, channels: Tensor, groups: int) -> Tensor:
        """Tie the channels of each group, which are consecutive, and return (groups,) labels."""
        return self.merge(channels.view(groups, -1), [1]).flatten()

    def weigh(self, node: fx.Node, parameter: Any, dimension: int, channels: Tensor) -> None:
        """Enter the channels along one dimension of a layer's weight; ignore a weight that is no tensor."""
        if not isinstance(parameter, fx.Node):
            return
        name = self.names.get(parameter.name)
        if name is None:
            raise no_cut(node, "its weight is computed, not a parameter")
        if name in self._raw:
            raise self._two_roles(name)
        known = self._weighed.setdefault(name, {}).setdefault(dimension, channels)
        self.partition.unify(known, channels)

    def note_sizes(self, node: fx.Node, labels: Tensor) -> None:
        """Record the labels along dimensions whose size may occur in the module's code."""
        for dimension in range(labels.ndim):
            if labels.shape[dimension] > 1:
                others = [d for d in range(labels.ndim) if d != dimension]
                first = labels
                for other in others:
                    first = first.narrow(other, 0, 1)
                self._sizes.setdefault(module_of(node), []).append(first.flatten())

    def _two_roles(self, name: str) -> SfscError:
        module = name.rpartition(".")[0]
        return SfscError(
            f"{module or 'the network itself'} cannot be cut: its {name.rpartition('.')[2]} is used twice, "
            f"once as a layer's weight and once as a plain tensor; keep={[module]!r} leaves it whole"
        )

    def layers(self) -> int:
        """Return the number of dimensions of layers' weights, which `dimensions` yields first."""
        return sum(len(weighed) for weighed in self._weighed.values())

    def noted_sizes(self) -> dict[str, list[Tensor]]:
        """Return, by module name, the labels along dimensions whose size may occur in the module's code."""
        return {
            name: [self.partition.find(labels) for labels in noted] for name, noted in self._sizes.items()
        }

    def labelled(self) -> Iterator[tuple[fx.Node, Tensor]]:
        """Yield the nodes whose value is one tensor with channels, and their labels."""
        for node, labels in self._labels.items():
            if isinstance(labels, Tensor):
                yield node, self.labels(node)

    def dimensions(self) -> Iterator[tuple[str, int, Tensor]]:
        """Yield (name, dimension, (n,) labels) for the dimensions of every parameter."""
        for name, dimensions in self._weighed.items():
            for dimension, labels in dimensions.items():
                yield name, dimension, self.partition.find(labels)
        for name, raw in self._raw.items():
            labels = self._without_unused(self.partition.find(raw))
            differing = [d for d in range(labels.ndim) if labels.shape[d] > 1]
            if len(differing) > 1:
                raise SfscError(f"{name} cannot be cut: its channels lie along {len(differing)} dimensions")
            for dimension in differing:
                yield name, dimension, labels.flatten()

    def _without_unused(self, labels: Tensor) -> Tensor:
        """Return the labels of a raw parameter, with those of a neighbour for elements that are not tied."""
        uses = torch.bincount(self.partition.find(torch.arange(len(self.partition.parent))))
        used = torch.where(uses[labels] > 1, labels, NONE)
        if bool((used == NONE).all()):
            return torch.full([1] * labels.ndim, WHOLE)
        for dimension in range(labels.ndim):
            best = used.amax(dimension, keepdim=True)
            if bool(((used == best) | (used == NONE)).all()):
                used = best
        return used
