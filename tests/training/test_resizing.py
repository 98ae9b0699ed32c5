"""Batches that are resized for a sub-model: as if the images had been decoded to its size."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sfsc.images.reading import decode, write_png
from sfsc.training.resizing import resized

SIZES = [(24, 24), (16, 16), (10, 21), (1, 1), (32, 17)]


def as_batch(*images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).double()


@pytest.mark.parametrize("size", SIZES)
def test_it_is_the_resizing_of_the_decoder(size: tuple[int, int]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 48, 3), np.uint8)
    expected = [cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA) for image in images]
    found = resized(as_batch(*images), size)
    assert found.shape == (3, 3, *size)
    assert (found - as_batch(*expected)).abs().max() < 1


def test_nothing_is_done_to_images_of_the_size() -> None:
    images = torch.rand(2, 3, 8, 6)
    assert resized(images, (8, 6)) is images


@pytest.mark.parametrize("size", [(24, 24), (20, 20), (16, 16)])
def test_training_sees_what_is_decoded_later(size: tuple[int, int], tmp_path: Path) -> None:
    """Photographs are decoded to the full size and resized, or straight to the size of the sub-model."""
    picture = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (199, 167, 3), np.uint8), (0, 0), 12)
    picture = cv2.normalize(picture, None, 0, 255, cv2.NORM_MINMAX)
    write_png(tmp_path / "photo.png", picture)
    full, straight = (as_batch(decode(str(tmp_path / "photo.png"), to)) for to in ((32, 32), size))

    def difference(images: torch.Tensor) -> float:
        return float((images - straight).abs().mean())

    found = difference(resized(full, size))
    assert found < 0.05 * float(straight.std())
    assert found < difference(F.interpolate(full, size, mode="bilinear", antialias=True))
    assert found <= difference(F.interpolate(full, size, mode="area")) + 1e-6
