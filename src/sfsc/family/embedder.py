"""A backbone with its embedding head: images in, unit vectors out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfsc.backbones.builtin import Backbone
from sfsc.errors import SfscError, first_line
from sfsc.images.batches import COLOURS, check_batch, check_fractions

CLASS_TOKEN = "cls_token"
DTYPES = ("uint8", "float32", "float64", "float16", "bfloat16")  # of images


class Embedder(nn.Module):
    """Colour normalisation, backbone, pooling, linear layer, BatchNorm, L2 normalisation, calibration.

    Maps (batch, 3, height, width) RGB images, uint8 or floating-point in [0, 1], to (batch, dim) float32
    embeddings of length 1. In evaluation mode it raises `SfscError` for any other input. Every sub-model of a
    family is an instance of this class with smaller tensors. `calibration` is the identity, except in the
    narrow sub-models of a calibrated family.

    The features of the backbone are pooled to (batch, channels). A map (batch, channels, height, width) is
    averaged. Of tokens (batch, tokens, channels), the first is used if the backbone has a parameter
    `cls_token`; otherwise they are averaged. Features (batch, channels) are used unchanged.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        channels: int,
        dim: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        self.backbone = backbone
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(channels, dim, bias=False)
        self.norm = nn.BatchNorm1d(dim)
        self.calibration: nn.Module = nn.Identity()
        names = (name.rpartition(".")[2] for name, _ in backbone.named_parameters())
        self.has_class_token = CLASS_TOKEN in names

    @classmethod
    def build(cls, backbone: Backbone, image_size: tuple[int, int], dim: int) -> Embedder:
        """Build a new embedder from a backbone, in training mode.

        Args:
            backbone: a backbone that `find_backbone` returned.
            image_size: (height, width) in pixels.
            dim: the dimension of the embeddings.

        Raises:
            SfscError: the backbone cannot process images of this size, or does not return features.
        """
        height, width = image_size
        try:
            network = backbone.build(image_size)
            with torch.no_grad():
                features = features_of(network.eval()(torch.zeros(2, 3, height, width)))
        except SfscError:
            raise
        except Exception as error:  # networks of other packages raise arbitrary errors
            size = "another image_size" if backbone.made_for is None else f"image_size={[*backbone.made_for]}"
            raise SfscError(
                f"the backbone cannot process images of {height}x{width} pixels: {first_line(error)}; "
                f"set {size} or choose another backbone"
            ) from error
        return cls(network, _count_channels(features), dim, backbone.mean, backbone.std).train()

    def forward(self, images: Tensor) -> Tensor:
        return self._unit(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """Return the outputs of BatchNorm for images as in `forward`: (batch, dim), of any length."""
        if not (self.training or torch.compiler.is_compiling()):
            check_images(images)
        if images.dtype != self.mean.dtype:
            scale = 255 if images.dtype == torch.uint8 else 1
            images = images.to(self.mean.dtype) / scale
        return self._head((images - self.mean) / self.std)

    def embed_normalised(self, images: Tensor) -> Tensor:
        """Embed images whose colours are already normalised, otherwise as `forward`."""
        return self._unit(self._head(images))

    def _head(self, images: Tensor) -> Tensor:
        return self.norm(self.linear(self._pool(features_of(self.backbone(images)))))

    def _unit(self, features: Tensor) -> Tensor:
        return self.calibration(F.normalize(features))

    def _pool(self, features: Tensor) -> Tensor:
        if features.ndim == 4:
            return self.pool(features).flatten(1)
        if features.ndim == 3:
            return features[:, 0] if self.has_class_token else features.mean(1)
        return features


def check_images(images: Tensor, size: tuple[int | None, int | None] = (None, None)) -> None:
    """Raise `SfscError` unless `images` is a batch that a family or a sub-model can embed.

    Args:
        images: (batch, 3, height, width) RGB, uint8 or floating-point in [0, 1].
        size: the (height, width) that the images must have; by default any.
    """
    if not isinstance(images, Tensor):
        raise SfscError(f"images must be a tensor, got {type(images).__name__}: embed_pixels takes arrays")
    check_batch(images.shape, str(images.dtype).removeprefix("torch."), (COLOURS, *size), DTYPES)
    if images.is_floating_point() and images.numel():
        check_fractions(*(float(value) for value in images.detach().aminmax()))


def features_of(output: Any) -> Tensor:
    """Return the features in the output of a backbone.

    Args:
        output: a tensor, a tuple whose first entry is a tensor, or an output of transformers. From the
            latter, the pooled features are used if there are any, otherwise the last hidden state, otherwise
            the last feature map.

    Raises:
        SfscError: the output is something else.
    """
    if isinstance(output, Tensor):
        return output
    for name in ("pooler_output", "last_hidden_state"):
        if isinstance(getattr(output, name, None), Tensor):
            return getattr(output, name)
    maps = getattr(output, "feature_maps", None)
    if maps:
        return maps[-1]
    if isinstance(output, tuple | list) and output and isinstance(output[0], Tensor):
        return output[0]
    raise SfscError(
        f"the backbone returns a {type(output).__name__}: it must return features, as a tensor, "
        "a tuple whose first entry is one, or an output of transformers"
    )


def _count_channels(features: Tensor) -> int:
    """Return the number of channels in the features of two images."""
    if features.ndim not in (2, 3, 4) or features.shape[0] != 2:
        raise SfscError(
            f"the backbone returns features of shape {tuple(features.shape)} for 2 images: it must return "
            "(batch, channels, height, width), (batch, tokens, channels) or (batch, channels)"
        )
    return features.shape[-1] if features.ndim == 3 else features.shape[1]
