"""A query and its ranked hits as one picture. Colours and symbols mark correct and wrong hits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from sfsc.errors import SfscError
from sfsc.images.reading import decode, write_png

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sfsc.gallery import Hit

SIDE = 128  # pixels: the longer side of a thumbnail
FRAME = 4
GAP = 12
LINE = 18  # pixels: the height of a line of text
HITS_PER_ROW = 10

RIGHT = (26, 127, 85)
WRONG = (200, 50, 47)
UNKNOWN = (140, 146, 156)
PAPER = (255, 255, 255)
TEXT = (27, 36, 48)
MISSING = (216, 219, 224)


@dataclass(frozen=True)
class RankedImage:
    """A hit: the path of its image, its similarity, a caption, and whether it is correct (None: unknown)."""

    path: str
    score: float
    caption: str
    correct: bool | None


def ranked_list_picture(query: str, hits: Sequence[RankedImage]) -> NDArray[np.uint8]:
    """Draw the query on the left and its hits next to it: (h, w, 3) uint8 RGB.

    Correct hits have a green frame with a tick, wrong hits a red frame with a cross, and all others a grey
    frame. The score and the caption are below each hit. An image that cannot be read is a grey tile.

    Args:
        query: the path of the query image.
        hits: the hits in rank order.
    """
    images = [thumbnail(path) for path in (query, *(hit.path for hit in hits))]
    box = np.max([image.shape[:2] for image in images], axis=0)
    query_image, *hit_images = [_centre(image, *box) for image in images]
    first = _tile(query_image, None, ["query", ""])
    tiles = [
        _tile(image, hit.correct, [f"{hit.score:.3f}", hit.caption])
        for image, hit in zip(hit_images, hits, strict=True)
    ]
    height, width = np.add(first.shape[:2], GAP)
    rows = max(1, -(-len(hits) // HITS_PER_ROW))
    columns = 1 + min(len(hits), HITS_PER_ROW)
    picture = np.full((rows * height + GAP, columns * width + 2 * GAP, 3), PAPER, np.uint8)
    _paste(picture, first, GAP, GAP)
    for rank, tile in enumerate(tiles):
        row, column = divmod(rank, HITS_PER_ROW)
        _paste(picture, tile, GAP + row * height, 2 * GAP + (1 + column) * width)
    return picture


def thumbnail(path: str) -> NDArray[np.uint8]:
    """Return an image with its aspect ratio, scaled to a longer side of `SIDE`: (h, w, 3) uint8 RGB.

    An image that cannot be read becomes a grey tile with the text "missing".
    """
    try:
        image = decode(path, None)
    except SfscError:
        tile = np.full((SIDE, SIDE, 3), MISSING, np.uint8)
        return _write(tile, "missing", (SIDE - LINE) // 2)
    scale = SIDE / max(image.shape[:2])
    height, width = (max(1, round(scale * side)) for side in image.shape[:2])
    shrinks = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (width, height), interpolation=shrinks), np.uint8)


def _centre(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Centre the image in a box, so that all frames of a picture have the same size."""
    box = np.full((height, width, 3), PAPER, np.uint8)
    _paste(box, image, (height - image.shape[0]) // 2, (width - image.shape[1]) // 2)
    return box


def _tile(image: NDArray[np.uint8], correct: bool | None, lines: Sequence[str]) -> NDArray[np.uint8]:
    """Return a framed thumbnail with lines of text below it."""
    colour = {True: RIGHT, False: WRONG, None: UNKNOWN}[correct]
    border = (FRAME,) * 4
    framed = np.asarray(cv2.copyMakeBorder(image, *border, cv2.BORDER_CONSTANT, value=colour), np.uint8)
    if correct is not None:
        _badge(framed, correct, colour)
    height, width = framed.shape[:2]
    tile = np.full((height + LINE * len(lines) + FRAME, width, 3), PAPER, np.uint8)
    tile[:height] = framed
    for index, line in enumerate(lines):
        _write(tile, line, height + FRAME + index * LINE)
    return tile


def _badge(framed: NDArray[np.uint8], correct: bool, colour: tuple[int, int, int]) -> None:
    """Draw a white tick or cross in the upper right corner."""
    left = framed.shape[1] - 20
    cv2.rectangle(framed, (left, 0), (left + 20, 20), colour, cv2.FILLED)
    tick = [[(4, 10), (8, 14), (15, 5)]]
    cross = [[(5, 5), (14, 14)], [(14, 5), (5, 14)]]
    strokes = [np.add(stroke, (left, 0)).astype(np.int32) for stroke in (tick if correct else cross)]
    cv2.polylines(framed, strokes, False, PAPER, 2, cv2.LINE_AA)


def _write(tile: NDArray[np.uint8], text: str, top: int) -> NDArray[np.uint8]:
    """Write a centred line of text at `top`, cut to fit the tile. OpenCV can only draw ASCII."""
    font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.42
    text = text.encode("ascii", "replace").decode()
    while text and cv2.getTextSize(text, font, size, 1)[0][0] > tile.shape[1]:
        text = text[:-1]
    left = (tile.shape[1] - cv2.getTextSize(text, font, size, 1)[0][0]) // 2
    cv2.putText(tile, text, (left, top + LINE - 5), font, size, TEXT, 1, cv2.LINE_AA)
    return tile


def _paste(picture: NDArray[np.uint8], tile: NDArray[np.uint8], top: int, left: int) -> None:
    picture[top : top + tile.shape[0], left : left + tile.shape[1]] = tile


def draw_hits(query: str | Path, hits: Sequence[Hit], out: Path) -> None:
    """Write a PNG of a query and its hits, with their scores and their identities or file names."""
    ranked = [RankedImage(hit.path, hit.score, hit.identity or Path(hit.path).name, None) for hit in hits]
    write_png(out, ranked_list_picture(str(query), ranked))
