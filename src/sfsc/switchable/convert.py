"""Conversion of a dense network to nested ones: sorting channels by importance and cutting corners.

The parameters of a narrower network are parts of the full network's parameters. If the channels of a
parameter are one group, its part is a corner (first rows, first columns), which is a view of the same
storage. If they are several groups, as after a concatenation, the part contains the first channels of each
group. It is then a copy, which is renewed when the weights change. Only normalisation layers are separate for
each network (Yu et al., Slimmable Neural Networks, ICLR 2019).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sfsc.switchable.stages import LeftOut, is_within
from sfsc.switchable.structure import Layout, Structure

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)

Positions = dict[int, Tensor]


@torch.no_grad()
def sort_by_importance(network: nn.Module, structure: Structure) -> None:
    """Sort the units of every group by decreasing importance, in place. The function stays the same.

    The importance of a unit is the mean absolute value of its entries in a weight, summed over all weights
    that write or read it. The values of each weight are divided by their mean, so that all weights count
    equally (the L1 criterion of Li et al., Pruning Filters, ICLR 2017, over the whole group).
    """
    state = state_of(network)
    totals = [torch.zeros(group.size) for group in structure.groups]
    for name, dimensions in structure.layouts.items():
        if name.endswith("weight"):
            for dimension, layout in dimensions.items():
                _add_importance(totals, state[name], dimension, layout)
    orders = [total.argsort(descending=True, stable=True) for total in totals]
    for name, dimensions in structure.layouts.items():
        for dimension, layout in dimensions.items():
            moved = _permutation(layout, orders).to(state[name].device)
            state[name].copy_(state[name].index_select(dimension, moved))


def _add_importance(totals: list[Tensor], weight: Tensor, dimension: int, layout: Layout) -> None:
    others = [d for d in range(weight.ndim) if d != dimension]
    size = (weight.abs().mean(others) if others else weight.abs()).cpu().float()
    size = size / size.mean().clamp_min(1e-12)
    for group in layout.groups.unique().tolist():
        if group >= 0:
            here = layout.groups == group
            uses = layout.units[here].bincount(minlength=len(totals[group]))
            totals[group].index_add_(0, layout.units[here], size[here] / uses[layout.units[here]])


def _permutation(layout: Layout, orders: list[Tensor]) -> Tensor:
    """Return (n,) int64: for each position, the position whose content moves there."""
    moved = torch.arange(len(layout.groups))
    for group in layout.groups.unique().tolist():
        if group >= 0:
            here = (layout.groups == group).nonzero().flatten()
            by_unit = here[layout.units[here].argsort(stable=True)].view(len(orders[group]), -1)
            moved[by_unit] = by_unit[orders[group]]
    return moved


@dataclass
class Gathered:
    """A part of a tensor: `part` contains the entries of `whole` at these positions, often as a copy."""

    part: Tensor
    whole: Tensor
    positions: Positions
    version: int

    @torch.no_grad()
    def renew(self) -> None:
        """Copy the entries again if `whole` has changed."""
        if self.whole._version != self.version:
            self.part.copy_(select(self.whole, self.positions))
            self.version = self.whole._version

    @property
    def copied(self) -> bool:
        """Whether the part is a copy; if it consists of the first entries, it is a view."""
        return not all(is_prefix(chosen) for chosen in self.positions.values())


def cut_positions(structure: Structure, counts: Sequence[int]) -> dict[str, Positions]:
    """Return, by parameter and dimension, the positions that remain when each group keeps `counts` units."""
    return {
        name: {dimension: layout.kept(counts) for dimension, layout in dimensions.items()}
        for name, dimensions in structure.layouts.items()
    }


def cut_norms(
    network: nn.Module, structure: Structure, counts: Sequence[int], left_out: frozenset[str] = frozenset()
) -> dict[str, nn.Module]:
    """Return copies of the network's normalisation layers, by name, with the channels that remain.

    Layers in blocks that are left out are not copied.
    """
    positions = cut_positions(structure, counts)
    norms: dict[str, nn.Module] = {}
    for name in norm_names(network):
        if is_within(name, left_out):
            continue
        norm = copy.deepcopy(network.get_submodule(name))
        for key, tensor in _own_tensors(norm):
            _assign(norm, key, select(tensor, positions.get(f"{name}.{key}", {})).detach().clone())
        _declare_sizes(norm)
        _resize_attributes(norm, structure.sizes.get(name, {}), counts)
        norms[name] = norm
    return norms


def positions_within(
    structure: Structure, wide: Sequence[int], narrow: Sequence[int]
) -> dict[str, Positions]:
    """Return, by parameter and dimension, the positions of a narrow sub-network's part in a wide one's part.

    The sub-networks keep these numbers of units of each group.
    """
    outer, inner = cut_positions(structure, wide), cut_positions(structure, narrow)
    return {
        name: {
            dimension: torch.searchsorted(outer[name][dimension], kept) for dimension, kept in kept_at.items()
        }
        for name, kept_at in inner.items()
    }


def lend_norms(
    norms: Mapping[str, nn.Module], structure: Structure, wide: Sequence[int], counts: Sequence[int]
) -> tuple[dict[str, nn.Module], list[Gathered]]:
    """Return normalisation layers that use parts of the parameters of a wider sub-network's layers.

    They have no running statistics, so BatchNorm works in training mode only.

    Args:
        norms: the wider sub-network's own normalisation layers, by name.
        structure: the structure of the network.
        wide: the number of units that the wider sub-network keeps of each group.
        counts: the number of units that remain.

    Returns:
        The layers by name, and all their parameters with the parameters that they are parts of.
    """
    positions = positions_within(structure, wide, counts)
    lent: list[Gathered] = []
    layers: dict[str, nn.Module] = {}
    for name, owner in norms.items():
        norm = layers[name] = copy.deepcopy(owner)
        for key, whole in owner.named_parameters(recurse=False):
            kept = positions.get(f"{name}.{key}", {})
            part = nn.Parameter(select(whole, kept).detach(), requires_grad=whole.requires_grad)
            _assign(norm, key, part)
            lent.append(Gathered(part, whole, kept, whole._version))
        norm._buffers.update(dict.fromkeys(norm._buffers))
        _declare_sizes(norm)
        _resize_attributes(norm, structure.sizes.get(name, {}), counts)
    return layers, lent


def narrow(
    network: nn.Module,
    structure: Structure,
    counts: Sequence[int],
    norms: Mapping[str, nn.Module],
    left_out: frozenset[str] = frozenset(),
) -> tuple[nn.Module, list[Gathered]]:
    """Return the sub-network that keeps `counts` units of each group, of the same classes as the network.

    Args:
        network: the full network, which owns the storage of the weights.
        structure: the structure of the network.
        counts: the number of units that each group keeps.
        norms: the sub-network's own normalisation layers, by name.
        left_out: the names of the blocks that the sub-network leaves out.

    Returns:
        The sub-network, and those of its tensors that are copies.
    """
    state = state_of(network)
    positions = {id(state[name]): kept for name, kept in cut_positions(structure, counts).items()}
    # Deep-copying with these placeholders copies the modules but not the weights.
    placeholders: dict[int, Any] = {id(tensor): torch.empty(0) for tensor in state.values()}
    sub: nn.Module = copy.deepcopy(network, placeholders)
    parts: dict[int, Tensor] = {}
    gathered: list[Gathered] = []
    originals = dict(network.named_modules())
    for name in left_out:
        sub.set_submodule(name, LeftOut())
    for name, module in list(sub.named_modules()):
        if name in left_out:
            continue
        if name in norms:
            sub.set_submodule(name, norms[name])
            continue
        for key, tensor in _own_tensors(originals[name]):
            if id(tensor) not in parts:
                kept = positions.get(id(tensor), {})
                part = select(tensor, kept).detach()
                parts[id(tensor)] = _like(tensor, part)
                gathered.append(Gathered(parts[id(tensor)], tensor, kept, tensor._version))
            _assign(module, key, parts[id(tensor)])
        _declare_sizes(module)
        _resize_attributes(module, structure.sizes.get(name, {}), counts)
    return sub.train(network.training), [part for part in gathered if part.copied]


def select(tensor: Tensor, positions: Positions) -> Tensor:
    """Return the entries at these positions along every dimension; a view if they are the first entries."""
    for dimension, chosen in positions.items():
        if is_prefix(chosen):
            tensor = tensor.narrow(dimension, 0, len(chosen))
        else:
            tensor = tensor.index_select(dimension, chosen.to(tensor.device))
    return tensor


def is_prefix(positions: Tensor) -> bool:
    """Return whether increasing positions are 0, 1, 2, ..."""
    return bool(positions[-1] == len(positions) - 1)


def norm_names(network: nn.Module) -> list[str]:
    """Return the names of the normalisation layers of a network."""
    return [name for name, module in network.named_modules() if isinstance(module, NORMS)]


def state_of(network: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers; a shared one is listed under each of its names."""
    parameters = dict(network.named_parameters(remove_duplicate=False))
    return {**parameters, **dict(network.named_buffers(remove_duplicate=False))}


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(recurse=False)
    yield from module.named_buffers(recurse=False)


