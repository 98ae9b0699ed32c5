"""The channels, parameters and multiply-adds of a switchable network at each width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sfsc.switchable.convert import norm_names
from sfsc.switchable.network import Switchable


@dataclass(frozen=True)
class Inspection:
    """A summary of a switchable network, made by `inspect`.

    Attributes:
        widths: the widths.
        parameters: the parameter count of each sub-network, including its normalisation layers.
        multiply_adds: the multiply-adds of each sub-network's convolutions, linear layers and attention, for
            one input.
        channels: the names of the layers, by their numbers of output channels at all widths.
        whole: for each layer that keeps all of its inputs or outputs, which of them it keeps.
    """

    widths: tuple[float, ...]
    parameters: tuple[int, ...]
    multiply_adds: tuple[int, ...]
    channels: dict[tuple[int, ...], list[str]]
    whole: dict[str, str]


def inspect(switchable: Switchable, example_input: Tensor | Sequence[Tensor]) -> Inspection:
    """Return the channels, parameters and multiply-adds of each sub-network.

    Args:
        switchable: the network; it is not changed.
        example_input: (batch, ...) float32, as for `to_switchable`, or one for each width, narrow first. Only
            its first item is used.
    """
    networks = [switchable.at(width) for width in switchable.widths]
    examples = [example_input] * len(networks) if isinstance(example_input, Tensor) else example_input
    return Inspection(
        widths=switchable.widths.ratios,
        parameters=tuple(switchable.parameter_count(width) for width in switchable.widths),
        multiply_adds=tuple(
            count_multiply_adds(network, example[:1])
            for network, example in zip(networks, examples, strict=True)
        ),
        channels=_channels(switchable),
        whole=_whole(switchable),
    )


@torch.no_grad()
def count_multiply_adds(network: nn.Module, example: Tensor) -> int:
    """Count the multiply-adds of convolutions, linear layers and attention for an example (batch, ...)."""
    was_training = network.training
    counter = FlopCounterMode(display=False)
    with counter:
        network.eval()(example)
    network.train(was_training)
    return counter.get_total_flops() // 2


def layers_of(switchable: Switchable) -> dict[str, nn.Module]:
    """Return the modules whose weight has inputs and outputs, by name."""
    norms = set(norm_names(switchable.network))
    return {
        name: module
        for name, module in switchable.network.named_modules()
        if isinstance(getattr(module, "weight", None), Tensor)
        and name not in norms
        and module.weight.ndim > 1
    }


def _channels(switchable: Switchable) -> dict[tuple[int, ...], list[str]]:
    channels: dict[tuple[int, ...], list[str]] = {}
    for name in layers_of(switchable):
        layout = switchable.structure.layouts.get(f"{name}.weight", {}).get(0)
        if layout is not None:
            counts = tuple(len(layout.kept(counts)) for counts in switchable.counts)
            channels.setdefault(counts, []).append(name)
    return channels


def _whole(switchable: Switchable) -> dict[str, str]:
    whole: dict[str, str] = {}
    for name, module in layers_of(switchable).items():
        cut = switchable.structure.layouts.get(f"{name}.weight", {})
        grouped = getattr(module, "groups", 1) > 1
        ends = [end for dimension, end in ((1, "inputs"), (0, "outputs")) if dimension not in cut]
        if grouped:
            ends = [] if cut else ["inputs", "outputs"]
        if ends:
            whole[name] = " and ".join(ends)
    return whole
