"""A service that searches the gallery of an old model through a bridge."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from sfsc import Bridge, Family, Gallery, SfscError, bridge, search
from sfsc.bridges.model import BridgedModel
from sfsc.decisions.thresholds import THRESHOLDS_FILE
from sfsc.serving import create_app
from tests.serving.conftest import stored_by

OLD_DIMENSION = 24


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a family with more dimensions and another image size."""
    folder = tmp_path_factory.mktemp("old")
    Family.create("small", (1.0,), OLD_DIMENSION, (24, 24), seed=5).save(folder)
    return folder


@pytest.fixture(scope="module")
def old_gallery(old: Path, shapes: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored_by(old, shapes, tmp_path_factory.mktemp("old") / "gallery")


@pytest.fixture(scope="module")
def file(old: Path, run: Path, shapes: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bridge") / "old-to-new.safetensors"
    images = Path(shapes.partition(":")[2]).parent
    bridge(str(old), Family.load(run), images, kind="orthogonal", workers=0).save(path)
    return path


@pytest.fixture(scope="module")
def client(sure: Path, old_gallery: Path, file: Path) -> Iterator[TestClient]:
    """A service of a family with thresholds, which say nothing about the old rows."""
    assert (sure / THRESHOLDS_FILE).exists()
    with TestClient(create_app(sure, old_gallery, hosts=["testserver"], bridge=file)) as client:
        yield client


def test_queries_find_what_the_command_finds(
    client: TestClient, run: Path, old_gallery: Path, file: Path, picture: Path
) -> None:
    family = Family.load(run)
    with Gallery.open(old_gallery) as gallery:
        expected = search(BridgedModel(family, Bridge.load(file)), picture, gallery, 0.5, top=5)
    with picture.open("rb") as image:
        answer = client.post("/search/image", files={"image": image}, data={"width": 0.5, "top": 5}).json()
    assert [hit["id"] for hit in answer["hits"]] == [hit.id for hit in expected]
    assert [hit["score"] for hit in answer["hits"]] == pytest.approx(
        [hit.score for hit in expected], abs=1e-5
    )
    again = client.post("/search/id", json={"id": str(picture), "width": 0.5, "top": 5}).json()
    assert [hit["id"] for hit in again["hits"]] == [hit.id for hit in expected]


def test_embeddings_of_both_models_are_understood(
    client: TestClient, run: Path, old: Path, old_gallery: Path, file: Path
) -> None:
    with Gallery.open(old_gallery) as gallery:
        rows = {row["id"]: row["embedding"] for row in gallery.rows(embeddings=True)}
    family = np.random.default_rng(0).standard_normal(16).astype(np.float32)
    mapped = Bridge.load(file).backward(family[None] / np.linalg.norm(family))[0][0]
    nearest = max(rows, key=lambda name: float(rows[name] @ mapped))
    for fingerprint in (None, Family.load(run).fingerprint):
        sent = {"embedding": family.tolist(), "fingerprint": fingerprint, "exact": True}
        assert client.post("/search/embedding", json=sent).json()["hits"][0]["id"] == nearest
    id_, row = next(iter(rows.items()))
    own = {"embedding": row.tolist(), "fingerprint": Family.load(old).fingerprint}
    for answer in (client.post("/search/embedding", json=own), client.post("/search/id", json={"id": id_})):
        [first, *_] = answer.json()["hits"]
        assert (first["id"], first["probability"]) == (id_, None)
        assert first["score"] == pytest.approx(1, abs=1e-5)


def test_it_says_that_a_bridge_is_used(client: TestClient, run: Path) -> None:
    gallery, family = client.get("/gallery").json(), client.get("/family").json()
    assert (gallery["bridged"], gallery["dimension"]) == (True, OLD_DIMENSION)
    assert (family["fingerprint"], family["smallest_fmr"]) == (Family.load(run).fingerprint, None)
    assert client.get("/health").json()["rows"] == gallery["rows"] > 0


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        (
            "/search/embedding",
            {"embedding": [1.0] * 8},
            "have 8 dimensions, but the bridge maps 16: send all",
        ),
        ("/search/embedding", {"embedding": [1.0] * 16, "fingerprint": "f"}, "belong to f"),
        ("/search/embedding", {"embedding": [1.0] * 16, "max_fmr": 0.1}, "need the width of the sub-model"),
    ],
)
def test_what_cannot_be_searched_is_refused(
    client: TestClient, path: str, body: dict[str, object], said: str
) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == 422
    assert said in answer.json()["error"]


def test_images_are_not_added(client: TestClient, picture: Path) -> None:
    with picture.open("rb") as image:
        answer = client.post("/rows", files={"image": image}, data={"path": "s3://bucket/1.png"})
    assert (answer.status_code, answer.json()["error"].partition(":")[0]) == (
        422,
        "the gallery has embeddings of an old model",
    )


def test_a_service_that_does_not_fit_does_not_start(
    run: Path, old: Path, indexed: Path, old_gallery: Path, file: Path, tmp_path: Path
) -> None:
    with pytest.raises(SfscError, match="belongs to the family"):
        create_app(run, old_gallery)
    with pytest.raises(SfscError, match="belongs to the family"):
        create_app(run, indexed, bridge=file)
    with pytest.raises(SfscError, match=r"the bridge leads from .*, but the model belongs to"):
        create_app(old, old_gallery, bridge=file)
    with pytest.raises(SfscError, match=r"cannot read .*missing"):
        create_app(run, old_gallery, bridge=tmp_path / "missing")
