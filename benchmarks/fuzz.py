"""Test the parsers of untrusted files with changed files, and report crashes, times and memory."""

from __future__ import annotations

import random
import resource
import sys
import tempfile
import time
import traceback
from pathlib import Path

from page import parser, section, table

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.fuzzing import Parser, changed, parsers

EXPLANATION = """
Every parser reads valid files in which some bytes or a part of the value were changed. *Crashes* are errors
that the parser does not document. *Slowest* is the longest time for one file. *Memory* is the growth of the
process's peak memory."""
HEADING = ("parser", "files", "refused", "crashes", "slowest", "memory")


def main() -> None:
    """Print the section."""
    command = parser(__doc__)
    command.add_argument("parsers", nargs="*", help="names of parsers; all by default")
    command.add_argument("--seconds", type=float, default=60.0, help="for each parser, at most")
    command.add_argument("--files", type=int, default=1_000_000, help="for each parser, at most")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--crashes", type=Path, help="folder for the files that crash a parser")
    chosen = command.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        known = parsers(Path(folder))
        rows = []
        for name in chosen.parsers or known:
            chance = random.Random(chosen.seed)
            rows.append(
                run(name, known[name], Path(folder), chosen.seconds, chosen.files, chance, chosen.crashes)
            )
            print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    print(section("Changed files", EXPLANATION, table(HEADING, rows)))


def run(
    name: str,
    one: Parser,
    folder: Path,
    seconds: float,
    most: int,
    chance: random.Random,
    kept: Path | None,
) -> tuple[object, ...]:
    """Return a row of the table."""
    files = refused = 0
    slowest = 0.0
    crashes: dict[str, bytes] = {}
    before, end = peak(), time.monotonic() + seconds
    while files < most and time.monotonic() < end:
        data = changed(chance.choice(one.seeds), chance)
        start = time.perf_counter()
        try:
            one.read(data, folder)
        except one.errors:
            refused += 1
        except Exception as error:
            crashes.setdefault(
                f"{type(error).__name__} in {traceback.extract_tb(error.__traceback__)[-1]}", data
            )
        slowest = max(slowest, time.perf_counter() - start)
        files += 1
    for place, (where, data) in enumerate(crashes.items()):
        print(f"{name}: {where}: {data[:300]!r}", file=sys.stderr)
        if kept:
            kept.mkdir(parents=True, exist_ok=True)
            (kept / f"{name}-{place}").write_bytes(data)
    grown = f"{(peak() - before) / 1e6:.0f} MB"
    return name, f"{files:,}", f"{refused:,}", len(crashes), f"{1000 * slowest:.0f} ms", grown


def peak() -> int:
    """Return the peak memory of this process in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
