"""Limiting how often a client may try API keys."""

from __future__ import annotations

import math
import time
from collections import OrderedDict

MOST_WRONG = 10  # wrong keys in a row after which a client must wait
SECONDS = 60.0
MOST_CLIENTS = 10_000  # clients that are remembered; those with the oldest attempts are forgotten first


class Attempts:
    """Counts the wrong keys of each client."""

    def __init__(self) -> None:
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def note(self, client: str) -> None:
        """Record a wrong key."""
        count, last = self._wrong.pop(client, (0, 0.0))
        now = time.monotonic()
        self._wrong[client] = (count + 1 if now - last < SECONDS else 1), now
        while len(self._wrong) > MOST_CLIENTS:
            self._wrong.popitem(last=False)

    def wait(self, client: str) -> int:
        """Return how many seconds a client must wait before it may try again; 0 if it need not wait."""
        count, last = self._wrong.get(client, (0, 0.0))
        return math.ceil(max(0.0, last + SECONDS - time.monotonic())) if count >= MOST_WRONG else 0
