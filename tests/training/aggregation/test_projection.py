import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchjd.aggregation import PCGradWeighting

from sfsc.training.aggregation.gram import channel_grams, combine, conflicts, gram_matrix
from sfsc.training.aggregation.projection import agreement_weights, projection_weights, random_order

SHAPES = [(2, 1, 3, 3), (3, 2, 3, 3), (5, 4, 3, 3), (8, 6, 3, 3)]


def nested(seed: int, shapes: list[tuple[int, ...]] = SHAPES) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def padded(corners: list[Tensor]) -> Tensor:
    """(m, elements): the same gradients with their zeros written out."""
    rows = []
    for corner in corners:
        full = torch.zeros(corners[-1].shape)
        full[tuple(slice(0, size) for size in corner.shape)] = corner
        rows.append(full.flatten())
    return torch.stack(rows)


def project_by_hand(gradients: Tensor, order: Tensor) -> Tensor:
    """The algorithm as written in the paper, on whole vectors; the sum of the projected gradients."""
    return projected_by_hand(gradients, order).sum(0)


def projected_by_hand(gradients: Tensor, order: Tensor) -> Tensor:
    """(m, elements): each projected gradient."""
    found = []
    for i, gradient in enumerate(gradients):
        projected = gradient.clone()
        for j in order[i].tolist():
            product = projected @ gradients[j]
            if j != i and product < 0:
                projected -= product / gradients[j].square().sum() * gradients[j]
        found.append(projected)
    return torch.stack(found)


