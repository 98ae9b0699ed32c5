"""Measure how long a bridge takes for a large gallery, in which memory, and whether a kill loses rows."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from page import parser, section, table

from sfsc import Bridge, Gallery, refit_gallery, upgrade_gallery
from sfsc.bridges.bridge import Choice, Space
from sfsc.bridges.fitting import orthogonal
from sfsc.bridges.residual import add_residual
from sfsc.gallery.rewriting import PROGRESS
from sfsc.progress import say

EXPLANATION = """
{rows:,} random rows of {old} dimensions are moved to {new} dimensions by a bridge of each kind, in a process
of its own, and their originals are kept. The index is made again, which a search would otherwise do. The
process is killed once, after the first parts were written, and the same call continues: the time is that of
both together, without the index and with it. *Lost* are rows that are missing or not bridged afterwards.
Memory is the peak of the process that finished; the rows and their originals take {size:.0f} MB. Then
{again:,} rows are embedded again, and another process refits the bridge to these: the rows per minute with
the index, and the peak of its memory. Moving random rows takes as long as moving others; how much a bridge
finds is another question."""
HEADING = ("map", "rows per minute", "with the index", "memory", "lost", "refit, rows per minute", "memory")
ROWS_PER_ADD = 10_000
EMBEDDED_AGAIN = 10_000
FINGERPRINT = "0123456789abcdef"


def main() -> None:
    """Print the section."""
    command = parser(__doc__)
    command.add_argument("--rows", type=int, default=1_000_000)
    command.add_argument("--old", type=int, default=256, help="dimensions of the old rows")
    command.add_argument("--new", type=int, default=128, help="dimensions of the new rows")
    for name in ("move", "refit"):
        command.add_argument(f"--{name}", nargs=2, metavar=("GALLERY", "BRIDGE"), help="for its own use")
    chosen = command.parse_args()
    if chosen.move:
        move(*chosen.move)
        return
    if chosen.refit:
        refit(*chosen.refit)
        return
    with tempfile.TemporaryDirectory() as folder:
        lines = [
            measured(Path(folder) / kind, kind, chosen.rows, chosen.old, chosen.new)
            for kind in ("orthogonal", "residual")
        ]
    size = 4 * chosen.rows * (chosen.old + chosen.new) / 1e6
    said = EXPLANATION.format(
        rows=chosen.rows, old=chosen.old, new=chosen.new, size=size, again=EMBEDDED_AGAIN
    )
    print(section("A million bridged rows", said, table(HEADING, lines)))


def move(gallery: str, bridge: str) -> None:
    """Upgrade a gallery, and print the seconds without and with the index, and the peak memory in bytes."""
    start = time.perf_counter()
    opened, loaded = Gallery.open(gallery), Bridge.load(bridge)
    refresh, between = opened.refresh, []

    def refreshed() -> None:
        between.append(time.perf_counter() - start)
        refresh()

    opened.refresh = refreshed  # type: ignore[method-assign]
    upgrade_gallery(opened, loaded)
    print(between[0], time.perf_counter() - start, peak_memory())


def refit(gallery: str, bridge: str) -> None:
    """Refit the bridge, and print the rows, the seconds with the index, and the peak memory in bytes."""
    start = time.perf_counter()
    rows = refit_gallery(Gallery.open(gallery), Bridge.load(bridge))
    print(rows, time.perf_counter() - start, peak_memory())


def peak_memory() -> int:
    """Return the peak of the memory of this process in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measured(folder: Path, kind: str, rows: int, old: int, new: int) -> tuple[object, ...]:
    """Return a line of the table."""
    folder.mkdir()
    bridge, gallery = folder / "bridge.safetensors", str(folder / "gallery")
    make_bridge(kind, old, new).save(bridge)
    say(f"{kind}: writing {rows:,} rows")
    fill(gallery, rows, old)
    words = [sys.executable, __file__, "--move", gallery, str(bridge)]
    start = time.perf_counter()
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as killed:
        while killed.poll() is None and not (Path(gallery) / PROGRESS).exists():
            time.sleep(0.05)
        killed.send_signal(signal.SIGKILL)
    before = time.perf_counter() - start
    moved, indexed, peak = printed(words)
    with Gallery.open(gallery) as opened:
        lost = rows - opened.count(["bridge_error!="])
        embed_again(opened, rows, new)
    refitted, took, more = printed([sys.executable, __file__, "--refit", gallery, str(bridge)])
    speeds = [f"{60 * rows / (before + seconds):,.0f}" for seconds in (moved, indexed)]
    memory, again = (f"{size / 1e6:.0f} MB" for size in (peak, more))
    return kind, *speeds, memory, lost, f"{60 * refitted / took:,.0f}", again


def printed(words: list[str]) -> list[float]:
    """Return the numbers that a process prints."""
    return [*map(float, subprocess.run(words, capture_output=True, text=True, check=True).stdout.split())]


def embed_again(gallery: Gallery, rows: int, dimension: int) -> None:
    """Replace some rows, spread over all, by rows of the new space, as `sfsc index --upgrade` does."""
    names = [name_of(row) for row in range(0, rows, max(1, rows // EMBEDDED_AGAIN))]
    drawn = unit(np.random.default_rng(2).standard_normal((len(names), dimension), np.float32))
    gallery.add(drawn, names, paths=names, width=1.0, fingerprint=FINGERPRINT, keep_originals=True)


def make_bridge(kind: str, old: int, new: int) -> Bridge:
    """Return a bridge between random spaces."""
    random = np.random.default_rng(0)
    rows, targets = unit(random.standard_normal((2000, old))), unit(random.standard_normal((2000, new)))
    maps = [orthogonal(rows, targets), orthogonal(targets, rows)]
    if kind == "residual":
        maps = [add_residual(maps[0], rows, targets, 0), add_residual(maps[1], targets, rows, 0)]
    choices = {name: Choice(kind, {}) for name in ("forward", "backward")}
    return Bridge(Space("old", "space:old", old), Space("new", FINGERPRINT, new), 2000, choices, *maps)


def fill(gallery: str, rows: int, dimension: int) -> None:
    """Write random rows in parts."""
    random = np.random.default_rng(1)
    with Gallery.open(gallery, create=True) as opened:
        for start in range(0, rows, ROWS_PER_ADD):
            names = [*map(name_of, range(start, min(start + ROWS_PER_ADD, rows)))]
            drawn = unit(random.standard_normal((len(names), dimension), np.float32))
            opened.add(drawn, names, paths=names, width=1.0, fingerprint="space:old")


def name_of(row: int) -> str:
    """Return the id and path of a row."""
    return f"/photos/{row:09}.jpg"


def unit(rows: np.ndarray) -> np.ndarray:
    """Return rows of length 1."""
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


if __name__ == "__main__":
    main()