def _like(tensor: Tensor, part: Tensor) -> Tensor:
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(part, requires_grad=tensor.requires_grad)
    return part


def _assign(module: nn.Module, key: str, tensor: Tensor) -> None:
    if key in module._parameters:
        module._parameters[key] = tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor)
    else:
        module._buffers[key] = tensor


def _declare_sizes(module: nn.Module) -> None:
    """Set the sizes that a layer stores to those of its tensors."""
    if isinstance(module, nn.modules.conv._ConvNd):
        channels, per_group = module.weight.shape[:2]
        if module.groups > 1:
            module.groups = channels // (module.out_channels // module.groups)
        module.out_channels, module.in_channels = channels, per_group * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        kept = module.weight if module.affine else module.running_mean
        module.num_features = module.num_features if kept is None else len(kept)
    elif isinstance(module, nn.GroupNorm) and module.affine:
        channels = len(module.weight)
        if module.num_groups > 1:
            module.num_groups = channels // (module.num_channels // module.num_groups)
        module.num_channels = channels
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm) and module.elementwise_affine:
        module.normalized_shape = tuple(module.weight.shape)
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(module.weight)


def size_attributes(module: nn.Module, layouts: Sequence[Layout]) -> dict[str, Layout]:
    """Return the attributes of a module that may be the size of a dimension with one of these layouts.

    Such an attribute is an integer, or a tuple of one integer.
    """
    of_size = {len(layout.groups): layout for layout in layouts}
    values = {
        name: value[0] if value and type(value) is tuple else value for name, value in vars(module).items()
    }
    return {name: of_size[value] for name, value in values.items() if type(value) is int and value in of_size}


def _resize_attributes(module: nn.Module, sizes: Mapping[str, Layout], counts: Sequence[int]) -> None:
    """Change the sizes that a module stores for its own code, such as the number of its heads."""
    for name, layout in sizes.items():
        kept = len(layout.kept(counts))
        setattr(module, name, kept if type(getattr(module, name)) is int else (kept,))
