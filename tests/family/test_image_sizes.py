"""Families whose sub-models embed images of different sizes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sfsc import Family, SfscError, inspect
from sfsc.family.spec import read_spec
from sfsc.files.writing import read_json

SIZED = "0.25@16,0.5@24x20,1"
SIZES = {0.25: (16, 16), 0.5: (24, 20), 1.0: (32, 32)}


@pytest.fixture(scope="module")
def family() -> Family:
    return Family.create("small", SIZED, 16, (32, 32)).eval()


def test_each_sub_model_takes_its_own_size_only(family: Family) -> None:
    for width, size in SIZES.items():
        assert family.image_size_of(width) == size
        images = np.zeros((2, *size, 3), np.uint8)
        assert family.embed_pixels(images, width).shape == (2, 16)
        with pytest.raises(SfscError, match="resize them"):
            family.embed_pixels(images[:, 1:], width)
        with pytest.raises(SfscError, match="resize them"):
            family.embed(torch.zeros(2, 3, size[0] + 1, size[1]), width)
    assert family.image_size == (32, 32)
    assert [family.name_of(width) for width in SIZES] == ["0.25@16", "0.5@24x20", "1"]
    with pytest.raises(SfscError, match=r"width 0\.3 is not one"):
        family.image_size_of(0.3)


def test_one_width_for_images_of_several_sizes() -> None:
    """The width just below, which the error for a width written twice suggests, has the same channels."""
    with pytest.raises(SfscError, match=r"write 0\.499 for the other"):
        Family.create("small", "0.5@16,0.5,1", 16, (32, 32))
    family = Family.create("small", "0.499@16,0.5,0.998@16,1", 16, (32, 32))
    assert [family.name_of(width) for width in family.widths] == ["0.499@16", "0.5", "0.998@16", "1"]
    assert family.parameter_count(0.499) == family.parameter_count(0.5)
    assert family.parameter_count(0.998) == family.parameter_count(1.0)


def test_a_saved_family_has_its_sizes(family: Family, tmp_path: Path) -> None:
    family.save(tmp_path)
    loaded = Family.load(tmp_path)
    assert (loaded.spec, loaded.fingerprint) == (family.spec, family.fingerprint)
    stored = read_json(tmp_path / "family.json")
    assert stored["format"] == 5
    assert stored["image_sizes"] == [[0.25, [16, 16]], [0.5, [24, 20]]]


@pytest.mark.parametrize(
    "sizes",
    [
        [[0.3, [16, 16]]],
        [[0.25, [16, 99]]],
        [[1.0, [16, 16]]],
        [[0.25, [16, 16]]] * 2,
        [[0.25, [0, 1]]],
        [[0.25, [16]]],
    ],
)
def test_damaged_sizes_are_refused(family: Family, sizes: list[object]) -> None:
    with pytest.raises(SfscError, match=r"^family\.json does not describe a family: .*image.size"):
        read_spec(
            {**json.loads(json.dumps(family.spec.describe())), "image_sizes": sizes}, Path("family.json")
        )


def test_equal_sizes_change_nothing(family: Family) -> None:
    """Neither the stored description nor the fingerprint, so that older versions read such families."""
    plain = Family.create("small", "0.25,0.5,1", 16, (32, 32))
    written = Family.create("small", "0.25@32,0.5@32x32,1", 16, (32, 32))
    assert written.spec.describe() == plain.spec.describe()
    assert written.fingerprint == plain.fingerprint != family.fingerprint
    assert "image_sizes" not in plain.spec.describe()


def test_multiply_adds_are_those_of_the_own_size(family: Family) -> None:
    counted = inspect(family, family.examples()).multiply_adds
    plain = Family.create("small", "0.25,0.5,1", 16, (32, 32))
    whole = inspect(plain, torch.zeros(1, 3, 32, 32)).multiply_adds
    assert counted[2] == whole[2]
    assert counted[0] == pytest.approx(whole[0] / 4, rel=0.01)


class FixedInput(nn.Sequential):
    """A network for images of 32 x 32 pixels, as vision transformers are."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] != 32:
            raise ValueError(f"input height {x.shape[2]} does not match model height 32")
        return super().forward(x)


class Unpadded(nn.Sequential):
    """A network that needs 15 pixels on each side."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 16, 7))


@pytest.mark.parametrize("network", ["FixedInput", "Unpadded"])
def test_sizes_that_a_backbone_cannot_take(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mine", sys.modules[__name__])
    name = f"python:mine:{network}"
    Family.create(name, "0.5,1", 8, (32, 32))
    with pytest.raises(
        SfscError, match=r"cannot process images of 12x12 pixels, the size of width 0\.5: "
    ) as said:
        Family.create(name, "0.5@12,1", 8, (32, 32))
    assert "\n" not in str(said.value)
