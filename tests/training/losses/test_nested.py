"""The weighted mean of a loss over nested dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sfsc.training.losses.nested import WEIGHT, nested_loss
from sfsc.training.recipes import RECIPES, sub_model_loss

LABELS = torch.tensor([0, 0, 1, 1])


def tensors() -> tuple[Tensor, Tensor, list[Tensor]]:
    """Embeddings and a target, (4, 8), and three classifiers, (2, 8)."""
    generator = torch.Generator().manual_seed(0)
    embeddings, target = (F.normalize(torch.randn(4, 8, generator=generator)) for _ in range(2))
    classifiers = [torch.randn(2, 8, generator=generator) for _ in range(3)]
    return embeddings.requires_grad_(), target, [one.requires_grad_() for one in classifiers]


@pytest.mark.parametrize("name", RECIPES)
def test_without_nested_dimensions_it_is_the_loss_itself_bit_by_bit(name: str) -> None:
    embeddings, target, classifiers = tensors()
    loss = partial(sub_model_loss, RECIPES[name], index=0, labels=LABELS, scale=10.0, progress=0.5)
    plain, same = (
        loss(embeddings, target, classifiers),
        nested_loss(loss, (), embeddings, target, classifiers),
    )
    assert torch.equal(plain[0], same[0])
    assert torch.equal(plain[1].nan_to_num(), same[1].nan_to_num())
    gradients = [
        torch.autograd.grad(one[0], [embeddings, *classifiers], allow_unused=True) for one in (plain, same)
    ]
    for before, after in zip(*gradients, strict=True):
        assert (before is after is None) or torch.equal(before, after)


@pytest.mark.parametrize("name", RECIPES)
def test_it_is_the_weighted_mean_of_what_every_dimension_costs_alone(name: str) -> None:
    embeddings, target, classifiers = tensors()
    loss = partial(sub_model_loss, RECIPES[name], index=0, labels=LABELS, scale=10.0, progress=0.5)
    expected = [
        loss(F.normalize(embeddings[:, :k]), F.normalize(target[:, :k]), [c[:, :k] for c in classifiers])
        for k in (8, 3, 5)
    ]
    found, uncertainty = nested_loss(loss, (3, 5), embeddings, target, classifiers)
    whole, *first = (one.item() for one, _ in expected)
    assert found.item() == pytest.approx((whole + WEIGHT * sum(first)) / (1 + 2 * WEIGHT))
    assert uncertainty.item() == pytest.approx(expected[0][1].item(), nan_ok=True)


def test_first_components_learn_more_and_lengths_do_not_matter() -> None:
    embeddings, target, classifiers = tensors()

    def first_cosine(one: Tensor, other: Tensor | None, _: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        assert other is not None
        for vectors in (one, other):
            torch.testing.assert_close(vectors.norm(dim=1), torch.ones(4))
        return (one * other).sum(), torch.zeros(())

    total = nested_loss(first_cosine, (2,), embeddings, target, classifiers)[0]
    whole = (embeddings * target).sum()
    [gradient] = torch.autograd.grad(total - whole / (1 + WEIGHT), embeddings)
    assert gradient[:, :2].abs().min() > 0
    assert gradient[:, 2:].abs().max() < 1e-7
