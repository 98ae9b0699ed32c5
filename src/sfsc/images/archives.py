"""Reading members of zip files."""

from __future__ import annotations

import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from sfsc.errors import SfscError, first_line
from sfsc.images.names import printable

ENCRYPTED = 1  # the bit of a member's flags
# Errors of zipfile and its decompressors for bytes that are not a complete archive.
_DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, struct.error, OverflowError, ValueError)


class ArchiveError(SfscError):
    """Raised if a zip file or one of its members cannot be read; `reason` says why."""

    def __init__(self, archive: str, reason: str) -> None:
        super().__init__(archive, reason)
        self.archive = archive
        self.reason = reason

    def __str__(self) -> str:
        return printable(f"{self.archive}: {self.reason}")


def member_names(archive: str) -> list[str]:
    """Return the sorted names of an archive's members; raise `ArchiveError` if it cannot be read."""
    with _reported(archive):
        return sorted(_open(archive).namelist())


def read_member(archive: str, member: str, most: int) -> bytes:
    """Return the bytes of a member.

    Raises:
        ArchiveError: there is no such member, it has more than `most` bytes, or it cannot be read.
    """
    with _reported(archive):
        opened = _open(archive)
        try:
            info = opened.getinfo(member)
        except KeyError:
            raise ArchiveError(archive, "no such member in the archive") from None
        if info.flag_bits & ENCRYPTED:
            raise ArchiveError(archive, "the member is encrypted: unpack the archive with its password")
        if info.file_size > most:  # it is never inflated beyond the size in its header
            raise ArchiveError(archive, f"the member is larger than the limit of {most / 1e6:.0f} MB")
        return opened.read(info)


@contextmanager
def _reported(archive: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise ArchiveError(archive, "no such file") from None
    except OSError as error:
        raise ArchiveError(archive, f"cannot be read ({error.strerror or error})") from error
    except NotImplementedError as error:  # zipfile raises this for an unknown compression
        raise ArchiveError(archive, f"cannot be unpacked ({first_line(error)})") from error
    except _DAMAGED as error:
        raise ArchiveError(archive, f"is damaged or not a zip file ({first_line(error)})") from error


def _open(archive: str) -> zipfile.ZipFile:
    return _opened(archive, Path(archive).stat().st_mtime_ns, os.getpid())


@lru_cache(maxsize=8)
def _opened(archive: str, modified: int, process: int) -> zipfile.ZipFile:
    """Open an archive and keep it open, but not across a fork: processes would share one file position."""
    return zipfile.ZipFile(archive)
