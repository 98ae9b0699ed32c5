import torch
from torch import nn

from sfsc import inspect, to_switchable

EXAMPLE = torch.zeros(2, 3, 16, 16)


def test_parameters_multiply_adds_and_channels_are_those_of_the_layers() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False),
        nn.Conv2d(16, 32, 1, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10, bias=False),
    )
    inspection = inspect(to_switchable(network, EXAMPLE, (0.5, 1.0)), EXAMPLE)
    assert inspection.widths == (0.5, 1.0)
    assert inspection.parameters == (
        8 * 27 + 8 * 9 + 8 * 16 + 16 * 10,
        16 * 27 + 16 * 9 + 16 * 32 + 32 * 10,
    )
    pixels = 16 * 16
    assert inspection.multiply_adds == (
        pixels * (8 * 27 + 8 * 9 + 8 * 16) + 160,
        pixels * (16 * 27 + 16 * 9 + 16 * 32) + 320,
    )
    assert inspection.channels == {(8, 16): ["0", "2"], (16, 32): ["3"]}
    assert inspection.whole == {"0": "inputs", "6": "outputs"}


def test_kept_layers_are_named() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 16, 1), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.ReLU(),
        nn.Conv2d(16, 4, 1),
    )  # fmt: skip
    inspection = inspect(to_switchable(network, EXAMPLE, keep=["2"], round_to=1), EXAMPLE)
    assert inspection.whole == {
        "0": "inputs and outputs",
        "2": "inputs and outputs",
        "4": "inputs",
        "6": "outputs",
    }
