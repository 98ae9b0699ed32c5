"""Following the changes of a gallery beside its searches, so that a search seldom has to do it first."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

OFTEN, SELDOM = 0.001, 0.02  # seconds between two looks, while there are changes and without any
LATELY = 1.0  # seconds after a change in which more are expected
UNUSED = 10.0  # seconds without a search, after which the thread ends


class Follower:
    """Calls a function again and again in a thread of its own, while searches come."""

    def __init__(self, follow: Callable[[], bool]) -> None:
        """Call `follow`, which returns whether anything has changed and raises nothing."""
        self._follow = follow
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._searched = 0.0

    def searched(self) -> None:
        """Say that a search came: start the thread, or keep it running. Call it while a lock is held."""
        self._searched = time.monotonic()
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="gallery follower")
            self._thread.start()

    def close(self) -> None:
        """End the thread, and wait for its end."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        changed = time.monotonic()
        while self._wanted(now := time.monotonic()):
            if self._follow():
                changed = now
            self._closed.wait(OFTEN if now - changed < LATELY else SELDOM)

    def _wanted(self, now: float) -> bool:
        """Return whether to go on: a thread that does not end would also keep the program from its end."""
        ended = self._closed.is_set() or not threading.main_thread().is_alive()
        return not ended and now - self._searched < UNUSED
