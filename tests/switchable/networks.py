"""Networks to convert: those that no package brings, and small ones of transformers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfsc.backbones.builtin import BACKBONES, BasicBlock


class DenseLayer(nn.Module):
    """BatchNorm, 1x1 convolution, BatchNorm, 3x3 convolution; the result is put behind the input."""

    def __init__(self, channels: int, growth: int, bottleneck: int = 4) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, bottleneck * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(bottleneck * growth)
        self.conv2 = nn.Conv2d(bottleneck * growth, growth, 3, padding=1, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = self.conv1(F.relu(self.norm1(torch.cat(features, 1))))
        return self.conv2(F.relu(self.norm2(x)))


class DenseBlock(nn.ModuleList):
    """Layers each of which sees the outputs of all before it."""

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self:
            features.append(layer(features))
        return torch.cat(features, 1)


class DenseNet(nn.Module):
    """Huang et al., CVPR 2017, without its classifier; (6, 12, 24, 16) and 32 are DenseNet-121."""

    def __init__(self, depths: tuple[int, ...] = (6, 12, 24, 16), growth: int = 32) -> None:
        super().__init__()
        channels = 2 * growth
        self.conv0 = nn.Conv2d(3, channels, 7, 2, 3, bias=False)
        self.norm0 = nn.BatchNorm2d(channels)
        self.blocks, self.transitions = nn.ModuleList(), nn.ModuleList()
        for index, depth in enumerate(depths):
            self.blocks.append(DenseBlock(DenseLayer(channels + i * growth, growth) for i in range(depth)))
            channels += depth * growth
            if index + 1 < len(depths):
                self.transitions.append(
                    nn.Sequential(
                        nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels // 2, 1, bias=False)
                    )
                )
                channels //= 2
        self.norm5 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm0(self.conv0(x))), 3, 2, 1)
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index < len(self.transitions):
                x = F.avg_pool2d(self.transitions[index](x), 2)
        return F.relu(self.norm5(x))


def group_norm_resnet50() -> nn.Module:
    """The built-in ResNet-50 with GroupNorm in 32 groups for BatchNorm."""
    network = BACKBONES["resnet50"].build((224, 224))
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            network.set_submodule(name, nn.GroupNorm(32, module.num_features))
    return network


class Pooled(nn.Module):
    """A network of transformers, or of feature maps, with a linear layer behind it."""

    def __init__(self, network: nn.Module, channels: int) -> None:
        super().__init__()
        self.network = network
        self.head = nn.Linear(channels, 8)

    def forward(self, x: Tensor) -> Tensor:
        features = self.network(x)
        features = getattr(features, "last_hidden_state", features)
        return self.head(features.mean((2, 3)) if features.ndim == 4 else features.mean(1))


_SMALL = {
    "resnet": {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [1, 2]},
    "mobilenet_v2": {"depth_multiplier": 0.5},
    "efficientnet": {"width_coefficient": 0.5, "depth_coefficient": 0.5, "hidden_dim": 640},
    "regnet": {
        "embedding_size": 16, "hidden_sizes": [32, 64], "depths": [1, 2], "groups_width": 8,
    },
    "convnext": {"num_stages": 2, "hidden_sizes": [16, 32], "depths": [1, 2]},
    "convnextv2": {"num_stages": 2, "hidden_sizes": [16, 32], "depths": [1, 2]},
    "vit": {
        "image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 4, "intermediate_size": 64,
    },
    "dinov2": {
        "image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 4,
    },
    "swin": {
        "image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4],
        "window_size": 4,
    },
}  # fmt: skip
SMALL_NETWORKS = [*_SMALL, "densenet"]


def small_network(name: str) -> nn.Module:
    """A small network of this architecture for (batch, 3, 32, 32), with random weights from a seed."""
    torch.manual_seed(0)
    if name == "densenet":
        network: nn.Module = DenseNet((2, 3), growth=8)
    else:
        from transformers import AutoConfig, AutoModel

        network = AutoModel.from_config(AutoConfig.for_model(name, **_SMALL[name]))
    with torch.no_grad():
        features = network.eval()(torch.zeros(1, 3, 32, 32))
    features = getattr(features, "last_hidden_state", features)
    return with_lively_weights(Pooled(network, features.shape[1 if features.ndim == 4 else 2]))


@torch.no_grad()
def with_lively_weights(network: nn.Module) -> nn.Module:
    """Norms and scales as after training, not ones and zeros: a wrong cut or permutation of them shows."""
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if tensor.is_floating_point() and tensor.numel() == max(tensor.shape, default=1):
            tensor.uniform_(*((-0.2, 0.2) if name.endswith(("bias", "mean")) else (0.5, 1.5)))
    return network.eval()


class Deep(nn.Sequential):
    """A stem and two stages of three residual blocks, the first of which halves the size of the maps."""

    def __init__(self) -> None:
        blocks = [BasicBlock(16, 24, 2), *(BasicBlock(24, 24, 1) for _ in range(2))]
        blocks += [BasicBlock(24, 32, 2), *(BasicBlock(32, 32, 1) for _ in range(2))]
        super().__init__(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.ReLU(), nn.Sequential(*blocks))
