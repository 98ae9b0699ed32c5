"""Interruption of training: the current step is completed first, so that no partial step is saved."""

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

PATIENCE = 20.0  # seconds; torchrun kills ranks 30 seconds after it told them to end


class Interruption(Hold):
    """Records whether a signal told this process to end, and whether the process has answered."""

    def __init__(self) -> None:
        super().__init__()
        self._answered = threading.Event()

    def note(self, number: int, _: FrameType | None) -> None:
        """Record a signal."""
        self.signal = signal.Signals(number)

    def answer(self) -> None:
        """Report that the step is complete or abandoned, so that the process now ends by itself."""
        self._answered.set()

    def answered(self, seconds: float) -> bool:
        """Wait at most `seconds` for the answer, and return whether it was given."""
        return self._answered.wait(seconds)


@contextmanager
def interruptible(world: World) -> Iterator[Interruption]:
    """Record SIGINT and SIGTERM inside the context instead of ending the process.

    A single process holds them as `sfsc.interruption.held` does. Several ranks, to which torchrun passes
    signals on, also record repeated signals. A rank that gives no answer within 20 seconds, because it waits
    for a rank that hangs, prints one line and exits with 2. After an exception, ranks continue to record
    signals, because torchrun tells them to end while they still print the error.
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
    """Watch signals from a thread, because the main thread does not see them while it waits in C++."""
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
