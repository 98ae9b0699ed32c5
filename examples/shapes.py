"""Draw a small data set: coloured shapes, each seen at another place, size and angle in every image."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from sfsc.data import write_png

SIDE = 48  # pixels
COLOURS = {
    "red": (200, 40, 40),
    "green": (40, 150, 60),
    "blue": (40, 80, 200),
    "yellow": (230, 190, 30),
    "violet": (140, 60, 180),
    "grey": (110, 110, 110),
}
CORNERS = {"triangle": 3, "square": 4, "pentagon": 5, "hexagon": 6, "disc": 40}
TESTED = ("disc", "triangle")  # the shapes that training never sees


def draw_shapes(folder: Path, images: int = 8) -> Path:
    """Draw `folder/SPLIT/IDENTITY/NUMBER.png`: 18 identities to train with and 12 others to search for.

    Of the others, the first image is a query and the rest are the gallery.
    """
    for shape, corners in CORNERS.items():
        for colour, rgb in COLOURS.items():
            for number in range(images):
                split = "train" if shape not in TESTED else "query" if number == 0 else "gallery"
                seed = [corners, *rgb, number]
                write_png(folder / split / f"{colour}-{shape}" / f"{number}.png", draw(corners, rgb, seed))
    return folder


def draw(corners: int, rgb: tuple[int, int, int], seed: list[int]) -> np.ndarray:
    """Draw a regular polygon, (48, 48, 3) uint8, where and how large the seed decides."""
    random = np.random.default_rng(seed)
    image = np.full((SIDE, SIDE, 3), random.integers(220, 256), np.uint8)
    turns = np.arange(corners) / corners + random.uniform(0, 1)
    circle = np.stack([np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)], axis=1)
    points = random.uniform(20, 28, 2) + random.uniform(12, 17) * circle
    cv2.fillPoly(image, [points.round().astype(np.int32)], rgb, cv2.LINE_AA)
    return image
