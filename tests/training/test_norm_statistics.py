import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sfsc import Family, SfscError, recalibrate
from sfsc.files.writing import write_json
from sfsc.images.reading import write_png
from sfsc.training.config import Config
from sfsc.training.norm_statistics import estimate_statistics, with_width

IMAGES = torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def family() -> Family:
    """A family whose widths differ in their normalisation layers, as after training."""
    family = Family.create("small", image_size=(32, 32), embedding_dim=16)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in family.norms.parameters():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        for width in family.widths:
            family.at(width)(IMAGES)
    return family.eval()


def test_statistics_are_those_of_the_images_and_the_other_widths_stay(family: Family) -> None:
    before = {width: family.embed(IMAGES, width) for width in family.widths}
    changed = copy.deepcopy(family)
    estimate_statistics(changed, [0.5], [IMAGES])
    seen: list[Tensor] = []
    network = changed.at(0.5)
    network.backbone.stem.register_forward_hook(lambda _, __, output: seen.append(output))
    changed.embed(IMAGES, 0.5)
    torch.testing.assert_close(network.backbone.bn.running_mean, seen[0].mean((0, 2, 3)))
    torch.testing.assert_close(network.backbone.bn.running_var, seen[0].var((0, 2, 3)))
    assert network.backbone.bn.momentum == 0.1
    for width, embeddings in before.items():
        assert torch.equal(changed.embed(IMAGES, width), embeddings) is (width != 0.5)


def test_statistics_are_a_mean_over_batches(family: Family) -> None:
    changed = copy.deepcopy(family)
    estimate_statistics(changed, [0.25], [IMAGES[:8]])
    first = changed.at(0.25).backbone.bn.running_mean.clone()
    estimate_statistics(changed, [0.25], [IMAGES[8:]])
    second = changed.at(0.25).backbone.bn.running_mean.clone()
    estimate_statistics(changed, [0.25], [IMAGES[:8], IMAGES[8:]])
    torch.testing.assert_close(changed.at(0.25).backbone.bn.running_mean, (first + second) / 2)


def test_widths_are_estimated_as_if_alone(family: Family) -> None:
    together, alone = copy.deepcopy(family), copy.deepcopy(family)
    batches = [IMAGES[:8], IMAGES[8:]]
    estimate_statistics(together, family.widths, batches)
    for width in family.widths:
        estimate_statistics(alone, [width], batches)
        assert torch.equal(together.embed(IMAGES, width), alone.embed(IMAGES, width))


@pytest.mark.parametrize("width", [0.1, 0.6, 0.9])
def test_an_added_width_lies_between_and_the_others_stay(family: Family, width: float) -> None:
    added = with_width(family, width)
    assert list(added.widths) == sorted([*family.widths, width])
    for other in family.widths:
        torch.testing.assert_close(added.embed(IMAGES, other), family.embed(IMAGES, other), rtol=0, atol=1e-6)
    wider = added.widths.ratios[added.widths.index(width) + 1]
    norm, wide_norm = (added.at(w).backbone.bn for w in (width, wider))
    assert torch.equal(norm.weight, wide_norm.weight[: len(norm.weight)])
    assert torch.equal(norm.running_mean, wide_norm.running_mean[: len(norm.weight)])
    counts = [added.parameter_count(w) for w in added.widths]
    assert counts == sorted(set(counts))


@pytest.fixture
def run(family: Family, tmp_path: Path) -> Path:
    """A run folder of the family, and a data set of a few images beside it."""
    generator = np.random.default_rng(0)
    for identity in ("a", "b"):
        for index in range(3):
            path = tmp_path / "images" / "train" / identity / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_png(path, generator.integers(0, 255, (32, 32, 3), dtype=np.uint8))
    for split in ("query", "gallery"):
        path = tmp_path / "images" / split / "c" / "0.png"
        path.parent.mkdir(parents=True)
        write_png(path, generator.integers(0, 255, (32, 32, 3), dtype=np.uint8))
    family.save(tmp_path / "run")
    config = Config.make({"dataset": f"folder:{tmp_path / 'images'}", "backbone": "small"})
    write_json(tmp_path / "run" / "config.json", config.model_dump(mode="json"))
    return tmp_path / "run"


def test_a_run_is_recalibrated_into_another_folder(run: Path, family: Family) -> None:
    new = recalibrate(run, run.parent / "new", [0.6], workers=0)
    loaded = Family.load(run.parent / "new")
    assert loaded.fingerprint == new.fingerprint != family.fingerprint
    assert Family.load(run).fingerprint == family.fingerprint
    assert 0.6 in loaded.widths.ratios
    assert loaded.at(0.6).backbone.bn.num_batches_tracked == 1
    with pytest.raises(SfscError, match="already contains a run"):
        recalibrate(run, run.parent / "new", [0.6])


@pytest.mark.parametrize("width", [0.0, 1.5])
def test_a_width_that_is_no_ratio_is_named(run: Path, width: float) -> None:
    with pytest.raises(SfscError, match=r"widths must increase within \(0, 1\]"):
        recalibrate(run, run.parent / "new", [width], workers=0)
    assert not (run.parent / "new").exists()
