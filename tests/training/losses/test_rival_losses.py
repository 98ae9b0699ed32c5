"""The losses of the rivals and of alignment, against plain loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sfsc.training.losses import triplet
from sfsc.training.losses.alignment import alignment_loss
from sfsc.training.losses.asymmetric import MARGIN, asymmetric_loss
from sfsc.training.losses.classification import cross_entropy
from sfsc.training.losses.evidential import evidential_loss
from sfsc.training.losses.triplet import triplet_loss

LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)))


def test_cross_entropy_reports_the_uncertainty_of_the_same_evidence() -> None:
    logits = 5 * torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    loss, uncertainty = cross_entropy(logits, LABELS)
    assert loss.item() == pytest.approx(-logits.log_softmax(1)[range(6), LABELS].mean().item())
    assert uncertainty.item() == pytest.approx(evidential_loss(logits, LABELS)[1].item())


def test_triplets_are_the_hardest_of_a_plain_loop() -> None:
    embeddings = unit(6, 4, seed=3)
    total = 0.0
    for a in range(6):
        distances = [float((embeddings[a] - embeddings[n]).norm()) for n in range(6)]
        positive = max(d for d, label in zip(distances, LABELS, strict=True) if label == LABELS[a])
        negative = min(d for d, label in zip(distances, LABELS, strict=True) if label != LABELS[a])
        total += max(0.0, positive - negative + triplet.MARGIN) / 6
    assert total > 0
    assert triplet_loss(embeddings, LABELS).item() == pytest.approx(total, rel=1e-4)


def test_copies_of_an_image_have_finite_triplet_gradients() -> None:
    embeddings = unit(6, 4)[[0, 0, 0, 0, 0, 0]].requires_grad_()
    triplet_loss(embeddings, LABELS).backward()
    assert torch.isfinite(embeddings.grad).all()
    assert triplet_loss(embeddings, torch.zeros(6, dtype=torch.int64)).item() == 0


def test_asymmetric_is_the_contrastive_loss_of_a_plain_loop() -> None:
    embeddings, teacher = unit(6, 4, seed=1), unit(6, 4, seed=2)
    total = 0.0
    for a in range(6):
        cosines = [float(embeddings[a] @ teacher[n]) for n in range(6)]
        positives = [1 - c for c, label in zip(cosines, LABELS, strict=True) if label == LABELS[a]]
        negatives = [
            max(0.0, c - MARGIN) for c, label in zip(cosines, LABELS, strict=True) if label != LABELS[a]
        ]
        total += (sum(positives) + sum(negatives)) / len(positives) / 6
    assert asymmetric_loss(embeddings, teacher, LABELS).item() == pytest.approx(total, rel=1e-5)


def test_asymmetric_vanishes_where_identities_are_apart_and_each_is_one_point() -> None:
    points = torch.eye(3)[LABELS]
    assert asymmetric_loss(points, points, LABELS).item() == 0


def test_alignment_is_one_minus_the_cosine() -> None:
    embeddings, target = unit(6, 4, seed=1), unit(6, 4, seed=2)
    expected = (1 - F.cosine_similarity(embeddings, target)).mean()
    assert alignment_loss(embeddings, target).item() == pytest.approx(expected.item(), rel=1e-5)
    assert alignment_loss(target, target).item() == pytest.approx(0, abs=1e-6)
    assert alignment_loss(-target, target).item() == pytest.approx(2, rel=1e-6)


@pytest.mark.parametrize("loss", [alignment_loss, lambda e, t: asymmetric_loss(e, t, LABELS)])
def test_no_gradient_reaches_the_teacher(loss: object) -> None:
    embeddings, teacher = unit(6, 4, seed=1).requires_grad_(), unit(6, 4, seed=2).requires_grad_()
    loss(embeddings, teacher).backward()
    assert embeddings.grad.abs().sum() > 0
    assert teacher.grad is None
