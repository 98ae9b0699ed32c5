"""A switchable network: one set of weights with a dense sub-network at every width."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sfsc.errors import SfscError
from sfsc.switchable.convert import (
    Gathered,
    cut_norms,
    cut_positions,
    is_prefix,
    narrow,
    norm_names,
    select,
    sort_by_importance,
)
from sfsc.switchable.stages import left_out
from sfsc.switchable.structure import Structure
from sfsc.switchable.tracer import analyse
from sfsc.switchable.verify import settle
from sfsc.widths import Widths

DEFAULT_WIDTHS = Widths()
ROUND_TO = 8


class Switchable(nn.Module):
    """A network with a nested sub-network for each width. Create it with `to_switchable`.

    Each sub-network is a dense network of the original classes, with parts of one set of weights (views, if
    the kept channels come first) and its own normalisation layers. The width is an argument and not a state,
    so any number of threads can use different widths at once.

    `parameters()` yields the parameters of the full network, then those of the narrower widths' normalisation
    layers.
    """

    def __init__(self, network: nn.Module, structure: Structure, widths: Widths, round_to: int) -> None:
        """Build the sub-networks of a network, which itself becomes the widest of them.

        Raises:
            SfscError: two widths keep the same channels in every layer and the same blocks.
        """
        super().__init__()
        self.network = network
        self.structure = structure
        self.widths = widths
        self.round_to = round_to
        self.counts = [structure.counts(self._ratios(width), round_to) for width in widths]
        self.left_out = [left_out(structure.stages, self._depth(width)) for width in widths]
        self._check_distinct()
        self._divide()
        self._build()

    def _divide(self) -> None:
        """Create the parts that each narrow sub-network does not share: its normalisation layers."""
        self.norms = nn.ModuleList(
            nn.ModuleDict({name.replace(".", "/"): norm for name, norm in norms.items()})
            for norms in (
                cut_norms(self.network, self.structure, *kept)
                for kept in zip(self.counts[:-1], self.left_out, strict=False)
            )
        )

    def _ratios(self, width: float) -> float | Sequence[float]:
        """Return the channel ratio of a sub-network, or that of each of its groups."""
        return width

    def _depth(self, width: float) -> float:
        """Return the share of the blocks of each stage that a sub-network keeps."""
        return 1.0

    def _check_distinct(self) -> None:
        for first, second in itertools.combinations(range(len(self.widths)), 2):
            if self._coincide(first, second):
                narrow, wide = self.widths.ratios[first], self.widths.ratios[second]
                raise SfscError(
                    f"widths {narrow:g} and {wide:g} keep the same channels in every layer: choose widths "
                    "further apart, or round to fewer channels"
                )

    def _coincide(self, first: int, second: int) -> bool:
        """Return whether two sub-networks, by their indices, are the same."""
        return self.counts[first] == self.counts[second] and self.left_out[first] == self.left_out[second]

    def forward(self, inputs: Tensor, width: float = 1.0) -> Any:
        """Return the output of the sub-network of this width for a batch."""
        return self.at(width)(inputs)

    def at(self, width: float) -> nn.Module:
        """Return the live sub-network of this width. Call `at` again after the weights have changed.

        In training mode, or if gradients are recorded, the sub-network shares the weights. In evaluation mode
        without gradients, it is a contiguous copy, because convolutions copy weights that are not contiguous
        at every call. The copy is kept until the weights change.

        Raises:
            SfscError: `width` is not one of the widths.
        """
        index = self.widths.index(width)
        if index == len(self.widths) - 1:
            return self.network
        for part in self._gathered[index]:
            part.renew()
        if self.training or torch.is_grad_enabled():
            return self._narrow[index]
        return self._packed_at(index)

    def _packed_at(self, index: int) -> nn.Module:
        versions = [tensor._version for tensor in self._sources]
        if index not in self._packed or self._packed[index][0] != versions:
            self._packed[index] = (versions, copy.deepcopy(self._narrow[index]))
        return self._packed[index][1]

    def submodel(self, width: float) -> nn.Module:
        """Return a plain dense copy of one sub-network, of the original class and without the others."""
        return copy.deepcopy(self.at(width))

    def corners(self) -> dict[str, list[nn.Parameter]]:
        """Return the parts of each shared parameter in all sub-networks, by name, narrow first.

        The last part is the whole parameter. Parameters of normalisation layers are not shared, and are not
        included. The part of a block that a sub-network leaves out is one that nothing uses.
        """
        own = set(norm_names(self.network))
        networks = [dict(network.named_parameters()) for network in (*self._narrow, self.network)]
        positions = [cut_positions(self.structure, counts) for counts in self.counts]
        return {
            name: [
                network[name] if name in network else nn.Parameter(select(whole, kept.get(name, {})).detach())
                for network, kept in zip(networks, positions, strict=True)
            ]
            for name, whole in networks[-1].items()
            if name.rpartition(".")[0] not in own
        }

    def corner_orders(self) -> dict[str, list[dict[int, Tensor]]]:
        """Return how to reorder the parts of each shared parameter whose parts are not corners.

        Each part has a dictionary from dimension to (n,) int64. After `index_select` with these along their
        dimensions, the parts are nested: each part equals the first entries of the next one.
        """
        positions = [cut_positions(self.structure, counts) for counts in self.counts]
        orders: dict[str, list[dict[int, Tensor]]] = {}
        for name in self.corners():
            for dimension in self.structure.layouts.get(name, {}):
                parts = [of_width[name][dimension] for of_width in positions]
                if not all(is_prefix(part) for part in parts):
                    each = orders.setdefault(name, [{} for _ in parts])
                    for order, part in zip(each, parts, strict=True):
                        missing = sum(~torch.isin(part, narrower) for narrower in parts)
                        order[dimension] = torch.as_tensor(missing).argsort(stable=True)
        return orders

    def norms_of(self, index: int) -> dict[str, nn.Module]:
        """Return the normalisation layers of the index-th sub-network by name."""
        if index == len(self.widths) - 1:
            return {name: self.network.get_submodule(name) for name in norm_names(self.network)}
        return {name.replace("/", "."): norm for name, norm in self.norms[index].named_children()}

    def parameter_count(self, width: float) -> int:
        """Return the number of parameters of one sub-network."""
        return sum(p.numel() for p in self.at(width).parameters())

    def _build(self) -> None:
        """Build the narrow networks on the full network's storage; needed whenever that storage moves."""
        self._packed: dict[int, tuple[list[int], nn.Module]] = {}
        self._narrow: list[nn.Module] = []
        self._gathered: list[list[Gathered]] = []
        self._sources = [*self.parameters(), *self.buffers()]
        for index in range(len(self.norms)):
            own = self.norms_of(index)
            kept = self.counts[index], own, self.left_out[index]
            network, gathered = narrow(self.network, self.structure, *kept)
            self._narrow.append(network)
            self._gathered.append(gathered)

    def train(self, mode: bool = True) -> Switchable:
        """Set training or evaluation mode for every sub-network."""
        super().train(mode)
        self._packed.clear()
        for network in self._narrow:
            network.train(mode)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Switchable:
        super()._apply(fn, recurse)
        self._build()
        return self

    def __getstate__(self) -> dict[str, Any]:
        built = {"_narrow", "_gathered", "_packed", "_sources"}
        return {name: value for name, value in self.__dict__.items() if name not in built}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._build()


def to_switchable(
    model: nn.Module,
    example_input: Tensor,
    widths: str | Sequence[float] | Widths = DEFAULT_WIDTHS,
    keep: Sequence[str] = (),
    round_to: int = ROUND_TO,
) -> Switchable:
    """Make a plain network switchable. At width r, its layers have ceil(r * C) of their C channels.

    The channels of the input and of the outputs are never cut. Channels are first sorted by importance,
    which does not change the function of the full network.

    Args:
        model: a network whose forward pass takes one tensor; it is copied, not changed.
        example_input: (batch, ...) float32 of the size that will be used; its values do not matter.
        widths: channel ratios, increasing to 1.0.
        keep: dotted names of modules that keep all channels at every width.
        round_to: channel counts are rounded up to multiples of this, at most to the full count. 1 turns
            rounding off.

    Raises:
        SfscError: a module cannot be cut; the message names the module and the remedy.
    """
    network, widths = copy.deepcopy(model), Widths.of(widths)
    structure, graph = analyse(network, example_input, keep)
    structure = settle(network, structure, graph, [structure.counts(w, round_to) for w in widths.narrow])
    sort_by_importance(network, structure)
    return Switchable(network, structure, widths, round_to)
