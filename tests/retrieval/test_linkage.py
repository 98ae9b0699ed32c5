"""Groups from pairs, against SciPy's complete linkage on the full matrix."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from sfsc.retrieval.linkage import complete_linkage
from tests.retrieval.retrieval_cases import unit


def pairs_of(scores: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray]:
    one, other = np.nonzero(np.triu(scores >= least, 1))
    return np.stack([one, other], 1), scores[one, other]


@pytest.mark.parametrize("least", [0.2, 0.6, 0.9])
@pytest.mark.parametrize("seed", range(5))
def test_groups_are_those_of_the_full_matrix(seed: int, least: float) -> None:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((12, 8))
    rows = unit(centres[rng.integers(0, 12, 80)] + 0.4 * rng.standard_normal((80, 8))).astype(np.float64)
    scores = rows @ rows.T
    np.fill_diagonal(scores, 1)
    tree = linkage(squareform(1 - scores, checks=False), "complete")
    numbers = fcluster(tree, 1 - least, "distance")
    expected = {tuple(np.flatnonzero(numbers == n)) for n in np.unique(numbers) if (numbers == n).sum() > 1}
    found = complete_linkage(*pairs_of(scores, least), len(rows))
    assert {tuple(group) for group in found} == expected


def test_a_chain_is_not_one_group() -> None:
    pairs = np.array([[0, 1], [1, 2], [2, 3]])
    assert complete_linkage(pairs, np.array([0.9, 0.95, 0.9]), 4) == [[1, 2]]


def test_no_pairs_are_no_groups() -> None:
    assert complete_linkage(np.empty((0, 2), np.int64), np.empty(0), 5) == []
