"""A family whose sub-models leave out blocks, from training to a search."""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sfsc import Config, Family, Gallery, SfscError, calibrate, evaluate, index, search, submodel, train
from sfsc.data import open_dataset
from sfsc.deploy.exporting import export
from sfsc.deploy.profile import Measured, Profile
from sfsc.embedding.exported import ExportedModel
from sfsc.images.reading import decode
from sfsc.report.html import write_report
from sfsc.report.names import names_of
from sfsc.switchable.stages import left_out
from sfsc.training.config import read_config
from sfsc.training.norm_statistics import with_width
from sfsc.training.random_widths import AnyWidth
from tests.switchable import networks
from tests.training.test_random_widths import shuffled_norms

CODE = "networks:Deep"
WIDTHS = "0.25/0.3@16,0.5/0.5,1"
GONE = ("backbone.2.1.", "backbone.2.2.", "backbone.2.4.", "backbone.2.5.")  # at depth 0.3


@pytest.fixture(scope="module", autouse=True)
def _module() -> None:
    sys.modules["networks"] = networks


def config(shapes: str, **changes: object) -> Config:
    settings = {
        "backbone": f"python:{CODE}",
        "widths": WIDTHS,
        "image_size": (32, 32),
        "embedding_dim": 8,
        "epochs": 1,
    }
    return Config(dataset=shapes, **{**settings, "identities_per_batch": 4, "workers": 0, **changes})


@pytest.fixture(scope="module")
def run(shapes: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deep") / "run"
    train(config(shapes), folder)
    return folder


@pytest.fixture(scope="module")
def family(run: Path) -> Family:
    return Family.load(run, CODE)


def pixels(size: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, size, size, 3), np.uint8)


def test_the_run_keeps_the_depths(run: Path, shapes: str, family: Family) -> None:
    assert family.spec.depths == ((0.25, 0.3), (0.5, 0.5))
    assert [family.name_of(width) for width in family.widths] == ["0.25/0.3@16", "0.5/0.5", "1"]
    assert json.loads((run / "config.json").read_text())["widths"] == ["0.25/0.3@16", "0.5/0.5", 1.0]
    assert json.loads((run / "family.json").read_text())["format"] == 6
    assert not any(name.startswith(GONE) for name, _ in family.at(0.25).named_parameters())
    assert train(config(shapes), run, resume=True, allow_code=CODE).fingerprint == family.fingerprint


@pytest.mark.parametrize("recipe", ["unified", "bct", "bct-s", "prunnet-s", "sfsc+"])
def test_every_recipe_trains_depths(recipe: str, shapes: str, tmp_path: Path) -> None:
    trained = train(config(shapes, recipe=recipe), tmp_path / "run")
    again = Family.load(tmp_path / "run", CODE)
    np.testing.assert_allclose(again.embed_pixels(pixels(16), 0.25), trained.embed_pixels(pixels(16), 0.25))
    assert again.parameter_count(0.5) < Family.create(f"python:{CODE}", "0.5,1", 8).parameter_count(0.5)


def test_a_step_alone_does_not_change_what_is_left_out(shapes: str, tmp_path: Path) -> None:
    """Neither a gradient nor the decay of weights reaches the blocks that a sub-model does not have."""
    alone = config(shapes, extra_steps=[50, 0], weight_decay=0.5, augment=0)
    trained = train(alone, tmp_path / "run")
    joint = train(alone.model_copy(update={"extra_steps": (0, 0)}), tmp_path / "joint")
    moved = {
        name: not torch.allclose(parameter, dict(joint.network.named_parameters())[name], atol=0.02)
        for name, parameter in trained.network.named_parameters()
        if parameter.ndim == 4
    }
    assert not any(moved[name] for name in moved if name.startswith(GONE))
    assert all(moved[name] for name in moved if name.startswith("backbone.2.0.conv"))


def test_random_widths_have_the_sizes_and_depths_of_the_family_in_turn(run: Path) -> None:
    family = shuffled_norms(Family.load(run, CODE))
    drawn = AnyWidth(family).train()
    assert drawn.image_size_of(0.25) == (16, 16)
    assert drawn.left_out[drawn.widths.index(0.5)] == family.left_out[1]
    trained = [*zip(family.counts, family.left_out, strict=True)]
    kinds = [(16, 0.3), (16, 0.5), (16, 1.0), (32, 0.3), (32, 0.5), (32, 1.0)]
    for width, (height, depth) in zip(drawn.between, itertools.cycle(kinds), strict=False):
        index = drawn.widths.index(width)
        assert drawn.image_size_of(width) == (height, height)
        assert drawn.left_out[index] == left_out(family.structure.stages, depth)
        if (drawn.counts[index], drawn.left_out[index]) in trained:
            continue  # it cannot be added
        images = torch.rand(2, 3, height, height)
        added = with_width(family, width, (height, height), depth).train()
        torch.testing.assert_close(drawn.at(width)(images), added.at(width)(images))


