"""Reading the markers of JPEG files, and decoding files only if the picture is complete.

If image data is missing, OpenCV fills the picture with gray if a marker follows, and refuses the file if
nothing follows. The data of a picture is therefore decoded without the bytes that follow it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

TRUNCATED, DAMAGED = "the file is truncated", "the image data is damaged"
_END = b"\xff\xd9"
_EOI, _SOS, _DRI = 0xD9, 0xDA, 0xDD
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_ARITHMETIC = frozenset(range(0xC9, 0xD0))
_WITHOUT_LENGTH = frozenset({0x01, 0xD8})
_MARKER = re.compile(rb"\xff[^\x00\xff]")
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_MARKER_BUT_RESTART = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_UNSENT = 255
# No picture needs more than this. A file that exceeds it was made to waste the time of its reader.
_MOST_SEGMENTS, _MOST_SCANS, _MOST_COMPONENTS = 10_000, 256, 4
# The decoder looks ahead by 8 bytes. If the picture depends on them, these two give different pictures.
_AHEAD, _OTHER_AHEAD = b"\x55" * 8, b"\xaa" * 8
_FILLER = bytes(73 * place % 251 for place in range(512))
# Some cameras write more bytes than the picture needs. One byte in 32 is accepted, within these limits.
_LEAST_SPARE, _MOST_SPARE, _SPARE_SHARE = 16, 512, 32
_REDUCED = {
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_4,
}
_ZEROS = 16  # this many zeros at the end of a scan are padding, or replace missing data


class Scan(NamedTuple):
    """The position of the entropy-coded data of a scan in the file."""

    start: int
    end: int


@dataclass(frozen=True)
class Jpeg:
    """The information in the markers of a JPEG file.

    Attributes:
        height: the height in pixels.
        width: the width in pixels.
        scan: the last scan.
        single: whether the file has only one scan.
        complete: whether the scans contain all bits of all coefficients.
        ended: whether a marker follows the last scan.
        arithmetic: whether the scans use arithmetic coding instead of Huffman coding, which is rare.
    """

    height: int
    width: int
    scan: Scan
    single: bool
    complete: bool
    ended: bool
    arithmetic: bool


def read_jpeg(data: bytes) -> Jpeg:
    """Read the markers of a JPEG file, up to the last scan of the picture.

    Raises:
        ValueError: the file ends before the first scan or within a segment, or its markers contradict each
            other.
        IndexError, struct.error: a segment is too short.
    """
    frame, height, width, components, restarts = 0, 0, 0, 0, 0
    sent: dict[int, list[int]] = {}
    scans: list[Scan] = []
    complete = False
    for code, start, end in _segments(data):
        if code in _FRAMES:
            if frame:
                raise ValueError(DAMAGED)
            frame = code
            height, width, components = struct.unpack_from(">HHB", data, start + 3)
        elif code == _DRI:
            (restarts,) = struct.unpack_from(">H", data, start + 2)
        elif code == _SOS:
            scans.append(_scan(data, end, restarts > 0))
            _note_sent(sent, data[start + 2 : end], frame in _PROGRESSIVE)
            complete = len(sent) == components and not any(map(any, sent.values()))
            if complete or len(scans) == _MOST_SCANS:
                break
    if not scans:
        raise ValueError(TRUNCATED)
    ended = bool(data[scans[-1].end :].strip(b"\xff"))
    return Jpeg(height, width, scans[-1], len(scans) == 1, complete, ended, frame in _ARITHMETIC)


def decode_jpeg(data: bytes, jpeg: Jpeg, reduction: int = 1) -> np.ndarray:
    """Decode a JPEG file to (height, width, 3) uint8 RGB with the EXIF orientation applied.

    Args:
        data: the file.
        jpeg: its markers, from `read_jpeg`.
        reduction: 1, or 2 or 4 to decode straight to a half or a quarter of each side, rounded up, which is
            faster. Files of several scans, and those that end with their image data, are not reduced.

    Raises:
        ValueError: the file is truncated or damaged.
    """
    picture = None
    if jpeg.complete and jpeg.single and not jpeg.arithmetic:
        picture = _decode_single(data, jpeg, reduction if jpeg.ended else 1)
    elif jpeg.complete:
        picture = _decode_last(data, jpeg)
    if picture is None:
        raise ValueError(DAMAGED if jpeg.ended else TRUNCATED)
    return picture


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the code, start and end of each segment before the end marker.

    Only fill bytes are accepted between the segments before the first scan. With other bytes there, two
    readers could find different sizes for the picture.
    """
    position, scanned = 2, False
    for _ in range(_MOST_SEGMENTS):
        marker = _next(_MARKER_BUT_RESTART, data, position)
        if data[position:marker].strip(b"\xff") and not scanned:
            raise ValueError(DAMAGED)
        if marker == len(data) or data[marker + 1] == _EOI:
            return
        scanned = scanned or data[marker + 1] == _SOS
        code, start = data[marker + 1], marker + 2
        position = start if code in _WITHOUT_LENGTH else start + struct.unpack_from(">H", data, start)[0]
        if position > len(data):
            raise ValueError(TRUNCATED)
        yield code, start, position
    raise ValueError(DAMAGED)


