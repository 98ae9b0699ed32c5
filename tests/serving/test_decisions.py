"""Hits with probabilities, and searches that return only matches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from sfsc.family.family import Family
from sfsc.gallery import Gallery
from sfsc.gallery.searching import search
from sfsc.serving import create_app

LIMITS: list[dict[str, float]] = [
    {},
    {"max_fmr": 0.3},
    {"min_probability": 0.5},
    {"max_fmr": 0.2, "min_probability": 0.1},
]


@pytest.fixture(scope="module")
def deciding(sure: Path, indexed: Path) -> Iterator[TestClient]:
    with TestClient(create_app(sure, indexed, hosts=["testserver"])) as client:
        yield client


def searched(client: TestClient, picture: Path, **fields: Any) -> Any:
    files = {"image": (picture.name, picture.read_bytes())}
    return client.post("/search/image", files=files, data={"width": 0.5, "top": 24, **fields})


@pytest.mark.parametrize("limits", LIMITS)
def test_the_service_decides_as_the_library_does(
    deciding: TestClient, sure: Path, indexed: Path, picture: Path, limits: dict[str, float]
) -> None:
    hits = searched(deciding, picture, **limits).json()["hits"]
    expected = search(Family.load(sure), picture, Gallery.open(indexed), 0.5, 24, exact=False, **limits)
    assert [(hit["id"], hit["match"]) for hit in hits] == [(hit.id, hit.match) for hit in expected]
    assert [hit["probability"] for hit in hits] == pytest.approx(
        [hit.probability for hit in expected], abs=1e-4
    )
    assert len(hits) < 24 or not limits


def test_no_match_is_an_answer(deciding: TestClient, picture: Path) -> None:
    answer = searched(deciding, picture, min_probability=1)
    assert (answer.status_code, answer.json()["hits"]) == (200, [])


def test_embeddings_of_a_known_sub_model_are_decided(deciding: TestClient) -> None:
    query = {"embedding": [1.0] + [0.0] * 15, "top": 5}
    unknown, known = (
        deciding.post("/search/embedding", json={**query, **more}) for more in ({}, {"width": 0.25})
    )
    assert [hit["probability"] for hit in unknown.json()["hits"]] == [None] * 5
    assert all(0 <= hit["probability"] <= 1 for hit in known.json()["hits"])


@pytest.mark.parametrize(
    "limits", [{"max_fmr": 0}, {"max_fmr": 2}, {"min_probability": -1}, {"max_fmr": 1e-9}]
)
def test_limits_that_nothing_supports_are_refused(
    deciding: TestClient, picture: Path, limits: dict[str, float]
) -> None:
    assert searched(deciding, picture, **limits).status_code == 422


def test_limits_need_thresholds(client: TestClient, picture: Path) -> None:
    answer = searched(client, picture, max_fmr=0.1)
    assert answer.status_code == 422
    assert "sfsc thresholds" in answer.json()["error"]
    assert searched(client, picture).json()["hits"][0]["probability"] is None
