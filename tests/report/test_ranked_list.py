from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from sfsc.images.reading import write_png
from sfsc.report.ranked_list import (
    FRAME,
    GAP,
    HITS_PER_ROW,
    MISSING,
    RIGHT,
    SIDE,
    UNKNOWN,
    WRONG,
    RankedImage,
    ranked_list_picture,
    thumbnail,
)

CELL = SIDE + 2 * FRAME + GAP


@pytest.fixture
def square(tmp_path: Path) -> str:
    path = tmp_path / "square.png"
    write_png(path, np.full((64, 64, 3), (10, 20, 230), np.uint8))
    return str(path)


def frames(picture: np.ndarray, colour: tuple[int, int, int]) -> list[tuple[int, int]]:
    """The upper left corners of the frames of one colour, in reading order."""
    mask = np.all(picture == colour, axis=2).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask)
    corners = [(int(y), int(x)) for x, y, width, _, _ in stats[1:] if width == SIDE + 2 * FRAME]
    return sorted(corners)


def hits(path: str, *correct: bool | None) -> list[RankedImage]:
    return [RankedImage(path, 0.9, "caption", known) for known in correct]


def column(index: int) -> int:
    """Where the frame of a hit begins; the query stands before a double gap."""
    return 2 * GAP + (index + 1) * CELL


def test_frames_tell_right_from_wrong_and_unknown(square: str) -> None:
    picture = ranked_list_picture(square, hits(square, True, False, None, True))
    assert picture.dtype == np.uint8
    assert frames(picture, RIGHT) == [(GAP, column(0)), (GAP, column(3))]
    assert frames(picture, WRONG) == [(GAP, column(1))]
    assert frames(picture, UNKNOWN) == [(GAP, GAP), (GAP, column(2))]


def test_ticks_and_crosses_repeat_the_colours(square: str) -> None:
    picture = ranked_list_picture(square, hits(square, True, False))
    corners = [
        picture[GAP : GAP + 18, end - 18 : end] for end in (column(0) + CELL - GAP, column(1) + CELL - GAP)
    ]
    tick, cross = (np.all(corner > 240, axis=2) for corner in corners)
    assert tick.any()
    assert cross.any()
    assert not np.array_equal(tick, cross)


def test_colours_are_rgb(square: str) -> None:
    middle = GAP + FRAME + SIDE // 2
    assert tuple(ranked_list_picture(square, [])[middle, middle]) == (10, 20, 230)


def test_many_hits_wrap_to_further_rows(square: str) -> None:
    one_row = ranked_list_picture(square, hits(square, *[True] * HITS_PER_ROW))
    two_rows = ranked_list_picture(square, hits(square, *[True] * (HITS_PER_ROW + 1)))
    assert two_rows.shape[1] == one_row.shape[1]
    corners = frames(two_rows, RIGHT)
    assert len(corners) == HITS_PER_ROW + 1
    assert corners[-1][1] == column(0)
    assert corners[-1][0] > corners[0][0] + CELL


def test_score_and_caption_are_written(square: str) -> None:
    def picture(score: float, caption: str) -> np.ndarray:
        return ranked_list_picture(square, [RankedImage(square, score, caption, None)])

    plain = picture(0.9, "cat")
    assert not np.array_equal(plain, picture(0.8, "cat"))
    assert not np.array_equal(plain, picture(0.9, "dog"))


def test_long_captions_are_cut_at_the_end(square: str) -> None:
    long, longer = (
        ranked_list_picture(square, [RankedImage(square, 0.9, "a b " * n, None)]) for n in (40, 41)
    )
    np.testing.assert_array_equal(long, longer)


def test_foreign_letters_are_replaced(square: str) -> None:
    foreign, ascii_only = (
        ranked_list_picture(square, [RankedImage(square, 0.9, caption, None)])
        for caption in ("Réunion", "R?union")
    )
    np.testing.assert_array_equal(foreign, ascii_only)


@pytest.mark.parametrize(
    ("shape", "expected"), [((64, 32), (128, 64)), ((300, 900), (43, 128)), ((1, 999), (1, 128))]
)
def test_thumbnails_keep_their_aspect_ratio(
    tmp_path: Path, shape: tuple[int, int], expected: tuple[int, int]
) -> None:
    write_png(tmp_path / "image.png", np.zeros((*shape, 3), np.uint8))
    assert thumbnail(str(tmp_path / "image.png")).shape == (*expected, 3)


def test_narrow_images_are_framed_alike(tmp_path: Path, square: str) -> None:
    write_png(tmp_path / "person.png", np.full((128, 64, 3), 100, np.uint8))
    picture = ranked_list_picture(square, hits(str(tmp_path / "person.png"), True))
    assert frames(picture, RIGHT) == [(GAP, column(0))]
    inside = picture[GAP + FRAME + SIDE // 2, column(0) + FRAME :][:SIDE]
    assert np.all(inside == 100, axis=1).sum() == 64


def test_a_missing_image_is_a_grey_tile(square: str) -> None:
    tile = thumbnail("nowhere.png")
    assert tile.shape == (SIDE, SIDE, 3)
    assert tuple(tile[0, 0]) == MISSING
    assert not np.all(tile == MISSING)
    picture = ranked_list_picture("nowhere.png", hits(square, True))
    assert tuple(picture[GAP + FRAME, GAP + FRAME]) == MISSING
