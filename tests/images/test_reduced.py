"""Large JPEG files are decoded to a part of their size: to hardly another picture, if they are whole."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from sfsc.images import reading
from sfsc.images.boxes import Box
from sfsc.images.reading import CorruptImage, decode_bytes, decode_sizes

HEIGHT, WIDTH = 404, 532  # multiples of 4, but not of 8
SMALL, SMALLER = (40, 30), (24, 24)  # decoded to a half and to a quarter


def photo(height: int = HEIGHT) -> np.ndarray:
    """Blurred noise with edges, as a photograph has them."""
    picture = np.random.default_rng(0).integers(0, 256, (height, WIDTH, 3), np.uint8)
    picture = cv2.normalize(cv2.GaussianBlur(picture, (0, 0), 6), None, 0, 255, cv2.NORM_MINMAX)
    return cv2.rectangle(picture, (99, 77), (311, 203), (250, 30, 90), -1)


def jpeg(height: int = HEIGHT, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(photo(height)).save(file, "JPEG", quality=90, **options)
    return file.getvalue()


def whole(data: bytes, size: tuple[int, int]) -> np.ndarray:
    """Decode all pixels, and resize them."""
    return cv2.resize(decode_bytes(data, "x", None), size[::-1], interpolation=cv2.INTER_AREA)


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x112] = 6
    return jpeg(exif=exif)


@pytest.mark.parametrize("data", [jpeg(), turned(), jpeg(progressive=True)], ids=["plain", "turned", "scans"])
@pytest.mark.parametrize("size", [SMALL, SMALLER])
def test_the_picture_is_hardly_another_one(data: bytes, size: tuple[int, int]) -> None:
    found, expected = decode_bytes(data, "x", size).astype(float), whole(data, size).astype(float)
    shifted = cv2.resize(decode_bytes(data, "x", None)[1:, 1:], size[::-1], interpolation=cv2.INTER_AREA)
    difference = np.abs(found - expected).mean()
    assert difference < 1
    assert difference < np.abs(shifted - expected).mean()


def test_it_is_reduced_only_if_much_is_to_spare(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    original = reading.decode_pixels

    def spy(data: bytes, header: reading.ImageHeader, reduction: int) -> np.ndarray:
        picture = original(data, header, reduction)
        used.append(round(HEIGHT / len(picture)))
        return picture

    monkeypatch.setattr(reading, "decode_pixels", spy)
    for size in ((51, 20), SMALL, SMALLER, None):
        decode_bytes(jpeg(), "x", size)
    decode_bytes(jpeg(), "x", SMALLER, box=Box(0, 0, 300, 300))
    assert used == [1, 2, 4, 1, 1]
    used.clear()
    decode_bytes(jpeg(HEIGHT + 2), "x", SMALLER)
    decode_bytes(jpeg(HEIGHT + 1), "x", SMALLER)
    assert used == [2, 1]
    used.clear()
    decode_sizes(jpeg(), "x", [SMALLER, (20, 20), SMALL])
    assert sorted(used) == [2, 4]  # one for two sizes


def test_several_sizes_are_those_of_single_calls() -> None:
    sizes = [SMALL, SMALLER, (64, 64)]
    for size, found in decode_sizes(jpeg(), "x", sizes).items():
        np.testing.assert_array_equal(found, decode_bytes(jpeg(), "x", size))


@pytest.mark.parametrize("end", [b"", b"\xff\xd9"])
def test_the_same_files_are_refused(end: bytes) -> None:
    data = jpeg()
    refused = []
    for length in (*range(len(data) - 40, len(data)), *range(600, len(data), 997)):
        cut = data[:length] + end
        answers = {size: _is_refused(cut, size) for size in (None, SMALL, SMALLER)}
        assert len({*answers.values()}) == 1, length
        refused.append(answers[None])
    assert any(refused)
    assert not all(refused)


def _is_refused(data: bytes, size: tuple[int, int] | None) -> bool:
    try:
        decode_bytes(data, "x", size)
    except CorruptImage:
        return True
    return False
