"""JPEG files: what their markers say, and whether the picture is whole.

Where data are missing, OpenCV fills the picture with gray if a marker follows, and refuses the file if
nothing does. So the data of a picture are decoded without what follows them.
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
# No picture needs more; a file that has more was made to keep its reader busy.
_MOST_SEGMENTS, _MOST_SCANS, _MOST_COMPONENTS = 10_000, 256, 4
# The decoder looks so many bytes ahead. Where it needs them, these two make different pictures.
_AHEAD, _OTHER_AHEAD = b"\x55" * 8, b"\xaa" * 8
_FILLER = bytes(73 * place % 251 for place in range(512))
# Some cameras write more bytes than the picture needs: so many are let pass, or one in so many.
_LEAST_SPARE, _MOST_SPARE, _SPARE_SHARE = 16, 512, 32
_ZEROS = 16  # so many at the end of a scan are padding, or stand where data should be


class Scan(NamedTuple):
    """Where the entropy-coded data of a scan lies in the file."""

    start: int
    end: int


@dataclass(frozen=True)
class Jpeg:
    """What the markers of a JPEG file say.

    Attributes:
        height: in pixels.
        width: in pixels.
        scan: the last one.
        single: whether it is the only one.
        complete: whether the scans send all bits of all coefficients.
        ended: whether a marker follows the last scan.
        arithmetic: whether the scans are coded otherwise than by Huffman, as hardly any file is.
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
        ValueError: they end before the first scan or within a segment, or contradict each other.
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
    ended = scans[-1].end < len(data)
    return Jpeg(height, width, scans[-1], len(scans) == 1, complete, ended, frame in _ARITHMETIC)


def decode_jpeg(data: bytes, jpeg: Jpeg) -> np.ndarray:
    """Decode a JPEG file to (height, width, 3) uint8 RGB, turned as its EXIF data say.

    Args:
        data: the file.
        jpeg: what `read_jpeg` says of it.

    Raises:
        ValueError: the file is truncated or damaged.
    """
    decode = _decode_single if jpeg.single and not jpeg.arithmetic else _decode_last
    picture = decode(data, jpeg) if jpeg.complete else None
    if picture is None:
        raise ValueError(DAMAGED if jpeg.ended else TRUNCATED)
    return picture


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Code, begin and end of each segment before the end marker.

    Between segments there may be fill bytes alone. Where there is something else, before the first scan, two
    readers may take different bytes for the size of the picture.
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
    """The scan whose data begin here; ValueError where its restart markers are out of order."""
    end = _next(_MARKER_BUT_RESTART if restarts else _MARKER, data, start)
    numbers = [code[1] - 0xD0 for code in _RESTART.findall(data, start, end)] if restarts else []
    if any(number != place % 8 for place, number in enumerate(numbers)):
        raise ValueError(DAMAGED)
    return Scan(start, end)


def _next(marker: re.Pattern[bytes], data: bytes, position: int) -> int:
    """Where the first such marker begins, or the end of the file."""
    match = marker.search(data, position)
    return len(data) if match is None else match.start()


def _note_sent(sent: dict[int, list[int]], header: bytes, progressive: bool) -> None:
    """Note for each component the lowest bit that was sent of its 64 coefficients, as a scan's header says.

    Raises ValueError where a scan of a progressive file repeats or skips bits.
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


def _decode_single(data: bytes, jpeg: Jpeg) -> np.ndarray | None:
    """The picture of one scan; None where it lacks data, or its scan has much more than it needs."""
    start, end = jpeg.scan
    picture = _decode(data[:end] + _AHEAD)
    if picture is None or not (jpeg.ended or _shows(data[:end] + _OTHER_AHEAD, picture)):
        return None
    zeros = _count_zeros(data, jpeg.scan)
    if zeros >= _ZEROS and _decodes(data[: end - zeros + 1 + len(_AHEAD)]):  # they are padding
        return picture
    share = 0 if zeros >= _ZEROS else min(_MOST_SPARE, (end - start) // _SPARE_SHARE)
    return None if _decodes(data[: end - max(_LEAST_SPARE, share)]) else picture


def _decode_last(data: bytes, jpeg: Jpeg) -> np.ndarray | None:
    """The picture of many scans; None where the decoder finds it damaged, or the last scan lacks data.

    For the latter the data are decoded with others behind them, which must alter nothing. libjpeg remarks on
    these on standard error, so it is done only where there is no end marker, or zeros stand before it.
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
    """How many bytes at the end of a scan are 0."""
    content = data[scan.start : scan.end]
    return len(content) - len(content.rstrip(b"\0"))


def _decode(data: bytes, flags: int = cv2.IMREAD_COLOR_RGB) -> np.ndarray | None:
    return cv2.imdecode(np.frombuffer(data, np.uint8), flags)


def _decodes(data: bytes) -> bool:
    """Whether a file without an end marker has all data that its picture needs."""
    return _decode(data, cv2.IMREAD_REDUCED_COLOR_8 | cv2.IMREAD_IGNORE_ORIENTATION) is not None


def _shows(data: bytes, picture: np.ndarray) -> bool:
    """Whether a file shows this picture."""
    other = _decode(data)
    return other is not None and np.array_equal(other, picture)
