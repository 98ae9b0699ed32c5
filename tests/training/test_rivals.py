"""Every recipe trains, resumes, and does to the sub-models what it should."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from sfsc import Config, Family, SfscError, train
from sfsc.training.recipes import RECIPES
from sfsc.training.trainer import Training

WIDTHS = (0.5, 1.0)


def settings(shapes: str, recipe: str, **changes: object) -> Config:
    return Config.make(
        {
            "dataset": shapes,
            "backbone": "small",
            "widths": WIDTHS,
            "recipe": recipe,
            "image_size": (32, 32),
            "embedding_dim": 16,
            "epochs": 1,
            "identities_per_batch": 4,
            "images_per_identity": 3,
            "workers": 0,
            "log_every": 2,
            **changes,
        }
    )


def weights(run: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(run / "family.safetensors")


@pytest.fixture(scope="module")
def runs(shapes: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of every recipe."""
    folder = tmp_path_factory.mktemp("rivals")
    for name in RECIPES:
        train(settings(shapes, name), folder / name)
    return {name: folder / name for name in RECIPES}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_every_sub_model(runs: dict[str, Path], name: str) -> None:
    family = Family.load(runs[name])
    recipe = RECIPES[name]
    fresh = Family.create("small", WIDTHS, 16, (32, 32), shared=recipe.shared)
    for width in WIDTHS:
        trained, before = dict(family.at(width).named_parameters()), fresh.at(width).named_parameters()
        assert all(not torch.equal(trained[name], parameter) for name, parameter in before)
    lines = [json.loads(line) for line in (runs[name] / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 4 * len(recipe.phases(2))
    assert lines[-1]["epoch"] == len(recipe.phases(2))
    stored = json.loads((runs[name] / "config.json").read_text())
    assert (stored["loss"], stored["influence"]) == (recipe.loss, recipe.influence)


@pytest.mark.parametrize("name", RECIPES)
def test_with_every_recipe_first_components_are_trained_to_stand_alone(
    runs: dict[str, Path], name: str, shapes: str, tmp_path: Path
) -> None:
    family = train(settings(shapes, name, nested_dims=(4, 8)), tmp_path / "run")
    assert family.dimensions == (4, 8, 16)
    loss, plain = (
        json.loads((run / "log.jsonl").read_text().splitlines()[0])["loss"]
        for run in (tmp_path / "run", runs[name])
    )
    assert all(0 < one != other for one, other in zip(loss, plain, strict=True) if one is not None)
    if name == "sfsc+":
        assert Family.load(tmp_path / "run" / "teacher").dimensions == (4, 8, 16)


def test_what_is_not_trained_is_not_logged(runs: dict[str, Path]) -> None:
    first, last = (
        [json.loads(line) for line in (runs["asymmetric"] / "log.jsonl").read_text().splitlines()][index]
        for index in (0, -1)
    )
    assert first["loss"][0] is None
    assert first["loss"][1] > 0
    assert last["loss"][1] is None
    assert last["uncertainty"] == [None, None]
    assert last["conflicts"] == [None, None]
    assert last["conflicts_by_group"] == []


def test_independent_networks_share_nothing(runs: dict[str, Path]) -> None:
    family = Family.load(runs["unified"])
    assert not family.spec.shared
    narrow = {p.untyped_storage().data_ptr() for p in family.at(0.5).parameters()}
    full = {p.untyped_storage().data_ptr() for p in family.at(1.0).parameters()}
    assert not narrow & full
    assert sum(p.numel() for p in family.parameters()) == sum(map(family.parameter_count, WIDTHS))
    assert family.corners() == {}


@pytest.mark.parametrize("name", ["bct", "asymmetric"])
def test_the_full_network_of_two_phases_is_that_of_unified_and_then_frozen(
    runs: dict[str, Path], name: str
) -> None:
    theirs, unified = weights(runs[name]), weights(runs["unified"])
    full = [key for key in unified if key.startswith("network.")]
    assert full
    assert all(torch.equal(theirs[key], unified[key]) for key in full)


def test_narrow_networks_of_bct_depend_on_the_influence(
    shapes: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    train(settings(shapes, "bct", influence=0.0), tmp_path / "none")
    theirs, unified, none = weights(runs["bct"]), weights(runs["unified"]), weights(tmp_path / "none")
    narrow = [key for key in unified if key.startswith("independent.0.") and key.endswith("weight")]
    assert not any(torch.equal(theirs[key], unified[key]) for key in narrow)
    # Without it, they are trained as those of unified are, in a phase of the same length.
    assert all(torch.equal(none[key], unified[key]) for key in narrow)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "stop"), [("bct", 3), ("bct", 4), ("bct", 6), ("sfsc+", 3), ("sfsc+", 4), ("sfsc+", 6)]
)
def test_a_run_that_was_interrupted_between_two_trainings_ends_alike(
    shapes: str, runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, stop: int
) -> None:
    config = settings(shapes, name, checkpoint_every=1)
    step, left = Training.step, iter(range(stop))

    def interrupted(self: Training, number: int, pixels: torch.Tensor) -> None:
        if next(left, None) is None:
            raise SfscError("stopped")
        step(self, number, pixels)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "step", interrupted)
        with pytest.raises(SfscError, match="stopped"):
            train(config, tmp_path / "run")
    train(config, tmp_path / "run", resume=True)
    ended, expected = weights(tmp_path / "run"), weights(runs[name])
    assert all(torch.equal(ended[key], expected[key]) for key in expected)


