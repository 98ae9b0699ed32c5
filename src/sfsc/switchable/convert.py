"""From one dense network to nested ones: sorting channels by importance, cutting corners.

The parameters of a narrower network are corners (first rows, first columns) of the full network's: views
of the same storage, never copies. Only its normalisation layers are its own (Yu et al., Slimmable Neural
Networks, ICLR 2019).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from sfsc.switchable.structure import ChannelGroup
from sfsc.widths import cut

NORMS = (nn.modules.batchnorm._BatchNorm,)


@torch.no_grad()
def sort_by_importance(network: nn.Module, groups: list[ChannelGroup]) -> None:
    """Order every cut group's channels by falling importance, in place; the function stays the same.

    The importance of a channel is the sum, over all weights that write or read it, of the mean absolute
    weight that concerns it, each weight's values divided by their mean so that all count alike (the L1
    criterion of Li et al., Pruning Filters, ICLR 2017, over the whole group).
    """
    state = _state(network)
    for group in groups:
        if not group.whole:
            order = _importance(group, state).argsort(descending=True, stable=True)
            for name, dimension in group.members:
                state[name].copy_(state[name].index_select(dimension, order))


def _importance(group: ChannelGroup, state: Mapping[str, Tensor]) -> Tensor:
    total = torch.zeros(group.size)
    for name, dimension in group.members:
        if name.endswith("weight"):
            others = [d for d in range(state[name].ndim) if d != dimension]
            size = state[name].abs().mean(others) if others else state[name].abs()
            total += (size / size.mean().clamp_min(1e-12)).cpu()
    return total


def cut_norms(network: nn.Module, groups: list[ChannelGroup], width: float) -> dict[str, nn.Module]:
    """Copies of the network's normalisation layers, by name, with the channels of this width."""
    sizes = _cut_sizes(groups, width)
    norms: dict[str, nn.Module] = {}
    for name, module in network.named_modules():
        if isinstance(module, NORMS):
            norm = copy.deepcopy(module)
            for key, tensor in _own_tensors(norm):
                _assign(norm, key, corner(tensor, sizes.get(f"{name}.{key}", {})).detach().clone())
            _declare_sizes(norm)
            norms[name] = norm
    return norms


def narrow(
    network: nn.Module, groups: list[ChannelGroup], width: float, norms: Mapping[str, nn.Module]
) -> nn.Module:
    """The sub-network of this width: the same class of module over views of the network's parameters.

    Args:
        network: the full network; it keeps the storage.
        groups: its channel groups.
        width: the channel ratio, in (0, 1).
        norms: the sub-network's own normalisation layers, by name.
    """
    sizes = _cut_sizes(groups, width)
    tensors = _state(network)
    # Deep-copying with these placeholders copies the modules but not the weights.
    placeholders: dict[int, object] = {id(t): torch.empty(0) for t in tensors.values()}
    sub: nn.Module = copy.deepcopy(network, placeholders)
    originals = dict(network.named_modules())
    for name, module in list(sub.named_modules()):
        if name in norms:
            sub.set_submodule(name, norms[name])
            continue
        for key, tensor in _own_tensors(originals[name]):
            full_name = f"{name}.{key}" if name else key
            _assign(module, key, corner(tensor, sizes.get(full_name, {})).detach())
        _declare_sizes(module)
    return sub.train(network.training)


def corner(tensor: Tensor, sizes: Mapping[int, int]) -> Tensor:
    """A view of the first `sizes[d]` entries along every dimension d."""
    for dimension, size in sizes.items():
        tensor = tensor.narrow(dimension, 0, size)
    return tensor


def norm_names(network: nn.Module) -> set[str]:
    """The names of the normalisation layers of a network."""
    return {name for name, module in network.named_modules() if isinstance(module, NORMS)}


def _cut_sizes(groups: list[ChannelGroup], width: float) -> dict[str, dict[int, int]]:
    sizes: dict[str, dict[int, int]] = {}
    for group in groups:
        if not group.whole:
            for name, dimension in group.members:
                sizes.setdefault(name, {})[dimension] = cut(group.size, width)
    return sizes


def _state(network: nn.Module) -> dict[str, Tensor]:
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(recurse=False)
    yield from module.named_buffers(recurse=False)


def _assign(module: nn.Module, key: str, tensor: Tensor) -> None:
    if key in module._parameters:
        module._parameters[key] = nn.Parameter(tensor)
    else:
        module._buffers[key] = tensor


def _declare_sizes(module: nn.Module) -> None:
    """Make the module's own record of its sizes agree with its tensors."""
    if isinstance(module, nn.Conv2d):
        depthwise = module.groups == module.in_channels > 1
        module.out_channels = module.weight.shape[0]
        module.groups = module.out_channels if depthwise else module.groups
        module.in_channels = module.weight.shape[1] * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, NORMS) and module.affine:
        module.num_features = module.weight.shape[0]
