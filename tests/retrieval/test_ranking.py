import importlib.util
import os
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from sfsc.errors import SfscError
from sfsc.retrieval import Labels, average_precision, evaluate_ranking, positive_ranks, top_hits
from tests.retrieval.retrieval_cases import Case, kept, naive_ranks, random_case, unit

TORCHREID_RANK = os.environ.get("SFSC_TORCHREID_RANK", "")


def self_search(case: Case) -> Case:
    """The gallery searched with its own items, as in a data set without cameras."""
    return Case(case.gallery_embeddings, case.gallery_embeddings, case.gallery, case.gallery)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("cameras", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_ranks_agree_with_a_plain_sort(seed: int, cameras: bool, ties: bool) -> None:
    case = random_case(seed, cameras=cameras, ties=ties, queries=12, gallery=10 + 4 * seed)
    for searched in (case, self_search(case)):
        expected = naive_ranks(searched)
        for block in ((512, 16384), (7, 13), (1000, 5), (1, 9)):
            found = positive_ranks(*searched, block=block)
            assert [ranks.tolist() for ranks in found] == expected


@pytest.mark.parametrize("seed", range(8))
def test_average_precision_agrees_with_scikit_learn(seed: int) -> None:
    case = random_case(seed, cameras=seed % 2 == 0)
    searched = case if case.query.cameras is not None else self_search(case)
    reference = []
    for query, ranks in enumerate(positive_ranks(*searched)):
        stays = kept(searched, query)
        scores = (searched.gallery_embeddings @ searched.query_embeddings[query])[stays]
        positive = (searched.gallery.identities == searched.query.identities[query])[stays]
        assert len(ranks) == positive.sum()
        if positive.any():
            reference.append(average_precision_score(positive, scores))
            assert average_precision(ranks) == pytest.approx(reference[-1], abs=1e-6)
    result = evaluate_ranking(*searched)
    assert result.mean_ap == pytest.approx(np.mean(reference), abs=1e-6)
    assert result.queries == len(reference)
    assert result.skipped == len(searched.query.identities) - len(reference)


@pytest.mark.skipif(not TORCHREID_RANK, reason="SFSC_TORCHREID_RANK does not name torchreid's rank.py")
@pytest.mark.filterwarnings("ignore:Cython evaluation")
def test_agrees_with_torchreid() -> None:
    spec = importlib.util.spec_from_file_location("torchreid_rank", Path(TORCHREID_RANK))
    assert spec is not None and spec.loader is not None
    torchreid = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(torchreid)
    for seed in range(20):
        case = random_case(seed, queries=60, gallery=400)
        labels = (
            case.query.identities,
            case.gallery.identities,
            case.query.cameras,
            case.gallery.cameras,
        )
        distances = 1 - case.query_embeddings @ case.gallery_embeddings.T
        cmc, mean_ap = torchreid.evaluate_rank(distances, *labels, max_rank=10, use_cython=False)
        result = evaluate_ranking(*case)
        assert result.mean_ap == pytest.approx(mean_ap, abs=1e-6)
        assert list(result.cmc.values()) == pytest.approx([cmc[0], cmc[4], cmc[9]], abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_pytorch_metric_learning(seed: int) -> None:
    torch = pytest.importorskip("torch")
    accuracy = pytest.importorskip("pytorch_metric_learning.utils.accuracy_calculator")
    knn = pytest.importorskip("pytorch_metric_learning.utils.inference")
    distances = pytest.importorskip("pytorch_metric_learning.distances")
    case = self_search(random_case(seed, cameras=False, gallery=200))
    calculator = accuracy.AccuracyCalculator(
        include=("mean_average_precision",),
        device=torch.device("cpu"),
        knn_func=knn.CustomKNN(distances.CosineSimilarity()),
    )
    embeddings = torch.from_numpy(case.gallery_embeddings)
    numbers = torch.from_numpy(np.unique(case.gallery.identities, return_inverse=True)[1])
    expected = calculator.get_accuracy(embeddings, numbers)["mean_average_precision"]
    assert evaluate_ranking(*case).mean_ap == pytest.approx(expected, abs=1e-6)


def test_figures_of_a_case_done_by_hand() -> None:
    gallery = np.array([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]], np.float32)
    query = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    result = evaluate_ranking(
        query, gallery, Labels(np.array(["a", "c"])), Labels(np.array(["b", "a", "b", "a"]))
    )
    assert result.mean_ap == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert result.cmc == {1: 0.0, 5: 1.0, 10: 1.0}
    assert result.mean_inp == pytest.approx(2 / 4)
    assert (result.queries, result.skipped) == (1, 1)
    assert list(result.metrics) == ["mAP", "rank-1", "rank-5", "rank-10", "mINP"]


def test_equal_embeddings_rank_in_gallery_order() -> None:
    rng = np.random.default_rng(0)
    gallery = np.tile(unit(rng.standard_normal((1, 64))), (101, 1))
    query = unit(rng.standard_normal((3, 64)))
    identities = np.where(np.arange(101) % 10 == 3, "a", "b")
    labels = Labels(np.array(["a", "a", "a"])), Labels(identities)
    for block in ((512, 16384), (2, 37)):
        for ranks in positive_ranks(query, gallery, *labels, block=block):
            assert ranks.tolist() == [item + 1 for item in range(3, 101, 10)]


@pytest.mark.parametrize("block", [(512, 16384), (4, 9)])
@pytest.mark.parametrize("ties", [False, True])
def test_top_hits_are_the_head_of_the_ranking(ties: bool, block: tuple[int, int]) -> None:
    case = random_case(3, ties=ties)
    indices, scores = top_hits(*case, k=12, block=block)
    assert indices.dtype == np.int64 and scores.dtype == np.float32
    for query in range(len(indices)):
        similarity = case.gallery_embeddings @ case.query_embeddings[query]
        similarity[~kept(case, query)] = -np.inf
        order = np.argsort(-similarity, kind="stable")[:12]
        assert indices[query].tolist() == order.tolist()
        assert scores[query] == pytest.approx(similarity[order], abs=1e-6)


def test_top_hits_fill_up_short_rows() -> None:
    embeddings = unit(np.eye(3))
    labels = Labels(np.array(["a", "a", "b"]), paths=("0.png", "1.png", "2.png"))
    indices, scores = top_hits(embeddings, embeddings, labels, labels, k=5)
    assert indices.tolist() == [[1, 2, -1, -1, -1], [0, 2, -1, -1, -1], [0, 1, -1, -1, -1]]
    assert scores[:, 2:].tolist() == [[-1] * 3] * 3


def test_memory_stays_far_below_the_full_matrix() -> None:
    rng = np.random.default_rng(0)
    count = 3000
    embeddings = unit(rng.standard_normal((count, 8)))
    labels = Labels(rng.integers(0, 300, count), rng.integers(0, 4, count))
    tracemalloc.start()
    positive_ranks(embeddings, embeddings, labels, labels, block=(64, 1000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < count * count * 4 / 10


def test_mistakes_are_named() -> None:
    case = random_case(0)
    queries, gallery = case.query_embeddings, case.gallery_embeddings
    broken = queries.copy()
    broken[3, 2] = np.nan
    with pytest.raises(SfscError, match="query embeddings contain NaN"):
        evaluate_ranking(broken, gallery, case.query, case.gallery)
    with pytest.raises(SfscError, match=r"gallery embeddings must have shape \(120, dim\)"):
        evaluate_ranking(queries, gallery[1:], case.query, case.gallery)
    with pytest.raises(SfscError, match="16 dimensions, gallery embeddings 15"):
        evaluate_ranking(queries, gallery[:, 1:], case.query, case.gallery)
    with pytest.raises(SfscError, match="cameras are known of only one"):
        evaluate_ranking(queries, gallery, case.query, replace(case.gallery, cameras=None))
    with pytest.raises(SfscError, match="no query has a positive"):
        strangers = Labels(np.full(len(queries), "stranger"), case.query.cameras)
        evaluate_ranking(queries, gallery, strangers, case.gallery)
