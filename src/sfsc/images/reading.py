"""Image files to arrays and back: the one decoder of training, export and serving."""

from __future__ import annotations

import os
import re
from pathlib import Path

import cv2
import numpy as np

from sfsc.errors import SfscError
from sfsc.files.writing import write_atomic
from sfsc.images.archives import ArchiveError, read_member
from sfsc.images.header import read_header
from sfsc.images.jpeg import DAMAGED
from sfsc.images.names import printable
from sfsc.images.pixels import decode_pixels

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
MEMBER = "::"
MAX_PIXELS = 100_000_000
MAX_MEMORY = 1_000_000_000  # bytes that decoding one image may take; a service allows less
MAX_FILE = 500_000_000  # bytes of an image file


class CorruptImage(SfscError):
    """An image that cannot be read: `path` names it, `reason` says why."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return printable(f"{self.path}: {self.reason}")


def decode(path: str, size: tuple[int, int] | None) -> np.ndarray:
    """Read an image as (height, width, 3) uint8 RGB, stretched to `size` (height, width) if given.

    `archive.zip::member` reads a member of an archive. Raises CorruptImage if the file is missing, or as
    `decode_bytes` does.
    """
    return decode_bytes(read_image(path), path, size)


def decode_bytes(
    data: bytes, name: str, size: tuple[int, int] | None, memory: int = MAX_MEMORY
) -> np.ndarray:
    """Turn an image file into (height, width, 3) uint8 RGB, stretched to `size` (height, width) if given.

    Grayscale becomes RGB, 16 bits become 8, transparency is laid on white, and the EXIF orientation is
    applied.

    Args:
        data: the file.
        name: what an error names.
        size: (height, width) of the result; None for the image's own.
        memory: how many bytes decoding may take.

    Raises:
        CorruptImage: the file is empty, truncated, damaged or no image; or, before anything is decoded, it
            has more than MAX_PIXELS or takes more memory than it may.
    """
    try:
        header = read_header(data)
        if header.pixels > MAX_PIXELS:
            raise ValueError(
                f"{header.width} x {header.height} pixels are more than the limit of {MAX_PIXELS}"
            )
        if header.memory > memory:
            raise ValueError(
                f"{header.width} x {header.height} pixels need {header.memory / 1e6:.0f} MB to decode, which "
                f"is more than the limit of {memory / 1e6:.0f} MB: make it smaller"
            )
        image = decode_pixels(data, header)
    except (ValueError, cv2.error) as error:
        reason = str(error) if isinstance(error, ValueError) else DAMAGED
        raise CorruptImage(name, reason) from error
    return image if size is None else _resize(image, size)


def read_image(path: str) -> bytes:
    """The bytes of an image file, or of `archive.zip::member`; CorruptImage where there is none."""
    try:
        inside = split_member(path)
        if inside is not None:
            return read_member(*inside, MAX_FILE)
        if Path(path).stat().st_size > MAX_FILE:
            raise CorruptImage(path, f"the file is larger than the limit of {MAX_FILE / 1e6:.0f} MB")
        return Path(path).read_bytes()
    except ArchiveError as error:
        raise CorruptImage(path, error.reason) from error
    except FileNotFoundError as error:
        raise CorruptImage(path, "no such file") from error
    except OSError as error:
        raise CorruptImage(path, f"cannot be read ({error.strerror or error})") from error
    except ValueError as error:  # a zero byte, or what no file system can write
        raise CorruptImage(path, "a file cannot have this name") from error


def split_member(path: str) -> tuple[str, str] | None:
    """The archive and the member that `archive.zip::member` names; None where `path` is that of a file.

    "::" may stand in any name: a file that has exactly this path comes first, then the shortest archive
    that exists.
    """
    if MEMBER not in path or os.path.isfile(path):
        return None
    places = [match.start() for match in re.finditer(f"(?={MEMBER})", path)]
    splits = [(path[:place], path[place + len(MEMBER) :]) for place in places]
    return next((split for split in splits if os.path.isfile(split[0])), None)


def absolute(path: str) -> str:
    """The absolute path of an image, without ".."; the name of a member stays as it is."""
    archive, *member = split_member(path) or (path,)
    return MEMBER.join([os.path.abspath(archive), *member])  # Path.absolute keeps ".."


def write_png(path: Path, image: np.ndarray) -> None:
    """Write what `as_png` gives, as `write_atomic` does."""
    write_atomic(path, as_png(image))


def as_png(image: np.ndarray) -> bytes:
    """Encode a (height, width, 3) uint8 RGB array; the same array gives the same bytes."""
    encoded: bytes = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()
    return encoded


def _resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    if image.shape[:2] == size:
        return image
    shrinks = height <= image.shape[0] and width <= image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
