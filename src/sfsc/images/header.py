"""Reading the headers of image files before they are decoded: size, transparency and orientation."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from sfsc.images.jpeg import DAMAGED, TRUNCATED, Jpeg, read_jpeg

_ORIENTATION = 0x112
_PNG_DEPTHS = (1, 2, 4, 8, 16)
_GRAY, _GRAY_ALPHA, _RGBA = 0, 4, 6  # colour types of PNG
_BMP_CORE, _BMP_OS2 = 12, 64  # sizes of BMP headers
_BMP_WITH_ALPHA_MASK = 56
_BMP_PLAIN, _BMP_BITFIELDS, _BMP_ALPHA_BITFIELDS = 0, 3, 6  # compression methods of BMP


@dataclass(frozen=True)
class ImageHeader:
    """The header of an image file.

    Attributes:
        height: the height in pixels before the orientation is applied.
        width: the width in pixels before the orientation is applied.
        clear: whether pixels can be transparent.
        clear_gray: the decoded level of gray that is transparent, or None.
        orientation: the EXIF orientation to apply after decoding, 1 to 8. It is 1 for a JPEG, because its
            decoder applies the orientation.
        jpeg: the markers of a JPEG, or None for other formats.
        bytes_per_pixel: the maximum memory for decoding, in bytes per pixel.
    """

    height: int
    width: int
    clear: bool = False
    clear_gray: int | None = None
    orientation: int = 1
    jpeg: Jpeg | None = None
    bytes_per_pixel: int = 11  # four channels decoded, converted to three, and copied for the orientation

    @property
    def pixels(self) -> int:
        """The number of pixels."""
        return self.height * self.width

    @property
    def memory(self) -> int:
        """The maximum memory for decoding, in bytes."""
        return self.pixels * self.bytes_per_pixel


def read_header(data: bytes) -> ImageHeader:
    """Read the header of a JPEG, PNG, WebP or BMP file.

    Raises:
        ValueError: the file has another format or is truncated.
    """
    try:
        if data.startswith(b"\xff\xd8\xff"):
            jpeg = read_jpeg(data)
            # Memory for two pictures, and for all coefficients if several scans refine the picture.
            memory = 6 if jpeg.single else 14
            return ImageHeader(jpeg.height, jpeg.width, jpeg=jpeg, bytes_per_pixel=memory)
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return _read_png(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _read_webp(data)
        if data.startswith(b"BM"):
            return _read_bmp(data)
    except (IndexError, struct.error) as error:
        raise ValueError(TRUNCATED) from error
    raise ValueError("the file is empty" if not data else "not a JPEG, PNG, WebP or BMP image")


def _read_png(data: bytes) -> ImageHeader:
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    if data[8:16] != b"\0\0\0\rIHDR":
        raise ValueError(DAMAGED)
    transparency, orientation = None, 1
    for kind, start, end in _png_chunks(data):
        if kind == b"tRNS":
            transparency = data[start:end]
        elif kind == b"eXIf":
            orientation = _read_orientation(data[start:end])
    clear = transparency is not None or colour in (_GRAY_ALPHA, _RGBA)
    gray = _clear_gray(transparency, depth) if transparency is not None and colour == _GRAY else None
    memory = 18 if depth == 16 else 11
    return ImageHeader(height, width, clear, gray, orientation, bytes_per_pixel=memory)


def _clear_gray(transparency: bytes, depth: int) -> int:
    """Return the level of gray in a tRNS chunk, scaled to 8 bits, as the decoder scales fewer bits."""
    if depth not in _PNG_DEPTHS:
        raise ValueError(DAMAGED)
    (level,) = struct.unpack_from(">H", transparency)
    highest = 2**depth - 1
    return (level & highest) * (255 // highest if depth < 8 else 1)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind, start and end of each chunk before IEND; raise `ValueError` if that is missing."""
    position = 8
    while True:
        length, kind = struct.unpack_from(">I4s", data, position)
        start, position = position + 8, position + 12 + length
        _require(position <= len(data))
        if kind == b"IEND":
            return
        yield kind, start, start + length


def _read_webp(data: bytes) -> ImageHeader:
    end = 8 + struct.unpack_from("<I", data, 4)[0]
    _require(len(data) >= end)
    kind = data[12:16]
    if kind != b"VP8X":
        return _read_webp_picture(data, kind, 20)
    width, height = (1 + int.from_bytes(data[start : start + 3], "little") for start in (24, 27))
    orientation, position = 1, 12
    while position + 8 <= end:
        kind, length = struct.unpack_from("<4sI", data, position)
        if kind == b"EXIF":
            orientation = _read_orientation(data[position + 8 : position + 8 + length])
        elif kind in (b"VP8 ", b"VP8L"):
            picture = _read_webp_picture(data, kind, position + 8)
            if (picture.height, picture.width) != (height, width):
                raise ValueError(DAMAGED)
        position += 8 + length + length % 2
    return ImageHeader(height, width, clear=bool(data[20] & 0x10), orientation=orientation)


def _read_webp_picture(data: bytes, kind: bytes, start: int) -> ImageHeader:
    """Return the header of the compressed picture at `start`."""
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, start + 1)
        return ImageHeader(1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF), clear=bool(bits >> 28 & 1))
    width, height = struct.unpack_from("<HH", data, start + 6)
    return ImageHeader(height & 0x3FFF, width & 0x3FFF)


def _read_bmp(data: bytes) -> ImageHeader:
    (size,) = struct.unpack_from("<I", data, 14)
    if size == _BMP_CORE:
        width, height, _, bits = struct.unpack_from("<4H", data, 18)
        compression = _BMP_PLAIN
    else:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    if compression in (_BMP_PLAIN, _BMP_BITFIELDS, _BMP_ALPHA_BITFIELDS):
        (offset,) = struct.unpack_from("<I", data, 10)
        _require(len(data) >= offset + abs(height) * (-(-width * bits // 32) * 4))
    else:
        _require(len(data) >= struct.unpack_from("<I", data, 2)[0])
    has_mask = size >= _BMP_WITH_ALPHA_MASK and size != _BMP_OS2 and compression == _BMP_BITFIELDS
    alpha = bits == 32 and (has_mask or compression == _BMP_ALPHA_BITFIELDS)
    return ImageHeader(abs(height), abs(width), alpha and struct.unpack_from("<I", data, 66)[0] > 0)


def _read_orientation(exif: bytes) -> int:
    """Return the orientation in EXIF data, or 1 (unchanged) if it is missing."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    try:
        if order is None:
            return 1
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, start)
        for entry in range(start + 2, start + 2 + 12 * entries, 12):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, entry)
            if tag == _ORIENTATION:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _require(complete: bool) -> None:
    if not complete:
        raise ValueError(TRUNCATED)
