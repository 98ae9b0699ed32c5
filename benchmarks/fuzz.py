"""How parsers of what comes from others bear changed files: inputs, crashes, the peak of memory."""

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
Every parser reads files that it understands, after some of their bytes or a part of their value were changed.
*Crashes* are errors other than those that the parser documents; *slowest* is the longest time for one file,
*memory* is by how much the peak of the process grew."""
HEADING = ("parser", "files", "refused", "crashes", "slowest", "memory")


def main() -> None:
    """Print the section."""
    command = parser(__doc__)
    command.add_argument("parsers", nargs="*", help="their names; default: all")
    command.add_argument("--seconds", type=float, default=60.0, help="for each")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--crashes", type=Path, help="folder for the files that crash a parser")
    chosen = command.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        known = parsers(Path(folder))
        rows = [
            run(name, known[name], Path(folder), chosen.seconds, random.Random(chosen.seed), chosen.crashes)
            for name in chosen.parsers or known
        ]
    print(section("Changed files", EXPLANATION, table(HEADING, rows)))


def run(
    name: str, one: Parser, folder: Path, seconds: float, chance: random.Random, kept: Path | None
) -> tuple[object, ...]:
    """A row of the table."""
    files = refused = 0
    slowest = 0.0
    crashes: dict[str, bytes] = {}
    before, end = peak(), time.monotonic() + seconds
    while time.monotonic() < end:
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
    """The most bytes of this process that were in memory at once."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
