"""Threads with a bounded queue: what takes long is done beside the event loop, or refused at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Any, TypeVar

Result = TypeVar("Result")


class Busy(Exception):
    """As much is waiting already as the queue may hold."""


class Worker:
    """Runs functions in its threads, in the order in which they came."""

    def __init__(self, name: str, threads: int, waiting: int) -> None:
        """Start no thread yet; `waiting` functions may wait while every one of `threads` is at work."""
        self.name = name
        self._limit = threads + waiting
        self._threads = threads
        self._accepted = 0
        self._lock = Lock()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)

    @property
    def waiting(self) -> int:
        """How many functions wait for a thread."""
        return max(0, self._accepted - self._threads)

    async def run(self, work: Callable[[], Result]) -> Result:
        """What `work` returns or raises; `Busy` where the queue is full."""
        with self._lock:
            if self._accepted >= self._limit:
                raise Busy(self.name)
            self._accepted += 1
        future = self._pool.submit(work)
        # A request that is given up leaves its work behind: the place is free when that is done, not before.
        future.add_done_callback(self._release)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Finish all that was accepted."""
        self._pool.shutdown()

    def _release(self, _: Future[Any]) -> None:
        with self._lock:
            self._accepted -= 1
