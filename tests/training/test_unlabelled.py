"""Trainings with images without labels beside those of the data set."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch.nn import functional as F

from sfsc.data.sources import open_dataset
from sfsc.errors import SfscError
from sfsc.evaluation.compare import compare
from sfsc.training.config import Config, read_config
from sfsc.training.distributed import World
from sfsc.training.images import TrainingImages
from sfsc.training.loading import unlabelled_batches
from sfsc.training.losses.alignment import alignment_loss
from sfsc.training.recipes import RECIPES, find_recipe, sub_model_loss
from sfsc.training.run import train
from sfsc.training.trainer import all_batches

LABELS = torch.tensor([0, 0, 1, 1])


def config(shapes: str, **changes: object) -> Config:
    settings: dict[str, object] = {
        "dataset": shapes,
        "recipe": "sfsc+",
        "backbone": "small",
        "widths": "0.5,1",
        "image_size": (16, 16),
        "embedding_dim": 8,
        "epochs": 2,
        "identities_per_batch": 4,
        "images_per_identity": 2,
        "unlabelled_per_batch": 6,
        "workers": 0,
    }
    return Config.make({**settings, **changes})


@pytest.fixture
def others(shapes: str, tmp_path: Path) -> Path:
    """A folder with 20 images whose identities nobody knows."""
    folder = tmp_path / "others"
    folder.mkdir()
    for number, path in enumerate(open_dataset(shapes).query.paths[:20]):
        shutil.copy(path, folder / f"{number}.png")
    return folder


def weights(run: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(run / "family.safetensors")


def test_images_are_drawn_equally_often() -> None:
    batches = unlabelled_batches(7, 3, 12, seed=0)
    assert [batch.shape for batch in batches] == [(3,)] * 12
    drawn = Counter(np.concatenate(batches).tolist())
    assert (sorted(drawn), {*drawn.values()}) == ([*range(7)], {5, 6})
    again, other = (np.stack(unlabelled_batches(7, 3, 12, seed)).tolist() for seed in (0, 1))
    assert np.stack(batches).tolist() == again != other


def test_ranks_share_each_batch(shapes: str) -> None:
    images = TrainingImages(open_dataset(shapes).train, ("a", "b", "c", "d", "e"))
    settings, count = config(shapes), len(images.labelled)
    whole = all_batches(images, settings, World(0, 1))
    parts = [all_batches(images, settings, World(rank, 2)) for rank in range(2)]
    for batch, first, second in zip(whole, *parts, strict=True):
        assert [len(batch), len(first), len(second)] == [14, 7, 7]
        assert batch[:8].tolist() == [*first[:4], *second[:4]]
        assert batch[8:].tolist() == [*first[4:], *second[4:]]
        assert (batch[:8] < count).all() and (batch[8:] >= count).all() and (batch < count + 5).all()
    with pytest.raises(SfscError, match="unlabelled_per_batch is 5, which 2 ranks cannot share evenly"):
        all_batches(images, config(shapes, unlabelled_per_batch=5), World(0, 2))


@pytest.mark.parametrize("name", RECIPES)
def test_they_take_part_in_the_alignment_only(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    embeddings, target = (F.normalize(torch.randn(7, 8, generator=generator)) for _ in range(2))
    classifiers = [torch.randn(2, 8, generator=generator) for _ in range(2)]

    def loss(images: int, alignment: float) -> float:
        recipe, both = find_recipe(name, {"alignment": alignment}), (embeddings[:images], target[:images])
        return sub_model_loss(recipe, *both, classifiers, -2, LABELS, 10.0, 0.9)[0].item()

    assert loss(7, 0.0) == loss(4, 0.0)
    aligned = alignment_loss(embeddings, target).item()
    assert loss(7, 3.0) == pytest.approx(loss(4, 0.0) + 3 * aligned, abs=1e-5)


@pytest.mark.parametrize("extra", [[], [2]])
def test_a_training_uses_them(shapes: str, others: Path, extra: list[int], tmp_path: Path) -> None:
    settings = {"extra_steps": extra, "checkpoint_every": 1}
    with_them = config(shapes, unlabelled=str(others), **settings)
    train(with_them, tmp_path / "run")
    train(config(shapes, **settings), tmp_path / "plain")
    assert not torch.equal(*(weights(tmp_path / run)["network.linear.weight"] for run in ("run", "plain")))
    teachers = [tmp_path / run / "teacher" for run in ("run", "plain")]
    assert all(torch.equal(*pair) for pair in zip(*(weights(t).values() for t in teachers), strict=True))
    assert read_config(tmp_path / "run").unlabelled == str(others)
    train(with_them, tmp_path / "again")
    assert (tmp_path / "again/family.safetensors").read_bytes() == (
        tmp_path / "run/family.safetensors"
    ).read_bytes()


def test_their_folder_is_found_from_anywhere(
    shapes: str, others: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Path(shapes.removeprefix("csv:"))
    monkeypatch.chdir(table.parent)
    for name, stored in {os.path.relpath(others): str(others), f"csv:{table.name}": shapes}.items():
        settings, run = config(shapes, unlabelled=name), tmp_path / f"run-{len(name)}"
        train(settings, run)
        assert read_config(run).unlabelled == stored
        train(settings, run, resume=True)


def test_other_images_without_labels_are_another_training(shapes: str, others: Path, tmp_path: Path) -> None:
    settings, run = config(shapes, unlabelled=str(others)), tmp_path / "run"
    train(settings, run)
    assert ["unlabelled", "images without labels"] in [
        row[:2] for row in json.loads((run / "images.json").read_text())["rows"]
    ]
    (others / "3.png").unlink()
    with pytest.raises(SfscError, match=r"other training images \(other images: images without labels"):
        train(settings, run, resume=True)


def test_an_image_that_cannot_be_read_is_left_out(shapes: str, others: Path, tmp_path: Path) -> None:
    (others / "3.png").write_bytes(b"no picture")
    settings = config(shapes, unlabelled=str(others), max_corrupt=0.0)
    with pytest.raises(SfscError, match=r"1 of \d+ training images cannot be read.*3\.png"):
        train(settings, tmp_path / "strict")
    allowed = settings.model_copy(update={"max_corrupt": 0.1})
    train(allowed, tmp_path / "run")
    rows = json.loads((tmp_path / "run/images.json").read_text())["rows"]
    assert [row[2:5:2] for row in rows if row[0] == "unlabelled"] == [[20, 19]]
    train(allowed, tmp_path / "run", resume=True)
    (others / "3.png").unlink()
    train(allowed, tmp_path / "run", resume=True)


def test_a_teacher_from_elsewhere_embeds_them(shapes: str, others: Path, tmp_path: Path) -> None:
    train(config(shapes, widths="1", recipe="sfsc"), tmp_path / "large")
    train(config(shapes, teacher=str(tmp_path / "large"), unlabelled=str(others)), tmp_path / "run")
    space = safetensors.torch.load_file(tmp_path / "run/teacher.safetensors")
    images = open_dataset(shapes).train
    assert len(space["embeddings"]) == len(images) + 20
    assert len(space["classifier"]) == len(np.unique(images.identities))


def test_what_is_refused(shapes: str, others: Path, tmp_path: Path) -> None:
    with pytest.raises(SfscError, match="recipe sfsc learns nothing from images without labels: choose"):
        train(config(shapes, recipe="sfsc", unlabelled=str(others)), tmp_path / "run")
    with pytest.raises(SfscError, match="nowhere does not exist"):
        train(config(shapes, unlabelled=str(tmp_path / "nowhere")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_comparison_counts_their_cost(shapes: str, others: Path, tmp_path: Path) -> None:
    settings = config(shapes).model_dump(exclude_defaults=True, exclude={"recipe"})
    recipes = {"sfsc+": None, "more": {"recipe": "sfsc+", "unlabelled": str(others)}}
    plain, more = compare(settings, recipes, 1, tmp_path / "runs", calibrations=False).contestants
    forward = [float(cost) for cost in plain.query_multiply_adds]
    images = plain.multiply_adds / (3 * sum(forward) + 4 * forward[-1])
    added = 6 / 8 * images * (3 * sum(forward) + forward[-1])
    assert more.multiply_adds == pytest.approx(plain.multiply_adds + added)
