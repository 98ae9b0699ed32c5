"""The stages of a network: chains of residual blocks. A sub-model may leave out the last blocks of each.

A block without which the network still works is one whose output is its input plus something: it is replaced
by the identity (Huang et al., Deep Networks with Stochastic Depth, ECCV 2016).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

Stage = tuple[str, ...]  # the dotted names of its blocks, in order

aten = torch.ops.aten
ADDITIONS = {aten.add.Tensor, aten.add_.Tensor}
ACTIVATIONS = {aten.relu.default, aten.relu_.default}  # the identity for what such a block receives


class LeftOut(nn.Module):
    """Takes the place of a block that a sub-model leaves out: returns its first argument."""

    def forward(self, inputs: Tensor, *_: Any, **__: Any) -> Tensor:
        """Return `inputs`; further arguments are accepted."""
        return inputs


def left_out(stages: Sequence[Stage], depth: float) -> frozenset[str]:
    """Return the names of the blocks that a sub-model leaves out.

    Of each stage, the first ceil(depth * blocks) blocks stay, so sub-models of increasing depth are nested.
    """
    return frozenset(block for stage in stages for block in stage[math.ceil(depth * len(stage) - 1e-9) :])


def is_within(name: str, blocks: frozenset[str]) -> bool:
    """Return whether a dotted name is that of a block or of something in it."""
    parts = name.split(".")
    return any(".".join(parts[:count]) in blocks for count in range(1, len(parts) + 1))


def find_stages(network: nn.Module, graph: fx.Graph, example: Tensor) -> tuple[Stage, ...]:
    """Return the stages of a network that have blocks to leave out.

    A block can be left out if it adds the output of its layers to its input, perhaps followed by a ReLU, and
    if its input is the first argument of its module and the only one of the shape of its output. Blocks that
    feed each other are a stage. The block before them is the first of the stage if it has the same class and
    the same parent. It stays at any depth, as the first block of every stage does.

    Args:
        network: the network.
        graph: its graph, from `torch.export`.
        example: (batch, ...) float32, the input that the graph was made with.
    """
    plain = _plain_modules(network, example)
    blocks = {name: ends for name, ends in _residual(graph) if name in plain}
    innermost = [name for name in blocks if not any(other.startswith(f"{name}.") for other in blocks)]
    stages: list[list[str]] = []
    end: fx.Node | None = None
    for name in innermost:
        before, after = blocks[name]
        if not stages or before is not end:
            stages.append(_leading(network, name))
        stages[-1].append(name)
        end = after
    return tuple(tuple(stage) for stage in stages if len(stage) > 1)


def _leading(network: nn.Module, name: str) -> list[str]:
    """Return the name of the module before a block, if it has the same class and parent."""
    parent, _, last = name.rpartition(".")
    siblings = list(network.get_submodule(parent)._modules)
    place = siblings.index(last)
    if not place:
        return []
    before = ".".join(filter(None, [parent, siblings[place - 1]]))
    same = type(network.get_submodule(before)) is type(network.get_submodule(name))
    return [before] if same else []


def _residual(graph: fx.Graph) -> Iterator[tuple[str, tuple[fx.Node, fx.Node]]]:
    """Yield the modules that add something to their input, with the nodes of input and output.

    They are in the order in which the graph leaves them.
    """
    nodes: dict[str, dict[fx.Node, None]] = {}
    for node in graph.nodes:
        for name, _ in node.meta.get("nn_module_stack", {}).values():
            nodes.setdefault(name, {})[node] = None
    order = {node: place for place, node in enumerate(graph.nodes)}
    for name, own in sorted(nodes.items(), key=lambda item: max(map(order.__getitem__, item[1]))):
        outputs = [node for node in own if any(user not in own for user in node.users)]
        inputs = {value for node in own for value in node.all_input_nodes if value not in own}
        similar = [value for value in inputs if _is_like(value, outputs[0])] if len(outputs) == 1 else []
        if len(similar) == 1 and _adds(outputs[0], similar[0]):
            yield name, (similar[0], outputs[0])


def _is_like(value: fx.Node, output: fx.Node) -> bool:
    """Return whether a node computes a tensor, instead of being a parameter, of the shape of an output."""
    shapes = [getattr(node.meta.get("val"), "shape", None) for node in (value, output)]
    return "nn_module_stack" in value.meta and shapes[0] is not None and shapes[0] == shapes[1]


def _adds(output: fx.Node, value: fx.Node) -> bool:
    """Return whether an output is `value` plus something, through additions and a ReLU alone."""
    if output.target in ACTIVATIONS:
        output = output.all_input_nodes[0]
    pending, added = [output], False
    while pending:
        node = pending.pop()
        added |= node is value
        if node.target in ADDITIONS:
            pending += node.all_input_nodes
    return added and output is not value


def _plain_modules(network: nn.Module, example: Tensor) -> set[str]:
    """Return the modules that are called once, and return a tensor of the shape of their first argument."""
    calls: dict[str, list[bool]] = {}

    def note(name: str, given: tuple[Any, ...], returned: Any) -> None:
        tensors = bool(given) and isinstance(given[0], Tensor) and isinstance(returned, Tensor)
        calls.setdefault(name, []).append(tensors and given[0].shape == returned.shape)

    hooks = [
        module.register_forward_hook(lambda _, given, returned, name=name: note(name, given, returned))
        for name, module in network.named_modules()
    ]
    with torch.no_grad():
        network(example)
    for hook in hooks:
        hook.remove()
    return {name for name, plain in calls.items() if plain == [True]}
