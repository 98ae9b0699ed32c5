"""Writers of a gallery are killed at random moments: is anything lost of what they were told is stored?"""

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
PATIENCE = 120.0  # seconds until a writer must have begun
STORES = {"Lance": "{folder}/gallery{number}", "milvus-lite": "milvus://{folder}/gallery{number}.db/rows"}
PROCESSES = multiprocessing.get_context("forkserver")
# What takes seconds to import; not lance itself, which may hang when it is forked.
PRELOADED = ["torch", "sfsc", "faiss", "pyarrow.dataset", "lance_namespace", "pandas", "pymilvus"]
EXPLANATION = """
In every round a new process opens the gallery that the rounds before have left and adds {added} rows at once,
again and again; the rows of an `add` that has returned are *acknowledged*. At a random moment, at most
{most:g} s after it began to write, it is killed (SIGKILL). Then another process opens the gallery, and all
rows that were acknowledged in this and all earlier rounds must be there with the embeddings that were given;
those that are not are *lost*. Of an `add` that the kill cut short, all rows or none may be stored; *torn* are
those of which some are."""


@dataclass
class Tally:
    """What happened to the writers of one store."""

    rounds: int = 0
    cut: int = 0
    acknowledged: int = 0
    lost: int = 0
    torn: int = 0
    unopened: int = 0
    galleries: int = 0
    expected: set[int] = field(default_factory=set)

    def cells(self) -> list[str]:
        """As they are shown."""
        numbers = (self.rounds, self.cut, self.acknowledged, self.lost, self.torn, self.unopened)
        return [f"{number:,}" for number in numbers]

    def check(self, address: str, begun: set[int], done: set[int]) -> None:
        """Look for the rows of the adds that are done, of this and earlier rounds."""
        self.rounds += 1
        self.cut += len(begun - done)
        self.acknowledged += ADDED * len(done)
        self.expected |= done
        try:
            with PROCESSES.Pool(1) as pool:  # milvus-lite is locked until a process that opened it ends
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
    arguments.add_argument("--rounds", type=int, default=200, help="on Lance")
    arguments.add_argument("--milvus-rounds", type=int, default=20, help="on milvus-lite")
    arguments.add_argument("--seconds", type=float, default=1.0, help="that a writer lives at most")
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
    """All rounds of one store."""
    generator, tally, first = random.Random(0), Tally(), 0
    for _ in track(range(rounds), name):
        address = STORES[name].format(folder=folder, number=tally.galleries)
        begun, done = kill_one(address, first, most * generator.random())
        tally.check(address, begun, done)
        first += len(begun)
    return tally


def kill_one(address: str, first: int, after: float) -> tuple[set[int], set[int]]:
    """The adds that a writer began, and those of them that returned, until it was killed."""
    said, saying = PROCESSES.Pipe(duplex=False)
    writer = PROCESSES.Process(target=write, args=(address, first, saying))
    writer.start()
    saying.close()
    if not said.poll(PATIENCE):
        sys.exit(f"no writer began within {PATIENCE:g} s")
    time.sleep(after)
    assert writer.pid is not None
    with suppress(ProcessLookupError):  # it could not open the gallery, which the check will tell
        os.killpg(writer.pid, signal.SIGKILL)
    writer.join()
    begun, done = set[int](), set[int]()
    with said, suppress(EOFError):
        while True:
            batch, returned = said.recv()
            (done if returned else begun).add(batch)
    return begun, done


def write(address: str, first: int, saying: Connection) -> None:
    """Add rows until killed, and say before and after each `add` which it is."""
    os.setsid()  # what it starts is killed with it
    with Gallery.open(address, create=True) as gallery:
        for batch in count(first):
            saying.send((batch, False))
            gallery.add(rows_of(batch), ids_of(batch), paths=ids_of(batch), width=1.0, fingerprint="f")
            saying.send((batch, True))


def present(address: str, batches: set[int]) -> dict[int, int]:
    """How many rows of each of these adds are stored as they were given."""
    with Gallery.open(address) as gallery:
        stored = {row["id"]: row["embedding"] for row in gallery.rows(embeddings=True)}
    missing = np.full(DIM, np.nan)
    found = {}
    for batch in batches:
        read = np.stack([stored.get(name, missing) for name in ids_of(batch)])
        found[batch] = int(np.isclose(read, rows_of(batch), atol=1e-6).all(axis=1).sum())
    return found


def ids_of(batch: int) -> list[str]:
    """The ids of the rows of an `add`."""
    return [f"{batch}-{row}" for row in range(ADDED)]


def rows_of(batch: int) -> np.ndarray:
    """The rows of an `add`."""
    return normalised(np.random.default_rng(batch).standard_normal((ADDED, DIM), np.float32))


if __name__ == "__main__":
    main()
