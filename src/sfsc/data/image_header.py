"""What an image file says of itself before it is decoded: its size, and whether it is all there."""

from __future__ import annotations

import struct

_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_SCAN = 0xDA


def measure(data: bytes) -> tuple[int, int]:
    """(height, width) in pixels from the header of a complete JPEG, PNG, WebP or BMP file.

    Raises ValueError if the bytes are none of these, or end before the image does.
    """
    try:
        if data.startswith(b"\xff\xd8\xff"):
            return _measure_jpeg(data)
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return _measure_png(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _measure_webp(data)
        if data.startswith(b"BM"):
            return _measure_bmp(data)
    except (IndexError, struct.error) as error:
        raise ValueError("the file is truncated") from error
    raise ValueError("the file is empty" if not data else "not a JPEG, PNG, WebP or BMP image")


def _measure_jpeg(data: bytes) -> tuple[int, int]:
    size = (0, 0)
    position = 2
    while True:
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker in _JPEG_FRAMES:
            size = struct.unpack_from(">HH", data, position + 5)
        if marker == _JPEG_SCAN:
            # A thumbnail before the scan has an end of its own, and behind the end anything may follow.
            _require(data.find(b"\xff\xd9", position) > 0)
            return size
        position += 2 + struct.unpack_from(">H", data, position + 2)[0]


def _measure_png(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from(">II", data, 16)
    _require(b"IEND" in data)
    return height, width


def _measure_webp(data: bytes) -> tuple[int, int]:
    _require(len(data) >= 8 + struct.unpack_from("<I", data, 4)[0])
    chunk = data[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(data[27:30], "little"), 1 + int.from_bytes(data[24:27], "little")
    if chunk == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
    width, height = struct.unpack_from("<HH", data, 26)
    return height & 0x3FFF, width & 0x3FFF


def _measure_bmp(data: bytes) -> tuple[int, int]:
    _require(len(data) >= struct.unpack_from("<I", data, 2)[0])
    width, height = struct.unpack_from("<ii", data, 18)
    return abs(height), abs(width)


def _require(complete: bool) -> None:
    if not complete:
        raise ValueError("the file is truncated")
