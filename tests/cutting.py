"""Actions that are killed at each change that they make on the disk."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterator

CHANGES = {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink"}


def cuts(prepare: Callable[[], object], action: Callable[[], object]) -> Iterator[int]:
    """Do `action` in processes that are killed before its first, second, ... change, until one is not.

    `prepare` is called before each. A file that is opened to be written is a change, and so is one that is
    moved or removed. What is yielded is the number of the change that was not made.
    """
    for number in itertools.count(1):
        prepare()
        process = os.fork()
        if not process:
            _kill_before(number)
            status = 1
            try:
                action()
                status = 0
            finally:
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        assert status in (0, -signal.SIGKILL)
        if status == 0:
            return
        yield number


def _kill_before(number: int) -> None:
    changes = itertools.count(1)

    def heard(event: str, arguments: tuple[object, ...]) -> None:
        flags = arguments[2] if event == "open" else 0
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
        if (writes or event in CHANGES) and next(changes) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(heard)