def test_gram_matrix_is_that_of_the_padded_gradients() -> None:
    corners = nested(0)
    full = padded(corners)
    torch.testing.assert_close(gram_matrix(corners), full @ full.T, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("shape", [(4,), (7, 5)])
def test_a_parameter_that_is_never_cut_has_equal_corners(shape: tuple[int, ...]) -> None:
    corners = nested(1, [shape] * 3)
    full = torch.stack(corners).flatten(1)
    torch.testing.assert_close(gram_matrix(corners), full @ full.T)


@pytest.mark.parametrize("seed", range(20))
def test_weights_from_the_gram_matrix_equal_projection_of_whole_vectors(seed: int) -> None:
    corners = nested(seed)
    order = random_order(4, seed)
    expected = project_by_hand(padded(corners), order)
    combined = combine(corners, projection_weights(gram_matrix(corners), order))
    torch.testing.assert_close(combined.flatten(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", range(20))
def test_channels_are_projected_one_by_one(seed: int) -> None:
    corners = nested(seed)
    order = random_order(4, seed)
    grams = channel_grams(corners)
    full = torch.zeros(4, *corners[-1].shape)
    for row, corner in zip(full, corners, strict=True):
        row[tuple(slice(0, size) for size in corner.shape)] = corner
    rows = full.transpose(0, 1).flatten(2)
    torch.testing.assert_close(grams, rows @ rows.mT, rtol=1e-4, atol=1e-4)
    expected = torch.stack([project_by_hand(of_channel, order) for of_channel in rows])
    combined = combine(corners, projection_weights(grams, order))
    torch.testing.assert_close(combined.flatten(1), expected, rtol=1e-4, atol=1e-4)


def test_a_single_number_is_one_channel() -> None:
    corners = [torch.tensor(2.0), torch.tensor(-3.0)]
    grams = channel_grams(corners)
    assert torch.equal(grams, torch.tensor([[[4.0, -6.0], [-6.0, 9.0]]]))
    assert torch.equal(grams[0], gram_matrix(corners))
    for weights in (torch.tensor([0.5, 2.0]), torch.tensor([[0.5, 2.0]])):
        assert combine([corners[0], corners[1].clone()], weights).item() == 0.5 * 2 - 2 * 3


@pytest.mark.parametrize("seed", range(20))
def test_agreement_weighs_projected_gradients_by_their_cosine(seed: int) -> None:
    vectors = padded(nested(seed))
    order = random_order(4, seed)
    projected = projected_by_hand(vectors, order)
    agreement = ((1 + torch.cosine_similarity(projected, vectors)) / 2).sqrt()
    expected = (4 * agreement / agreement.sum()) @ projected
    weights = agreement_weights(vectors @ vectors.T, order)
    torch.testing.assert_close(weights @ vectors, expected, rtol=1e-4, atol=1e-4)


def test_agreement_sums_what_agrees_or_is_absent() -> None:
    vectors = torch.rand(5, 4, 9)  # nonnegative: no negative product
    vectors[:2, 0] = 0
    weights = agreement_weights(vectors @ vectors.mT, random_order(4, 0))
    torch.testing.assert_close(weights, torch.ones(5, 4))


@pytest.mark.parametrize("seed", range(20))
def test_weights_equal_torchjd_for_two_gradients(seed: int) -> None:
    gram = gram_matrix(nested(seed, SHAPES[-2:]))
    torch.testing.assert_close(projection_weights(gram, random_order(2, 0)), PCGradWeighting()(gram))


def random_grams(seed: int, m: int = 4) -> Tensor:
    vectors = torch.randn(6, m, 9, generator=torch.Generator().manual_seed(seed))
    return vectors @ vectors.mT


def test_without_conflict_the_gradients_are_summed() -> None:
    vectors = torch.rand(5, 4, 9)  # nonnegative: no negative product
    weights = projection_weights(vectors @ vectors.mT, random_order(4, 0))
    assert torch.equal(weights, torch.ones(5, 4))


def test_groups_are_independent_of_each_other() -> None:
    grams, order = random_grams(3), random_order(4, 1)
    one_by_one = torch.stack([projection_weights(gram, order) for gram in grams])
    assert torch.equal(projection_weights(grams, order), one_by_one)


def test_the_last_projection_leaves_no_conflict_with_it() -> None:
    first, second = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0])
    gram = torch.stack([first, second]) @ torch.stack([first, second]).T
    weights = projection_weights(gram, random_order(2, 0))
    total = weights @ torch.stack([first, second])
    assert total @ first >= 0
    assert total @ second >= 0
    assert not torch.equal(weights, torch.ones(2))


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 5))
def test_projection_commutes_with_a_common_scale(seed: int, m: int) -> None:
    grams, order = random_grams(seed, m), random_order(m, seed)
    torch.testing.assert_close(
        projection_weights(4 * grams, order), projection_weights(grams, order), rtol=1e-3, atol=1e-4
    )


def test_a_zero_gradient_changes_nothing() -> None:
    corners = nested(2)
    corners[1].zero_()
    order = random_order(4, 5)
    weights = projection_weights(gram_matrix(corners), order)
    assert torch.isfinite(weights).all()
    expected = project_by_hand(padded([corners[0], corners[2], corners[3]]), _without(order, 1))
    torch.testing.assert_close(combine(corners, weights).flatten(), expected, rtol=1e-4, atol=1e-4)


def _without(order: Tensor, index: int) -> Tensor:
    rows = [row[row != index] for i, row in enumerate(order) if i != index]
    return torch.stack([row - (row > index).long() for row in rows])


def test_order_is_a_permutation_in_each_row_and_only_of_the_seed() -> None:
    order = random_order(4, 7)
    assert torch.equal(order.sort(dim=1).values, torch.arange(4).expand(4, 4))
    assert torch.equal(order, random_order(4, 7))
    assert any(not torch.equal(order, random_order(4, seed)) for seed in range(8, 12))


def test_conflicts_count_pairs_of_each_sub_model() -> None:
    gram = torch.tensor([[1.0, -0.5, 0.2], [-0.5, 1.0, 0.1], [0.2, 0.1, 1.0]])
    torch.testing.assert_close(conflicts(gram[None]), torch.tensor([[0.5, 0.5, 0.0]]))
