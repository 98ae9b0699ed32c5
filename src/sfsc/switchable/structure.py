"""Which channels of a network belong together.

Two tensors share a channel when the network adds them, filters them depthwise, normalises them, and so on.
Channels that belong together form a unit: a sub-model keeps all of it or none. Units that occur in the same
parameters form a group: a sub-model keeps the first of them. All is read off the graph of `torch.export`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from sfsc.errors import SfscError, first_line
from sfsc.switchable import rules
from sfsc.switchable.labels import NONE, WHOLE, Partition, along, compact
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


def analyse(network: nn.Module, example: Tensor, keep: Sequence[str] = ()) -> tuple[Structure, LabelledGraph]:
    """The structure of a network that maps a batch of images to one or several tensors, and its graph.

    The channels of its input and of its outputs are never cut.

    Args:
        network: a plain module; it is not changed.
        example: (batch, ...) float32 input, of the size that will be used; its values do not matter.
        keep: dotted names of modules whose parameters are not to be cut.

    Raises:
        SfscError: the network cannot be exported, or a module does something with its channels that has
            no cut; the message names the module. Nothing can be cut, or there is no module of a name in
            `keep`.
    """
    _check_names(network, keep)
    plain = copy.deepcopy(network).cpu().eval()
    example = torch.rand(example.shape, generator=torch.Generator().manual_seed(0))
    running = Running(plain)
    try:
        program = torch.export.export(plain, (example,))
    except Exception as error:  # torch.export raises errors of many unrelated classes
        reason = first_line(error)
        module = running.where() or "the network"
        raise SfscError(f"{module} cannot be analysed, torch.export says: {reason}") from error
    return Tracer(program, example, keep).structure()


def _check_names(network: nn.Module, keep: Sequence[str]) -> None:
    names = {name for name, _ in network.named_modules()}
    for name in keep:
        if name not in names:
            raise SfscError(f"keep names {name!r}, but the network has no module of that name")


class Running:
    """Knows the module whose forward pass began last and has not ended."""

    def __init__(self, network: nn.Module) -> None:
        self._stack: list[str] = []
        self._hooks = []
        for name, module in network.named_modules():
            self._hooks.append(
                module.register_forward_pre_hook(lambda *_, name=name: self._stack.append(name))
            )
            self._hooks.append(module.register_forward_hook(lambda *_: self._leave()))

    def _leave(self) -> None:
        self._stack.pop()

    def where(self) -> str:
        """Its dotted name; empty for the network itself."""
        return self._stack[-1] if self._stack else ""

    def stop(self) -> None:
        """Stop watching."""
        for hook in self._hooks:
            hook.remove()


class Tracer(fx.Interpreter):
    """Runs an exported graph on an example and follows the labels of every value beside it."""

    def __init__(self, program: torch.export.ExportedProgram, example: Tensor, keep: Sequence[str]) -> None:
        super().__init__(program.graph_module)
        self.graph_module = program.graph_module
        self.extra_traceback = False  # it would be written into our messages
        signature = program.graph_signature
        self.names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        self.constants = signature.inputs_to_lifted_tensor_constants
        self.example = example
        self.state = {**program.state_dict, **program.constants}
        self.keep = [f"{name}." for name in keep]
        self.partition = Partition()
        self._labels: dict[fx.Node, rules.Labels] = {}
        self._weighed: dict[str, dict[int, Tensor]] = {}
        self._raw: dict[str, Tensor] = {}
        self._sizes: dict[str, list[Tensor]] = {}

    def structure(self) -> tuple[Structure, LabelledGraph]:
        """Trace the graph and read the groups and layouts off it."""
        placeholders = [node.name for node in self.graph_module.graph.nodes if node.op == "placeholder"]
        with torch.no_grad():
            self.run(*map(self._input, placeholders))
        return self._collect([self.names.get(name) or self._input(name) for name in placeholders])

    def _input(self, placeholder: str) -> Any:
        name = self.names.get(placeholder) or self.constants.get(placeholder)
        return self.example if name is None else self.state[name]

    def run_node(self, node: fx.Node) -> Any:
        """Run one node, and its rule."""
        result = super().run_node(node)
        if node.op == "call_function":
            self._labels[node] = self._apply_rule(node)
        elif node.op == "output":
            self._keep_whole(node.all_input_nodes)
        return result

    def _keep_whole(self, nodes: Sequence[fx.Node]) -> None:
        for node in nodes:
            self.partition.unify(self.labels(node), torch.tensor(WHOLE))

    def _apply_rule(self, node: fx.Node) -> rules.Labels:
        is_cut = [value for value in node.all_input_nodes if self._is_labelled(value)]
        if not is_cut or node.meta.get("val") is None:  # an assertion has no value
            return None
        if f"{module_of(node)}.".startswith(tuple(self.keep)):
            self._keep_whole(is_cut)
            return None
        rule = rules.find_rule(node)
        if rule is not None:
            return rule(self, node)
        if any(along(self.labels(value), range(self.labels(value).ndim)) for value in is_cut):
            raise self.no_cut(node, f"its channels pass through {node.target}, which is not supported")
        return None

    def _is_labelled(self, node: fx.Node) -> bool:
        return self._labels.get(node) is not None or node.name in self.names

    def all_labels(self, node: fx.Node) -> rules.Labels:
        """The labels of a node's value, or of each of its values; of a constant, `WHOLE`."""
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
        """The compact labels of a node's value."""
        labels = self.all_labels(node)
        assert isinstance(labels, Tensor)
        return labels

    def _raw_labels(self, node: fx.Node) -> Tensor:
        """A parameter that is no layer's weight: each element may be a channel until it meets another."""
        name, shape = self.names[node.name], rules.shape_of(node)
        if name in self._weighed:
            raise self._two_roles(name)
        self._raw[name] = self.partition.new(math.prod(shape)).view(shape)
        return self._raw[name]

    def full_labels(self, node: fx.Node) -> Tensor:
        """The labels of a node's value in the value's own shape."""
        return self.labels(node).expand(rules.shape_of(node))

    def arguments_with_labels(self, node: fx.Node) -> tuple[Any, Any]:
        """The node's arguments, each floating tensor replaced by its labels."""

        def replace(value: fx.Node) -> Any:
            if isinstance(value.meta["val"], Tensor) and not value.meta["val"].is_floating_point():
                return self.value(value)
            return self.full_labels(value)

        return fx.map_arg(node.args, replace), fx.map_arg(node.kwargs, replace)

    def value(self, node: fx.Node) -> Any:
        """What the node computed from the example."""
        return self.env[node]

    def new_channels(self, count: int) -> Tensor:
        """(count,) labels of a layer's output; a single channel cannot be cut."""
        return self.partition.new(count) if count > 1 else torch.tensor([WHOLE])

    def merge(self, labels: Tensor, dimensions: Sequence[int]) -> Tensor:
        """Make all channels along these dimensions one; compact labels."""
        for dimension in dimensions:
            if labels.shape[dimension] > 1:
                best = labels.amax(dimension, keepdim=True)
                self.partition.unify(labels, best)
                labels = self.partition.find(best)
        return labels

    def join(self, a: Tensor, b: Tensor) -> Tensor:
        """Make what is at equal places one channel; the labels of both, broadcast."""
        self.partition.unify(a, b)
        return compact(self.partition.find(torch.where(a == NONE, b, a)))

    def tie_across(self, node: fx.Node, dimension: int) -> Tensor:
        """(n,) labels along a dimension, made one over all others."""
        labels = self.labels(node)
        others = [d for d in range(labels.ndim) if d != dimension % labels.ndim]
        vector = self.merge(labels, others).flatten().expand(rules.shape_of(node)[dimension])
        return vector.clamp_min(WHOLE)

    def tie_groups(self, channels: Tensor, groups: int) -> Tensor:
        """(groups,) labels: the channels of each group, one behind the other, made one."""
        return self.merge(channels.view(groups, -1), [1]).flatten()

    def weigh(self, node: fx.Node, parameter: Any, dimension: int, channels: Tensor) -> None:
        """The channels along one dimension of a layer's weight; what is no tensor is passed by."""
        if not isinstance(parameter, fx.Node):
            return
        name = self.names.get(parameter.name)
        if name is None:
            raise self.no_cut(node, "its weight is computed, not a parameter")
        if name in self._raw:
            raise self._two_roles(name)
        known = self._weighed.setdefault(name, {}).setdefault(dimension, channels)
        self.partition.unify(known, channels)

    def note_sizes(self, node: fx.Node, labels: Tensor) -> None:
        """Remember the labels along dimensions whose size may be written in the module's code."""
        for dimension in range(labels.ndim):
            if labels.shape[dimension] > 1:
                others = [d for d in range(labels.ndim) if d != dimension]
                first = labels
                for other in others:
                    first = first.narrow(other, 0, 1)
                self._sizes.setdefault(module_of(node), []).append(first.flatten())

    def no_cut(self, node: fx.Node, reason: str) -> SfscError:
        """The error for a node that has no cut."""
        module = module_of(node) or "the network itself"
        remedy = f"; keep={[module]!r} leaves it whole" if module_of(node) else ""
        return SfscError(f"{module} cannot be cut: {reason}{remedy}")

    def _two_roles(self, name: str) -> SfscError:
        module = name.rpartition(".")[0]
        return SfscError(
            f"{module or 'the network itself'} cannot be cut: its {name.rpartition('.')[2]} is used twice, "
            f"once as a layer's weight and once as a plain tensor; keep={[module]!r} leaves it whole"
        )

    def _collect(self, inputs: list[Any]) -> tuple[Structure, LabelledGraph]:
        dimensions = list(self._dimensions())
        layers = sum(len(weighed) for weighed in self._weighed.values())
        numbering = _Numbering(dimensions, layers, len(self.partition.parent))
        layouts: dict[str, dict[int, Layout]] = {}
        for name, dimension, labels in dimensions:
            layout = numbering.layout(labels)
            if (layout.groups >= 0).any():
                layouts.setdefault(name, {})[dimension] = layout
        sizes = {
            name: [numbering.layout(self.partition.find(labels)) for labels in noted]
            for name, noted in self._sizes.items()
        }
        units = {
            node: numbering.of(self.labels(node))
            for node, labels in self._labels.items()
            if isinstance(labels, Tensor)
        }
        if not numbering.groups:
            raise SfscError(
                "nothing of the network can be cut: its channels reach an output or are kept whole"
            )
        graph = LabelledGraph(self.graph_module, self.example, inputs, units, sizes)
        return Structure(numbering.groups, layouts), graph

    def _dimensions(self) -> Iterator[tuple[str, int, Tensor]]:
        """Each parameter's dimensions: (name, dimension, (n,) labels)."""
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
        """A raw parameter's labels, where elements that met no other tensor count as their neighbours."""
        uses = torch.bincount(self.partition.find(torch.arange(len(self.partition.parent))))
        used = torch.where(uses[labels] > 1, labels, NONE)
        if bool((used == NONE).all()):
            return torch.full([1] * labels.ndim, WHOLE)
        for dimension in range(labels.ndim):
            best = used.amax(dimension, keepdim=True)
            if bool(((used == best) | (used == NONE)).all()):
                used = best
        return used


class _Numbering:
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


def module_of(node: fx.Node) -> str:
    """The dotted name of the module whose code a node comes from; empty for the network itself."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return stack[-1][0] if stack else ""
