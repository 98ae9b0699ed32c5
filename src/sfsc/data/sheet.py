"""Summarising a data set in a picture and a table."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from sfsc.data.dataset import SPLITS, Dataset
from sfsc.images.reading import decode

_WHITE, _BLACK, _GREY = (255, 255, 255), (30, 30, 30), (120, 120, 120)
_GAP, _CAPTION, _MARGIN = 8, 16, 132
_TILE = 96
_FONT, _FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.38


def contact_sheet(
    rows: Sequence[Sequence[np.ndarray]], row_labels: Sequence[str], captions: Sequence[Sequence[str]]
) -> np.ndarray:
    """Draw rows of images in one picture.

    Args:
        rows: the images of each row, (h, w, 3) uint8 RGB, all of one size.
        row_labels: the text to the left of each row.
        captions: the text below each image, by row.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    height, width = rows[0][0].shape[:2]
    row_height, column_width = height + _CAPTION + _GAP, width + _GAP
    columns = max(map(len, rows))
    shape = (_GAP + len(rows) * row_height, _MARGIN + columns * column_width, 3)
    sheet = np.full(shape, _WHITE, np.uint8)
    for r, (images, label, under) in enumerate(zip(rows, row_labels, captions, strict=True)):
        top = _GAP + r * row_height
        _write(sheet, label, (_GAP, top + height // 2), _MARGIN - 2 * _GAP, _BLACK)
        for c, (image, caption) in enumerate(zip(images, under, strict=True)):
            left = _MARGIN + c * column_width
            sheet[top : top + height, left : left + width] = image
            _write(sheet, caption, (left, top + height + 12), width, _GREY)
    return sheet


def dataset_sheet(dataset: Dataset, identities: int = 12, images: int = 8) -> np.ndarray:
    """Draw a contact sheet of some identities of a data set.

    Args:
        dataset: the data set.
        identities: the maximum number of identities, evenly spaced in sorted order.
        images: the maximum number of images of each identity, from as many cameras as possible.

    Returns:
        (height, width, 3) uint8 RGB.

    Raises:
        CorruptImage: one of the images cannot be read.
    """
    names = np.unique(dataset.identities)
    shown = names[np.linspace(0, len(names) - 1, min(identities, len(names))).round().astype(int)]
    chosen = [_different_cameras(dataset, identity, images) for identity in shown]
    size = _tile_size(dataset.image_size)
    return contact_sheet(
        [[decode(dataset.paths[i], size) for i in row] for row in chosen],
        shown.tolist(),
        [["" if dataset.cameras is None else str(dataset.cameras[i]) for i in row] for row in chosen],
    )


def summarise(dataset: Dataset) -> list[dict[str, str | int]]:
    """Count the images, identities and cameras of each split.

    Returns:
        For each split one row, followed by one row per camera. The keys are split, camera ("all" in the first
        row of a split), images, identities and cameras.
    """
    rows: list[dict[str, str | int]] = []
    for split in SPLITS:
        inside = dataset.splits == split
        if not inside.any():
            continue
        cameras = [] if dataset.cameras is None else np.unique(dataset.cameras[inside]).tolist()
        rows.append(_count(dataset, inside, split, "all", len(cameras)))
        rows += [
            _count(dataset, inside & (dataset.cameras == camera), split, camera, 1) for camera in cameras
        ]
    return rows


def _count(
    dataset: Dataset, inside: np.ndarray, split: str, camera: str, cameras: int
) -> dict[str, str | int]:
    identities = len(np.unique(dataset.identities[inside]))
    images = int(inside.sum())
    return {"split": split, "camera": camera, "images": images, "identities": identities, "cameras": cameras}


def _different_cameras(dataset: Dataset, identity: str, count: int) -> list[int]:
    """Return the indices of up to `count` images of an identity, one of each camera before a second one."""
    index = np.flatnonzero(dataset.identities == identity).tolist()
    if dataset.cameras is None:
        return index[:count]
    seen: dict[str, int] = {}
    turns = []
    for i in index:
        camera = str(dataset.cameras[i])
        seen[camera] = seen.get(camera, 0) + 1
        turns.append((seen[camera], camera, i))
    return [i for _, _, i in sorted(turns)[:count]]


def _tile_size(image_size: tuple[int, int]) -> tuple[int, int]:
    """Return the image size, scaled so that the longer side is that of a tile."""
    height, width = image_size
    scale = _TILE / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _write(
    sheet: np.ndarray, text: str, at: tuple[int, int], room: int, colour: tuple[int, int, int]
) -> None:
    """Write text with its lower left corner at `at`; shorten a text wider than `room` in the middle."""
    shown, kept = text, len(text)
    while kept > 2 and cv2.getTextSize(shown, _FONT, _FONT_SCALE, 1)[0][0] > room:
        kept -= 1
        shown = f"{text[: (kept + 1) // 2]}..{text[-(kept // 2) :]}"
    cv2.putText(sheet, shown, at, _FONT, _FONT_SCALE, colour, 1, cv2.LINE_AA)
