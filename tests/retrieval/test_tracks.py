"""Image-to-track ranks against plain loops over all images."""

from __future__ import annotations

import numpy as np
import pytest

from sfsc.errors import SfscError
from sfsc.retrieval import tracks
from sfsc.retrieval.tracks import count_tracks, track_ranks
from tests.retrieval.retrieval_cases import Case, random_case


def plain_tracks(case: Case) -> list[list[int]]:
    """The images of each track, in the order of their first images."""
    found: dict[tuple[object, ...], list[int]] = {}
    wanted = set(case.query.identities)
    assert case.gallery.cameras is not None
    for item, (identity, camera) in enumerate(
        zip(case.gallery.identities, case.gallery.cameras, strict=True)
    ):
        found.setdefault((identity, camera) if identity in wanted else (item,), []).append(item)
    return [*found.values()]


def plain_ranks(case: Case) -> list[list[int]]:
    result = []
    for query, (identity, camera) in enumerate(zip(case.query.identities, case.query.cameras, strict=True)):
        scores = case.gallery_embeddings @ case.query_embeddings[query]
        best = []
        for images in plain_tracks(case):
            shown = case.gallery.identities[images[0]], case.gallery.cameras[images[0]]
            if shown != (identity, camera):
                best.append((-max(scores[item] for item in images), shown[0] == identity))
        best.sort(key=lambda one: one[0])
        result.append([rank for rank, (_, positive) in enumerate(best, start=1) if positive])
    return result


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_ranks_are_those_of_plain_loops(seed: int, ties: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    case = random_case(seed, ties=ties)
    monkeypatch.setattr(tracks, "BLOCK", 7 * len(case.gallery_embeddings))  # queries in several blocks
    assert [ranks.tolist() for ranks in track_ranks(*case)] == plain_ranks(case)
    assert count_tracks(case.query, case.gallery) == len(plain_tracks(case))


def test_a_distractor_is_a_track_of_its_own() -> None:
    case = random_case(0)
    distractors = int((case.gallery.identities == "0").sum())
    others = {*zip(case.gallery.identities, case.gallery.cameras, strict=True)}
    others = {shown for shown in others if shown[0] in set(case.query.identities)}
    assert distractors > 1
    unasked = ~np.isin(case.gallery.identities, case.query.identities)
    assert count_tracks(case.query, case.gallery) == len(others) + int(unasked.sum())


def test_unknown_cameras_are_an_error() -> None:
    with pytest.raises(SfscError, match="the cameras are unknown"):
        track_ranks(*random_case(0, cameras=False))
