"""Signals to end: Ctrl-C and SIGTERM, answered alike by every command.

A signal raises `Interrupted` in the main thread, or waits until what is `held` is done. One that comes
after that ends the process at once.
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
    """A signal asked the process to end. It is no `Exception`, so that nothing takes it for an error.

    A note (`add_note`) says how to go on.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


# What a signal raises: in a command, and in a program or notebook that calls the functions.
INTERRUPTS = (Interrupted, KeyboardInterrupt)


class Stopped(SfscError):
    """Work that was asked to end, ended whole, and can go on.

    `number` is that of the signal, `where` says how far the work came.
    """

    def __init__(self, number: int, where: str, how: str) -> None:
        super().__init__(f"{where}: {how}")
        self.number = number
        self.where = where


class Hold:
    """What was asked for during a hold: `signal` is the one that came, or None."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None


@contextmanager
def answered() -> Iterator[None]:
    """Raise `Interrupted` at a signal, and end the process at once at another one. For commands.

    After a signal the process is about to end: the second answer then outlives the context. Outside the main
    thread, which alone learns of signals, none is answered.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    own = os.getpid()

    def interrupt(number: int, _: FrameType | None) -> None:
        if os.getpid() != own:  # a worker that was forked a moment ago: its parent does the talking
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
    """Note a signal instead of obeying it, until the context ends; another one is obeyed at once.

    The signal is obeyed when the context ends, unless an exception ends it. Outside the main thread nothing
    is held.
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
    """Say how to go on, where a signal ends what is within."""
    try:
        yield
    except Interrupted as stop:
        stop.add_note(how)
        raise


def end_at_once(number: int, _: FrameType | None = None) -> NoReturn:
    """End the process and its workers without a word."""
    if sys.stderr.isatty():
        os.write(2, b"\x1b[?25h\n")  # a progress bar has hidden the cursor
    for worker in multiprocessing.active_children():
        worker.kill()
    os._exit(128 + number)


def _handle(handler: Callable[[int, FrameType | None], None]) -> Mapping[int, Any]:
    """Answer signals by a handler from here on; returns those before it, by number."""
    return {number: signal.signal(number, handler) for number in NUMBERS}


def _restore(before: Mapping[int, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)
