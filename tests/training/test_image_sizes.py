"""A family whose sub-models embed images of different sizes, from training to a search."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sfsc import (
    Config,
    Family,
    Gallery,
    SfscError,
    calibrate,
    evaluate,
    index,
    open_dataset,
    recalibrate,
    search,
    train,
)
from sfsc.deploy.exporting import export
from sfsc.embedding.exported import ExportedModel
from sfsc.embedding.image_set import embed_all
from sfsc.images.reading import decode
from sfsc.report.html import write_report
from sfsc.switchable.inspection import count_multiply_adds
from sfsc.training.config import read_config
from sfsc.training.forward import Forward
from sfsc.training.norm_statistics import estimate_statistics
from sfsc.training.resizing import resized

SIZES = {0.25: (16, 16), 0.5: (24, 20), 1.0: (32, 32)}
WIDTHS = "0.25@16,0.5@24x20,1"


def config(shapes: str, **changes: object) -> Config:
    settings = {
        "backbone": "small",
        "widths": WIDTHS,
        "image_size": (32, 32),
        "embedding_dim": 8,
        "epochs": 1,
    }
    return Config(dataset=shapes, **{**settings, "identities_per_batch": 4, "workers": 0, **changes})


@pytest.fixture(scope="module")
def run(shapes: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sized") / "run"
    train(config(shapes), folder)
    return folder


@pytest.fixture(scope="module")
def family(run: Path) -> Family:
    return Family.load(run)


def test_a_step_embeds_the_batch_in_every_size(shapes: str) -> None:
    family = Family.create("small", WIDTHS, 8, (32, 32)).train()
    seen: dict[float, tuple[int, ...]] = {}
    for width in SIZES:
        stem = family.at(width).backbone.stem
        stem.register_forward_pre_hook(lambda _, x, width=width: seen.update({width: tuple(x[0].shape[2:])}))
    forward, images = Forward(family, config(shapes)), torch.rand(4, 3, 32, 32)
    for width, size in SIZES.items():
        expected = family.at(width)(resized(images, size))
        torch.testing.assert_close(forward(images, width), expected)
    assert seen == SIZES


def test_the_run_keeps_the_sizes(run: Path, shapes: str, family: Family) -> None:
    assert {width: family.image_size_of(width) for width in family.widths} == SIZES
    assert json.loads((run / "config.json").read_text())["widths"] == ["0.25@16", "0.5@24x20", 1.0]
    assert train(config(shapes), run, resume=True).fingerprint == family.fingerprint
    with pytest.raises(SfscError, match="was started with widths"):
        train(config(shapes, widths="0.25,0.5,1"), run, resume=True)


def test_a_size_that_does_not_fit_is_refused_before_images_are_read(shapes: str, tmp_path: Path) -> None:
    with pytest.raises(SfscError, match=r"image size 40x40 of width 0\.5 must be within"):
        train(config(shapes, widths="0.5@40,1"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_statistics_are_those_of_the_own_size(family: Family, shapes: str, tmp_path: Path) -> None:
    """Of a batch at the full size, each sub-model gets the statistics of the batch at its size."""
    images = torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    changed = Family.create("small", WIDTHS, 8, (32, 32))
    estimate_statistics(changed, [0.25], [images])
    sub_model = changed.at(0.25)
    with torch.no_grad():
        first = sub_model.backbone.stem((resized(images, (16, 16)) - sub_model.mean) / sub_model.std)
    torch.testing.assert_close(sub_model.backbone.bn.running_mean, first.mean((0, 2, 3)))


def test_derived_families_keep_the_sizes(run: Path, family: Family, tmp_path: Path) -> None:
    again = recalibrate(run, tmp_path / "more", [0.75, 0.5], workers=0)
    assert [again.name_of(width) for width in again.widths] == ["0.25@16", "0.5@24x20", "0.75", "1"]
    assert read_config(tmp_path / "more").widths == ("0.25@16", "0.5@24x20", 0.75, 1.0)
    calibrate(run, tmp_path / "calibrated", workers=0)
    calibrated = Family.load(tmp_path / "calibrated")
    assert calibrated.spec.image_sizes == family.spec.image_sizes
    assert calibrated.fingerprint.startswith(family.fingerprint)


def test_images_are_read_once_and_embedded_in_every_size(
    family: Family, shapes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sfsc.images import reading

    paths, read = sorted(open_dataset(shapes).query.paths)[:5], []
    original = reading.read_image
    monkeypatch.setattr(reading, "read_image", lambda path: read.append(path) or original(path))
    images = embed_all(family, paths, workers=0)
    assert read == paths
    for width, size in SIZES.items():
        expected = family.embed_pixels(np.stack([decode(path, size) for path in paths]), width)
        np.testing.assert_allclose(images.of(paths)[width], expected, atol=1e-6)


def test_a_query_is_decoded_to_its_size(family: Family, shapes: str, tmp_path: Path) -> None:
    with Gallery.open(tmp_path / "gallery", create=True) as gallery:
        index(family, shapes, gallery, width=0.25, workers=0)
        path = open_dataset(shapes).gallery.paths[3]
        hit, *_ = search(family, path, gallery, width=0.25, top=1)
        assert hit.score == pytest.approx(1, abs=1e-5)
        [full] = search(family, path, gallery, width=1.0, top=1)
        assert full.score < 1


def test_an_exported_file_has_its_own_size(run: Path, family: Family, shapes: str, tmp_path: Path) -> None:
    dataset = open_dataset(shapes)
    said = export(family, 0.5, tmp_path / "half.onnx", dataset.train.paths)
    assert said.image_size == (24, 20)
    assert said.multiply_adds == count_multiply_adds(family.submodel(0.5), torch.zeros(1, 3, 24, 20))
    model = ExportedModel.load(tmp_path / "half.onnx")
    assert model.image_size_of(0.5) == (24, 20)
    evaluation = evaluate(family, dataset, workers=0, exported=[tmp_path / "half.onnx"])
    accuracies = evaluation.matrix.metrics["mAP"]
    np.testing.assert_allclose(accuracies[3, :3], accuracies[1, :3], atol=1e-3)
    assert evaluation.to_json()["image_sizes"] == [*SIZES.values()]
    evaluation.write(run)
    page = write_report(run).read_text()
    assert "0.25@16" in page
    assert "0.5@24x20" in page