def test_a_teacher_is_a_full_network_that_was_trained_alone(
    shapes: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    teacher = runs["sfsc+"] / "teacher"
    assert Family.load(teacher).widths.ratios == (1.0,)
    train(settings(shapes, "sfsc", widths=(1.0,)), tmp_path / "alone")
    alone, taught = weights(tmp_path / "alone"), weights(teacher)
    assert all(torch.equal(taught[key], tensor) for key, tensor in alone.items())


def test_the_classifier_of_a_teacher_is_kept(runs: dict[str, Path]) -> None:
    run = runs["sfsc+"]
    own, teachers = (
        safetensors.torch.load_file(folder / "checkpoint.safetensors")["classifier.0"]
        for folder in (run, run / "teacher")
    )
    assert torch.equal(own, teachers)


def test_a_family_starts_from_its_teacher(shapes: str, tmp_path: Path) -> None:
    family = train(settings(shapes, "sfsc+", lr=1e-12), tmp_path / "run")
    teacher, images = Family.load(tmp_path / "run" / "teacher"), torch.rand(4, 3, 32, 32)
    fresh = Family.create("small", WIDTHS, 16, (32, 32), weights=str(tmp_path / "run" / "teacher"))
    for name, parameter in family.network.backbone.named_parameters():
        torch.testing.assert_close(parameter, dict(fresh.network.backbone.named_parameters())[name])
    assert teacher.embed(images).shape == family.embed(images).shape


def test_a_family_of_one_width_has_no_teacher(shapes: str, tmp_path: Path) -> None:
    train(settings(shapes, "sfsc+", widths=(1.0,)), tmp_path / "run")
    assert not (tmp_path / "run" / "teacher").exists()


def test_a_teacher_without_its_classifier_is_named(shapes: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(settings(shapes, "sfsc+"), run)
    (run / "family.safetensors").unlink()
    (run / "checkpoint.safetensors").unlink()
    (run / "teacher" / "checkpoint.safetensors").unlink()
    with pytest.raises(SfscError, match=r"teacher lacks checkpoint\.safetensors"):
        train(settings(shapes, "sfsc+"), run, resume=True)


def test_own_classifiers_start_apart(shapes: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(settings(shapes, "bct-s", checkpoint_every=1), run)
    checkpoint = safetensors.torch.load_file(run / "checkpoint.safetensors")
    assert not torch.equal(checkpoint["classifier.0"], checkpoint["classifier.1"])
