"""Recipes: training methods, each a loss for every sub-model and a way to make one gradient of theirs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from sfsc.aggregation.projection import projection_weights
from sfsc.errors import SfscError
from sfsc.losses.evidential import evidential_loss


@dataclass(frozen=True)
class Recipe:
    """A training method.

    loss: (logits (batch, classes), labels (batch,)) -> loss (), uncertainty ().
    aggregate: (Gram matrices (groups, m, m), order (m, m)) -> weights (groups, m) of the gradients' sum.
    """

    loss: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    aggregate: Callable[[Tensor, Tensor], Tensor]


RECIPES = {"sfsc": Recipe(loss=evidential_loss, aggregate=projection_weights)}


def find_recipe(name: str) -> Recipe:
    """The recipe of this name; SfscError listing the names where there is none."""
    if name not in RECIPES:
        raise SfscError(f"unknown recipe {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name]
