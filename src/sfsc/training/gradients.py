"""One training step of a family: a gradient per sub-model, kept as corners, aggregated into one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from sfsc.family.family import Family
from sfsc.training.aggregation.gram import combine, conflicts, gram_matrix
from sfsc.training.checkpoint import TrainingState
from sfsc.training.config import Config
from sfsc.training.distributed import ALONE, World
from sfsc.training.forward import Forward
from sfsc.training.losses.nested import nested_loss
from sfsc.training.recipes import AGGREGATIONS, Recipe, sub_model_loss


@dataclass(frozen=True)
class Batch:
    """What a step is given.

    Attributes:
        images: this rank's (batch, 3, height, width) float32 in [0, 1].
        labels: (batch,) int64.
        order: (m, m) int64, the order of projection.
        active: the sub-models that are trained, wide first.
        target: (batch, dim), a frozen network's embeddings of the images, to which all sub-models are drawn;
            None where the full one is trained and the narrow ones are drawn to its own.
        progress: the share of the steps that are done, in [0, 1).
    """

    images: Tensor
    labels: Tensor
    order: Tensor
    active: Sequence[int]
    target: Tensor | None = None
    progress: float = 0.0


@dataclass(frozen=True)
class StepStatistics:
    """What a step reports of this rank, on its device: three (m,) float32 in the order of the widths.

    NaN stands where there is nothing to report: of a sub-model that is not trained, or has no classifier, or
    shares no weights. `conflicts_by_group` is (groups,) float32, the share of conflicting pairs in each group
    of parameters, in the order of the network.
    """

    loss: Tensor
    uncertainty: Tensor
    conflicts: Tensor
    conflicts_by_group: Tensor


class NestedGradients:
    """The gradients of a family and its classifiers, by every sub-model, averaged over the ranks.

    `shared` maps a parameter's name to its corners by sub-model; `own` holds the parameters of one sub-model
    alone (normalisation layers, a classifier of its own) with their gradients.
    """

    def __init__(
        self,
        family: Family,
        classifiers: Sequence[nn.Parameter],
        recipe: Recipe,
        granularity: str,
        world: World = ALONE,
    ) -> None:
        self.recipe = recipe
        self.world = world
        self.all_parameters = [*family.parameters(), *classifiers]
        m = len(family.widths)
        self.parameters = family.corners()
        if recipe.classifiers == "shared" and not recipe.teacher:
            self.parameters["classifier"] = [classifiers[0]] * m
        shared = {id(corner) for corners in self.parameters.values() for corner in corners}
        self.own_parameters = [
            [p for p in family.at(width).parameters() if id(p) not in shared] for width in family.widths
        ]
        if recipe.classifiers != "shared":
            for own, classifier in zip(self.own_parameters[-len(classifiers) :], classifiers, strict=True):
                own.append(classifier)
        device = classifiers[0].device
        self.groups = _group_indices(list(self.parameters), granularity).to(device)
        self.group_count = len(self.groups.unique())
        self.orders = {
            name: [{d: order.to(device) for d, order in part.items()} for part in parts]
            for name, parts in family.corner_orders().items()
        }
        self.shared: dict[str, dict[int, Tensor]] = {name: {} for name in self.parameters}
        self.own: list[tuple[nn.Parameter, Tensor]] = []
        self.arrivals: list[Callable[[], None]] = []

    def add(self, loss: Tensor, index: int) -> None:
        """Differentiate the loss of the index-th sub-model and free its graph.

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
            held[index] = gradient
        self.own += zip(own, gradients[len(corners) :], strict=True)

    def aggregate(self, order: Tensor) -> Tensor:
        """Set `.grad` of the full parameters and of each sub-model's own; let go of the gradients.

        Args:
            order: (m, m) int64, as in `random_order`.

        Returns:
            (groups, m) float32, the share of conflicting pairs of every sub-model in every group of
            parameters; no rows where nothing is shared.
        """
        for arrival in self.arrivals:
            arrival()
        self.arrivals.clear()
        for parameter, gradient in self.own:
            parameter.grad = gradient
        self.own.clear()
        if not self.shared:
            return order.new_empty(0, len(order), dtype=torch.float32)
        corners = {name: [held[index] for index in sorted(held)] for name, held in self.shared.items()}
        for held in self.shared.values():
            held.clear()
        grams = torch.stack([gram_matrix(gradients) for gradients in corners.values()])
        grouped = grams.new_zeros(self.group_count, *grams.shape[1:]).index_add_(0, self.groups, grams)
        weights = AGGREGATIONS[self.recipe.aggregation](grouped, order)[self.groups]
        for (name, gradients), weight in zip(corners.items(), weights, strict=True):
            total = combine(gradients, weight)
            if name in self.orders:
                total = _reordered(total, {d: o.argsort() for d, o in self.orders[name][-1].items()})
            self.parameters[name][-1].grad = total
            gradients.clear()
        return conflicts(grouped)

    def held_elements(self) -> int:
        """How many gradient elements are held at the moment."""
        shared = sum(g.numel() for held in self.shared.values() for g in held.values())
        return shared + sum(gradient.numel() for _, gradient in self.own)

    def networks(self) -> list[list[nn.Parameter]]:
        """What is trained, by network: one that all sub-models share, or one for each."""
        return [self.all_parameters] if self.parameters else self.own_parameters


def family_step(
    state: TrainingState, gradients: NestedGradients, forward: Forward, batch: Batch, config: Config
) -> StepStatistics:
    """Compute the aggregated gradient of one batch into `.grad`; the optimizer's step is the caller's.

    Args:
        state: the family; sub-models that are not active are in evaluation mode, the others in training mode.
        gradients: made for this family, its classifiers and the recipe.
        forward: made for this family.
        batch: images, labels and what else changes from step to step.
        config: for the scale of the logits and the nested dimensions; losses are float32.
    """
    widths, images = state.family.widths.ratios, batch.images
    nothing = images.new_full((len(widths),), torch.nan, dtype=torch.float32)
    losses, uncertainties = nothing.clone(), nothing.clone()
    target = batch.target
    for index in batch.active:
        embeddings = forward(images, widths[index])
        own_loss = partial(
            sub_model_loss,
            gradients.recipe,
            index=index,
            labels=batch.labels,
            scale=config.scale,
            progress=batch.progress,
        )
        loss, uncertainty = nested_loss(own_loss, config.nested_dims, embeddings, target, state.classifiers)
        gradients.add(loss, index)
        losses[index], uncertainties[index] = loss.detach(), uncertainty
        target = embeddings.detach() if target is None else target
    conflicting = gradients.aggregate(batch.order)
    by_width = conflicting.mean(0) if len(conflicting) else nothing
    return StepStatistics(losses, uncertainties, by_width, conflicting.mean(1))


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
