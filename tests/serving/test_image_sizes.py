"""A service whose sub-models embed images of different sizes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from sfsc import Family, Gallery, index, search
from sfsc.serving import create_app

SIZES = {0.25: [16, 16], 0.5: [24, 20], 1.0: [32, 32]}


@pytest.fixture(scope="module")
def sized(tmp_path_factory: pytest.TempPathFactory, shapes: str) -> Path:
    """A folder with a family, in `run`, and a gallery of its full sub-model."""
    folder = tmp_path_factory.mktemp("sized")
    family = Family.create("small", "0.25@16,0.5@24x20,1", 16, (32, 32)).eval()
    family.save(folder / "run")
    with Gallery.open(folder / "gallery", create=True) as gallery:
        index(family, shapes, gallery, workers=0)
    return folder


@pytest.fixture(scope="module")
def answering(sized: Path) -> Iterator[TestClient]:
    with TestClient(create_app(sized / "run", sized / "gallery", hosts=["testserver"])) as client:
        yield client


def test_the_sizes_are_described(answering: TestClient, sized: Path) -> None:
    answer = answering.get("/family").json()
    assert answer["image_size"] == [32, 32]
    assert {one["width"]: one["image_size"] for one in answer["submodels"]} == SIZES
    assert [one["depth"] for one in answer["submodels"]] == [1, 1, 1]


def test_every_sub_model_gets_the_picture_in_its_size(
    answering: TestClient, sized: Path, picture: Path
) -> None:
    files = {"image": (picture.name, picture.read_bytes(), "image/png")}
    answers = answering.post("/compare/image", files=files, data={"top": 3}).json()["answers"]
    family = Family.load(sized / "run")
    with Gallery.open(sized / "gallery") as gallery:
        for width, answer in zip(SIZES, answers, strict=True):
            expected = search(family, picture, gallery, width, top=3)
            assert [hit["id"] for hit in answer["hits"]] == [hit.id for hit in expected]
            assert answer["hits"][0]["score"] == pytest.approx(expected[0].score, abs=1e-5)
