from pathlib import Path

import numpy as np
import pytest
import torch

from sfsc import Config, Family, Gallery, SfscError, calibrate, submodel
from sfsc.embedding.model import same_space
from sfsc.family.spec import read_spec
from sfsc.files.writing import read_json, write_json
from sfsc.training.config import read_config
from sfsc.training.norm_statistics import with_width


@pytest.fixture(scope="module")
def run(shapes: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of an untrained family whose widths differ in their normalisation layers."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    family = Family.create("small", image_size=(32, 32), embedding_dim=16)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in family.norms.parameters():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    family.eval().save(folder)
    write_json(
        folder / "config.json", Config.make({"dataset": shapes, "backbone": "small"}).model_dump(mode="json")
    )
    return folder


@pytest.fixture(scope="module")
def more(run: Path) -> Path:
    out = run.parent / "more"
    submodel(run, "0.6,0.4", out, workers=0)
    return out


def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)


def test_several_widths_are_added_and_the_others_stay(run: Path, more: Path) -> None:
    before, after = Family.load(run), Family.load(more)
    assert after.widths.ratios == (0.25, 0.4, 0.5, 0.6, 0.75, 1.0)
    assert after.spec.added == (0.4, 0.6)
    for width in before.widths:
        np.testing.assert_allclose(
            after.embed_pixels(pixels(), width), before.embed_pixels(pixels(), width), atol=1e-6
        )
    norm = after.at(0.6).backbone.bn
    assert norm.num_batches_tracked == 1, "of the images, not those of the next wider sub-model"
    assert torch.equal(norm.weight, before.at(0.75).backbone.bn.weight[: len(norm.weight)])


def test_widths_added_one_by_one_are_as_those_added_together(run: Path, more: Path, tmp_path: Path) -> None:
    submodel(run, [0.6], tmp_path / "first", workers=0)
    again = submodel(tmp_path / "first", [0.4], tmp_path / "second", workers=0)
    assert again.fingerprint == Family.load(more).fingerprint


def test_the_space_is_kept_and_the_additions_are_told_apart(run: Path, more: Path, tmp_path: Path) -> None:
    before, after = Family.load(run).fingerprint, Family.load(more).fingerprint
    other = submodel(run, [0.6], tmp_path / "other", workers=0).fingerprint
    assert after.startswith(f"{before}.") and other.startswith(f"{before}.")
    assert after != other
    calibrate(more, tmp_path / "calibrated", workers=0)
    calibrated = Family.load(tmp_path / "calibrated").fingerprint
    assert same_space(calibrated, before)
    assert calibrated not in (after, before)


def test_a_gallery_of_the_run_takes_rows_and_queries_of_a_new_width(
    run: Path, more: Path, tmp_path: Path
) -> None:
    old, new = Family.load(run), Family.load(more)
    gallery = Gallery.open(tmp_path / "gallery", create=True)
    rows = old.embed_pixels(pixels())
    ids = [str(number) for number in range(len(rows))]
    gallery.add(rows, ids, paths=ids, width=1.0, fingerprint=old.fingerprint)
    queries = new.embed_pixels(pixels(), 0.6)
    gallery.add(queries, [f"new {i}" for i in ids], paths=ids, width=0.6, fingerprint=new.fingerprint)
    assert len(gallery.search(queries[:1], new.fingerprint, top=16)[0]) == 16
    assert len(gallery.search(rows[:1], old.fingerprint, top=16)[0]) == 16


def test_an_added_width_can_have_an_image_size(run: Path, more: Path, tmp_path: Path) -> None:
    out = tmp_path / "sized"
    sized = submodel(run, "0.6@24", out, workers=0)
    assert (sized.image_size_of(0.6), sized.image_size_of(0.5)) == ((24, 24), (32, 32))
    assert sized.fingerprint == Family.load(out).fingerprint
    assert sized.fingerprint != submodel(run, "0.6", tmp_path / "whole", workers=0).fingerprint
    assert read_config(out).widths == (0.25, 0.5, "0.6@24", 0.75, 1.0)
    (out / "family.safetensors").unlink()
    (out / "family.json").unlink()
    assert submodel(run, "0.6@24x24", out, workers=0).fingerprint == sized.fingerprint


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ("0.5", "has a sub-model of width 0.5 already"),
        ("0.6,0.6", "or it is named twice"),
        ("0.6,x", "widths are numbers such as"),
        ("1.5", r"widths must increase within \(0, 1\]"),
        ("0.6@64", "must be within the full sub-model's, 32x32"),
        ("0.6@0", "must be within the full sub-model's"),
        ("0.74", "widths 0.74 and 0.75 keep the same channels"),
    ],
)
def test_widths_that_cannot_be_added_are_named(run: Path, tmp_path: Path, widths: str, message: str) -> None:
    with pytest.raises(SfscError, match=message):
        submodel(run, widths, tmp_path / "new", workers=0)
    assert not (tmp_path / "new").exists()


