"""What earlier versions have made opens, and means what it meant; `artefacts/make.py` made it."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfsc import Family, Gallery, write_report
from sfsc.embedding.model import Model, open_model
from sfsc.images.reading import decode
from sfsc.runs.results import read_result
from sfsc.training.config import read_config

ARCHIVES = sorted(Path(__file__).with_name("artefacts").glob("*.tar.xz"))


@pytest.fixture(scope="module", params=ARCHIVES, ids=lambda path: path.name.removesuffix(".tar.xz"))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    with tarfile.open(request.param) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def expected(made: Path) -> dict[str, Any]:
    return json.loads((made / "expected.json").read_text())


@pytest.fixture(scope="module")
def family(made: Path) -> Family:
    return Family.load(made / "run")


def embed(model: Model, made: Path, width: float) -> np.ndarray:
    return model.embed_pixels(decode(str(made / "data" / "0_0.png"), (32, 32))[None], width)[0]


def test_a_family_embeds_as_it_did(family: Family, made: Path, expected: dict[str, Any]) -> None:
    assert family.fingerprint == expected["fingerprint"]
    for width, embedding in expected["embeddings"].items():
        assert embed(family, made, float(width)) == pytest.approx(embedding, abs=1e-5)


def test_an_exported_file_embeds_as_it_did(made: Path, expected: dict[str, Any]) -> None:
    exported = open_model(made / "run" / "export" / "0.25.onnx")
    assert exported.fingerprint == expected["fingerprint"]
    assert embed(exported, made, 0.25) == pytest.approx(expected["embeddings"]["0.25"], abs=1e-4)


def test_settings_and_results_are_read_and_reported(made: Path, expected: dict[str, Any]) -> None:
    assert read_config(made / "run").widths == (0.25, 1.0)
    assert read_result(made / "run" / "evaluation.json")["metrics"]["mAP"] == expected["mAP"]
    assert write_report(made / "run").exists()


def test_a_gallery_finds_what_it_found_and_grows(
    family: Family, made: Path, expected: dict[str, Any]
) -> None:
    query = embed(family, made, 1.0)[None]
    with Gallery.open(made / "gallery") as gallery:
        assert len(gallery) == expected["rows"]
        hits = gallery.search(query, family.fingerprint, 5, ["price<=3"])[0]
        assert [[Path(hit.path).name, hit.attributes] for hit in hits] == [
            [name, attributes] for name, _, attributes in expected["hits"]
        ]
        assert [hit.score for hit in hits] == pytest.approx(
            [score for _, score, _ in expected["hits"]], abs=1e-5
        )
        gallery.add(query, ["new"], paths=["new"], width=1.0, fingerprint=family.fingerprint)
        assert len(gallery) == expected["rows"] + 1
