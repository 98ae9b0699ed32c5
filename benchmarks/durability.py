"""Kill processes that change a gallery at random moments, and check what the gallery contains afterwards."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

from changes import (
    COUNT,
    DELETED,
    Change,
    Rows,
    after,
    change_of,
    index_few,
    make,
    prepare,
    quiet,
)
from checks import PROBLEMS, Found, check
from page import parser, section, table

from sfsc import Gallery
from sfsc.gallery import index
from sfsc.gallery.index_files import make_current
from sfsc.progress import track

T = TypeVar("T")
LEAST, FILLED = 200, 400  # if a gallery has fewer rows, rows are added to it first
PATIENCE = 120.0  # maximum seconds until a process begins, and of a check
SWAP = 0.02  # maximum seconds from the start of a swap to the kill
STORES = {"Lance": "{folder}/gallery{number}", "milvus-lite": "milvus://{folder}/gallery{number}.db/rows"}
OPERATIONS = {
    "Lance": ["add", "replace", "delete", "compaction", "index build", "swap", "import", "backup", "restore"],
    "milvus-lite": ["add"],
}
FIRST = {"compaction": ["replace"], "index build": ["replace"], "restore": ["backup"]}  # made before each
INDEXING = ("index build", "swap")
PROCESSES = multiprocessing.get_context("forkserver")
# Modules that take seconds to import, without lance itself, which may hang when it is forked.
PRELOADED = ["torch", "sfsc", "faiss", "pyarrow.dataset", "lance_namespace", "pandas", "pymilvus"]
EXPLANATION = """
In every round, a new process opens the gallery of the earlier rounds and repeats one operation: it adds
{count} rows at once; replaces {count} rows; deletes {share} of the rows; imports a file with {count} rows,
half of them new; makes a backup in a new folder; makes a backup and restores it; replaces {count} rows and
compacts the table; replaces {count} rows, compacts the table and builds the index; or makes a new index the
current one (*swap*). The process is killed (SIGKILL) at a random moment, at most {most:g} s after it began,
or {swap:g} ms after the first swap began. A change that has returned is *acknowledged*."""
CHECKED = """
Then another process opens the gallery and reads and verifies all rows. On Lance, it also searches each of
them by its embedding, exactly and approximately. *Lost* are acknowledged rows that are missing or have
another embedding; *came back* are rows that were deleted. A change that the kill cut short may have been made
or not; it is *torn* if only some of its rows have changed. A search is *wrong* if the row is not its first
hit, or if a hit is not stored or occurs twice. Of the backups, the last one that was acknowledged is
restored, and must give the same rows. So must the one that was cut short, after the same call has continued
it if `restore` refuses it as incomplete, and the galleries that were restored: where the kill left none, the
same call restores it. Everything else counts as a wrong answer."""


def main() -> None:
    """Print the section."""
    arguments = parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=225, help="rounds on Lance")
    arguments.add_argument("--milvus-rounds", type=int, default=20, help="rounds on milvus-lite")
    arguments.add_argument("--seconds", type=float, default=1.0, help="maximum life of a process")
    chosen = arguments.parse_args()
    PROCESSES.set_forkserver_preload(PRELOADED)
    rounds = dict(zip(STORES, (chosen.rounds, chosen.milvus_rounds), strict=True))
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for name in STORES for row in cells(name, Rounds(name, folder).run(rounds[name], chosen))]
    values = {"count": COUNT, "share": f"1/{DELETED}", "most": chosen.seconds, "swap": 1000 * SWAP}
    heading = ("store", "operation", "rounds", "cut short", "acknowledged", *PROBLEMS, "not opened")
    print(section("Killed processes", EXPLANATION.format(**values), CHECKED, table(heading, rows)))


def cells(name: str, tallies: dict[str, Counter[str]]) -> list[list[str]]:
    """Return the rows of the table: the numbers of each operation on a store, and their sum."""
    tallies = dict(tallies)
    if len(tallies) > 1:
        tallies["all"] = sum(tallies.values(), Counter())
    columns = ("rounds", "cut", "acknowledged", *PROBLEMS, "not opened")
    return [
        [name, operation, *(f"{tally[column]:,}" for column in columns)]
        for operation, tally in tallies.items()
    ]


class Rounds:
    """The rounds on one store: the rows that its gallery must contain, and what was found, by operation."""

    def __init__(self, name: str, folder: str) -> None:
        self.name, self.form, self.folder = name, STORES[name], folder
        self.operations = OPERATIONS[name]
        self.galleries = self.number = 0
        self.rows: Rows = {}
        self.tallies = {operation: Counter[str]() for operation in self.operations}

    def run(self, rounds: int, chosen: Namespace) -> dict[str, Counter[str]]:
        """Kill processes, and check the gallery after each."""
        generator = random.Random(0)
        for number in track(range(rounds), self.name):
            operation = self.operations[number % len(self.operations)]
            most = SWAP if operation == "swap" else chosen.seconds
            self.one(operation, most * generator.random())
        return {operation: tally for operation, tally in self.tallies.items() if tally}

    def one(self, operation: str, seconds: float) -> None:
        """Kill one process, and note what is found."""
        address = self.form.format(folder=self.folder, number=self.galleries)
        if len(self.rows) < LEAST:
            self.rows = apart(fill, address, self.rows, self.number)
            self.number = max(self.rows.values()) + 1
        changes, done = kill_one(address, operation, self.rows, self.number, seconds)
        for change in changes[:done]:
            self.rows = after(self.rows, change)
        pending = changes[done] if len(changes) > done else None
        tally = self.tallies[operation]
        tally["rounds"] += 1
        tally["cut"] += pending is not None
        tally["acknowledged"] += done
        self.number = changes[-1].number + 1 if changes else self.number
        copies = [change for change in changes if change.operation in ("backup", "restore")][-2:]
        try:
            found: Found = apart(check, address, self.rows, pending, copies)
        except Exception as error:
            print(f"{address}: {error!r}", file=sys.stderr)
            found = Found({"not opened": 1}, {})
        tally.update(found.counts)
        self.rows = found.rows
        if any(found.counts.values()):
            print(f"{address}, {operation}: {found.counts}", file=sys.stderr)
            self.galleries, self.rows = self.galleries + 1, {}


def apart(function: Callable[..., T], *arguments: object) -> T:
    """Call a function in another process: milvus-lite is locked until the process that opened it ends."""
    with PROCESSES.Pool(1) as pool:
        return pool.apply_async(function, arguments).get(PATIENCE)


def fill(address: str, rows: Rows, first: int) -> Rows:
    """Add rows to a gallery that may not exist yet, and return all of them."""
    with Gallery.open(address, create=True) as gallery:
        for number in count(first):
            if len(rows) >= FILLED:
                break
            change = change_of("add", number, rows)
            make(gallery, change, Path())
            rows = after(rows, change)
    return rows


def kill_one(
    address: str, operation: str, rows: Rows, number: int, seconds: float
) -> tuple[list[Change], int]:
    """Kill a process some seconds after its first change began.

    Returns:
        The changes that it began, and how many of them returned: all, or all but the last.
    """
    said, saying = PROCESSES.Pipe(duplex=False)
    writer = PROCESSES.Process(target=write, args=(address, operation, rows, number, saying))
    writer.start()
    saying.close()
    if not said.poll(PATIENCE):
        sys.exit(f"no process began within {PATIENCE:g} s")
    time.sleep(seconds)
    assert writer.pid is not None
    with suppress(ProcessLookupError):  # it could not open the gallery, which the check reports
        os.killpg(writer.pid, signal.SIGKILL)
    writer.join()
    changes, done = list[Change](), 0
    with said, suppress(EOFError):
        while True:
            change = said.recv()
            if change is None:
                done += 1
            else:
                changes.append(change)
    return changes, done


def write(address: str, operation: str, rows: Rows, first: int, saying: Connection) -> None:
    """Repeat an operation until killed; report each change before it, and None after it."""
    os.setsid()  # processes that it starts are killed with it
    quiet()
    folder, numbers = Path(f"{address}.files"), count(first)
    if operation in INDEXING:
        index_few()
    if operation == "swap":
        report_swaps(numbers, saying)
    with Gallery.open(address) as gallery:
        while True:
            for one in [*FIRST.get(operation, []), operation]:
                change = change_of(one, next(numbers), rows)
                prepare(change, folder)
                if one != "swap":
                    saying.send(change)
                make(gallery, change, folder)
                if one != "swap":
                    saying.send(None)
                rows = after(rows, change)


def report_swaps(numbers: count[int], saying: Connection) -> None:
    """Report every swap before and after it."""
    swap = make_current

    def reported(folder: Path) -> None:
        saying.send(Change("swap", next(numbers)))
        swap(folder)
        saying.send(None)

    vars(index)["make_current"] = reported


if __name__ == "__main__":
    main()
