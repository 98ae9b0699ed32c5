"""Recipes: training methods, each the losses of its sub-models and a way to make one gradient of theirs."""

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
        loss: of the logits of a classifier: cross_entropy or evidential.
        aggregation: how the gradients of the sub-models become one: sum, projection, upgrad, cagrad, mgda.
        influence: weight of the influence loss of narrow sub-models, under the full one's classifier.
        asymmetric: weight of the contrastive loss of narrow sub-models to the full one's embeddings.
        alignment: weight of the alignment of narrow sub-models to the full one's embeddings, at its height:
            it rises over the first half of training.
        shared: one switchable network for all widths; else an independent network for each.
        classifiers: shared, one for all; own, one for each; full, one for the full sub-model alone.
        full_first: the full network is trained first, and is frozen while the others are; where not shared.
        teacher: a full network is trained first, alone. The family starts from it, under its classifier,
            which is frozen, and all sub-models, also the full one, are drawn to its embeddings.
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
        """Whether anything draws the sub-models into one space."""
        drawn = self.influence or self.asymmetric or self.alignment
        return self.classifiers == "shared" or bool(drawn)

    def phases(self, m: int) -> list[list[int]]:
        """The sub-models, of m, that are trained in each phase of a run, wide first."""
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
# What the settings of a run may change of its recipe.
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
    """The loss of one sub-model on a batch, and its uncertainty.

    Args:
        recipe: says which losses.
        embeddings: (batch, dim), of length 1.
        target: the embeddings of the batch by the full sub-model or the teacher; None for the full sub-model
            where there is no teacher.
        classifiers: one for all or one for each, (classes, dim).
        index: which sub-model it is.
        labels: (batch,) int64.
        scale: the logit of cosine 1.
        progress: the share of the steps that are done, in [0, 1).

    Returns:
        Both () float32; the uncertainty is NaN where the sub-model has no classifier.
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
