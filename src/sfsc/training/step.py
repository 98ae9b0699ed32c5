"""One training step of a family: a gradient per sub-model, kept as corners, aggregated into one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sfsc.aggregation.gram import combine, conflicts, gram_matrix
from sfsc.losses.evidential import cosine_logits
from sfsc.recipes import Recipe
from sfsc.switchable.family import Family
from sfsc.training.checkpoint import TrainingState
from sfsc.training.config import Config


@dataclass(frozen=True)
class StepStatistics:
    """What a step reports, each (m,) float32 in the order of the widths, on the training device."""

    loss: Tensor
    uncertainty: Tensor
    conflicts: Tensor


class NestedGradients:
    """The gradients of a family and its shared classifier, by every sub-model.

    `shared` maps a parameter's name to its corners, narrow first; `own` holds the parameters of one
    sub-model alone (normalisation layers) with their gradients.
    """

    def __init__(self, family: Family, classifier: nn.Parameter, granularity: str) -> None:
        m = len(family.widths)
        self.parameters = {**family.corners(), "classifier": [classifier] * m}
        shared = {id(corner) for corners in self.parameters.values() for corner in corners}
        self.own_parameters = [
            [p for p in family.at(width).parameters() if id(p) not in shared] for width in family.widths
        ]
        self.groups = _group_indices(list(self.parameters), granularity)
        self.shared: dict[str, list[Tensor]] = {name: [] for name in self.parameters}
        self.own: list[tuple[nn.Parameter, Tensor]] = []

    def add(self, loss: Tensor, index: int) -> None:
        """Differentiate the loss of the index-th sub-model and free its graph; narrow ones come first."""
        corners = [corners[index] for corners in self.parameters.values()]
        own = self.own_parameters[index]
        gradients = torch.autograd.grad(loss, [*corners, *own])
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
        grams = torch.stack([gram_matrix(gradients) for gradients in self.shared.values()])
        groups = self.groups.to(grams.device)
        grouped = grams.new_zeros(int(self.groups.max()) + 1, *grams.shape[1:]).index_add_(0, groups, grams)
        weights = recipe.aggregate(grouped, order)[groups]
        for (name, gradients), weight in zip(self.shared.items(), weights, strict=True):
            self.parameters[name][-1].grad = combine(gradients, weight)
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
        images: (batch, 3, height, width) float32 in [0, 1].
        labels: (batch,) int64.
        recipe: the loss and the aggregation.
        config: for the scale of the logits and the precision of the forward pass; losses are float32.
        order: (m, m) int64, the order of projection.
    """
    losses, uncertainties = [], []
    if config.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    for index, width in enumerate(state.family.widths):
        with torch.autocast(images.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            embeddings = state.family.at(width)(images)
        loss, uncertainty = recipe.loss(cosine_logits(embeddings, state.classifier, config.scale), labels)
        gradients.add(loss, index)
        losses.append(loss.detach())
        uncertainties.append(uncertainty)
    conflicting = gradients.aggregate(recipe, order)
    return StepStatistics(torch.stack(losses), torch.stack(uncertainties), conflicting)


def _group_indices(names: list[str], granularity: str) -> Tensor:
    """(parameters,) int64: the group in which each parameter's inner products are summed."""
    layers = [name.rpartition(".")[0] or name for name in names]
    keys = {"tensor": names, "layer": layers, "model": [""] * len(names)}[granularity]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return torch.tensor([numbers[key] for key in keys])
