"""Training with other normalisations than BatchNorm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sfsc import SfscError, train
from sfsc.backbones.normalisation import LAYERS
from sfsc.training.config import Config
from sfsc.training.distributed import World
from sfsc.training.run import _open


def settings(shapes: str, **changes: Any) -> Config:
    few: dict[str, Any] = {"epochs": 1, "identities_per_batch": 4, "workers": 0, "embedding_dim": 16}
    fixed = {"dataset": shapes, "backbone": "small", "widths": (0.25, 1.0), "device": "cpu", **few}
    return Config.make(fixed | changes)


@pytest.mark.parametrize(
    "changes", [{}, {"random_widths": 1, "precision": "bfloat16", "channels_last": True}]
)
@pytest.mark.parametrize("normalisation", LAYERS)
def test_the_layers_are_trained_with_the_family(
    normalisation: str, changes: dict[str, Any], shapes: str, tmp_path: Path
) -> None:
    family = train(settings(shapes, normalisation=normalisation, **changes), tmp_path / "run")
    assert family.spec.normalisation == normalisation
    untrained = type(family).create("small", (0.25, 1.0), 16, family.image_size, normalisation=normalisation)
    for width in family.widths:
        before = dict(untrained.at(width).named_parameters())
        for name, parameter in family.at(width).named_parameters():
            assert parameter.isfinite().all()
            assert not torch.equal(parameter, before[name]), name


def test_other_backbones_are_refused_before_training(shapes: str, tmp_path: Path) -> None:
    config = settings(
        shapes, backbone="python:tests.switchable.networks:DenseNet", normalisation="instance_batch"
    )
    with pytest.raises(SfscError, match="only for the built-in backbones"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(SfscError, match=r"setting normalisation: .*'switchable_whitening', got 'layer'"):
        settings(shapes, normalisation="layer")


def test_ranks_whiten_only_apart(shapes: str, tmp_path: Path) -> None:
    config = settings(shapes, normalisation="switchable_whitening")
    with pytest.raises(SfscError, match="set sync_batch_norm to false, or choose another normalisation"):
        _open(config, tmp_path / "run", False, World(0, 2))
    apart = config.model_copy(update={"sync_batch_norm": False})
    assert _open(apart, tmp_path / "run", False, World(0, 2))[0].normalisation == "switchable_whitening"
