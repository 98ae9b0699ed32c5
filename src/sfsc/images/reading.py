"""Reading and writing image files: the single decoder of training, export and serving."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from sfsc.errors import SfscError
from sfsc.files.writing import write_atomic
from sfsc.images.archives import ArchiveError, read_member
from sfsc.images.boxes import Box, split_box
from sfsc.images.header import ImageHeader, read_header
from sfsc.images.jpeg import DAMAGED
from sfsc.images.names import printable
from sfsc.images.pixels import decode_pixels
from sfsc.notation import Size

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
MEMBER = "::"
MAX_PIXELS = 100_000_000
MAX_MEMORY = 1_000_000_000  # maximum bytes to decode one image; a service allows less
MAX_FILE = 500_000_000  # maximum bytes of an image file
SPARE = 4  # a JPEG is reduced to no less than this many times the wanted size while it is decoded


class CorruptImage(SfscError):
    """Raised or returned for an image that cannot be read: `path` names it, `reason` says why."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return printable(f"{self.path}: {self.reason}")


def decode(path: str, size: Size | None) -> np.ndarray:
    """Read an image as (height, width, 3) uint8 RGB.

    Args:
        path: the path of an image file, or `archive.zip::member` for a member of an archive. Either can be
            followed by a box, as in `photo.jpg#xywh=10,20,64,48`, for a part of the image.
        size: the (height, width) to resize the image to, or None for the image's own size.

    Raises:
        CorruptImage: the file is missing, or `decode_bytes` refuses it.

    Example::

        pixels = decode("query.jpg", (64, 64))
    """
    [image] = decode_to(path, [size]).values()
    return image


def decode_to(path: str, sizes: Iterable[Size | None]) -> dict[Size | None, np.ndarray]:
    """Read an image once, in several sizes: for each what `decode` returns, (height, width, 3) uint8 RGB.

    Raises:
        CorruptImage: as for `decode`.
    """
    file, box = split_box(path)
    return decode_sizes(read_image(file), path, sizes, box=box)


def decode_bytes(
    data: bytes,
    name: str,
    size: Size | None,
    memory: int = MAX_MEMORY,
    box: Box | None = None,
) -> np.ndarray:
    """Decode the bytes of an image file to (height, width, 3) uint8 RGB.

    Grayscale becomes RGB, 16 bits become 8, transparent images are blended with white, and the EXIF
    orientation is applied.

    Args:
        data: the bytes of the file.
        name: the name of the image in error messages.
        size: the (height, width) to resize the image to, or None for the image's own size.
        memory: the maximum number of bytes for decoding.
        box: the part of the image to return, in pixels of the upright image, or None for the whole image.

    Raises:
        CorruptImage: the box is not inside the image, or the file is empty, truncated, damaged or not an
            image, has more than MAX_PIXELS, or would need more memory than allowed. The last two are found
            before anything is decoded.
    """
    [image] = decode_sizes(data, name, [size], memory, box).values()
    return image


def decode_sizes(
    data: bytes,
    name: str,
    sizes: Iterable[Size | None],
    memory: int = MAX_MEMORY,
    box: Box | None = None,
) -> dict[Size | None, np.ndarray]:
    """Decode the bytes of an image file to several sizes, otherwise as `decode_bytes`.

    The file is decoded once, or a JPEG once for each reduction that is sufficient for one of the sizes.

    Returns:
        For each size what `decode_bytes` returns, (height, width, 3) uint8 RGB.
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
        reductions = {size: 1 if box else _reduction(header, size) for size in sizes}
        images = {one: decode_pixels(data, header, one) for one in {*reductions.values()}}
        images = images if box is None else {1: box.of(images[1])}
    except (ValueError, cv2.error) as error:
        reason = str(error) if isinstance(error, ValueError) else DAMAGED
        raise CorruptImage(name, reason) from error
    return {
        size: images[one] if size is None else _resize(images[one], size) for size, one in reductions.items()
    }


def read_image(path: str) -> bytes:
    """Return the bytes of an image file or of `archive.zip::member`; raise `CorruptImage` if missing."""
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
    except ValueError as error:  # a zero byte, or a name that the file system cannot encode
        raise CorruptImage(path, "a file cannot have this name") from error


def split_member(path: str) -> tuple[str, str] | None:
    """Split `archive.zip::member` into archive and member; return None if `path` is the path of a file.

    "::" can be part of any name: a file with exactly this path comes first, then the shortest archive that
    exists.
    """
    if MEMBER not in path or os.path.isfile(path):
        return None
    places = [match.start() for match in re.finditer(f"(?={MEMBER})", path)]
    splits = [(path[:place], path[place + len(MEMBER) :]) for place in places]
    return next((split for split in splits if os.path.isfile(split[0])), None)


def absolute(path: str) -> str:
    """Return the absolute path of an image without ".."; the name of a member is not changed."""
    archive, *member = split_member(path) or (path,)
    return MEMBER.join([os.path.abspath(archive), *member])  # Path.absolute keeps ".."


def write_png(path: Path, image: np.ndarray) -> None:
    """Write a (height, width, 3) uint8 RGB array as a PNG file, atomically."""
    write_atomic(path, as_png(image))


def as_png(image: np.ndarray) -> bytes:
    """Encode a (height, width, 3) uint8 RGB array as PNG; the same array gives the same bytes."""
    encoded: bytes = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()
    return encoded


def _reduction(header: ImageHeader, size: Size | None) -> int:
    """Return by how much a JPEG may be reduced while it is decoded: the rest is left to `_resize`.

    Resizing from at least `SPARE` times the size hides that the two average pixels in different ways. Sides
    that are no multiples are not reduced, because the last pixel would cover less than the others.
    """
    sides = header.height, header.width
    spare = 1 if size is None else min(sides) // (SPARE * max(size))
    return next((one for one in (4, 2) if one <= spare and not any(side % one for side in sides)), 1)


def _resize(image: np.ndarray, size: Size) -> np.ndarray:
    height, width = size
    if image.shape[:2] == size:
        return image
    shrinks = height <= image.shape[0] and width <= image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
