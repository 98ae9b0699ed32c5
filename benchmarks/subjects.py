"""The networks that are measured, and images for them."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfsc import Family
from sfsc.backbones.sources import find_backbone
from sfsc.family.embedder import Embedder
from sfsc.images.reading import write_png

# DenseNet and other networks that are not in a package.
sys.path.append(str(Path(__file__).parents[1] / "tests" / "switchable"))

BUILT_IN = ("small", "resnet18", "resnet50", "efficientnet_lite0")
TRANSFORMERS = (
    *("resnet", "mobilenet_v2", "efficientnet", "regnet", "hgnet_v2", "bit"),
    *("convnext", "convnextv2", "vit", "dinov2", "swin"),
)
# The name of each backbone, by its name in the tables.
BACKBONES = {
    **{name: name for name in BUILT_IN},
    **{f"transformers:{name}": f"transformers:{name}" for name in TRANSFORMERS},
    "DenseNet-121": "python:networks:DenseNet",
    "ResNet-50 with GroupNorm": "python:networks:group_norm_resnet50",
}
EMBEDDING_DIM = 128


def picture_files(folder: Path, count: int, size: int) -> list[str]:
    """Write `pictures` into a folder, and return their paths."""
    paths = [folder / f"{number}.png" for number in range(count)]
    for path, picture in zip(paths, pictures(count, size), strict=True):
        write_png(path, (255 * picture.permute(1, 2, 0)).byte().numpy())
    return [str(path) for path in paths]


def pictures(batch: int, size: int, seed: int = 0) -> Tensor:
    """Draw (batch, 3, size, size) float32 images in [0, 1]: coloured blots, so that their means differ."""
    blots = torch.rand(batch, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(blots, (size, size), mode="bicubic").clamp(0, 1)


def lively_embedder(backbone: str, size: int) -> Embedder:
    """Build an embedder in evaluation mode, with random weights for which embeddings depend on the image."""
    from networks import with_lively_weights

    torch.manual_seed(0)
    embedder = Embedder.build(find_backbone(backbone), (size, size), EMBEDDING_DIM)
    with_lively_weights(embedder)
    _fit_statistics(embedder, pictures(8, size))
    return embedder


def lively_family(backbone: str, size: int, normalisation: str = "batch") -> Family:
    """Build a family in evaluation mode, with random weights."""
    square = (size, size)
    family = Family.create(
        backbone, embedding_dim=EMBEDDING_DIM, image_size=square, normalisation=normalisation
    ).eval()
    for width in family.widths:
        _fit_statistics(family.at(width), pictures(8, size))
    return family


@torch.no_grad()
def _fit_statistics(network: nn.Module, images: Tensor) -> None:
    """Set BatchNorm's running statistics to those of a batch, because others may suppress the signal."""
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    network(images)
    network.eval()
