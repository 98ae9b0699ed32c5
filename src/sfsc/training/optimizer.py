"""The optimizer and the schedule of its learning rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from sfsc.errors import SfscError
from sfsc.family.family import Family
from sfsc.training.config import Config


def make_optimizer(
    family: Family, classifiers: Sequence[nn.Parameter], config: Config
) -> torch.optim.Optimizer:
    """Return AdamW or SGD for a family and its classifiers, without weight decay of norms and biases.

    Narrow sub-models that are also trained alone have their parts of the shared weights in it as parameters
    of their own, with moments of their own.

    Raises:
        SfscError: such a part is not a view of the shared weights.
    """
    parameters = [*family.parameters(), *classifiers]
    groups = _groups(parameters, config)
    for index in sorted({index for index in config.cycle if index is not None}):
        if parts := _views(family, index):
            groups += _groups(parts, config)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=config.lr)


def _groups(parameters: Sequence[nn.Parameter], config: Config) -> list[dict[str, Any]]:
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _views(family: Family, index: int) -> list[nn.Parameter]:
    """Return a narrow sub-model's parts of the shared parameters."""
    used = {id(parameter) for parameter in family.at(family.widths.ratios[index]).parameters()}
    corners = {name: parts for name, parts in family.corners().items() if id(parts[index]) in used}
    for name, parts in corners.items():
        if parts[index].untyped_storage().data_ptr() != parts[-1].untyped_storage().data_ptr():
            raise SfscError(
                f"extra_steps cannot train width {family.widths.ratios[index]:g} alone, because its part of "
                f"{name} does not consist of the first channels: set extra_steps to []"
            )
    return [parts[index] for parts in corners.values()]


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, steps: int, config: Config) -> float:
    """Set and return the learning rate of a step."""
    lr = learning_rate(step, steps, config)
    for group in optimizer.param_groups:
        group["lr"] = lr
    return lr


def learning_rate(step: int, steps: int, config: Config) -> float:
    """Return the learning rate of a step: a linear rise during warm-up, then half a cosine to zero."""
    warmup = round(config.warmup * steps)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
