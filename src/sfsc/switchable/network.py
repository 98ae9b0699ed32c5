"""A switchable network: one set of weights, a dense sub-network at every width."""

from __future__ import annotations

import copy
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
    sort_by_importance,
)
from sfsc.switchable.structure import Structure
from sfsc.switchable.tracer import analyse
from sfsc.switchable.verify import settle
from sfsc.widths import Widths

DEFAULT_WIDTHS = Widths()
ROUND_TO = 8


class Switchable(nn.Module):
    """A network with a nested sub-network for each width; made by `to_switchable`.

    Each sub-network is a dense network of the original classes over parts of one set of weights (views,
    wherever the kept channels are the first), with normalisation layers of its own. No state says which
    width is in force: it is an argument, so any number of threads may run at different widths at once.

    `parameters()` are those of the full network, then the narrower widths' normalisation layers.
    """

    def __init__(self, network: nn.Module, structure: Structure, widths: Widths, round_to: int) -> None:
        """Lay sub-networks over a network, which becomes the widest of them.

        Raises:
            SfscError: two widths keep the same channels everywhere.
        """
        super().__init__()
        self.network = network
        self.structure = structure
        self.widths = widths
        self.counts = [structure.counts(width, round_to) for width in widths]
        self._check_distinct()
        self.norms = nn.ModuleList(
            nn.ModuleDict(
                {name.replace(".", "/"): norm for name, norm in cut_norms(network, structure, counts).items()}
            )
            for counts in self.counts[:-1]
        )
        self._build()

    def _check_distinct(self) -> None:
        for first, second, narrower, wider in zip(
            self.widths, self.widths.ratios[1:], self.counts, self.counts[1:], strict=False
        ):
            if narrower == wider:
                raise SfscError(
                    f"widths {first:g} and {second:g} keep the same channels in every layer: choose widths "
                    "further apart, or round to fewer channels"
                )

    def forward(self, inputs: Tensor, width: float = 1.0) -> Any:
        """What the sub-network of this width makes of a batch."""
        return self.at(width)(inputs)

    def at(self, width: float) -> nn.Module:
        """The live sub-network of this width; ask for it again after the weights have changed.

        Where gradients are recorded, or in training mode, it shares the weights. In evaluation mode without
        gradients it is a contiguous copy, made once and again when the weights have changed, because
        convolutions copy weights that are not contiguous at every call.

        Raises:
            SfscError: not one of the widths.
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
        """A plain dense copy of one sub-network, of the original class, with no trace of the others."""
        return copy.deepcopy(self.at(width))

    def corners(self) -> dict[str, list[nn.Parameter]]:
        """For each shared parameter, by name, its part in every sub-network, narrow first; the last is whole.

        Parameters of normalisation layers are not shared and not among them.
        """
        own = set(norm_names(self.network))
        networks = [dict(network.named_parameters()) for network in (*self._narrow, self.network)]
        return {
            name: [network[name] for network in networks]
            for name in networks[-1]
            if name.rpartition(".")[0] not in own
        }

    def corner_orders(self) -> dict[str, list[dict[int, Tensor]]]:
        """For each shared parameter with parts that are no corners: how to reorder each part to be one.

        Reordered by `index_select` along every dimension named, (n,) int64, the parts are nested: each is
        the first entries of the next.
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

    def parameter_count(self, width: float) -> int:
        """The number of parameters of one sub-network."""
        return sum(p.numel() for p in self.at(width).parameters())

    def _build(self) -> None:
        """Lay the narrow networks over the full one's storage; needed whenever that storage moves."""
        self._packed: dict[int, tuple[list[int], nn.Module]] = {}
        self._narrow: list[nn.Module] = []
        self._gathered: list[list[Gathered]] = []
        self._sources = [*self.parameters(), *self.buffers()]
        for counts, norms in zip(self.counts, self.norms, strict=False):
            own = {name.replace("/", "."): norm for name, norm in norms.named_children()}
            network, gathered = narrow(self.network, self.structure, counts, own)
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
    """Make a plain network switchable: at width r, its layers have ceil(r * C) of their C channels.

    The channels of the input and of the outputs are never cut. Channels are sorted by importance first,
    which does not change the function of the full network.

    Args:
        model: a network whose forward pass takes one tensor; it is copied, not changed.
        example_input: (batch, ...) float32, of the size that will be used; its values do not matter.
        widths: channel ratios, increasing to 1.0.
        keep: dotted names of modules that are to stay whole.
        round_to: channel counts are rounded up to multiples of this, at most to the full count; 1 for none.

    Raises:
        SfscError: a module cannot be cut; the message names it and the remedy.
    """
    network, widths = copy.deepcopy(model), Widths.of(widths)
    structure, graph = analyse(network, example_input, keep)
    structure = settle(network, structure, graph, [structure.counts(w, round_to) for w in widths.narrow])
    sort_by_importance(network, structure)
    return Switchable(network, structure, widths, round_to)
