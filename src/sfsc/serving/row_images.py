"""The images that rows of a gallery name: read for the page and for queries, and nothing else with them."""

from __future__ import annotations

from pathlib import Path

from sfsc.data.images import MEMBER, CorruptImage, read_image
from sfsc.errors import SfscError

MEDIA_TYPES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png", b"BM": "image/bmp"}


def media_type(data: bytes) -> str | None:
    """The type of an image file by its first bytes; None for anything else."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((name for start, name in MEDIA_TYPES.items() if data.startswith(start)), None)


def has_image(path: str) -> bool:
    """Whether a row's path names a regular file on this machine, or a member of one; not what it holds."""
    try:
        return Path(path.partition(MEMBER)[0]).is_file()
    except OSError:  # a name that is too long
        return False


def row_image(path: str) -> bytes:
    """The bytes of a row's image; CorruptImage where the path is no image file on this machine."""
    if not has_image(path):
        raise CorruptImage(path, "this service has no such file")
    data = read_image(path)
    if media_type(data) is None:
        raise CorruptImage(path, "not a JPEG, PNG, WebP or BMP image")
    return data


def check_path(path: str, image: bytes) -> None:
    """Refuse to store a path that would show more of this machine's disk than the client has itself.

    A row's file is served to whoever asks for the row. So a client may name a URI, which is never opened, or
    a file here whose bytes it has just sent; that and no more is told of other files.

    Raises:
        SfscError: neither.
    """
    if "://" in path and not Path(path).is_absolute():
        return
    if not (Path(path).is_absolute() and _holds(Path(path), image)):
        raise SfscError(
            f"path {path}: give a URI such as https://..., or the absolute path of this image here"
        )


def _holds(file: Path, data: bytes) -> bool:
    try:
        return file.is_file() and file.stat().st_size == len(data) and file.read_bytes() == data
    except OSError:
        return False
