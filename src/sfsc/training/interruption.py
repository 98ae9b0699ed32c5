"""Being asked to end: a step is completed first, so that what is saved is never half a step."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from sfsc.interruption import NUMBERS, Hold, held
from sfsc.training.distributed import World

PATIENCE = 20.0  # seconds; torchrun kills 30 seconds after it asked


class Interruption(Hold):
    """Whether this process was asked to end, and whether it has answered."""

    def __init__(self) -> None:
        super().__init__()
        self._answered = threading.Event()

    def note(self, number: int, _: FrameType | None) -> None:
        """Take note of a signal."""
        self.signal = signal.Signals(number)

    def answer(self) -> None:
        """Say that the step is over, or was given up: from here on the process ends by itself."""
        self._answered.set()

    def answered(self, seconds: float) -> bool:
        """Wait for the answer, so long at most."""
        return self._answered.wait(seconds)


@contextmanager
def interruptible(world: World) -> Iterator[Interruption]:
    """A context within which SIGINT and SIGTERM are noted instead of obeyed.

    One process alone holds them as `sfsc.interruption.held` does. Among several ranks, to which torchrun
    passes signals on, more than one is noted. A process that is not heard of for 20 seconds after, because it
    waits for a rank that hangs, says so in one line and ends with 2. Ranks that end by an exception go on
    noting signals: torchrun asks them to end while they still say why.
    """
    interruption = Interruption()
    if world.size == 1 or threading.current_thread() is not threading.main_thread():
        with held(interruption):
            yield interruption
        return
    before = {number: signal.signal(number, interruption.note) for number in NUMBERS}
    with _watched(interruption, world):
        yield interruption
    for number, handler in before.items():
        signal.signal(number, handler)


@contextmanager
def _watched(interruption: Interruption, world: World) -> Iterator[None]:
    """Watch from a thread that signals are answered: the main one learns of none while it waits in C++."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading, interruption, world), daemon=True).start()
    try:
        yield
    finally:
        interruption.answer()
        signal.set_wakeup_fd(before)
        os.close(writing)


def _watch(reading: int, interruption: Interruption, world: World) -> None:
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        while received := pipe.read(1):
            if received[0] in NUMBERS and not interruption.answered(PATIENCE):
                if world.speaks():
                    line = "a rank does not answer: continue from the last checkpoint with --resume"
                    sys.stderr.write(f"sfsc: {line}\n")
                    sys.stderr.flush()
                os._exit(2)
