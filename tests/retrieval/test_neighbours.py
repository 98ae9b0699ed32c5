"""Mutual neighbours: what a family without labels can be compared by."""

from __future__ import annotations

import numpy as np
import pytest

from sfsc.retrieval.neighbours import cross_tests, mutual_neighbours

WIDTHS = (0.25, 0.5, 1.0)


def unit(count: int, dim: int = 8, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def near(vectors: np.ndarray, noise: float, seed: int) -> np.ndarray:
    moved = vectors + noise * unit(len(vectors), vectors.shape[1], seed)
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)


def clusters(seed: int = 0) -> np.ndarray:
    """240 vectors around 40 directions, six each."""
    return near(np.repeat(unit(40), 6, axis=0), 0.1, seed + 1)


def test_it_is_what_a_plain_loop_finds() -> None:
    embeddings = {width: near(unit(30), 0.5, place) for place, width in enumerate(WIDTHS)}
    found = mutual_neighbours(embeddings, 4)
    assert found.shape == (3, 3, 30)

    def nearest(image: int, own: float, other: float) -> set[int]:
        scores = embeddings[other] @ embeddings[own][image]
        return {*[int(i) for i in np.argsort(-scores) if i != image][:4]}

    for q, query in enumerate(WIDTHS):
        for g, gallery in enumerate(WIDTHS):
            for image in range(30):
                mutual = [j for j in nearest(image, query, gallery) if image in nearest(j, gallery, query)]
                assert found[q, g, image] == len(mutual) / 4


def test_it_is_symmetric_in_the_widths_on_average() -> None:
    embeddings = {width: near(unit(50), 0.5, place) for place, width in enumerate(WIDTHS)}
    matrix = mutual_neighbours(embeddings).mean(2)
    assert np.allclose(matrix, matrix.T)


def test_identities_that_all_widths_see_are_found() -> None:
    seen = {width: clusters(place) for place, width in enumerate(WIDTHS)}
    assert mutual_neighbours(seen).min() > 0.8


def test_a_width_with_a_space_of_its_own_fails_its_cross_tests_only() -> None:
    seen = near(np.repeat(unit(40, 64), 6, axis=0), 0.1, 1)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(64, 64)))[0].astype(np.float32)
    matrix = mutual_neighbours({0.25: seen @ rotation, 0.5: seen, 1.0: seen}).mean(2)
    assert np.diag(matrix).min() > 0.8
    assert matrix[1, 2] == matrix[2, 2]
    assert matrix[0, 1:].max() < 0.6 * np.diag(matrix).min()  # clusters can still be mutual as a whole


def test_a_shift_of_one_width_costs_and_cosines_do_not_show_it() -> None:
    """A common direction makes the same image's embeddings similar, and every image a neighbour of a few."""
    shifted = {
        width: near(clusters(place) + 3 * np.eye(8, dtype=np.float32)[0], 0, 0)
        for place, width in enumerate(WIDTHS)
    }
    plain = {width: clusters(place) for place, width in enumerate(WIDTHS)}
    mixed = {0.25: shifted[0.25], 1.0: plain[1.0]}
    assert cross_tests(mutual_neighbours(mixed)).mean() < cross_tests(mutual_neighbours(plain)).mean() - 0.2


@pytest.mark.parametrize("noise", [0, 1e-4])
def test_a_collapsed_family_agrees_and_is_worthless(noise: float) -> None:
    one = np.tile(unit(1), (200, 1))
    collapsed = {width: near(one, noise, place) for place, width in enumerate(WIDTHS)}
    assert (collapsed[0.25] * collapsed[1.0]).sum(1).min() > 0.999
    assert cross_tests(mutual_neighbours(collapsed)).mean() < 0.1


def test_only_pairs_of_different_widths_count() -> None:
    shares = np.zeros((3, 3, 4))
    shares[np.eye(3, dtype=bool)] = 1
    assert cross_tests(shares).tolist() == [0] * 4
    assert cross_tests(1 - shares).tolist() == [1] * 4
    assert cross_tests(np.full((1, 1, 2), 0.5)).tolist() == [0.5, 0.5]
