"""Decoding image files to pixels, on a white background and with the EXIF orientation applied."""

from __future__ import annotations

import struct
from collections.abc import Callable

import cv2
import numpy as np

from sfsc.images.header import ImageHeader
from sfsc.images.jpeg import DAMAGED, decode_jpeg

STRIP = 64  # the number of rows that are blended at once
_OPAQUE = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
# For each EXIF orientation, the function that turns an image (height, width, 3).
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: image.transpose(1, 0, 2)[:, ::-1],
    7: lambda image: image.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda image: image.transpose(1, 0, 2)[::-1],
}


def decode_pixels(data: bytes, header: ImageHeader, reduction: int = 1) -> np.ndarray:
    """Decode an image file to (height, width, 3) uint8 RGB.

    Args:
        data: the file.
        header: its header, from `read_header`.
        reduction: 1, or 2 or 4 if a JPEG may be decoded to a half or a quarter of each side.

    Raises:
        ValueError: the file is damaged.
    """
    if header.jpeg is not None:
        return decode_jpeg(data, header.jpeg, reduction)
    data = _readable(data)
    image = _decode_clear(data, header.clear_gray) if header.clear else None
    if image is None:
        image = _decode(data, _OPAQUE)
    turn = _TURNS.get(header.orientation)
    return np.ascontiguousarray(turn(image)) if turn else image


def _decode_clear(data: bytes, gray: int | None) -> np.ndarray | None:
    """Decode an image with transparency, or a transparent level of gray, on white; None if it has none."""
    image = _decode(data, cv2.IMREAD_UNCHANGED)
    if image.shape[2:] == (4,):
        return _on_white(image)
    if gray is None or image.ndim != 2:
        return None
    opaque = _decode(data, _OPAQUE)
    opaque[image == gray] = 255
    return opaque


def _decode(data: bytes, flags: int) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        raise ValueError(DAMAGED)
    return image


def _readable(data: bytes) -> bytes:
    """Return the file in a form that OpenCV can read.

    OpenCV reads 16-bit BMP files only with a header of 40 bytes and masks. Longer headers begin with the same
    fields and masks, so it is sufficient to change the length.
    """
    if data.startswith(b"BM") and data[14:18] != struct.pack("<I", 12) and data[28:30] == b"\x10\0":
        return data[:14] + struct.pack("<I", 40) + data[18:]
    return data


def _on_white(image: np.ndarray) -> np.ndarray:
    """Blend (height, width, 4) BGRA of 8 or 16 bits with white; return uint8 RGB."""
    highest = np.iinfo(image.dtype).max
    composed = np.empty((*image.shape[:2], 3), np.uint8)
    for start in range(0, len(image), STRIP):  # a whole image in float32 would need several times its memory
        scaled = image[start : start + STRIP].astype(np.float32) / highest
        colour, alpha = scaled[..., 2::-1], scaled[..., 3:]
        composed[start : start + STRIP] = np.rint(255 * (colour * alpha + (1 - alpha)))
    return composed
