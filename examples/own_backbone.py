"""Bring your own backbone: a plain PyTorch network becomes a family of nested sub-models.

    python examples/own_backbone.py           about a minute on two cores

The network below knows nothing of widths. sfsc follows its graph, finds which channels belong together, and
cuts them alike. Put your own network in its place.
"""

from __future__ import annotations

from pathlib import Path

import torch
from shapes import draw_shapes
from torch import Tensor, nn

import sfsc

OUT = Path("runs/examples/own_backbone")
HERE = "own_backbone:network"  # this file, as Python imports it, and the function in it


class Block(nn.Module):
    """A residual block: its two branches are added, so sfsc keeps the same channels of both."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.norm = nn.BatchNorm2d(channels)
        self.mix = nn.Sequential(
            nn.Conv2d(channels, 2 * channels, 1), nn.GELU(), nn.Conv2d(2 * channels, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to the same shape."""
        return x + self.mix(self.norm(self.depthwise(x)))


def network() -> nn.Module:
    """Return the backbone: images (batch, 3, height, width) to features (batch, 128, height/8, width/8)."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 4, stride=4),
        nn.BatchNorm2d(64),
        Block(64),
        Block(64),
        nn.Conv2d(64, 128, 2, stride=2),
        nn.BatchNorm2d(128),
        Block(128),
        nn.ReLU(),
    )


def main() -> None:
    """Look at what is cut, train a family over the network, and load it again."""
    # 1. Without training: what the network looks like at each width, and whether it can be cut at all. If it
    #    cannot, the error names the layer.
    images = torch.zeros(1, 3, 48, 48)
    switchable = sfsc.to_switchable(network(), images, widths=(0.25, 0.5, 1.0))
    found = sfsc.inspect(switchable, images)
    for width, parameters, operations in zip(
        found.widths, found.parameters, found.multiply_adds, strict=True
    ):
        print(
            f"At width {width:g} the network has {parameters:,} parameters and {operations:,} multiply-adds."
        )

    # 2. Training names the function as python:MODULE:FUNCTION.
    dataset = sfsc.open_dataset(f"folder:{draw_shapes(OUT / 'shapes')}")
    config = sfsc.Config(
        dataset=dataset.source,
        backbone=f"python:{HERE}",
        widths=(0.25, 0.5, 1.0),
        image_size=(48, 48),
        epochs=20,
    )
    sfsc.train(config, OUT / "run", resume=True)

    # 3. A run folder stores weights, and no code. Whoever loads it says which function may run.
    family = sfsc.Family.load(OUT / "run", allow_code=HERE)
    accuracy = sfsc.evaluate(family, dataset).matrix.metrics["mAP"]
    print(f"The full sub-model finds its own gallery with a mAP of {100 * accuracy[-1, -1]:.1f} percent.")
    print(f"The smallest one finds the full one's gallery with {100 * accuracy[0, -1]:.1f} percent.")


if __name__ == "__main__":
    main()