def _scan(data: bytes, start: int, restarts: bool) -> Scan:
    """Return the scan whose data begins at `start`; raise `ValueError` if restart markers are unordered."""
    end = _next(_MARKER_BUT_RESTART if restarts else _MARKER, data, start)
    numbers = [code[1] - 0xD0 for code in _RESTART.findall(data, start, end)] if restarts else []
    if any(number != place % 8 for place, number in enumerate(numbers)):
        raise ValueError(DAMAGED)
    # Coded data never ends with 0xFF. What is there is a fill byte, or half of a pair of bytes that was cut:
    # with other bytes behind it, the decoder would take it for the beginning of a marker.
    return Scan(start, start + len(data[start:end].rstrip(b"\xff")))


def _next(marker: re.Pattern[bytes], data: bytes, position: int) -> int:
    """Return the position of the next such marker, or the end of the file."""
    match = marker.search(data, position)
    return len(data) if match is None else match.start()


def _note_sent(sent: dict[int, list[int]], header: bytes, progressive: bool) -> None:
    """Record the lowest bit sent so far for the 64 coefficients of each component in the header of a scan.

    Raise `ValueError` if a scan of a progressive file repeats or skips bits.
    """
    count = header[0]
    if count > _MOST_COMPONENTS:
        raise ValueError(DAMAGED)
    first, last, bits = struct.unpack_from("3B", header, 1 + 2 * count) if progressive else (0, 63, 0)
    before, now = bits >> 4 or _UNSENT, bits & 15
    for component in header[1 : 1 + 2 * count : 2]:
        lowest = sent.setdefault(component, [_UNSENT] * 64)
        if progressive and set(lowest[first : last + 1]) != {before}:
            raise ValueError(DAMAGED)
        lowest[first : last + 1] = [now] * (last + 1 - first)


def _decode_single(data: bytes, jpeg: Jpeg, reduction: int) -> np.ndarray | None:
    """Decode a picture of one scan; return None if data is missing or far too long."""
    start, end = jpeg.scan
    picture = _decode(data[:end] + _AHEAD, _REDUCED[reduction])
    if picture is None or not (jpeg.ended or _shows(data[:end] + _OTHER_AHEAD, picture)):
        return None
    zeros = _count_zeros(data, jpeg.scan)
    if zeros >= _ZEROS and _decodes(data[: end - zeros + 1 + len(_AHEAD)]):  # they are padding
        return picture
    share = 0 if zeros >= _ZEROS else min(_MOST_SPARE, (end - start) // _SPARE_SHARE)
    return None if _decodes(data[: end - max(_LEAST_SPARE, share)]) else picture


def _decode_last(data: bytes, jpeg: Jpeg) -> np.ndarray | None:
    """Decode a picture of several scans; return None if it is damaged or the last scan lacks data.

    To find missing data, the picture is decoded with other bytes after its data, which must not change it.
    libjpeg reports these bytes on standard error, so this is done only if no marker follows the last scan or
    if the scan ends with zeros.
    """
    picture = _decode(data if jpeg.ended else data + _END)
    zeros = _count_zeros(data, jpeg.scan)
    if picture is None or (jpeg.ended and zeros < _ZEROS):
        return picture

    def needs_no_more_than(end: int) -> bool:
        return _shows(data[:end] + _FILLER + _END, picture)

    end = jpeg.scan.end
    if not needs_no_more_than(end):
        return None
    stand_in = (
        zeros >= _ZEROS and not needs_no_more_than(end - zeros + 1) and needs_no_more_than(end - _ZEROS)
    )
    return None if stand_in else picture


def _count_zeros(data: bytes, scan: Scan) -> int:
    """Return the number of zero bytes at the end of a scan."""
    content = data[scan.start : scan.end]
    return len(content) - len(content.rstrip(b"\0"))


def _decode(data: bytes, flags: int = cv2.IMREAD_COLOR_RGB) -> np.ndarray | None:
    return cv2.imdecode(np.frombuffer(data, np.uint8), flags)


def _decodes(data: bytes) -> bool:
    """Return whether a file without an end marker contains all data that its picture needs."""
    return _decode(data, cv2.IMREAD_REDUCED_COLOR_8 | cv2.IMREAD_IGNORE_ORIENTATION) is not None


def _shows(data: bytes, picture: np.ndarray) -> bool:
    """Return whether a file decodes to this picture."""
    other = _decode(data)
    return other is not None and np.array_equal(other, picture)
