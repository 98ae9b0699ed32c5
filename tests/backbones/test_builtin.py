from pathlib import Path

import pytest
import safetensors.torch
import torch

from sfsc.backbones.builtin import BACKBONES, SamePadConv2d
from sfsc.backbones.sources import find_backbone
from sfsc.backbones.weights import load_weights
from sfsc.errors import SfscError

# Parameters and some names and shapes of torchvision's models, without the classifier.
TORCHVISION = {
    "resnet18": (
        11_176_512,
        {"layer2.0.downsample.0.weight": (128, 64, 1, 1), "layer4.1.bn2.weight": (512,)},
    ),
    "resnet50": (
        23_508_032,
        {"layer1.0.downsample.1.bias": (256,), "layer3.5.conv3.weight": (1024, 256, 1, 1)},
    ),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_resnets_have_the_names_and_shapes_of_torchvision(name: str) -> None:
    count, shapes = TORCHVISION[name]
    network = BACKBONES[name].build((64, 64))
    state = network.state_dict()
    assert sum(p.numel() for p in network.parameters()) == count
    assert {key: tuple(state[key].shape) for key in shapes} == shapes
    assert tuple(state["conv1.weight"].shape) == (64, 3, 7, 7)


def test_a_torchvision_checkpoint_loads_classifier_and_all(tmp_path: Path) -> None:
    source, target = BACKBONES["resnet18"].build((64, 64)), BACKBONES["resnet18"].build((64, 64))
    state = {**source.state_dict(), "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    torch.save(state, tmp_path / "resnet18.pth")
    load_weights("resnet18", target, str(tmp_path / "resnet18.pth"))
    assert torch.equal(target.layer4[1].conv2.weight, source.layer4[1].conv2.weight)


def test_the_packaged_weights_know_imagenet() -> None:
    network = BACKBONES["efficientnet_lite0"].build((64, 64)).eval()
    random = BACKBONES["efficientnet_lite0"].build((64, 64)).eval()
    load_weights("efficientnet_lite0", network, "imagenet")
    # Trained filters of the stem are smooth; random ones are not.
    weight, noise = network.conv_stem.weight, random.conv_stem.weight
    assert _roughness(weight) < 0.7 * _roughness(noise)
    assert network.bn0.running_mean.abs().sum() > 0


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("length", [1, 2, 4, 8])
def test_inputs_are_padded_as_in_tensorflow(kernel: int, length: int) -> None:
    conv = SamePadConv2d(2, 3, kernel, stride=2)
    x = torch.randn(1, 2, length, 8, generator=torch.Generator().manual_seed(0))
    out = -(-length // 2)
    down, across = max((out - 1) * 2 + kernel - length, 0), kernel - 2
    padding = (across // 2, across - across // 2, down // 2, down - down // 2)
    expected = torch.nn.functional.conv2d(torch.nn.functional.pad(x, padding), conv.weight, stride=2)
    assert torch.equal(conv(x), expected)
    assert tuple(expected.shape) == (1, 3, out, 4)


def test_efficientnet_lite0_embeds_narrow_images() -> None:
    network = BACKBONES["efficientnet_lite0"].build((64, 32)).eval()
    for size in [(40, 20), (36, 18), (8, 8)]:
        assert network(torch.zeros(1, 3, *size)).shape[2:].numel() > 0


def _roughness(filters: torch.Tensor) -> float:
    return (filters.diff(dim=3).square().mean() / filters.square().mean()).item()


def test_an_unknown_backbone_is_named_with_those_there_are() -> None:
    with pytest.raises(SfscError, match=r"'resnet19'; choose one of small, resnet18"):
        find_backbone("resnet19")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "there is no weights file"),
        (b"", "state dict"),
        (b"not a checkpoint", "state dict"),
        ({"conv1.weight": torch.zeros(3)}, "lacks bn1.weight|another shape"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_that_do_not_fit_are_one_line(
    tmp_path: Path, content: bytes | dict[str, torch.Tensor] | None, reason: str, suffix: str
) -> None:
    path = tmp_path / f"weights{suffix}"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None and suffix == ".safetensors":
        safetensors.torch.save_file(content, path)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(SfscError, match=reason) as caught:
        load_weights("resnet18", BACKBONES["resnet18"].build((64, 64)), str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_that_execute_code_are_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("executed",)

    torch.save({"conv1.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(SfscError, match="state dict"):
        load_weights("resnet18", BACKBONES["resnet18"].build((64, 64)), str(tmp_path / "evil.pth"))


def test_imagenet_weights_where_no_package_has_them() -> None:
    with pytest.raises(SfscError, match="no packaged ImageNet weights of resnet50"):
        load_weights("resnet50", BACKBONES["resnet50"].build((64, 64)), "imagenet")