def test_a_calibrated_run_is_refused(run: Path, tmp_path: Path) -> None:
    calibrate(run, tmp_path / "calibrated", workers=0)
    with pytest.raises(SfscError, match=r"is calibrated: add the widths to the run that it was made from"):
        submodel(tmp_path / "calibrated", [0.6], tmp_path / "new", workers=0)


RATIOS = (0.25, 0.5, 1.0, 0.25, 0.75, 0.5, 0.3)  # of the seven groups of channels of `small`


def test_a_sub_model_can_have_a_ratio_for_each_group_of_channels(run: Path, tmp_path: Path) -> None:
    before = Family.load(run)
    mixed = with_width(before, 0.45, (24, 24), ratios=RATIOS)
    mixed.save(tmp_path)
    after = Family.load(tmp_path)
    assert after.fingerprint == mixed.fingerprint
    assert same_space(after.fingerprint, before.fingerprint)
    assert after.fingerprint != with_width(before, 0.45, (24, 24)).fingerprint
    assert read_json(tmp_path / "family.json")["format"] == 6
    kept = after.counts[after.widths.index(0.45)]
    assert kept == [8, 24, 48, 24, 72, 96, 64], "ceil(ratio * channels), rounded up to multiples of 8"
    assert after.at(0.45).backbone.stages[1].conv1.weight.shape[:2] == (72, 24)
    np.testing.assert_allclose(
        after.embed_pixels(pixels(), 0.5), before.embed_pixels(pixels(), 0.5), atol=1e-6
    )
    norm, wider = after.at(0.45).backbone.stages[2].bn1, before.at(1.0).backbone.stages[2].bn1
    assert torch.equal(norm.weight, wider.weight[:64]), "only the full one has all channels of group 2"
    assert with_width(after, 0.6).spec.describe()["format"] == 6
    assert with_width(before, 0.6).spec.describe()["format"] == 5


def test_equal_ratios_are_a_width(run: Path) -> None:
    family = Family.load(run)
    expected = with_width(family, 0.6).embed_pixels(pixels(), 0.6)
    assert np.array_equal(with_width(family, 0.7, ratios=[0.6] * 7).embed_pixels(pixels(), 0.7), expected)


def test_the_channels_of_a_width_can_have_a_second_image_size(run: Path) -> None:
    family = with_width(Family.load(run), 0.24, (24, 24), ratios=[0.25] * 7)
    assert family.counts[0] == family.counts[1]
    norms = [family.norms_of(place)["backbone.bn"].weight for place in range(2)]
    assert torch.equal(*norms), "of the trained sub-model that has the same channels"


@pytest.mark.parametrize(
    ("width", "ratios", "message"),
    [
        (0.45, [0.5] * 6, "6 ratios for 7 groups of channels"),
        (0.45, [0.5] * 6 + [1.5], r"must lie within \(0, 1\]"),
        (0.6, [0.5] * 7, "widths 0.5 and 0.6 keep the same channels"),
    ],
)
def test_ratios_that_cannot_be_added_are_refused(
    run: Path, width: float, ratios: list[float], message: str
) -> None:
    with pytest.raises(SfscError, match=message):
        with_width(Family.load(run), width, ratios=ratios)


def test_ratios_in_a_file_must_be_those_of_an_added_width(run: Path, tmp_path: Path) -> None:
    with_width(Family.load(run), 0.45, ratios=RATIOS).save(tmp_path)
    values = read_json(tmp_path / "family.json")
    assert read_spec(values, tmp_path)[0].ratios == ((0.45, RATIOS),)
    for changed in ([[0.5, RATIOS]], [[0.45, RATIOS], [0.45, RATIOS]], [[0.45, [0.0] * 7]], [[0.45, "x"]]):
        with pytest.raises(SfscError, match="does not describe a family"):
            read_spec({**values, "ratios": changed}, tmp_path)
