"""Threads with a bounded queue, which run slow work outside the event loop or refuse it at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Any, TypeVar

Result = TypeVar("Result")


class Busy(Exception):
    """Raised if the queue of a worker is full."""


class Worker:
    """Runs functions in its threads, in the order of their arrival."""

    def __init__(self, name: str, threads: int, waiting: int) -> None:
        """Allow up to `waiting` functions to wait while all `threads` are busy. No thread is started yet."""
        self.name = name
        self._limit = threads + waiting
        self._threads = threads
        self._accepted = 0
        self._lock = Lock()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)

    @property
    def waiting(self) -> int:
        """The number of functions that wait for a thread."""
        return max(0, self._accepted - self._threads)

    async def run(self, work: Callable[[], Result]) -> Result:
        """Run `work` in a thread and return its result; raise `Busy` if the queue is full."""
        with self._lock:
            if self._accepted >= self._limit:
                raise Busy(self.name)
            self._accepted += 1
        future = self._pool.submit(work)
        # The work of a cancelled request continues, so its place only becomes free when the work is done.
        future.add_done_callback(self._release)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Finish all accepted work."""
        self._pool.shutdown()

    def _release(self, _: Future[Any]) -> None:
        with self._lock:
            self._accepted -= 1
