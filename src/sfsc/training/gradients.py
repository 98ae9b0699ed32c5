"""One training step of a family: the gradients of all sub-models, aggregated into one gradient."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from sfsc.switchable.network import Switchable
from sfsc.training.aggregation.gram import channel_count, channel_grams, combine, conflicts, gram_matrix
from sfsc.training.checkpoint import TrainingState
from sfsc.training.config import Config
from sfsc.training.distributed import ALONE, World
from sfsc.training.forward import Forward
from sfsc.training.losses.backward import backward_loss
from sfsc.training.losses.nested import nested_loss
from sfsc.training.old.space import OldBatch
from sfsc.training.recipes import AGGREGATIONS, Recipe, sub_model_loss

CLASSIFIER = "classifier"  # the name of the shared classifier among the shared parameters


@dataclass(frozen=True)
class Batch:
    """The inputs of a training step.

    Attributes:
        images: (batch, 3, height, width) float32 in [0, 1], the images of this rank, labelled ones first.
        labels: (labelled,) int64.
        order: (m, m) int64, the order of the projections.
        active: the indices of the sub-models that are trained, wide first: one, or several with the full one.
        target: (batch, dim), the embeddings of the images by a frozen network, towards which all sub-models
            are pulled. If None, narrow sub-models are pulled towards the full sub-model's embeddings.
        progress: the share of the steps that are done, in [0, 1).
        old: the embeddings of the labelled images, and the classifier, of an old model that the sub-models
            become compatible with.
    """

    images: Tensor
    labels: Tensor
    order: Tensor
    active: Sequence[int]
    target: Tensor | None = None
    progress: float = 0.0
    old: OldBatch | None = None


@dataclass(frozen=True)
class StepStatistics:
    """The statistics of a step on one rank, as tensors on its device.

    A value is NaN if its sub-model is not trained, has no classifier or shares no weights.

    Attributes:
        loss: (m,) float32, the loss of each sub-model, in the order of the widths.
        uncertainty: (m,) float32, the mean uncertainty of each sub-model.
        conflicts: (m,) float32, the share of conflicting pairs of each sub-model.
        conflicts_by_group: (groups,) float32, the share of conflicting pairs in each group of parameters, in
            the order of the network.
    """

    loss: Tensor
    uncertainty: Tensor
    conflicts: Tensor
    conflicts_by_group: Tensor

    def of(self, indices: Sequence[int]) -> StepStatistics:
        """Return the statistics of some of the sub-models; those of groups stay."""
        chosen = [*indices]
        return replace(
            self,
            loss=self.loss[chosen],
            uncertainty=self.uncertainty[chosen],
            conflicts=self.conflicts[chosen],
        )


class NestedGradients:
    """The gradients of a family and its classifiers for every sub-model, averaged over the ranks.

    `shared` maps the name of a shared parameter to its gradient corners by sub-model. `own` contains the
    parameters that belong to a single sub-model (normalisation layers, its own classifier) with their
    gradients.
    """

    def __init__(
        self,
        family: Switchable,
        classifiers: Sequence[nn.Parameter],
        recipe: Recipe,
        world: World = ALONE,
    ) -> None:
        self.recipe = recipe
        self.world = world
        self.widths = family.widths.ratios
        m = len(self.widths)
        self.parameters = family.corners()
        if recipe.classifiers == "shared" and not recipe.frozen:
            self.parameters[CLASSIFIER] = [classifiers[0]] * m
        corners = [corner for of_parameter in self.parameters.values() for corner in of_parameter[:-1]]
        self.all_parameters = list(dict.fromkeys([*family.parameters(), *classifiers, *corners]))
        self.used = [{name for name, _ in family.at(width).named_parameters()} for width in family.widths]
        shared = {id(corner) for corners in self.parameters.values() for corner in corners}
        self.own_parameters = [
            [p for p in family.at(width).parameters() if id(p) not in shared] for width in family.widths
        ]
        if recipe.classifiers != "shared":
            for own, classifier in zip(self.own_parameters[-len(classifiers) :], classifiers, strict=True):
                own.append(classifier)
        device = classifiers[0].device
        whole = {name: of_parameter[-1] for name, of_parameter in self.parameters.items()}
        groups, parts = _group_indices(whole, recipe.granularity)
        self.groups, self.parts = groups.to(device), parts.to(device)
        # Counted here, because counting on an accelerator would wait for it at every step.
        self.group_count, self.part_sizes = len(groups.unique()), parts.bincount().to(device)
        self.orders = {
            name: [{d: order.to(device) for d, order in part.items()} for part in parts]
            for name, parts in family.corner_orders().items()
        }
        self.shared: dict[str, dict[int, Tensor]] = {name: {} for name in self.parameters}
        self.own: list[tuple[nn.Parameter, Tensor]] = []
        self.arrivals: list[Callable[[], None]] = []

    def add(self, loss: Tensor, index: int) -> None:
        """Compute the gradients of the index-th sub-model's loss and free its graph.

        The gradients are sent to the other ranks in the background, while the next sub-model computes its
        own. `aggregate` waits for them.
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
        """Set `.grad` of the full parameters and of each sub-model's own parameters, and free the gradients.

        Args:
            order: (n, n) int64, as returned by `random_order`, for the n sub-models that have gradients.

        If only one of several sub-models has gradients, they are set as they are, in the sub-model's own
        parameters and in its corners of the shared ones. The classifier that is shared keeps no gradient.

        Returns:
            (groups, m) float32, the share of conflicting pairs of each sub-model in each group of parameters
            (in each layer if the groups are kernels); NaN for sub-models without gradients and for a single
            one, and without rows if no parameters are shared.
        """
        for arrival in self.arrivals:
            arrival()
        self.arrivals.clear()
        for parameter, gradient in self.own:
            parameter.grad = gradient
        self.own.clear()
        if not self.shared:
            return order.new_empty(0, len(order), dtype=torch.float32)
        active = sorted(next(iter(self.shared.values())))
        corners = {name: [held[index] for index in active] for name, held in self.shared.items()}
        for held in self.shared.values():
            held.clear()
        if len(active) == 1 < len(self.widths):
            return self._set_alone(corners, *active)
        kernels = self.recipe.granularity == "kernel"
        of_parameters = [
            channel_grams(gradients) if kernels else gram_matrix(gradients)[None]
            for gradients in corners.values()
        ]
        grams = torch.cat(of_parameters)
        grouped = _summed(grams, self.groups, self.group_count)
        weights = AGGREGATIONS[self.recipe.aggregation](grouped, order)[self.groups]
        of_parameter = weights.split([len(grams) for grams in of_parameters])
        for (name, gradients), weight in zip(corners.items(), of_parameter, strict=True):
            total = combine(gradients, weight)
            if name in self.orders:
                total = _reordered(total, {d: o.argsort() for d, o in self.orders[name][-1].items()})
            self.parameters[name][-1].grad = total
            gradients.clear()
        found = self._unknown()
        found[:, active] = _summed(conflicts(grouped), self.parts, len(self.part_sizes))
        return found / self.part_sizes[:, None]

    def _set_alone(self, corners: dict[str, list[Tensor]], index: int) -> Tensor:
        for name, (gradient,) in corners.items():
            if name in self.used[index]:  # not in a block that is left out, nor the classifier
                self.parameters[name][index].grad = gradient
        return self._unknown()

    def _unknown(self) -> Tensor:
        """Return a NaN for each sub-model in each part of the parameters."""
        return torch.full((len(self.part_sizes), len(self.widths)), torch.nan, device=self.parts.device)

    def held_elements(self) -> int:
        """Return the number of gradient elements that are currently stored."""
        shared = sum(g.numel() for held in self.shared.values() for g in held.values())
        return shared + sum(gradient.numel() for _, gradient in self.own)

    def networks(self) -> list[list[nn.Parameter]]:
        """Return the parameters of each trained network: a shared one with its parts, or each sub-model's."""
        return [self.all_parameters] if self.parameters else self.own_parameters


