"""Recipes: training methods, each with losses for the sub-models and an aggregation of their gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sfsc.errors import SfscError
from sfsc.training.aggregation.projection import agreement_weights, projection_weights, sum_weights
from sfsc.training.aggregation.torchjd import torchjd_weights
from sfsc.training.losses.alignment import alignment_loss
from sfsc.training.losses.asymmetric import asymmetric_loss
from sfsc.training.losses.classification import cross_entropy
from sfsc.training.losses.evidential import cosine_logits, evidential_loss, linear_logits
from sfsc.training.losses.triplet import triplet_loss

Aggregate = Callable[[Tensor, Tensor], Tensor]

AGGREGATIONS: dict[str, Aggregate] = {
    "sum": sum_weights,
    "projection": projection_weights,
    "agreement": agreement_weights,
    **{name: torchjd_weights(name) for name in ("upgrad", "cagrad", "mgda")},
}


@dataclass(frozen=True)
class Recipe:
    """A training method.

    Attributes:
        loss: the classification loss: cross_entropy or evidential.
        full_loss: the classification loss of the full sub-model; by default the same.
        logits: the logits of classifiers: cosine (scaled) or linear (of embeddings before their
            normalisation).
        evidence: the evidence of a logit in the evidential loss: exp or softplus.
        evidence_kl: the final weight of the penalty on evidence of wrong classes in the evidential loss.
        evidence_kl_ramp: the share of the steps during which this weight rises from 0.
        label_smoothing: the share of a label that the classification loss distributes over all classes.
        triplet: the weight of the triplet loss, which accompanies the classification loss.
        aggregation: how the gradients of the sub-models are combined into one: sum, projection, agreement,
            upgrad, cagrad or mgda.
        granularity: the unit in which gradients are compared: kernel (an output channel of a layer), tensor,
            layer or model.
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
        classifier: learned, or d-simplex (fixed directions with equal angles, see `simplex`).
    """

    loss: str = "cross_entropy"
    full_loss: str | None = None
    logits: str = "cosine"
    evidence: str = "exp"
    evidence_kl: float = 0.0
    evidence_kl_ramp: float = 0.0
    label_smoothing: float = 0.0
    triplet: float = 0.0
    aggregation: str = "sum"
    granularity: str = "tensor"
    influence: float = 0.0
    asymmetric: float = 0.0
    alignment: float = 0.0
    shared: bool = True
    classifiers: str = "shared"
    full_first: bool = False
    teacher: bool = False
    classifier: str = "learned"

    @property
    def frozen(self) -> bool:
        """Whether the classifier is not trained with the family."""
        return self.teacher or self.classifier != "learned"

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
    "prunnet-s": Recipe(classifiers="full", influence=1.0, aggregation="agreement", granularity="kernel"),
    "sfsc-slides": Recipe(
        loss="evidential",
        full_loss="cross_entropy",
        logits="linear",
        evidence="softplus",
        evidence_kl=5e-4,
        aggregation="projection",
        granularity="model",
    ),
    "sfsc": Recipe(loss="evidential", aggregation="projection"),
    "sfsc+": Recipe(loss="evidential", aggregation="projection", asymmetric=1.0, alignment=2.0, teacher=True),
}
# The fields of a recipe that the settings of a run can change.
ADJUSTABLE = (
    *("loss", "full_loss", "logits", "evidence", "evidence_kl", "evidence_kl_ramp"),
    *("label_smoothing", "triplet", "aggregation", "granularity", "influence", "asymmetric", "alignment"),
    "classifier",
)


def find_recipe(name: str, changes: dict[str, Any] | None = None) -> Recipe:
    """Return the recipe of this name with the changes that are not None, or raise `SfscError`."""
    if name not in RECIPES:
        raise SfscError(f"unknown recipe {name!r}; choose one of {', '.join(RECIPES)}")
    return replace(
        RECIPES[name], **{key: value for key, value in (changes or {}).items() if value is not None}
    )


def sub_model_loss(
    recipe: Recipe,
    features: Tensor,
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
        features: (batch, dim), the embeddings, of length 1; with linear logits before their normalisation.
            Images with labels come first; the others only take part in the alignment.
        target: (batch, dim), those of the batch by the full sub-model or the teacher. None for the full
            sub-model without a teacher.
        classifiers: (classes, dim) each; one for all sub-models or one for each.
        index: the index of the sub-model, counted from the end: -1 is the full one.
        labels: (labelled,) int64, of the first images.
        scale: the logit of cosine 1.
        progress: the share of the steps that are done, in [0, 1).

    Returns:
        The loss and the uncertainty, both () float32. The uncertainty is NaN without a classifier.
    """
    linear = recipe.logits == "linear"
    logits = linear_logits if linear else partial(cosine_logits, scale=scale)
    embeddings = F.normalize(features.float()) if linear else features
    labelled, known = features[: len(labels)], embeddings[: len(labels)]
    total, uncertainty = features.new_zeros((), dtype=torch.float32), features.new_full((), torch.nan)
    if recipe.classifiers != "full" or target is None:
        classifier = classifiers[index if recipe.classifiers == "own" else -1]
        total, uncertainty = _classify(recipe, logits(labelled, classifier), labels, index == -1, progress)
        if recipe.triplet:
            total = total + recipe.triplet * triplet_loss(known, labels)
    if target is not None:
        if recipe.influence:  # Shen et al., Backward-Compatible Representation Learning, CVPR 2020, eq. 4
            of_full = logits(labelled, classifiers[-1].detach())
            smoothing = recipe.label_smoothing
            total = total + recipe.influence * F.cross_entropy(of_full, labels, label_smoothing=smoothing)
        towards = F.normalize(target.float()) if linear else target
        if recipe.asymmetric:
            total = total + recipe.asymmetric * asymmetric_loss(known, towards[: len(labels)], labels)
        if recipe.alignment:
            weight = recipe.alignment * min(1.0, 2 * progress)
            total = total + weight * alignment_loss(embeddings, towards)
    return total, uncertainty


def _classify(
    recipe: Recipe, logits: Tensor, labels: Tensor, full: bool, progress: float
) -> tuple[Tensor, Tensor]:
    """Return the classification loss and the uncertainty of logits (batch, classes)."""
    if ((full and recipe.full_loss) or recipe.loss) == "cross_entropy":
        return cross_entropy(logits, labels, recipe.label_smoothing)
    ramp = recipe.evidence_kl_ramp
    kl = recipe.evidence_kl * (min(1.0, progress / ramp) if ramp else 1.0)
    return evidential_loss(logits, labels, recipe.evidence, kl, recipe.label_smoothing)
