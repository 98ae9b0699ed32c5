"""Verification that a sub-network computes what the full network computes with the other channels silenced.

The reference is the full network's graph. In every value, the channels that the sub-network lacks are set to
zero, and means over channels only include the channels that it has. The reference does not depend on how
networks are cut. So a size in a module's code, or a view that mixes channels, shows as a difference.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from sfsc.errors import SfscError, first_line
from sfsc.switchable.convert import cut_norms, narrow, size_attributes, state_of
from sfsc.switchable.ledger import module_of
from sfsc.switchable.rules import find_rule, group_norm, layer_norm, normalised, reduction, source
from sfsc.switchable.structure import LabelledGraph, Layout, Structure
from sfsc.switchable.tracer import Running

TOLERANCE = 1e-3


class _Mismatch(SfscError):
    """The error for a sub-network that fails in a module, or first differs from the reference there."""

    def __init__(self, module: str, reason: str) -> None:
        super().__init__(
            f"{module or 'the network itself'} cannot be cut, its code seems to hold a size of the full "
            f"network: {reason}; take the size from the input's shape, or leave the module whole with "
            f"keep={[module]!r}"
        )
        self.module = module


def settle(
    network: nn.Module, structure: Structure, graph: LabelledGraph, counts: Sequence[Sequence[int]]
) -> Structure:
    """Find the sizes that modules store for their own code and that must change with the width.

    The attributes of modules that work unchanged stay as they are. If a module fails or differs, attributes
    that equal a number of channels in its code are changed, in all modules of its class.

    Args:
        network: the full network; it is not changed.
        structure: the structure of the network.
        graph: the graph of the network.
        counts: the number of units that each group keeps, for each sub-network.

    Returns:
        The structure with `sizes`.

    Raises:
        SfscError: no change makes a sub-network equal to the silenced full network. The message names the
            module in which they first differ.
    """
    full = _randomised(network)
    attempts: dict[type[nn.Module], Iterator[tuple[str, ...]]] = {}
    chosen: dict[type[nn.Module], tuple[str, ...]] = {}
    while True:
        sizes = _sizes(full, graph, chosen)
        settled = replace(structure, sizes=sizes)
        try:
            for kept in counts:
                _verify(full, settled, graph, kept)
            return settled
        except _Mismatch as mismatch:
            module = full.get_submodule(mismatch.module)
            if type(module) not in attempts:
                names = tuple(size_attributes(module, graph.sizes.get(mismatch.module, [])))
                attempts[type(module)] = iter([names, *((name,) for name in names)] if names else [])
            attempt = next(attempts[type(module)], None)
            if attempt is None:
                raise
            chosen[type(module)] = attempt


def _sizes(
    network: nn.Module, graph: LabelledGraph, chosen: Mapping[type[nn.Module], tuple[str, ...]]
) -> dict[str, dict[str, Layout]]:
    return {
        name: {
            attribute: layout
            for attribute, layout in size_attributes(module, graph.sizes.get(name, [])).items()
            if attribute in chosen[type(module)]
        }
        for name, module in network.named_modules()
        if type(module) in chosen
    }


def _verify(full: nn.Module, structure: Structure, graph: LabelledGraph, counts: Sequence[int]) -> None:
    """Compare one sub-network with the silenced full network on the example of the graph."""
    part, _ = narrow(full, structure, counts, cut_norms(full, structure, counts))
    outputs = _outputs(part, graph.example)
    inputs = graph.inputs_from(state_of(full))
    with torch.no_grad():
        expected = tree_leaves(_Silenced(graph, counts).run(*inputs))
    if not all(map(_close, outputs, expected)):
        raise _Mismatch(_first_difference(part, graph, counts, inputs), "it computes something else")


def _outputs(network: nn.Module, example: Tensor) -> list[Tensor]:
    running = Running(network)
    try:
        with torch.no_grad():
            outputs = tree_leaves(network(example))
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        raise _Mismatch(running.where(), first_line(error)) from error
    finally:
        running.stop()
    return outputs


@torch.no_grad()
def _randomised(network: nn.Module) -> nn.Module:
    """Return a copy on the CPU in evaluation mode, with random weights so that every branch has an effect.

    Buffers of several dimensions stay, because they can have a form of their own, as correlations have.
    """
    copied = copy.deepcopy(network).cpu().eval()
    generator = torch.Generator().manual_seed(0)
    for tensor in state_of(copied).values():
        if tensor.is_floating_point():
            if tensor.numel() > max(tensor.shape, default=1):
                if isinstance(tensor, nn.Parameter):
                    fan_in = max(1, tensor.numel() // len(tensor))
                    tensor.copy_(torch.randn(tensor.shape, generator=generator) / fan_in**0.5)
            else:
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return copied


def _close(output: Tensor, expected: Tensor) -> bool:
    if output.numel() != expected.numel():
        return False
    difference = (output.flatten() - expected.flatten()).abs().nan_to_num(0.0)
    return bool(difference.max() <= TOLERANCE * expected.abs().max())


@torch.no_grad()
def _first_difference(
    network: nn.Module, graph: LabelledGraph, counts: Sequence[int], inputs: Sequence[Any]
) -> str:
    """Return the module whose code causes the first difference; instead of a layer of torch, its parent."""
    reference = _Silenced(graph, counts, record=True)
    reference.run(*inputs)
    found: list[str] = []

    def compare(name: str, output: Any) -> None:
        expected = reference.of_layer.get(name)
        if isinstance(output, Tensor) and expected is not None and not _close(output, expected):
            found.append(name)

    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: compare(name, output))
        for name, module in network.named_modules()
        if not list(module.children())
    ]
    network(graph.example)
    for hook in hooks:
        hook.remove()
    if not found:
        return ""
    is_layer = type(network.get_submodule(found[0])).__module__.startswith("torch.nn.")
    return found[0].rpartition(".")[0] if is_layer else found[0]


class _Silenced(fx.Interpreter):
    """Runs a graph with the cut channels of every value set to zero.

    With `record`, `of_layer` then contains, by module name, the kept elements of the last value that each
    module itself computed.
    """

    def __init__(self, graph: LabelledGraph, counts: Sequence[int], record: bool = False) -> None:
        super().__init__(graph.module)
        self.record = record
        self.units = graph.units
        self.limits = torch.tensor([*counts, 1])
        self.of_layer: dict[str, Tensor] = {}

    def run_node(self, node: fx.Node) -> Any:
        """Run one node and set the cut channels of its value to zero."""
        dimensions = self._cut_together(node)
        result = self._over_kept(node, dimensions) if dimensions else super().run_node(node)
        if not isinstance(result, Tensor):
            return result
        kept = self._kept(node)
        if not kept.all():
            result = torch.where(kept, result, torch.zeros((), dtype=result.dtype))
        if self.record and node.op == "call_function":
            self.of_layer[module_of(node)] = result[kept.expand(result.shape)]
        return result

    def _kept(self, node: fx.Node) -> Tensor:
        """Return which elements of a node's value a sub-network keeps; the mask broadcasts with the value."""
        if node not in self.units:
            return torch.tensor(True)
        groups, units = self.units[node]
        return units < self.limits[groups]

    def _cut_together(self, node: fx.Node) -> list[int]:
        """Return the dimensions over which a node computes a statistic and which the sub-network cuts."""
        rule = find_rule(node) if node.op == "call_function" else None
        if rule not in (layer_norm, group_norm, reduction):
            return []
        kept = self._kept(source(node))
        return [d for d in normalised(node) if kept.ndim and kept.shape[d] > 1 and not kept.all()]

    def _over_kept(self, node: fx.Node, dimensions: list[int]) -> Tensor:
        """Compute the statistic over the kept channels, and fill the others with zeros if they remain."""
        (value, *rest), kwargs = self.fetch_args_kwargs_from_env(node)
        dimension = dimensions[0]
        positions = self._kept(source(node)).flatten().nonzero().flatten()
        if find_rule(node) is layer_norm:
            rest[0] = [len(positions)]
        rest = [part[positions] if isinstance(part, Tensor) else part for part in rest]
        target: Any = node.target
        result = target(value.index_select(dimension, positions), *rest, **kwargs)
        if find_rule(node) is reduction:
            return result
        return torch.zeros_like(value).index_copy(dimension, positions, result)
