"""Forward passes of the sub-models in training."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import cast

import torch
from torch import Tensor, nn

from sfsc.errors import SfscError, first_line
from sfsc.family.embedder import Embedder
from sfsc.family.family import Family
from sfsc.training.batch_norm import SynchronisedBatchNorm
from sfsc.training.config import Config
from sfsc.training.distributed import ALONE, World
from sfsc.training.random_widths import AnyWidth
from sfsc.training.resizing import resized

GRAPHS = 64  # maximum number of graphs that a process compiles from the same code


class Forward:
    """Embeds batches with the sub-models of a family in training mode.

    The settings determine the precision, the memory layout, whether networks are compiled, and whether batch
    normalisation covers all ranks. Compiled networks are stored here instead of in the family, so that they
    are not saved with it.
    """

    def __init__(self, family: Family | AnyWidth, config: Config, world: World = ALONE) -> None:
        self.family = family
        self.config = config
        self.linear = config.method.logits == "linear"
        synchronised = config.sync_batch_norm and world.size > 1
        self.normalisation = SynchronisedBatchNorm() if synchronised else nullcontext()
        self.compiled: dict[float, Callable[[Tensor], Tensor]] = {}
        formats = {True: torch.channels_last, False: torch.contiguous_format}
        self.formats = {
            width: formats[config.channels_last and not _breaks_channels_last(family.at(width))]
            for width in family.widths
        }

    def __call__(self, images: Tensor, width: float) -> Tensor:
        """Embed images (batch, 3, height, width) float32 in [0, 1] as (batch, dim).

        The images have the size of the full sub-model's, and are resized for a sub-model that embeds smaller
        ones. The embeddings have length 1, except for a recipe with linear logits, which takes them before
        their normalisation.

        Raises:
            SfscError: the settings demand compilation, but the network cannot be compiled.
        """
        sub_model = cast(Embedder, self.family.at(width))
        network = sub_model.features if self.linear else sub_model
        if self.config.compile and width not in self.compiled:
            self.compiled[width] = _compile(network)
        images = resized(images, self.family.image_size_of(width))
        images = images.contiguous(memory_format=self.formats[width])
        low = self.config.precision == "bfloat16"
        with torch.autocast(images.device.type, torch.bfloat16, enabled=low), self.normalisation:
            return self.compiled.get(width, network)(images)


def _breaks_channels_last(network: nn.Module) -> bool:
    """Return whether the CPU kernels of torch 2.13 corrupt memory in a channels-last pass through a network.

    They do so in strided 1x1 convolutions of fewer than eight channels.
    """
    return any(
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (1, 1)
        and layer.stride != (1, 1)
        and layer.weight.device.type == "cpu"
        and layer.weight.shape[1] < 8
        for layer in network.modules()
    )


def _compile(network: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    import torch._dynamo.config
    from torch._dynamo.exc import TorchDynamoException

    # All sub-models run the same code, and torch compiles at most eight versions of it by default.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, GRAPHS)
    compiled = torch.compile(network)

    def run(images: Tensor) -> Tensor:
        try:
            return compiled(images)
        except TorchDynamoException as error:
            reason = first_line(error)
            raise SfscError(f"the network cannot be compiled ({reason}): train without compile") from None

    return run
