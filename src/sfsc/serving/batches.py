"""Threads that work on requests together if these wait at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from threading import Lock
from typing import Any, Generic, TypeVar

from sfsc.errors import SfscError
from sfsc.gallery.store import StoreUnavailable
from sfsc.serving.worker import Busy

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(eq=False)
class _Waiting(Generic[Item]):
    """An item, the future of its request, the event loop of that, and what the work on the item returned."""

    item: Item
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    result: Any = None
    error: Exception | None = None


class Batches(Generic[Item, Result]):
    """Collects items while its threads are busy, and works on those that go together at once.

    If the work on several items is refused, each is tried alone, so that a wrong item fails only itself.
    """

    def __init__(
        self,
        name: str,
        threads: int,
        waiting: int,
        choose: Callable[[Sequence[Item]], list[int]],
        work: Callable[[list[Item]], list[Result]],
    ) -> None:
        """Allow up to `waiting` items to wait. No thread is started yet.

        Args:
            name: the name of the queue.
            threads: how many calls of `work` may run at the same time.
            waiting: the maximum number of items that wait.
            choose: returns the positions of the items to work on next, given all that wait, oldest first.
            work: returns the result for each item.
        """
        self.name = name
        self._threads = threads
        self._most = waiting
        self._choose = choose
        self._work = work
        self._running = 0
        self._queue: list[_Waiting[Item]] = []
        self._lock = Lock()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)

    @property
    def waiting(self) -> int:
        """The number of items that wait for a thread."""
        return len(self._queue)

    async def run(self, item: Item) -> Result:
        """Return the result of the work on `item`; raise `Busy` if the queue is full."""
        loop = asyncio.get_running_loop()
        waiting = _Waiting(item, loop.create_future(), loop)
        with self._lock:
            if len(self._queue) >= self._most:
                raise Busy(self.name)
            self._queue.append(waiting)
            if self._running < self._threads:
                self._pool.submit(self._drain)
                self._running += 1
        return await waiting.future

    def close(self) -> None:
        """Finish all accepted work."""
        self._pool.shutdown()

    def _drain(self) -> None:
        while chosen := self._taken():
            self._finish(chosen)
            for loop, done in groupby(chosen, attrgetter("loop")):
                with suppress(RuntimeError):  # the loop was closed, and nobody waits
                    loop.call_soon_threadsafe(_deliver, list(done))

    def _taken(self) -> list[_Waiting[Item]]:
        with self._lock:
            # A request that was cancelled before its turn has no effect.
            self._queue = [one for one in self._queue if not one.future.cancelled()]
            if not self._queue:
                self._running -= 1
                return []
            places = set(self._choose([one.item for one in self._queue]))
            chosen = [one for place, one in enumerate(self._queue) if place in places]
            self._queue = [one for place, one in enumerate(self._queue) if place not in places]
            return chosen

    def _finish(self, chosen: Sequence[_Waiting[Item]]) -> None:
        try:
            results = self._work([one.item for one in chosen])
        except Exception as error:  # noqa: BLE001, every request must get an answer
            if len(chosen) > 1 and isinstance(error, SfscError) and not isinstance(error, StoreUnavailable):
                for one in chosen:
                    self._finish([one])
                return
            for one in chosen:
                one.error = error
            return
        for one, result in zip(chosen, results, strict=True):
            one.result = result


def _deliver(done: Sequence[_Waiting[Any]]) -> None:
    """Give requests their results, in their event loop."""
    for one in done:
        if one.future.done():  # the request was cancelled
            continue
        if one.error is None:
            one.future.set_result(one.result)
        else:
            one.future.set_exception(one.error)
