"""Handling Ctrl-C and SIGTERM in the same way in every command.

A signal raises `Interrupted` in the main thread, or is delayed until a `held` context ends. A second signal
ends the process at once.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from sfsc.errors import SfscError

NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """Raised if a signal asks the process to end.

    It is not an `Exception`, so that it is not handled as an error. A note (`add_note`) says how to continue.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


# The exceptions that a signal raises in a command, and in a program or notebook.
INTERRUPTS = (Interrupted, KeyboardInterrupt)


class Stopped(SfscError):
    """Raised after a signal if the work ended in a consistent state and can be continued.

    `number` is the number of the signal, and `where` describes the progress.
    """

    def __init__(self, number: int, where: str, how: str) -> None:
        super().__init__(f"{where}: {how}")
        self.number = number
        self.where = where


class Hold:
    """The state of a hold: `signal` is the signal that arrived, or None."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None


@contextmanager
def answered() -> Iterator[None]:
    """Raise `Interrupted` for the first signal, and end the process at once for the second one.

    This is for commands. After a signal, the process is about to end, so the handler for the second signal
    stays in place after the context. Only the main thread receives signals; in other threads, this does
    nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    own = os.getpid()

    def interrupt(number: int, _: FrameType | None) -> None:
        if os.getpid() != own:  # a worker that was just forked: its parent prints the message
            os._exit(128 + number)
        _handle(end_at_once)
        raise Interrupted(number)

    before = _handle(interrupt)
    try:
        yield
    except (Interrupted, Stopped):
        _handle(end_at_once)
        raise
    except BaseException:
        _restore(before)
        raise
    _restore(before)


@contextmanager
def held(hold: Hold | None = None) -> Iterator[Hold]:
    """Delay a signal until the context ends; a second signal is handled at once.

    The signal takes effect when the context ends, unless an exception ends it. Outside the main thread, this
    does nothing.
    """
    hold = hold or Hold()
    if threading.current_thread() is not threading.main_thread():
        yield hold
        return

    def note(number: int, _: FrameType | None) -> None:
        hold.signal = signal.Signals(number)
        _restore(before)

    before = _handle(note)
    try:
        yield hold
    finally:
        if hold.signal is None:
            _restore(before)
    if hold.signal is not None:
        signal.raise_signal(hold.signal)


@contextmanager
def going_on(how: str) -> Iterator[None]:
    """Add a note that says how to continue if a signal interrupts the context."""
    try:
        yield
    except Interrupted as stop:
        stop.add_note(how)
        raise


def end_at_once(number: int, _: FrameType | None = None) -> NoReturn:
    """End the process and its workers without a message."""
    if sys.stderr.isatty():
        os.write(2, b"\x1b[?25h\n")  # shows the cursor, which a progress bar has hidden
    for worker in multiprocessing.active_children():
        worker.kill()
    os._exit(128 + number)


def _handle(handler: Callable[[int, FrameType | None], None]) -> Mapping[int, Any]:
    """Install a handler for the signals; return the previous handlers by number."""
    return {number: signal.signal(number, handler) for number in NUMBERS}


def _restore(before: Mapping[int, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)
