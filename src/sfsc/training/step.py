"""One training step of a family: a gradient per sub-model, kept as corners, aggregated into one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sfsc.aggregation.gram import combine, conflicts, gram_matrix
from sfsc.losses.evidential import cosine_logits
from sfsc.recipes import Recipe
from sfsc.switchable.family import Family
from sfsc.training.checkpoint import TrainingState
from sfsc.training.config import Config
from sfsc.training.distributed import ALONE, World
from sfsc.training.forward import Forward


@dataclass(frozen=True)
class StepStatistics:
    """What a step reports of this rank, each (m,) float32 in the order of the widths, on its device."""

    loss: Tensor
    uncertainty: Tensor
    conflicts: Tensor


class NestedGradients:
    """The gradients of a family and its shared classifier, by every sub-model, averaged over the ranks.

    `shared` maps a parameter's name to its corners, narrow first; `own` holds the parameters of one
    sub-model alone (normalisation layers) with their gradients.
    """

    def __init__(
        self, family: Family, classifier: nn.Parameter, granularity: str, world: World = ALONE
    ) -> None:
        self.world = world
        m = len(family.widths)
        self.parameters = {**family.corners(), "classifier": [classifier] * m}
        shared = {id(corner) for corners in self.parameters.values() for corner in corners}
        self.own_parameters = [
            [p for p in family.at(width).parameters() if id(p) not in shared] for width in family.widths
        ]
        groups = _group_indices(list(self.parameters), granularity)
        self.group_count = int(groups.max()) + 1
        self.groups = groups.to(classifier.device)
        self.orders = {
            name: [{d: order.to(classifier.device) for d, order in part.items()} for part in parts]
            for name, parts in family.corner_orders().items()
        }
        self.shared: dict[str, list[Tensor]] = {name: [] for name in self.parameters}
        self.own: list[tuple[nn.Parameter, Tensor]] = []
        self.arrivals: list[Callable[[], None]] = []

    def add(self, loss: Tensor, index: int) -> None:
        """Differentiate the loss of the index-th sub-model and free its graph; narrow ones come first.

        The gradients' way to the other ranks begins here and is waited for in `aggregate`: meanwhile the next
        sub-model computes its own.
        """
        corners = [corners[index] for corners in self.parameters.values()]
        own = self.own_parameters[index]
        computed = torch.autograd.grad(loss, [*corners, *own], allow_unused=True, materialize_grads=True)
        nested = [
            _reordered(gradient, self.orders[name][index]) if name in self.orders else gradient
            for name, gradient in zip(self.parameters, computed, strict=False)
        ]
        gradients, arrival = self.world.average([*nested, *computed[len(corners) :]])
        self.arrivals.append(arrival)
        for held, gradient in zip(self.shared.values(), gradients, strict=False):
            held.append(gradient)
        self.own += zip(own, gradients[len(corners) :], strict=True)

    def aggregate(self, recipe: Recipe, order: Tensor) -> Tensor:
        """Set `.grad` of the full parameters and of each sub-model's own; let go of the gradients.

        Args:
            recipe: says with which weights the gradients are summed.
            order: (m, m) int64, as in `random_order`.

        Returns:
            (m,) float32, the share of conflicting pairs of every sub-model.
        """
        for arrival in self.arrivals:
            arrival()
        self.arrivals.clear()
        grams = torch.stack([gram_matrix(gradients) for gradients in self.shared.values()])
        grouped = grams.new_zeros(self.group_count, *grams.shape[1:]).index_add_(0, self.groups, grams)
        weights = recipe.aggregate(grouped, order)[self.groups]
        for (name, gradients), weight in zip(self.shared.items(), weights, strict=True):
            total = combine(gradients, weight)
            if name in self.orders:
                total = _reordered(total, {d: o.argsort() for d, o in self.orders[name][-1].items()})
            self.parameters[name][-1].grad = total
            gradients.clear()
        for parameter, gradient in self.own:
            parameter.grad = gradient
        self.own.clear()
        return conflicts(grouped)

    def held_elements(self) -> int:
        """How many gradient elements are held at the moment."""
        shared = sum(g.numel() for gradients in self.shared.values() for g in gradients)
        return shared + sum(gradient.numel() for _, gradient in self.own)


def family_step(
    state: TrainingState,
    gradients: NestedGradients,
    forward: Forward,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    config: Config,
    order: Tensor,
) -> StepStatistics:
    """Compute the aggregated gradient of one batch into `.grad`; the optimizer's step is the caller's.

    Args:
        state: the family, in training mode, and its (classes, dim) classifier.
        gradients: made for this family and classifier.
        forward: made for this family.
        images: this rank's (batch, 3, height, width) float32 in [0, 1].
        labels: (batch,) int64.
        recipe: the loss and the aggregation.
        config: for the scale of the logits and the memory layout; losses are float32.
        order: (m, m) int64, the order of projection.
    """
    losses, uncertainties = [], []
    if config.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    for index, width in enumerate(state.family.widths):
        embeddings = forward(images, width)
        loss, uncertainty = recipe.loss(cosine_logits(embeddings, state.classifier, config.scale), labels)
        gradients.add(loss, index)
        losses.append(loss.detach())
        uncertainties.append(uncertainty)
    conflicting = gradients.aggregate(recipe, order)
    return StepStatistics(torch.stack(losses), torch.stack(uncertainties), conflicting)


def _reordered(gradient: Tensor, order: dict[int, Tensor]) -> Tensor:
    for dimension, positions in order.items():
        gradient = gradient.index_select(dimension, positions)
    return gradient


def _group_indices(names: list[str], granularity: str) -> Tensor:
    """(parameters,) int64: the group in which each parameter's inner products are summed."""
    layers = [name.rpartition(".")[0] or name for name in names]
    keys = {"tensor": names, "layer": layers, "model": [""] * len(names)}[granularity]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return torch.tensor([numbers[key] for key in keys])
