"""The layers in place of BatchNorm: what they compute, where they stand, and what they take over."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import sfsc.backbones.normalisation
from sfsc.backbones.builtin import BACKBONES
from sfsc.backbones.normalisation import LAYERS, InstanceBatchNorm2d, SwitchableWhitening2d
from sfsc.backbones.sources import find_backbone
from sfsc.backbones.weights import load_weights
from sfsc.errors import SfscError

FAR = 50.0  # a logit beside which the others have no share
BATCH, IMAGE, BATCH_DIAGONAL, IMAGE_DIAGONAL = range(4)


def correlated(channels: int = 32, batch: int = 8) -> Tensor:
    """Images whose channels are correlated and have means and deviations of their own."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.eye(channels) + 0.2 * torch.randn(channels, channels, generator=generator) / 4
    images = torch.einsum("dc,bchw->bdhw", mixing, torch.randn(batch, channels, 8, 8, generator=generator))
    scale, shift = torch.rand(2, channels, 1, 1, generator=generator)
    return images * (0.1 + 3 * scale) + shift


def whitening(covariance: int, mean: int, channels: int = 32) -> SwitchableWhitening2d:
    """A layer that uses one of the means and one of the covariances alone."""
    layer = SwitchableWhitening2d(channels)
    with torch.no_grad():
        layer.mean_mix[mean] = layer.covariance_mix[covariance] = FAR
    return layer


def covariances(values: Tensor) -> Tensor:
    """The covariance of each group of 16 channels, from (channels, n)."""
    return torch.stack([torch.cov(group, correction=0) for group in values.split(16)])


def test_the_batch_is_whitened_in_groups() -> None:
    output = whitening(BATCH, BATCH)(correlated()).transpose(0, 1).flatten(1)
    torch.testing.assert_close(covariances(output), torch.eye(16).expand(2, 16, 16), rtol=0, atol=0.1)
    torch.testing.assert_close(output.mean(1), torch.zeros(32), rtol=0, atol=1e-5)
    between = torch.corrcoef(output)[:16, 16:]
    assert between.abs().max() > 0.05  # channels of two groups stay correlated


def test_each_image_is_whitened_alone() -> None:
    layer, images = whitening(IMAGE, IMAGE), correlated()
    output = layer(images)
    torch.testing.assert_close(layer(images[:1]), output[:1], rtol=0, atol=1e-5)
    other_light = images * torch.linspace(0.5, 2, 32).view(32, 1, 1) + torch.linspace(-1, 1, 32).view(
        32, 1, 1
    )
    torch.testing.assert_close(layer(other_light), output, rtol=0, atol=1e-3)
    for image in output:
        torch.testing.assert_close(
            covariances(image.flatten(1)), torch.eye(16).expand(2, 16, 16), rtol=0, atol=0.2
        )


@pytest.mark.parametrize(
    ("covariance", "mean", "plain"),
    [
        (BATCH_DIAGONAL, BATCH, nn.BatchNorm2d(32)),
        (IMAGE_DIAGONAL, IMAGE, nn.InstanceNorm2d(32)),
    ],
)
def test_the_diagonals_standardise(covariance: int, mean: int, plain: nn.Module) -> None:
    output, expected = whitening(covariance, mean)(correlated()), plain(correlated())
    torch.testing.assert_close(output / output.std(), expected / expected.std(), rtol=0, atol=1e-3)
    assert output.std().item() == pytest.approx(1, abs=0.02)  # five steps do not reach 1


def test_newtons_iteration_reaches_the_inverse_root() -> None:
    covariance = covariances(correlated().transpose(0, 1).flatten(1))
    found = sfsc.backbones.normalisation._inverse_root(covariance, torch.eye(16))
    deviations = torch.diag_embed(covariance.diagonal(dim1=1, dim2=2).rsqrt())
    values, vectors = torch.linalg.eigh(deviations @ covariance @ deviations)
    expected = vectors @ torch.diag_embed(values.rsqrt()) @ vectors.transpose(1, 2) @ deviations
    assert (found - expected).norm() < 0.05 * expected.norm()


def test_running_statistics_stand_for_the_batch() -> None:
    layer, images = SwitchableWhitening2d(32, momentum=None), correlated()
    in_training = layer(images)
    torch.testing.assert_close(layer.running_mean, images.mean((0, 2, 3)))
    torch.testing.assert_close(layer.running_var, images.var((0, 2, 3)))
    expected = torch.corrcoef(images.transpose(0, 1).flatten(1))
    torch.testing.assert_close(layer.running_correlation[1], expected[16:, 16:], rtol=0, atol=1e-3)
    torch.testing.assert_close(layer.eval()(images), in_training, rtol=0, atol=1e-2)
    layer.reset_running_stats()
    assert torch.equal(layer.running_correlation, torch.eye(16).expand(2, 16, 16))


def test_statistics_stay_float32_in_a_pass_of_low_precision() -> None:
    layer, images = SwitchableWhitening2d(32), correlated()
    expected = layer(images)
    with torch.autocast("cpu", torch.bfloat16):
        low = layer(images.bfloat16())
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), expected, rtol=0.02, atol=0.05)


