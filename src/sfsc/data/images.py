"""Image files to arrays and back: the one decoder of training, export and serving."""

from __future__ import annotations

import os
import zipfile
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from sfsc.data.image_header import read_header
from sfsc.data.jpeg import DAMAGED
from sfsc.data.pixels import decode_pixels
from sfsc.errors import SfscError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
MEMBER = "::"
MAX_PIXELS = 100_000_000


class CorruptImage(SfscError):
    """An image that cannot be read: `path` names it, `reason` says why."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def decode(path: str, size: tuple[int, int] | None) -> np.ndarray:
    """Read an image as (height, width, 3) uint8 RGB, stretched to `size` (height, width) if given.

    `archive.zip::member` reads a member of an archive. Raises CorruptImage if the file is missing, or as
    `decode_bytes` does.
    """
    return decode_bytes(read_image(path), path, size)


def decode_bytes(data: bytes, name: str, size: tuple[int, int] | None) -> np.ndarray:
    """Turn an image file into (height, width, 3) uint8 RGB, stretched to `size` (height, width) if given.

    Grayscale becomes RGB, 16 bits become 8, transparency is laid on white, and the EXIF orientation is
    applied. Raises CorruptImage, with this name, if the file is empty, truncated, damaged, no image, or has
    more than MAX_PIXELS; the last before anything is decoded.
    """
    try:
        header = read_header(data)
        if header.height * header.width > MAX_PIXELS:
            raise ValueError(
                f"{header.width} x {header.height} pixels are more than the limit of {MAX_PIXELS}"
            )
        image = decode_pixels(data, header)
    except (ValueError, cv2.error) as error:
        reason = str(error) if isinstance(error, ValueError) else DAMAGED
        raise CorruptImage(name, reason) from error
    return image if size is None else _resize(image, size)


def read_image(path: str) -> bytes:
    """The bytes of an image file, or of `archive.zip::member`; CorruptImage where there is none."""
    archive, separator, member = path.partition(MEMBER)
    try:
        if not separator:
            return Path(path).read_bytes()
        return _open_archive(archive, Path(archive).stat().st_mtime_ns, os.getpid()).read(member)
    except FileNotFoundError as error:
        raise CorruptImage(path, "no such file") from error
    except KeyError as error:
        raise CorruptImage(path, "no such member in the archive") from error
    except (OSError, zipfile.BadZipFile) as error:
        raise CorruptImage(path, f"cannot be read ({error})") from error


def find_images(path: Path) -> list[str]:
    """The image at `path`, or those in the folder `path` and below, sorted; SfscError if there is none."""
    if path.is_file():
        return [str(path)]
    found = sorted(str(file) for file in path.rglob("*") if is_image(file))
    if not found:
        raise SfscError(f"{path} holds no images: expected {', '.join(sorted(SUFFIXES))}")
    return found


def is_image(path: Path) -> bool:
    """Whether `path` is a file with the name of an image; hidden files are none."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def write_png(path: Path, image: np.ndarray) -> None:
    """Write a (height, width, 3) uint8 RGB array; the same array gives the same bytes.

    Its folder is made where it is missing; SfscError where that or the file cannot be written.
    """
    _, encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded.tobytes())
    except OSError as error:
        raise SfscError(f"cannot write {path}: {error.strerror}") from None


@lru_cache(maxsize=8)
def _open_archive(archive: str, modified: int, process: int) -> zipfile.ZipFile:
    """An archive stays open, but never across a fork: the processes would share one file position."""
    return zipfile.ZipFile(archive)


def _resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    if image.shape[:2] == size:
        return image
    shrinks = height <= image.shape[0] and width <= image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