def test_a_sub_model_of_another_depth_is_added(run: Path, family: Family, tmp_path: Path) -> None:
    more = submodel(run, "0.4/0.7,0.8/0.5", tmp_path / "more", workers=0, allow_code=CODE)
    assert read_config(tmp_path / "more").widths == ("0.25/0.3@16", "0.4/0.7", "0.5/0.5", "0.8/0.5", 1.0)
    assert more.fingerprint.startswith(f"{family.fingerprint}.")
    other = submodel(run, "0.4/0.7,0.8/0.3", tmp_path / "other", workers=0, allow_code=CODE)
    assert other.fingerprint != more.fingerprint
    # Depth 0.7 has a block that the next wider sub-model leaves out: its layers are the full sub-model's.
    added, full = more.norms_of(1)["backbone.2.2.bn1"], family.norms_of(2)["backbone.2.2.bn1"]
    assert torch.equal(added.weight, full.weight[: len(added.weight)])
    assert Family.load(tmp_path / "more", CODE).embed_pixels(pixels(), 0.8).shape == (4, 8)


def test_depth_can_be_added_to_a_run_of_an_earlier_version(tmp_path: Path, shapes: str) -> None:
    """The structure that such a run contains does not have the stages of the network."""
    train(config(shapes, widths="0.5,1"), tmp_path / "run")
    old = Family.load(tmp_path / "run", CODE)
    old.structure = replace(old.structure, stages=())
    old.save(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "family.json").read_text())["format"] < 6
    more = submodel(tmp_path / "run", "0.4/0.5", tmp_path / "more", workers=0, allow_code=CODE)
    assert more.left_out[0] == {"backbone.2.2", "backbone.2.5"}
    assert Family.load(tmp_path / "more", CODE).fingerprint == more.fingerprint


def test_export_evaluation_and_search(run: Path, family: Family, shapes: str, tmp_path: Path) -> None:
    paths = sorted(open_dataset(shapes).train.paths)
    for width in (0.25, 0.5):
        export(family, width, tmp_path / f"{width}.onnx", paths)
        model = ExportedModel.load(tmp_path / f"{width}.onnx")
        images = np.stack([decode(path, family.image_size_of(width)) for path in paths[:3]])
        expected = family.embed_pixels(images, width)
        np.testing.assert_allclose(model.embed_pixels(images, width), expected, atol=1e-4)
        assert (model.exported.depth, model.exported.width) == (family.depth_of(width), width)
    evaluation = evaluate(family, open_dataset(shapes), workers=0)
    assert names_of(evaluation.to_json()) == ["0.25/0.3@16", "0.5/0.5", "1"]
    assert evaluation.multiply_adds[0] < evaluation.multiply_adds[1] < evaluation.multiply_adds[2]
    evaluation.write(run)
    assert "0.25/0.3@16" in write_report(run).read_text()
    calibrate(run, tmp_path / "calibrated", workers=0, allow_code=CODE)
    assert Family.load(tmp_path / "calibrated", CODE).spec.depths == family.spec.depths
    with Gallery.open(tmp_path / "gallery", create=True) as gallery:
        index(family, shapes, gallery, width=1.0, workers=0)
        assert search(family, paths[0], gallery, width=0.25, top=1)


def test_a_profile_names_the_depth() -> None:
    row = Measured(0.25, "onnx", "float32", "f", "d", 1, 1, 1, 1, 1.0, 1.0, 1.0, None, (16, 16), 0.3)
    full = replace(row, width=1.0, image_size=(32, 32), depth=1.0)
    assert Profile("f", None, 1, (row, full)).name_of(0.25) == "0.25/0.3@16"
    assert Profile("f", None, 1, (replace(row, image_size=None), full)).name_of(0.25) == "0.25/0.3"


def test_a_backbone_without_blocks_to_leave_out_is_named(shapes: str, tmp_path: Path) -> None:
    with pytest.raises(SfscError, match=r"^backbone small has no residual blocks .*, so width 0\.5 cannot"):
        train(config(shapes, backbone="small", widths="0.5/0.5,1"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    train(config(shapes, backbone="small", widths="0.5,1"), tmp_path / "run")
    with pytest.raises(SfscError, match=r"^backbone small has no residual blocks .*, so width 0\.4 cannot"):
        submodel(tmp_path / "run", "0.4/0.5", tmp_path / "more", workers=0)