def test_all_parameters_get_gradients_that_are_finite_for_flat_images() -> None:
    layer = SwitchableWhitening2d(32)
    images = torch.cat([correlated(), torch.zeros(1, 32, 8, 8)]).requires_grad_()
    layer(images).square().mul(torch.rand(9, 32, 8, 8)).sum().backward()
    for tensor in (images, *layer.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert tensor.grad.abs().sum() > 0


@pytest.mark.parametrize(("channels", "group"), [(32, 16), (24, 8), (6, 2)])
def test_groups_divide_the_channels(channels: int, group: int) -> None:
    layer = SwitchableWhitening2d(channels)
    assert layer.group == group
    assert layer(correlated(channels)).shape == (8, channels, 8, 8)


def test_half_of_the_channels_are_normalised_by_image() -> None:
    layer, images = InstanceBatchNorm2d(32), correlated()
    output = layer(images)
    torch.testing.assert_close(output[:, :16], nn.InstanceNorm2d(16)(images[:, :16]))
    torch.testing.assert_close(output[:, 16:], nn.BatchNorm2d(16)(images[:, 16:]))


@pytest.mark.parametrize("normalisation", LAYERS)
@pytest.mark.parametrize("name", BACKBONES)
def test_the_layers_of_the_papers_are_replaced(name: str, normalisation: str) -> None:
    plain = BACKBONES[name].build((64, 64))
    network = BACKBONES[name].normalised(normalisation).build((64, 64))
    places = [place for place, module in network.named_modules() if type(module) in LAYERS.values()]
    assert {type(network.get_submodule(place)) for place in places} == {LAYERS[normalisation]}
    assert tuple(sorted(places)) == tuple(sorted(BACKBONES[name].replaceable[normalisation]))
    for place in places:
        before, after = plain.get_submodule(place), network.get_submodule(place)
        assert isinstance(before, nn.BatchNorm2d)
        part = after.batch if isinstance(after, InstanceBatchNorm2d) else after
        assert (part.eps, part.momentum) == (before.eps, before.momentum)
    last = {"small": "stages.2", "efficientnet_lite0": "blocks.11"}.get(name, "layer4")
    assert not any(place.startswith(last) for place in places)


def test_other_backbones_and_normalisations_are_refused() -> None:
    with pytest.raises(
        SfscError, match=r"only for the built-in backbones \(small, .*set normalisation to batch"
    ):
        find_backbone("python:tests.switchable.networks:DenseNet").normalised("instance_batch")
    with pytest.raises(
        SfscError, match=r"unknown normalisation 'layer'; choose one of batch, instance_batch"
    ):
        BACKBONES["small"].normalised("layer")


@pytest.fixture
def plain(tmp_path: Path) -> nn.Module:
    """A network with BatchNorms that have seen images, whose weights are in plain.pth."""
    network = BACKBONES["small"].build((32, 32))
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.add_(0.1 * torch.rand(tensor.shape))
        network(torch.rand(64, 3, 32, 32))
    torch.save(network.state_dict(), tmp_path / "plain.pth")
    return network.eval()


def test_weights_with_batch_norms_are_taken_over_by_whitening(
    plain: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.rand(16, 3, 32, 32)
    expected = plain(images)
    cosines = []
    for logit in (0.0, sfsc.backbones.normalisation.OF_BATCH_NORM, FAR):
        monkeypatch.setattr(sfsc.backbones.normalisation, "OF_BATCH_NORM", logit)
        network = BACKBONES["small"].normalised("switchable_whitening").build((32, 32)).eval()
        load_weights("small", network, str(tmp_path / "plain.pth"))
        found = network(images)
        cosines.append(torch.cosine_similarity(found.flatten(1), expected.flatten(1)).mean().item())
    assert cosines == sorted(cosines)
    assert cosines[-1] > 0.999
    assert math.isclose(torch.softmax(network.bn.covariance_mix, 0)[BATCH_DIAGONAL].item(), 1, abs_tol=1e-6)


def test_weights_with_batch_norms_are_taken_over_in_halves(plain: nn.Module, tmp_path: Path) -> None:
    network = BACKBONES["small"].normalised("instance_batch").build((32, 32)).eval()
    load_weights("small", network, str(tmp_path / "plain.pth"))
    before, after = plain.stages[0].bn1, network.stages[0].bn1
    assert torch.equal(torch.cat([after.instance.weight, after.batch.weight]), before.weight)
    assert torch.equal(torch.cat([after.instance.bias, after.batch.bias]), before.bias)
    assert torch.equal(after.batch.running_var, before.running_var[24:])
    assert torch.equal(network.stem.weight, plain.stem.weight)


@pytest.mark.parametrize("normalisation", LAYERS)
def test_weights_of_the_same_normalisation_are_kept(normalisation: str, tmp_path: Path) -> None:
    networks = [BACKBONES["small"].normalised(normalisation).build((32, 32)) for _ in range(2)]
    with torch.no_grad():
        networks[0](torch.rand(8, 3, 32, 32))
    torch.save(networks[0].state_dict(), tmp_path / "own.pth")
    load_weights("small", networks[1], str(tmp_path / "own.pth"))
    for key, tensor in networks[0].state_dict().items():
        assert torch.equal(networks[1].state_dict()[key], tensor)
    with pytest.raises(SfscError, match="does not contain weights of small: it lacks"):
        torch.save({"stem.weight": networks[0].stem.weight}, tmp_path / "part.pth")
        load_weights("small", networks[1], str(tmp_path / "part.pth"))
