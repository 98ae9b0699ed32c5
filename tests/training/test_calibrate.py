"""Calibration: what it finds, what it leaves alone, what it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sfsc import Config, Family, Gallery, SfscError, calibrate, recalibrate
from sfsc.data import open_dataset
from sfsc.embedding.image_set import embed_all
from sfsc.family.calibration import Calibration
from sfsc.files.writing import write_json
from sfsc.training.calibrate import fit_calibration

WIDTHS = (0.25, 0.5, 1.0)
IMAGES = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def unit(count: int, dim: int, seed: int = 0) -> Tensor:
    """Unit vectors around a direction, as embeddings are."""
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, dim, generator=generator) + torch.eye(dim)[0])


def training_images(family: Family, shapes: str) -> dict[float | None, np.ndarray]:
    paths = open_dataset(shapes).train.paths
    return embed_all(family, paths, workers=0).of(paths)


@pytest.fixture(scope="module")
def run(shapes: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a family that was not trained."""
    folder = tmp_path_factory.mktemp("run")
    Family.create("small", WIDTHS, 16, (32, 32)).save(folder)
    settings = {"dataset": shapes, "backbone": "small", "widths": WIDTHS, "image_size": (32, 32)}
    write_json(folder / "config.json", Config.make(settings).model_dump(mode="json"))
    return folder


def test_a_fit_undoes_a_rotation_and_a_shift() -> None:
    target = unit(200, 8)
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1)))[0]
    calibration = Calibration(8)
    calibration.fit(target @ rotation, target)
    torch.testing.assert_close(calibration(target @ rotation), target, rtol=0, atol=1e-5)
    torch.testing.assert_close(calibration.rotation @ calibration.rotation.T, torch.eye(8), rtol=0, atol=1e-5)
    shifted = F.normalize(target + 0.3 * torch.eye(8)[3])
    calibration.fit(shifted, target)
    assert (calibration(shifted) * target).sum(1).mean() > (shifted * target).sum(1).mean() + 0.01


def test_as_made_it_changes_nothing() -> None:
    embeddings = unit(5, 8)
    torch.testing.assert_close(Calibration(8)(embeddings), embeddings)


@pytest.mark.parametrize("shared", [True, False])
def test_narrow_sub_models_come_nearer_and_the_full_one_stays(
    shapes: str, tmp_path: Path, shared: bool
) -> None:
    family = Family.create("small", WIDTHS, 16, (32, 32), shared=shared).eval()
    embedded = training_images(family, shapes)
    calibrated, report = fit_calibration(family, embedded)
    assert set(report.before) == set(report.after) == {0.25, 0.5}
    for width in report.before:
        assert report.after[width] > report.before[width] + 0.1
    assert torch.equal(calibrated.embed(IMAGES, 1.0), family.embed(IMAGES, 1.0))
    assert not torch.allclose(calibrated.embed(IMAGES, 0.5), family.embed(IMAGES, 0.5), atol=1e-2)
    calibrated.save(tmp_path)
    loaded = Family.load(tmp_path)
    for width in WIDTHS:
        assert torch.equal(loaded.embed(IMAGES, width), calibrated.embed(IMAGES, width))
    assert family.fingerprint != loaded.fingerprint == calibrated.fingerprint
    assert calibrated.fingerprint.partition(".")[0] == family.fingerprint


def test_a_calibrated_sub_model_exports(shapes: str) -> None:
    family = Family.create("small", WIDTHS, 16, (32, 32)).eval()
    calibrated, _ = fit_calibration(family, training_images(family, shapes))
    program = torch.export.export(calibrated.submodel(0.25).eval(), (IMAGES,))
    torch.testing.assert_close(program.module()(IMAGES), calibrated.embed(IMAGES, 0.25), rtol=0, atol=1e-5)


def test_galleries_of_the_family_stay_valid(shapes: str, tmp_path: Path) -> None:
    family = Family.create("small", WIDTHS, 16, (32, 32)).eval()
    calibrated, _ = fit_calibration(family, training_images(family, shapes))
    gallery = Gallery.open(tmp_path, create=True)
    rows = family.embed(IMAGES).detach().numpy()
    names = [str(i) for i in range(len(rows))]
    gallery.add(rows, names, paths=names, width=1.0, fingerprint=family.fingerprint)
    hits = gallery.search(calibrated.embed(IMAGES).detach().numpy(), calibrated.fingerprint, top=1)
    assert [hit[0].id for hit in hits] == names
    other = Family.create("small", WIDTHS, 16, (32, 32), seed=1)
    with pytest.raises(SfscError, match="belongs to the family"):
        gallery.search(np.ones((1, 16), np.float32), other.fingerprint)


def test_a_run_is_calibrated_into_another(run: Path, tmp_path: Path) -> None:
    before = (run / "family.safetensors").read_bytes()
    out = tmp_path / "out"
    report = calibrate(run, out, workers=0)
    assert set(report.after) == {0.25, 0.5}
    assert (run / "family.safetensors").read_bytes() == before
    assert Family.load(out).spec.calibrated
    for folder, reason in ((out, "already contains a run"), (tmp_path / "twice", "already calibrated")):
        with pytest.raises(SfscError, match=reason):
            calibrate(out, folder, workers=0)
    with pytest.raises(SfscError, match=r"is calibrated.*recalibrate the run that it was made from"):
        recalibrate(out, tmp_path / "again")


def test_images_of_a_folder_serve_too(run: Path, shapes: str, tmp_path: Path) -> None:
    folder = str(Path(shapes.partition(":")[2]).parent)
    calibrate(run, tmp_path / "folder", images=folder, workers=0)
    with pytest.raises(SfscError, match="1 images are too few to calibrate 16 dimensions"):
        calibrate(run, tmp_path / "few", images=f"{folder}/00_c0_0.png", workers=0)
    assert not (tmp_path / "few").exists()


def test_a_data_set_without_training_images_serves_too(run: Path, shapes: str, tmp_path: Path) -> None:
    paths = open_dataset(shapes).gallery.paths
    table = tmp_path / "t.csv"
    table.write_text("\n".join(["path,identity,split", *(f"{path},one,test" for path in paths)]))
    assert set(calibrate(run, tmp_path / "out", images=f"csv:{table}", workers=0).after) == {0.25, 0.5}
    recalibrate(run, tmp_path / "again", [0.25], f"csv:{table}", workers=0)
    assert Family.load(tmp_path / "again").fingerprint != Family.load(run).fingerprint
