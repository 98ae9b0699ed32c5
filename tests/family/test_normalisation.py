"""Families with other normalisations than BatchNorm: cut, saved, extended and estimated as others are."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sfsc import Family, SfscError
from sfsc.backbones.normalisation import LAYERS, InstanceBatchNorm2d, SwitchableWhitening2d
from sfsc.switchable.convert import sort_by_importance
from sfsc.training.norm_statistics import blended, estimate_statistics, with_width

IMAGES = torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
WIDTHS = (0.25, 1.0)


@cache
def made(normalisation: str) -> Family:
    """A family whose parameters and statistics are not those of the start, as after training."""
    family = Family.create("small", WIDTHS, 16, (32, 32), normalisation=normalisation)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in family.parameters():
            if tensor.ndim == 1:
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        for width in WIDTHS:
            for _ in range(5):
                family.at(width)(IMAGES)
    return family.eval()


@pytest.fixture(params=LAYERS)
def family(request: pytest.FixtureRequest) -> Family:
    return copy.deepcopy(made(request.param))


def layers(network: nn.Module) -> dict[str, nn.Module]:
    kinds = InstanceBatchNorm2d | SwitchableWhitening2d
    return {name: module for name, module in network.named_modules() if isinstance(module, kinds)}


def test_narrow_layers_are_layers_of_the_channels_that_remain(family: Family) -> None:
    narrow, full = (layers(family.at(width)) for width in WIDTHS)
    assert narrow.keys() == full.keys() != set()
    for name, layer in narrow.items():
        of_full = full[name]
        if isinstance(layer, SwitchableWhitening2d):
            assert layer.group == of_full.group == 16
            assert layer.num_features % 16 == 0
            assert layer.running_correlation.shape == (layer.num_features // 16, 16, 16)
            assert layer.num_features < of_full.num_features
        else:
            assert layer.instance.num_features == layer.batch.num_features
            assert layer.instance.num_features < of_full.instance.num_features
        assert not {*layer.parameters()} & {*of_full.parameters()}


def test_a_sub_model_takes_the_first_entries_of_a_wider_one(family: Family) -> None:
    for name, layer in layers(with_width(family, 0.5).at(0.5)).items():
        wide = family.norms_of(1) | dict(family.network.named_modules())
        for key, tensor in layer.state_dict().items():
            whole = wide[name].state_dict()[key]
            assert torch.equal(tensor, whole[: len(tensor)] if tensor.ndim else whole)


def test_sorting_by_importance_changes_nothing_but_the_order(family: Family) -> None:
    network = copy.deepcopy(family.network)
    before = network(IMAGES)
    weight = network.backbone.stages[1].conv1.weight.clone()
    sort_by_importance(network, family.structure)
    assert not torch.equal(network.backbone.stages[1].conv1.weight, weight)
    torch.testing.assert_close(network(IMAGES), before, rtol=0, atol=1e-5)


def test_a_saved_family_is_the_same(family: Family, tmp_path: Path) -> None:
    family.save(tmp_path)
    loaded = Family.load(tmp_path)
    assert (loaded.spec, loaded.fingerprint) == (family.spec, family.fingerprint)
    assert json.loads((tmp_path / "family.json").read_text())["format"] == 7
    for width in WIDTHS:
        assert torch.equal(loaded.embed(IMAGES, width), family.embed(IMAGES, width))


def test_batch_norm_is_described_as_before() -> None:
    description = Family.create("small", WIDTHS, 16, (32, 32)).spec.describe()
    assert "normalisation" not in description
    assert description["format"] == 2


def test_an_unknown_normalisation_in_a_file_is_one_line(tmp_path: Path) -> None:
    made("instance_batch").save(tmp_path)
    for path in (tmp_path / "family.safetensors", tmp_path / "family.json"):
        path.write_bytes(path.read_bytes().replace(b"instance_batch", b"instance-other"))
    with pytest.raises(SfscError, match="unknown normalisation 'instance-other'"):
        Family.load(tmp_path)


def test_statistics_are_estimated_with_the_correlations() -> None:
    family = copy.deepcopy(made("switchable_whitening"))
    before = family.embed(IMAGES, 1.0)
    estimate_statistics(family, [0.25], [IMAGES[:8]])
    seen: list[Tensor] = []
    family.at(0.25).backbone.stem.register_forward_hook(lambda _, __, output: seen.append(output))
    family.embed(IMAGES[:8], 0.25)
    norm = family.at(0.25).backbone.bn
    expected = torch.corrcoef(seen[0].transpose(0, 1).flatten(1))[:16, :16]
    torch.testing.assert_close(norm.running_correlation[0], expected, rtol=0, atol=1e-2)
    assert norm.momentum == 0.1
    assert torch.equal(family.embed(IMAGES, 1.0), before)


def test_correlations_are_blended() -> None:
    one = made("switchable_whitening")
    other = copy.deepcopy(one)
    estimate_statistics(other, WIDTHS, [IMAGES[:8].square()])
    half = blended(one, other, 0.5)
    found, *ends = (family.network.backbone.bn.running_correlation for family in (half, one, other))
    assert not torch.allclose(*ends)
    torch.testing.assert_close(found, (ends[0] + ends[1]) / 2)


def test_without_running_statistics_a_layer_still_trains() -> None:
    layer = SwitchableWhitening2d(16)
    expected = layer(torch.ones(2, 16, 4, 4))
    layer._buffers.update(dict.fromkeys(layer._buffers))  # as random widths have it
    assert torch.equal(layer(torch.ones(2, 16, 4, 4)), expected)


@pytest.mark.slow
@pytest.mark.parametrize("normalisation", LAYERS)
@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "efficientnet_lite0"])
def test_all_built_in_backbones_can_be_cut(backbone: str, normalisation: str) -> None:
    family = Family.create(backbone, (0.3, 1.0), 16, (64, 32), normalisation=normalisation).eval()
    images = torch.rand(2, 3, 64, 32)
    for width in family.widths:
        dense = family.submodel(width)
        torch.testing.assert_close(dense(images), family.embed(images, width), rtol=0, atol=1e-5)
        assert {*layers(dense)} == {f"backbone.{name}" for name in layers(family.network.backbone)}
