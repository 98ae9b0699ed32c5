"""Counting the scores of pairs: against a plain loop over all pairs."""

from __future__ import annotations

import numpy as np
import pytest

from sfsc.decisions import scores as module
from sfsc.decisions.scores import EDGES, bins_of, count_scores
from tests.retrieval.retrieval_cases import kept, random_case


@pytest.mark.parametrize("cameras", [True, False])
@pytest.mark.parametrize("block", [1, 500, 1 << 22])
def test_the_counts_are_those_of_a_plain_loop(
    cameras: bool, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    case = random_case(3, cameras=cameras)
    found = count_scores(*case)
    matching: list[float] = []
    others: list[float] = []
    for row, identity in enumerate(case.query.identities):
        scores = case.gallery_embeddings @ case.query_embeddings[row]
        same = case.gallery.identities == identity
        own = scores[same & kept(case, row)]
        matching += own.tolist()
        others += scores[~same].tolist()
        assert found.best_matching[row] == pytest.approx(max(own, default=-np.inf), abs=1e-5)
        assert found.best_other[row] == pytest.approx(max(scores[~same]), abs=1e-5)
    assert sorted(found.matching.tolist()) == pytest.approx(sorted(matching), abs=1e-5)
    assert found.non_matches == len(others)
    assert found.matches == len(matching)
    for threshold in (-0.5, 0.0, 0.5):
        share = float(np.mean(np.array(others) >= threshold))
        assert found.false_match_rate(threshold) == pytest.approx(share, abs=1 / len(others) + 1e-9)


def test_each_cosine_is_in_its_bin() -> None:
    cosines = np.array([-1.0, -0.5, 0.0, 0.3, 0.999999, 1.0, 1.0000001])
    bins = bins_of(cosines)
    assert (EDGES[bins] <= cosines + 1e-12).all()
    assert (cosines[:-1] < EDGES[bins + 1][:-1]).all()
    assert bins_of(np.array([-1.0000001]))[0] == 0
