"""Recipes: training methods, each with losses for the sub-models and an aggregation of their gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sfsc.errors import SfscError
from sfsc.training.aggregation.projection import projection_weights, sum_weights
from sfsc.training.aggregation.torchjd import torchjd_weights
from sfsc.training.losses.alignment import alignment_loss
from sfsc.training.losses.asymmetric import asymmetric_loss
from sfsc.training.losses.classification import cross_entropy
from sfsc.training.losses.evidential import cosine_logits, evidential_loss
from sfsc.training.losses.influence import influence_loss

Loss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Aggregate = Callable[[Tensor, Tensor], Tensor]

LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "evidential": evidential_loss}
AGGREGATIONS: dict[str, Aggregate] = {
    "sum": sum_weights,
    "projection": projection_weights,
    **{name: torchjd_weights(name) for name in ("upgrad", "cagrad", "mgda")},
}


@dataclass(frozen=True)
class Recipe:
    """A training method.

    Attributes:
        loss: the classification loss: cross_entropy or evidential.
        aggregation: how the gradients of the sub-models are combined into one: sum, projection, upgrad,
            cagrad or mgda.
        influence: the weight of the influence loss of narrow sub-models under the full one's classifier.
        asymmetric: the weight of the contrastive loss of narrow sub-models against the full sub-model's
            embeddings.
        alignment: the final weight of the alignment of narrow sub-models with the full sub-model's
            embeddings. The weight rises during the first half of training.
        shared: whether all widths share one switchable network. If False, each has an independent network.
        classifiers: shared (one for all sub-models), own (one for each) or full (one for the full sub-model
            only).
        full_first: whether the full network is trained first, and frozen while the others are trained.
            Requires that the networks are independent.
        teacher: whether a full network is trained first, alone. The family then starts from its weights and
            uses its frozen classifier, and all sub-models are pulled towards its embeddings.
    """

    loss: str = "cross_entropy"
    aggregation: str = "sum"
    influence: float = 0.0
    asymmetric: float = 0.0
    alignment: float = 0.0
    shared: bool = True
    classifiers: str = "shared"
    full_first: bool = False
    teacher: bool = False

    @property
    def compatible(self) -> bool:
        """Whether a loss or a shared classifier pulls the sub-models into one embedding space."""
        drawn = self.influence or self.asymmetric or self.alignment
        return self.classifiers == "shared" or bool(drawn)

    def phases(self, m: int) -> list[list[int]]:
        """Return the indices of the sub-models, of m, that each phase of a run trains, wide first."""
        narrow = list(reversed(range(m - 1)))
        return [[m - 1], narrow] if self.full_first and narrow else [[m - 1, *narrow]]


RECIPES = {
    "unified": Recipe(shared=False, classifiers="own"),
    "bct": Recipe(shared=False, classifiers="own", full_first=True, influence=1.0),
    "asymmetric": Recipe(shared=False, classifiers="full", full_first=True, asymmetric=1.0),
    "bct-s": Recipe(classifiers="own", influence=1.0),
    "asymmetric-s": Recipe(classifiers="full", asymmetric=1.0),
    "sfsc": Recipe(loss="evidential", aggregation="projection"),
    "sfsc+": Recipe(loss="evidential", aggregation="projection", asymmetric=1.0, alignment=2.0, teacher=True),
}
# The fields of a recipe that the settings of a run can change.
ADJUSTABLE = ("loss", "aggregation", "influence", "asymmetric", "alignment")


def find_recipe(name: str, changes: dict[str, Any] | None = None) -> Recipe:
    """Return the recipe of this name with the changes that are not None, or raise `SfscError`."""
    if name not in RECIPES:
        raise SfscError(f"unknown recipe {name!r}; choose one of {', '.join(RECIPES)}")
    return replace(
        RECIPES[name], **{key: value for key, value in (changes or {}).items() if value is not None}
    )


def sub_model_loss(
    recipe: Recipe,
    embeddings: Tensor,
    target: Tensor | None,
    classifiers: Sequence[Tensor],
    index: int,
    labels: Tensor,
    scale: float,
    progress: float,
) -> tuple[Tensor, Tensor]:
    """Compute the loss of one sub-model on a batch, and its uncertainty.

    Args:
        recipe: the recipe, which selects the losses.
        embeddings: (batch, dim), of length 1.
        target: (batch, dim), the embeddings of the batch by the full sub-model or the teacher. None for the
            full sub-model without a teacher.
        classifiers: (classes, dim) each; one for all sub-models or one for each.
        index: the index of the sub-model.
        labels: (batch,) int64.
        scale: the logit of cosine 1.
        progress: the share of the steps that are done, in [0, 1).

    Returns:
        The loss and the uncertainty, both () float32. The uncertainty is NaN without a classifier.
    """
    total, uncertainty = embeddings.new_zeros((), dtype=torch.float32), embeddings.new_full((), torch.nan)
    if recipe.classifiers != "full" or target is None:
        classifier = classifiers[index if recipe.classifiers == "own" else -1]
        total, uncertainty = LOSSES[recipe.loss](cosine_logits(embeddings, classifier, scale), labels)
    if target is not None:
        if recipe.influence:
            total = total + recipe.influence * influence_loss(embeddings, classifiers[-1], labels, scale)
        if recipe.asymmetric:
            total = total + recipe.asymmetric * asymmetric_loss(embeddings, target, labels)
        if recipe.alignment:
            weight = recipe.alignment * min(1.0, 2 * progress)
            total = total + weight * alignment_loss(embeddings, target)
    return total, uncertainty
