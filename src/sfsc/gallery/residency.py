"""Bounding how much of the mapped files of an index stays in memory."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Sequence
from threading import Lock

Span = tuple[int, int]  # the address and the size of mapped memory
C = ctypes.CDLL(None) if sys.platform == "linux" else None  # the C library
DONT_NEED = 4  # MADV_DONTNEED of Linux, for memory that is mapped from files and not written


class Residency:
    """Releases mapped memory whenever more of it may have been read than is allowed.

    The pages are dropped from this process; they can stay in the cache of the system, and are read again
    when they are needed. On systems other than Linux, nothing is released: the system drops pages itself when
    memory is short.
    """

    def __init__(self, most: float, spans: Sequence[Span]) -> None:
        """Allow `most` bytes of the memory at these spans."""
        self._most = most
        self._spans = spans
        self._read = 0
        self._lock = Lock()

    def touched(self, size: int) -> None:
        """Say that up to `size` bytes of the memory are read now."""
        with self._lock:
            self._read += size
            if self._read <= self._most:
                return
            self._read = size
        for address, length in self._spans:
            _release(address, length)


def _release(address: int, length: int) -> None:
    """Drop the pages of a span that lie in it as a whole."""
    start = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
    size = (address + length - start) // mmap.PAGESIZE * mmap.PAGESIZE
    if size > 0 and C is not None:
        C.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), DONT_NEED)
