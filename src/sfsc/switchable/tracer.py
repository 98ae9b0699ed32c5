"""The analysis of a network's graph, which gives its structure.

`torch.export` returns the graph. It is run on an example, and the rule of each operation enters the labels of
its value into a ledger.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from sfsc.errors import SfscError, first_line
from sfsc.switchable.labels import ValueLabels
from sfsc.switchable.ledger import Ledger, module_of, no_cut
from sfsc.switchable.rules import find_rule
from sfsc.switchable.stages import find_stages
from sfsc.switchable.structure import LabelledGraph, Layout, Numbering, Structure


def analyse(network: nn.Module, example: Tensor, keep: Sequence[str] = ()) -> tuple[Structure, LabelledGraph]:
    """Return the structure and the graph of a network that maps a batch of images to one or several tensors.

    The channels of its input and of its outputs are never cut.

    Args:
        network: a plain module; it is not changed.
        example: (batch, ...) float32 input of the size that will be used; its values do not matter.
        keep: dotted names of modules whose parameters are not cut.

    Raises:
        SfscError: the network cannot be exported, a module uses its channels in a way that cannot be cut (the
            message names the module), nothing can be cut, or `keep` names a module that does not exist.
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
    running.stop()
    structure, graph = Tracer(program, example, keep).structure()
    return replace(structure, stages=find_stages(plain, program.graph, example)), graph


def _check_names(network: nn.Module, keep: Sequence[str]) -> None:
    names = {name for name, _ in network.named_modules()}
    for name in keep:
        if name not in names:
            raise SfscError(f"keep names {name!r}, but the network has no module of that name")


class Running:
    """Tracks the module whose forward pass began last and has not ended."""

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
        """Return the dotted name of the running module; empty for the network itself."""
        return self._stack[-1] if self._stack else ""

    def stop(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()


class Tracer(fx.Interpreter):
    """Runs an exported graph on an example and enters its channels into a ledger."""

    def __init__(self, program: torch.export.ExportedProgram, example: Tensor, keep: Sequence[str]) -> None:
        super().__init__(program.graph_module)
        self.graph_module = program.graph_module
        self.extra_traceback = False  # otherwise error messages contain the trace
        signature = program.graph_signature
        self.names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        self.constants = signature.inputs_to_lifted_tensor_constants
        self.example = example
        self.state = {**program.state_dict, **program.constants}
        self.keep = tuple(f"{name}." for name in keep)
        self.values: dict[fx.Node, Any] = {}
        self.ledger = Ledger(self.names, self.values)

    def structure(self) -> tuple[Structure, LabelledGraph]:
        """Trace the graph and return the structure and the labelled graph."""
        placeholders = [node.name for node in self.graph_module.graph.nodes if node.op == "placeholder"]
        with torch.no_grad():
            self.run(*map(self._input, placeholders), initial_env=self.values)
        return self._collect([self.names.get(name) or self._input(name) for name in placeholders])

    def _input(self, placeholder: str) -> Any:
        name = self.names.get(placeholder) or self.constants.get(placeholder)
        return self.example if name is None else self.state[name]

    def run_node(self, node: fx.Node) -> Any:
        """Run one node and its rule."""
        result = super().run_node(node)
        if node.op == "call_function":
            self.ledger.enter(node, self._apply_rule(node))
        elif node.op == "output":
            self.ledger.keep_whole(node.all_input_nodes)
        return result

    def _apply_rule(self, node: fx.Node) -> ValueLabels:
        labelled = [value for value in node.all_input_nodes if self.ledger.is_labelled(value)]
        if not labelled or node.meta.get("val") is None:  # an assertion has no value
            return None
        if f"{module_of(node)}.".startswith(self.keep):
            self.ledger.keep_whole(labelled)
            return None
        rule = find_rule(node)
        if rule is not None:
            return rule(self.ledger, node)
        if any(self.ledger.is_cut(value) for value in labelled):
            raise no_cut(node, f"its channels pass through {node.target}, which is not supported")
        return None

    def _collect(self, inputs: list[Any]) -> tuple[Structure, LabelledGraph]:
        dimensions = list(self.ledger.dimensions())
        numbering = Numbering(dimensions, self.ledger.layers(), len(self.ledger.partition.parent))
        layouts: dict[str, dict[int, Layout]] = {}
        for name, dimension, labels in dimensions:
            layout = numbering.layout(labels)
            if (layout.groups >= 0).any():
                layouts.setdefault(name, {})[dimension] = layout
        if not numbering.groups:
            raise SfscError(
                "nothing of the network can be cut: its channels reach an output or are kept whole"
            )
        sizes = {
            name: [numbering.layout(labels) for labels in noted]
            for name, noted in self.ledger.noted_sizes().items()
        }
        units = {node: numbering.of(labels) for node, labels in self.ledger.labelled()}
        graph = LabelledGraph(self.graph_module, self.example, inputs, units, sizes)
        return Structure(numbering.groups, layouts), graph