def family_step(
    state: TrainingState, gradients: NestedGradients, forward: Forward, batch: Batch, config: Config
) -> StepStatistics:
    """Compute the aggregated gradient of one batch into `.grad`. The caller runs the optimizer's step.

    Args:
        state: the state of training. Active sub-models are in training mode, the others in evaluation mode.
        gradients: the gradients of this family or of its `AnyWidth`, its classifiers and the recipe.
        forward: the forward passes of the same sub-models.
        batch: the inputs of the step.
        config: the settings, which give the scale of the logits and the nested dimensions.

    Returns:
        The statistics of the step for each of these sub-models; losses are float32.
    """
    widths, images = gradients.widths, batch.images
    nothing = images.new_full((len(widths),), torch.nan, dtype=torch.float32)
    losses, uncertainties = nothing.clone(), nothing.clone()
    target, normalised = batch.target, gradients.recipe.logits == "cosine"
    for index in batch.active:
        embeddings = forward(images, widths[index])
        own_loss = partial(
            sub_model_loss,
            gradients.recipe,
            index=index - len(widths),
            labels=batch.labels,
            scale=config.scale,
            progress=batch.progress,
        )
        loss, uncertainty = nested_loss(
            own_loss, config.nested_dims, embeddings, target, state.classifiers, normalised
        )
        if batch.old is not None:
            loss = loss + backward_loss(
                embeddings[: len(batch.labels)],
                batch.old.embeddings,
                batch.old.classifier,
                batch.labels,
                config.scale,
                config.old_influence,
                config.old_contrast,
            )
        gradients.add(loss, index)
        losses[index], uncertainties[index] = loss.detach(), uncertainty
        target = embeddings.detach() if target is None else target
    conflicting = gradients.aggregate(batch.order)
    by_width = conflicting.mean(0) if len(conflicting) else nothing
    return StepStatistics(losses, uncertainties, by_width, conflicting.nanmean(1))


def _reordered(gradient: Tensor, order: dict[int, Tensor]) -> Tensor:
    for dimension, positions in order.items():
        gradient = gradient.index_select(dimension, positions)
    return gradient


def _group_indices(parameters: dict[str, nn.Parameter], granularity: str) -> tuple[Tensor, Tensor]:
    """Return the groups in which inner products are summed, and the parts in which conflicts are reported.

    Returns:
        (units,) int64, the group of each unit, where a unit is an output channel if the granularity is
        kernel, else a parameter; and (groups,) int64, the part of each group: its layer if the granularity is
        kernel, else itself.
    """
    layers = {name: name.rpartition(".")[0] or name for name in parameters}
    if granularity == "kernel":
        keys = [(layers[n], channel) for n, p in parameters.items() for channel in range(channel_count(p))]
        groups = _numbers(keys)
        return groups, _numbers([layer for layer, _ in dict.fromkeys(keys)])
    of_parameters = {"tensor": {name: name for name in parameters}, "layer": layers, "model": {}}[granularity]
    groups = _numbers([of_parameters.get(name, "") for name in parameters])
    return groups, groups.unique()


def _numbers(keys: Sequence[Hashable]) -> Tensor:
    """Return (keys,) int64, the same number for the same key, in the order of their first occurrences."""
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return torch.tensor([numbers[key] for key in keys], dtype=torch.int64)


def _summed(values: Tensor, groups: Tensor, count: int) -> Tensor:
    """Return the sums of values (units, ...) in each of `count` groups."""
    return values.new_zeros(count, *values.shape[1:]).index_add_(0, groups, values)
