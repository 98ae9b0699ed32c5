"""A small family, and files that were exported from it: made once, whichever packages' tests use them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch

from sfsc import Family, open_dataset
from sfsc.deploy.exporting import export

WIDTHS = (0.25, 1.0)
NESTED = (4, 8)


@cache
def make_family() -> Family:
    """Untrained, but with statistics that are not those of the start."""
    family = Family.create("small", WIDTHS, 16, (32, 32), nested_dims=NESTED).train()
    images = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for width in WIDTHS:
            family.at(width)(images)
    return family.eval()


@cache
def make_files(images: tuple[str, ...], folder: Path) -> Path:
    family = make_family()
    export(family, 0.25, folder / "narrow.onnx", images)
    export(family, 0.25, folder / "narrow-int8.onnx", images, int8=True)
    export(family, 0.25, folder / "short.onnx", images, dimension=8)
    export(family, 0.25, folder / "short-int8.onnx", images, int8=True, dimension=8)
    return folder


@pytest.fixture(scope="session")
def family() -> Family:
    return make_family()


@pytest.fixture(scope="session")
def images(shapes: str) -> list[str]:
    return list(open_dataset(shapes).train.paths)


@pytest.fixture(scope="session")
def files(images: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_files(tuple(images), tmp_path_factory.getbasetemp() / "exported")
