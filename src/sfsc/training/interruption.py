"""Being asked to end: a step is completed first, so that what is saved is never half a step."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from sfsc.training.distributed import World

PATIENCE = 20.0  # seconds; torchrun kills 30 seconds after it asked


class Interruption:
    """Whether this process was asked to end; `signal` names the signal that did."""

    def __init__(self) -> None:
        self.signal: str | None = None
        self._answered = threading.Event()

    def note(self, number: int, _: FrameType | None) -> None:
        """Take note of a signal."""
        self.signal = signal.Signals(number).name

    def answer(self) -> None:
        """Say that the step is over, or was given up: from here on the process ends by itself."""
        self._answered.set()

    def answered(self, seconds: float) -> bool:
        """Wait for the answer, so long at most."""
        return self._answered.wait(seconds)


@contextmanager
def interruptible(world: World) -> Iterator[Interruption]:
    """A context within which signals to end are noted instead of obeyed.

    These are SIGTERM and, among several ranks, SIGINT, which torchrun passes on. A process that is not heard
    of for 20 seconds after, because it waits for a rank that hangs, says so in one line and ends with 2.
    Ranks that end by an exception go on noting signals: torchrun asks them to end while they still say why.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption  # only the main thread may handle signals
        return
    numbers = [signal.SIGTERM, signal.SIGINT] if world.size > 1 else [signal.SIGTERM]
    before = {number: signal.signal(number, interruption.note) for number in numbers}
    ended = False
    try:
        if world.size > 1:
            with _watched(interruption, world, set(numbers)):
                yield interruption
        else:
            yield interruption
        ended = True
    finally:
        if ended or world.size == 1:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def _watched(interruption: Interruption, world: World, numbers: set[signal.Signals]) -> Iterator[None]:
    """Watch from a thread that signals are answered: the main one learns of none while it waits in C++."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading, interruption, world, numbers), daemon=True).start()
    try:
        yield
    finally:
        interruption.answer()
        signal.set_wakeup_fd(before)
        os.close(writing)


def _watch(reading: int, interruption: Interruption, world: World, numbers: set[signal.Signals]) -> None:
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        while received := pipe.read(1):
            if received[0] in numbers and not interruption.answered(PATIENCE):
                if world.speaks():
                    line = "a rank does not answer: go on from the last checkpoint with --resume"
                    sys.stderr.write(f"sfsc: {line}\n")
                    sys.stderr.flush()
                os._exit(2)
