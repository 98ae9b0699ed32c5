"""What the base install does, without any extra; `make test-matrix` runs this with its oldest packages."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import sfsc
from sfsc.cli import app
from sfsc.data import decode
from sfsc.retrieval import evaluate_ranking

ARCHIVE = Path(__file__).parent / "artefacts" / "before-0.1.tar.xz"
WIDTH = 0.25


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, and a run with an exported file."""
    folder = tmp_path_factory.mktemp("made")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def exported(made: Path) -> Path:
    return made / "run" / "export" / f"{WIDTH}.onnx"


def run(*words: str | Path) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.output


def test_an_exported_file_embeds(made: Path, exported: Path) -> None:
    model = sfsc.open_model(exported)
    expected = json.loads((made / "expected.json").read_text())["embeddings"][str(WIDTH)]
    pixels = decode(str(made / "data" / "0_0.png"), model.image_size)
    assert model.embed_pixels(pixels[None], WIDTH)[0] == pytest.approx(expected, abs=1e-4)


def test_the_command_embeds_what_python_does(made: Path, exported: Path, tmp_path: Path) -> None:
    run("embed", exported, made / "data", "--out", tmp_path / "images.npy")
    found, model = np.load(tmp_path / "images.npy"), sfsc.open_model(exported)
    paths = (tmp_path / "images.txt").read_text().splitlines()
    pixels = np.stack([decode(path, model.image_size) for path in paths])
    np.testing.assert_allclose(found, model.embed_pixels(pixels, WIDTH), atol=1e-5)


def test_a_data_set_is_shown_and_ranked(shapes: str, tmp_path: Path) -> None:
    assert "test" in run("data", "show", shapes, "--out", tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 0
    dataset = sfsc.open_dataset(shapes)
    oracle = np.eye(dataset.query.labels().max() + 1, dtype=np.float32)[dataset.query.labels()]
    assert evaluate_ranking(oracle, oracle, dataset.query, dataset.gallery).metrics["mAP"] == 1
