"""Re-ranking against the published rule, written here step by step on the full matrix."""

from __future__ import annotations

import numpy as np
import pytest

from sfsc.errors import SfscError
from sfsc.retrieval.ranking import positive_ranks, top_hits
from sfsc.retrieval.reranked import reranked_ranks
from sfsc.retrieval.reranking import expansion, k_reciprocal, rule_of
from tests.retrieval.retrieval_cases import random_case, unit


def published_distances(items: np.ndarray, k1: int, k2: int, weight: float) -> np.ndarray:
    """d*(p, g) of Zhong et al., CVPR 2017, from item 0 to all others, with sets and loops in float64."""
    count = len(items)
    squared = np.array([[((a - b) ** 2).sum() for b in items] for a in items.astype(np.float64)])
    distance = squared / squared.max(axis=1, keepdims=True)
    ranking = [sorted(range(count), key=lambda g, p=p: distance[p, g]) for p in range(count)]

    def reciprocal(p: int, k: int) -> set[int]:  # eq. 3 and 4; an item is its own nearest neighbour
        return {g for g in ranking[p][: k + 1] if p in ranking[g][: k + 1]}

    vectors = np.zeros((count, count))
    for p in range(count):
        own = reciprocal(p, k1)
        expanded = set(own)
        for q in own:  # eq. 5
            theirs = reciprocal(q, round(k1 / 2))
            if len(own & theirs) > 2 / 3 * len(theirs):
                expanded |= theirs
        for g in expanded:  # eq. 7
            vectors[p, g] = np.exp(-distance[p, g])
        vectors[p] /= vectors[p].sum()
    vectors = np.array(
        [np.mean([vectors[g] for g in ranking[p][:k2]], axis=0) for p in range(count)]
    )  # eq. 11
    result = []
    for g in range(1, count):
        jaccard = 1 - np.minimum(vectors[0], vectors[g]).sum() / np.maximum(vectors[0], vectors[g]).sum()
        result.append((1 - weight) * jaccard + weight * distance[0, g])  # eq. 10 and 12
    return np.array(result)


@pytest.mark.parametrize(
    ("k1", "k2", "weight"), [(20, 6, 0.3), (6, 3, 0.3), (5, 1, 0.0), (7, 2, 1.0), (90, 9, 0.5)]
)
@pytest.mark.parametrize("seed", range(4))
def test_k_reciprocal_is_the_published_rule(seed: int, k1: int, k2: int, weight: float) -> None:
    items = random_case(seed, gallery=60).gallery_embeddings
    found = k_reciprocal(items[0], items[1:], k1, k2, weight)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, published_distances(items, k1, k2, weight), atol=2e-5)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_hits_are_re_ranked_too(count: int) -> None:
    items = random_case(0, gallery=1 + count).gallery_embeddings
    assert np.isfinite(k_reciprocal(items[0], items[1:])).all()
    assert np.isfinite(expansion(items[0], items[1:])).all()


def test_equal_hits_are_no_obstacle() -> None:
    query = unit(np.ones((1, 4)))[0]
    assert np.isfinite(k_reciprocal(query, np.repeat(query[None], 30, 0))).all()


def test_expansion_is_the_weighted_mean_of_the_first_hits() -> None:
    items = random_case(1, gallery=40).gallery_embeddings
    query, hits = items[0], items[1:][np.argsort(-items[1:] @ items[0])]
    mean = unit(np.sum([query, *hits[:5]], axis=0)[None])[0]
    np.testing.assert_allclose(expansion(query, hits, power=0), 1 - hits @ mean, atol=1e-5)
    weighted = unit((query + sum(max(h @ query, 0) ** 3 * h for h in hits[:5]))[None])[0]
    np.testing.assert_allclose(expansion(query, hits), 1 - hits @ weighted, atol=1e-5)


@pytest.mark.parametrize("cameras", [False, True])
@pytest.mark.parametrize("depth", [2, 20, 500])
def test_ranks_are_those_of_the_re_ranked_lists(depth: int, cameras: bool) -> None:
    """The first items change places, and all later ones keep theirs."""
    case = random_case(3, cameras=cameras)
    indices = top_hits(*case, len(case.gallery.identities))[0]
    found = reranked_ranks(*case, k_reciprocal, depth)
    for query, ranks in enumerate(found):
        places = indices[query][indices[query] >= 0]
        first = places[:depth]
        distances = k_reciprocal(case.query_embeddings[query], case.gallery_embeddings[first])
        listed = [*first[np.argsort(distances, kind="stable")], *places[depth:]]
        right = case.gallery.identities[listed] == case.query.identities[query]
        assert ranks.tolist() == (1 + np.flatnonzero(right)).tolist()


def test_neighbours_of_the_hits_mend_a_weak_query() -> None:
    """The hits form two clusters; a noisy query between them is nearer to one, and takes all of it first."""
    rng = np.random.default_rng(0)
    centres = unit(rng.standard_normal((2, 32)))
    hits = unit(np.repeat(centres, 15, 0) + 0.1 * rng.standard_normal((30, 32)))
    query = unit((1.25 * centres[0] + centres[1])[None] + 0.1 * rng.standard_normal((1, 32)))[0]
    own = np.arange(30) < 15
    assert not own[np.argsort(-hits @ query)][:15].all()
    for rule in (k_reciprocal, expansion):
        order = np.argsort(rule(query, hits))
        assert own[order][:15].sum() > own[np.argsort(-hits @ query)][:15].sum()


@pytest.mark.parametrize(
    ("name", "depth", "message"), [("krr", 100, "not one of k-reciprocal"), ("expansion", 1, "at least 2")]
)
def test_unknown_rules_and_too_few_hits_are_refused(name: str, depth: int, message: str) -> None:
    with pytest.raises(SfscError, match=message):
        rule_of(name, depth)


def test_positives_that_nothing_re_ranks_keep_their_ranks() -> None:
    case = random_case(5)
    plain = positive_ranks(*case)
    for before, after in zip(plain, reranked_ranks(*case, expansion, 10), strict=True):
        assert before[before > 10].tolist() == after[after > 10].tolist()
