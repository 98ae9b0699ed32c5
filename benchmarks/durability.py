"""Kill writers of a gallery at random moments, and test whether rows that they have stored are lost."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from multiprocessing.connection import Connection

import numpy as np
from page import parser, section, table

from sfsc import Gallery, SfscError
from sfsc.gallery.forms import normalised
from sfsc.progress import track

DIM, ADDED = 16, 20
PATIENCE = 120.0  # maximum seconds until a writer begins
STORES = {"Lance": "{folder}/gallery{number}", "milvus-lite": "milvus://{folder}/gallery{number}.db/rows"}
PROCESSES = multiprocessing.get_context("forkserver")
# Modules that take seconds to import, without lance itself, which may hang when it is forked.
PRELOADED = ["torch", "sfsc", "faiss", "pyarrow.dataset", "lance_namespace", "pandas", "pymilvus"]
EXPLANATION = """
In every round, a new process opens the gallery of the earlier rounds and repeatedly adds {added} rows at
once. The rows of an `add` that has returned are *acknowledged*. The process is killed (SIGKILL) at a random
moment, at most {most:g} s after it began to write. Then another process opens the gallery. It must contain
all rows that were acknowledged in this and all earlier rounds, with their embeddings; missing rows are
*lost*. An `add` that the kill cut short may have stored all of its rows or none; it is *torn* if it has
stored some of them."""


@dataclass
class Tally:
    """The results of the writers of one store."""

    rounds: int = 0
    cut: int = 0
    acknowledged: int = 0
    lost: int = 0
    torn: int = 0
    unopened: int = 0
    galleries: int = 0
    expected: set[int] = field(default_factory=set)

    def cells(self) -> list[str]:
        """Return the numbers as text."""
        numbers = (self.rounds, self.cut, self.acknowledged, self.lost, self.torn, self.unopened)
        return [f"{number:,}" for number in numbers]

    def check(self, address: str, begun: set[int], done: set[int]) -> None:
        """Look for the rows of all adds that have returned, in this and earlier rounds."""
        self.rounds += 1
        self.cut += len(begun - done)
        self.acknowledged += ADDED * len(done)
        self.expected |= done
        try:
            with PROCESSES.Pool(1) as pool:  # milvus-lite is locked until the process that opened it ends
                there = pool.apply(present, (address, self.expected | begun))
        except SfscError as error:
            print(f"{address}: {error}", file=sys.stderr)
            self.unopened += 1
            self.lost += ADDED * len(self.expected)
            self.galleries += 1
            self.expected = set()
            return
        self.lost += sum(ADDED - there[batch] for batch in self.expected)
        self.torn += sum(0 < there[batch] < ADDED for batch in begun - done)
        self.expected = {batch for batch in self.expected if there[batch] == ADDED}


def main() -> None:
    """Print the section."""
    arguments = parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=200, help="rounds on Lance")
    arguments.add_argument("--milvus-rounds", type=int, default=20, help="rounds on milvus-lite")
    arguments.add_argument("--seconds", type=float, default=1.0, help="maximum life of a writer")
    chosen = arguments.parse_args()
    PROCESSES.set_forkserver_preload(PRELOADED)
    rounds = dict(zip(STORES, (chosen.rounds, chosen.milvus_rounds), strict=True))
    with tempfile.TemporaryDirectory() as folder:
        rows = [[name, *kill_writers(name, folder, rounds[name], chosen.seconds).cells()] for name in STORES]
    heading = (
        "rounds",
        "adds cut short",
        "rows acknowledged",
        "lost",
        "adds torn",
        "galleries that did not open",
    )
    explanation = EXPLANATION.format(added=ADDED, most=chosen.seconds)
    print(section("Killed writers", explanation, table(("store", *heading), rows)))


def kill_writers(name: str, folder: str, rounds: int, most: float) -> Tally:
    """Run all rounds of one store."""
    generator, tally, first = random.Random(0), Tally(), 0
    for _ in track(range(rounds), name):
        address = STORES[name].format(folder=folder, number=tally.galleries)
        begun, done = kill_one(address, first, most * generator.random())
        tally.check(address, begun, done)
        first += len(begun)
    return tally


def kill_one(address: str, first: int, after: float) -> tuple[set[int], set[int]]:
    """Kill a writer after some seconds; return the adds that it began, and those that returned."""
    said, saying = PROCESSES.Pipe(duplex=False)
    writer = PROCESSES.Process(target=write, args=(address, first, saying))
    writer.start()
    saying.close()
    if not said.poll(PATIENCE):
        sys.exit(f"no writer began within {PATIENCE:g} s")
    time.sleep(after)
    assert writer.pid is not None
    with suppress(ProcessLookupError):  # it could not open the gallery, which the check reports
        os.killpg(writer.pid, signal.SIGKILL)
    writer.join()
    begun, done = set[int](), set[int]()
    with said, suppress(EOFError):
        while True:
            batch, returned = said.recv()
            (done if returned else begun).add(batch)
    return begun, done


def write(address: str, first: int, saying: Connection) -> None:
    """Add rows until killed, and report the number of each `add` before and after it."""
    os.setsid()  # processes that it starts are killed with it
    with Gallery.open(address, create=True) as gallery:
        for batch in count(first):
            saying.send((batch, False))
            gallery.add(rows_of(batch), ids_of(batch), paths=ids_of(batch), width=1.0, fingerprint="f")
            saying.send((batch, True))


def present(address: str, batches: set[int]) -> dict[int, int]:
    """Return how many rows of each of these adds are stored with their embeddings."""
    with Gallery.open(address) as gallery:
        stored = {row["id"]: row["embedding"] for row in gallery.rows(embeddings=True)}
    missing = np.full(DIM, np.nan)
    found = {}
    for batch in batches:
        read = np.stack([stored.get(name, missing) for name in ids_of(batch)])
        found[batch] = int(np.isclose(read, rows_of(batch), atol=1e-6).all(axis=1).sum())
    return found


def ids_of(batch: int) -> list[str]:
    """Return the ids of the rows of an `add`."""
    return [f"{batch}-{row}" for row in range(ADDED)]


def rows_of(batch: int) -> np.ndarray:
    """Return the rows of an `add`."""
    return normalised(np.random.default_rng(batch).standard_normal((ADDED, DIM), np.float32))


if __name__ == "__main__":
    main()
