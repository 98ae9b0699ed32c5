"""The optimizer and the schedule of its learning rate."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from sfsc.family.family import Family
from sfsc.training.config import Config


def make_optimizer(
    family: Family, classifiers: Sequence[nn.Parameter], config: Config
) -> torch.optim.Optimizer:
    """Return AdamW or SGD for a family and its classifiers, without weight decay of norms and biases."""
    parameters = [*family.parameters(), *classifiers]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=config.lr)


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
