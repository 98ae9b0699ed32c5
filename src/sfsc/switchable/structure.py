"""Which channels of a network belong together.

Two tensors share a channel dimension when the network adds them, filters them depthwise, normalises
them, and so on. Such dimensions form one group: a sub-model cuts all of them at the same place, and
sorting permutes all of them alike. The groups are read off the graph of `torch.export`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from sfsc.errors import SfscError, first_line

aten = torch.ops.aten


@dataclass(eq=False)
class ChannelGroup:
    """Dimensions of parameters and buffers that stand for the same channels.

    `members` are (name in the network's state, dimension); a group that is `whole` is never cut: the
    channels of the network's input and of its output.
    """

    size: int
    members: list[tuple[str, int]] = field(default_factory=list)
    whole: bool = False


def channel_groups(network: nn.Module, example: Tensor) -> list[ChannelGroup]:
    """The channel groups of a network of images, in the order in which the network meets them.

    Args:
        network: a plain module; it is not changed.
        example: (batch, channels, height, width) float32 input, of the size that will be used.

    Raises:
        SfscError: the network cannot be exported, or a module does something with its channels that
            has no cut; the message names the module.
    """
    plain = copy.deepcopy(network).eval()
    try:
        program = torch.export.export(plain, (example,))
    except Exception as error:  # torch.export raises errors of many unrelated classes
        reason = first_line(error)
        raise SfscError(f"the network cannot be analysed, torch.export says: {reason}") from error
    return _Tracer(program).trace()


class _Tracer:
    """Walks an exported graph and follows the channel dimension (dimension 1) of every activation."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        signature = program.graph_signature
        self.graph = program.graph_module.graph
        self.names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        self.inputs = set(signature.user_inputs)
        self.group_of: dict[fx.Node, ChannelGroup] = {}
        self.groups: list[ChannelGroup] = []

    def trace(self) -> list[ChannelGroup]:
        for node in self.graph.nodes:
            if node.op == "placeholder" and node.name in self.inputs:
                self.group_of[node] = self._new_group(_shape(node)[1], whole=True)
            elif node.op == "call_function":
                self._visit(node)
            elif node.op == "output":
                for value in node.all_input_nodes:
                    if value in self.group_of:
                        self.group_of[value].whole = True
        return [group for group in self.groups if group.members]

    def _visit(self, node: fx.Node) -> None:
        if not any(value in self.group_of for value in node.all_input_nodes):
            return
        visit = _VISITS.get(node.target)
        if visit is None:
            raise _no_cut(node, f"its channels pass through {node.target}, which is not supported")
        visit(self, node)

    def _new_group(self, size: int, whole: bool = False) -> ChannelGroup:
        self.groups.append(ChannelGroup(size, whole=whole))
        return self.groups[-1]

    def _tie(self, parameter: Any, dimension: int, group: ChannelGroup) -> None:
        if isinstance(parameter, fx.Node) and (self.names[parameter.name], dimension) not in group.members:
            group.members.append((self.names[parameter.name], dimension))

    def _merge(self, kept: ChannelGroup, other: ChannelGroup) -> None:
        if kept is other:
            return
        kept.members += other.members
        kept.whole |= other.whole
        self.groups.remove(other)
        for node, group in self.group_of.items():
            if group is other:
                self.group_of[node] = kept

    def pass_through(self, node: fx.Node) -> None:
        self.group_of[node] = self.group_of[_first(node)]

    def convolution(self, node: fx.Node) -> None:
        source, weight, bias, groups = _first(node), node.args[1], _argument(node, 2), _argument(node, 6, 1)
        out_channels, in_per_group = _shape(weight)[:2]
        group = self.group_of[source]
        if groups == 1:
            self._tie(weight, 1, group)
            group = self._new_group(out_channels)
        elif not (in_per_group == 1 and groups == out_channels):
            raise _no_cut(node, f"a convolution in {groups} groups is neither dense nor depthwise")
        self._tie(weight, 0, group)
        self._tie(bias, 0, group)
        self.group_of[node] = group

    def linear(self, node: fx.Node) -> None:
        source, weight, bias = _first(node), node.args[1], _argument(node, 2)
        if len(_shape(source)) != 2:
            raise _no_cut(node, "a linear layer over more than (batch, channels) is not supported")
        self._tie(weight, 1, self.group_of[source])
        group = self.group_of[node] = self._new_group(_shape(weight)[0])
        self._tie(weight, 0, group)
        self._tie(bias, 0, group)

    def batch_norm(self, node: fx.Node) -> None:
        self.pass_through(node)
        for parameter in node.args[1:5]:
            self._tie(parameter, 0, self.group_of[node])

    def elementwise(self, node: fx.Node) -> None:
        """A sum, product or the like of two tensors: their channels are the same channels."""
        tracked = [value for value in node.all_input_nodes if value in self.group_of]
        self.group_of[node] = self.group_of[tracked[0]]
        for value in tracked[1:]:
            self._merge(self.group_of[node], self.group_of[value])
        for value in node.all_input_nodes:
            if value.name in self.names:
                self._tie_broadcast(node, value)

    def _tie_broadcast(self, node: fx.Node, parameter: fx.Node) -> None:
        dimension = 1 - len(_shape(node)) + len(_shape(parameter))
        if dimension >= 0 and _shape(parameter)[dimension] > 1:
            self._tie(parameter, dimension, self.group_of[node])

    def flatten(self, node: fx.Node) -> None:
        if math.prod(_shape(_first(node))[2:]) != 1:
            raise _no_cut(node, "it flattens a feature map whose height and width are not 1: pool it first")
        self.pass_through(node)

    def pad(self, node: fx.Node) -> None:
        amounts = node.args[1]
        assert isinstance(amounts, list | tuple)
        if len(amounts) > 2 * (len(_shape(node)) - 2):
            raise _no_cut(node, "it pads the channels")
        self.pass_through(node)

    def reduce(self, node: fx.Node) -> None:
        """A reduction: over space the channels stay, over the channels nothing is left to cut."""
        dimensions = _argument(node, 2 if node.target is aten.linalg_vector_norm.default else 1)
        rank = len(_shape(_first(node)))
        if {dimension % rank for dimension in dimensions} & {0}:
            raise _no_cut(node, "it reduces over the batch")
        if 1 not in {dimension % rank for dimension in dimensions}:
            self.pass_through(node)


_VISITS: dict[Any, Callable[[_Tracer, fx.Node], None]] = {
    aten.conv2d.default: _Tracer.convolution,
    aten.linear.default: _Tracer.linear,
    aten.batch_norm.default: _Tracer.batch_norm,
    aten.flatten.using_ints: _Tracer.flatten,
    aten.pad.default: _Tracer.pad,
    aten.constant_pad_nd.default: _Tracer.pad,
    aten.mean.dim: _Tracer.reduce,
    aten.linalg_vector_norm.default: _Tracer.reduce,
    **dict.fromkeys(
        [
            aten.add.Tensor, aten.add_.Tensor, aten.sub.Tensor, aten.sub_.Tensor, aten.mul.Tensor,
            aten.mul_.Tensor, aten.div.Tensor, aten.div_.Tensor, aten.expand_as.default,
        ],
        _Tracer.elementwise,
    ),
    **dict.fromkeys(
        [
            aten.relu.default, aten.relu_.default, aten.hardtanh.default, aten.hardtanh_.default,
            aten.silu.default, aten.silu_.default, aten.gelu.default, aten.sigmoid.default,
            aten.hardswish.default, aten.hardswish_.default, aten.leaky_relu.default,
            aten.leaky_relu_.default, aten.dropout.default, aten.clone.default, aten.contiguous.default,
            aten.max_pool2d.default, aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default,
        ],
        _Tracer.pass_through,
    ),
}  # fmt: skip


def _first(node: fx.Node) -> fx.Node:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    return source


def _shape(node: Any) -> torch.Size:
    return node.meta["val"].shape


def _argument(node: fx.Node, position: int, default: Any = None) -> Any:
    return node.args[position] if len(node.args) > position else default


def _no_cut(node: fx.Node, reason: str) -> SfscError:
    stack = list(node.meta.get("nn_module_stack", {}).values())
    module = stack[-1][0] if stack and stack[-1][0] else "the network itself"
    return SfscError(f"{module} cannot be cut: {reason}")
