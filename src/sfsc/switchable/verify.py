"""Does a sub-network compute what the full network computes with the other channels silenced?

The reference is the full network's graph, run with every channel that the sub-network lacks set to zero in
every value, and with means over channels taken over those that it has. It knows nothing of how networks are
cut, so a size that is kept in a module's code, or a view that mixes channels, shows as a difference.
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
    """A sub-network that fails or differs, and the module in which it does."""

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
    """Find the sizes that modules keep for their own code, so that all sub-networks compute what they should.

    A module that works with its attributes as they are keeps them. Where one fails or differs, those of its
    attributes that equal a size of channels in its code are changed, in all modules of its class alike.

    Args:
        network: the full network; it is not changed.
        structure: what can be cut of it.
        graph: its graph.
        counts: for each sub-network, the units that each group keeps.

    Returns:
        The structure, with `sizes`.

    Raises:
        SfscError: no change makes a sub-network equal to the silenced full network; the message names the
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
    """Compare one sub-network with the silenced full network, on the example that was analysed."""
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
    """A copy on the CPU, to be evaluated, with weights under which every branch passes something on."""
    copied = copy.deepcopy(network).cpu().eval()
    generator = torch.Generator().manual_seed(0)
    for tensor in state_of(copied).values():
        if tensor.is_floating_point():
            if tensor.numel() > max(tensor.shape, default=1):
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
    """The name of the module whose code makes the first difference: a layer of torch has none of its own."""
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

    If told to record, `of_layer` then holds, by module name, the kept elements of the last value that each
    module itself computed.
    """

    def __init__(self, graph: LabelledGraph, counts: Sequence[int], record: bool = False) -> None:
        super().__init__(graph.module)
        self.record = record
        self.units = graph.units
        self.limits = torch.tensor([*counts, 1])
        self.of_layer: dict[str, Tensor] = {}

    def run_node(self, node: fx.Node) -> Any:
        """Run one node and silence its value."""
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
        """Which elements of a node's value a sub-network keeps; broadcasts with the value."""
        if node not in self.units:
            return torch.tensor(True)
        groups, units = self.units[node]
        return units < self.limits[groups]

    def _cut_together(self, node: fx.Node) -> list[int]:
        """The dimensions over which a node computes a statistic and of which a sub-network keeps a part."""
        rule = find_rule(node) if node.op == "call_function" else None
        if rule not in (layer_norm, group_norm, reduction):
            return []
        kept = self._kept(source(node))
        return [d for d in normalised(node) if kept.ndim and kept.shape[d] > 1 and not kept.all()]

    def _over_kept(self, node: fx.Node, dimensions: list[int]) -> Tensor:
        """The statistic over what is kept, put back among zeros where the dimension is still there."""
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
