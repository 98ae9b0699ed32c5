"""Reading the image files that rows of a gallery refer to, and no other files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from sfsc.errors import SfscError
from sfsc.images.boxes import split_box
from sfsc.images.reading import MEMBER, CorruptImage, as_png, decode_bytes, read_image, split_member

MEDIA_TYPES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png", b"BM": "image/bmp"}
PART_MEMORY = 300_000_000  # bytes for decoding an image of which a part is shown
URI = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]{0,31}://")


def media_type(data: bytes) -> str | None:
    """Return the media type of an image file from its first bytes; None for other files."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((name for start, name in MEDIA_TYPES.items() if data.startswith(start)), None)


def common_folder(paths: Iterable[str]) -> Path | None:
    """Return the deepest folder that contains all local files among the paths; None if that is the root."""
    files = ((split_member(path) or (path,))[0] for path in paths if _is_local(path))
    folders = {os.path.split(os.path.abspath(file))[0] for file in files}
    common = Path(os.path.commonpath(folders)) if folders else None
    return None if common is None or common == Path(common.anchor) else common


def is_uri(path: str) -> bool:
    """Return whether a row's path is a URI. URIs are never opened."""
    return URI.match(path) is not None


def _is_local(path: str) -> bool:
    """Return whether a path can name a local file; relative paths would depend on the working folder."""
    return not is_uri(path) and Path(path).is_absolute()


class RowImages:
    """The images of rows that are in certain folders of this machine."""

    def __init__(self, roots: Sequence[Path]) -> None:
        """Allow these folders. Links that lead out of them are not followed."""
        self._roots = [root.resolve() for root in roots]

    def has(self, path: str) -> bool:
        """Return whether a row's path names a file in one of the folders, or a member of an archive there."""
        return self._real(path) is not None

    def read(self, path: str) -> bytes:
        """Return the bytes of a row's image; of a part of an image, those of a PNG file of this part.

        Raises:
            CorruptImage: the path does not name an image file in one of the folders, or a part outside of it.
        """
        _, box = split_box(path)
        real = self._real(path)
        if real is None:
            raise CorruptImage(path, "this service has no such file")
        data = read_image(real)
        if media_type(data) is None:
            raise CorruptImage(path, "not a JPEG, PNG, WebP or BMP image")
        return data if box is None else as_png(decode_bytes(data, path, None, PART_MEMORY, box))

    def _real(self, path: str) -> str | None:
        """Return the path with links resolved if it names a file in one of the folders, otherwise None."""
        path, _ = split_box(path)
        if not _is_local(path):
            return None
        try:
            file, member = split_member(path) or (path, "")
            real = Path(file).resolve(strict=True)
        except (OSError, ValueError):  # the file is missing, or its name is too long or contains a zero byte
            return None
        inside = real.is_file() and any(real.is_relative_to(root) for root in self._roots)
        return f"{real}{MEMBER}{member}" if inside and member else str(real) if inside else None


def check_path(path: str, image: bytes | None) -> None:
    """Refuse to store a path that would reveal a file that the client does not have.

    `image` is the file that the client has sent, or None if it has sent none.

    The file of a row is sent to every client that requests it. A client may therefore only name a URI, which
    is never opened, or a local file with exactly the bytes that it has sent. The error does not tell whether
    another file exists.

    Raises:
        SfscError: the path is neither.
    """
    if is_uri(path):
        return
    if image is None:
        raise SfscError(f"path {path}: give a URI such as https://..., or send the image itself to /rows")
    if not (_is_local(path) and _holds(Path(path), image)):
        raise SfscError(
            f"path {path}: give a URI such as https://..., or the absolute path of this image on the "
            "service's machine"
        )


def _holds(file: Path, data: bytes) -> bool:
    try:
        return file.is_file() and file.stat().st_size == len(data) and file.read_bytes() == data
    except (OSError, ValueError):
        return False
