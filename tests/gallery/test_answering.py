"""Answers by identity, with re-ranking and with several images, against what all rows say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sfsc.errors import SfscError
from sfsc.gallery import Gallery
from sfsc.gallery.answering import Wanted, answer, stored_embeddings, together
from sfsc.retrieval.reranking import RULES
from tests.retrieval.retrieval_cases import unit

ROWS, DIM, PEOPLE = 300, 16, 25
FAMILY = "family"


@pytest.fixture(scope="module")
def embeddings() -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((PEOPLE, DIM))
    return unit(centres[np.arange(ROWS) % PEOPLE] + 0.8 * rng.standard_normal((ROWS, DIM)))


@pytest.fixture(scope="module")
def identities() -> list[str | None]:
    """Every seventh row lacks an identity."""
    return [None if place % 7 == 0 else f"p{place % PEOPLE}" for place in range(ROWS)]


@pytest.fixture(scope="module")
def gallery(
    embeddings: np.ndarray, identities: list[str | None], tmp_path_factory: pytest.TempPathFactory
) -> Gallery:
    opened = Gallery.open(tmp_path_factory.mktemp("answers") / "gallery", create=True)
    names = [f"{place:03}" for place in range(ROWS)]
    cameras = [str(place % 2) for place in range(ROWS)]
    opened.add(
        embeddings, names, paths=names, width=1.0, fingerprint=FAMILY, identities=identities, cameras=cameras
    )
    return opened


@pytest.fixture(scope="module")
def queries() -> np.ndarray:
    return unit(np.random.default_rng(1).standard_normal((5, DIM)))


def scores_by_identity(
    scores: np.ndarray, identities: list[str | None], best: int
) -> list[tuple[str, float]]:
    """Every identity with the mean of its best scores, best first."""
    own: dict[str, list[float]] = {}
    for identity, score in zip(identities, scores.tolist(), strict=True):
        if identity is not None:
            own.setdefault(identity, []).append(score)
    means = {identity: float(np.mean(sorted(found)[-best:])) for identity, found in own.items()}
    return sorted(means.items(), key=lambda pair: -pair[1])


@pytest.mark.parametrize("top", [1, 3, 12, 100])
def test_each_identity_answers_once_with_its_best_row(
    gallery: Gallery, embeddings: np.ndarray, identities: list[str | None], queries: np.ndarray, top: int
) -> None:
    for query, hits in zip(
        queries, answer(gallery, queries, FAMILY, Wanted(top, by="identity")), strict=True
    ):
        scores = embeddings @ query
        expected = scores_by_identity(scores, identities, best=1)[:top]
        assert [hit.identity for hit in hits] == [identity for identity, _ in expected]
        assert [hit.score for hit in hits] == pytest.approx([score for _, score in expected], abs=1e-5)
        assert all(scores[int(hit.id)] == pytest.approx(hit.score, abs=1e-5) for hit in hits)


def test_an_identity_can_answer_by_the_mean_of_its_best_rows(
    gallery: Gallery, embeddings: np.ndarray, identities: list[str | None], queries: np.ndarray
) -> None:
    wanted = Wanted(PEOPLE, by="identity", best=3)
    for query, hits in zip(queries, answer(gallery, queries, FAMILY, wanted), strict=True):
        expected = scores_by_identity(embeddings @ query, identities, best=3)
        assert [hit.identity for hit in hits] == [identity for identity, _ in expected]
        assert [hit.score for hit in hits] == pytest.approx([score for _, score in expected], abs=1e-5)


def test_conditions_hold_by_identity_too(gallery: Gallery, queries: np.ndarray) -> None:
    for wanted in (Wanted(30, ["camera=1"], by="identity"), Wanted(30, ["camera=1"], by="identity", best=2)):
        for hits in answer(gallery, queries, FAMILY, wanted):
            assert {hit.camera for hit in hits} == {"1"}
            assert len({hit.identity for hit in hits}) == len(hits)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("depth", [2, 40, 1000])
def test_the_first_rows_are_re_ranked_and_keep_their_cosines(
    gallery: Gallery, embeddings: np.ndarray, queries: np.ndarray, rule: str, depth: int
) -> None:
    for query, hits in zip(
        queries, answer(gallery, queries, FAMILY, Wanted(60, rerank=rule, rerank_depth=depth)), strict=True
    ):
        plain = np.argsort(-(embeddings @ query), kind="stable")
        first = plain[:depth]
        order = np.argsort(RULES[rule](query, embeddings[first]), kind="stable")
        assert [int(hit.id) for hit in hits] == [*first[order], *plain[depth:]][:60]
        assert [hit.score for hit in hits] == pytest.approx(
            [embeddings[int(h.id)] @ query for h in hits], abs=1e-5
        )


def test_identities_follow_the_re_ranked_rows(gallery: Gallery, queries: np.ndarray) -> None:
    rows = answer(
        gallery, queries, FAMILY, Wanted(ROWS, ["identity!="], rerank="k-reciprocal", rerank_depth=50)
    )
    wanted = Wanted(10, by="identity", rerank="k-reciprocal", rerank_depth=50)
    for found, hits in zip(rows, answer(gallery, queries, FAMILY, wanted), strict=True):
        assert [hit.identity for hit in hits] == [*dict.fromkeys(hit.identity for hit in found)][:10]


def test_several_images_are_one_query(queries: np.ndarray) -> None:
    joined = together(queries)
    assert joined.shape == (1, DIM)
    np.testing.assert_allclose(joined, unit(queries.sum(axis=0)[None]), atol=1e-6)
    np.testing.assert_allclose(together(queries[:1]), queries[:1], atol=1e-6)
    with pytest.raises(SfscError, match="cancel each other"):
        together(np.concatenate([queries, -queries]))


def test_stored_embeddings_are_those_that_were_added(gallery: Gallery, embeddings: np.ndarray) -> None:
    found = stored_embeddings(gallery, ["007", "nothing", "200"])
    assert {*found} == {"007", "200"}
    np.testing.assert_allclose(found["200"], embeddings[200], atol=1e-6)
    assert stored_embeddings(gallery, []) == {}


def test_rows_without_identities_cannot_be_searched_by_them(
    queries: np.ndarray, embeddings: np.ndarray, tmp_path: Path
) -> None:
    gallery = Gallery.open(tmp_path / "nameless", create=True)
    assert answer(gallery, queries, FAMILY, Wanted(by="identity")) == [[] for _ in queries]
    names = ["a", "b", "c"]
    gallery.add(embeddings[:3], names, paths=names, width=1.0, fingerprint=FAMILY)
    with pytest.raises(SfscError, match="nameless: its rows have no identities"):
        answer(gallery, queries, FAMILY, Wanted(by="identity"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"top": 0}, "top must be at least 1"),
        ({"by": "track"}, "by must be one of row, identity"),
        ({"best": 2}, "needs by identity"),
        ({"best": 2, "by": "identity", "rerank": "expansion"}, "re-ranking orders single rows"),
        ({"rerank": "krr"}, "not one of k-reciprocal, expansion"),
        ({"rerank": "expansion", "rerank_depth": 1}, "at least 2 hits"),
    ],
)
def test_what_cannot_be_answered_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(SfscError, match=message):
        Wanted(**values)  # type: ignore[arg-type]
