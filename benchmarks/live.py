"""Measure a gallery while it changes: single changes, searches meanwhile, and its size on disk."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from gallery import ADDED, add, size_of
from neighbours import clustered
from page import met, parser, section, table

from sfsc import Gallery
from sfsc.gallery.store import Row
from sfsc.gallery.upkeep import KEPT_AT_FIRST
from sfsc.progress import track

PAUSE = 0.005  # seconds between two searches
LIMITS = {"upsert": 0.02, "delete": 0.02, "row": 0.002, "after": 2.0, "meanwhile": 2.0, "folder": 1.5}
EXPLANATION = """
A gallery of {rows:,} {form} rows of {dim} dimensions, which are clustered, is searched approximately for one
query at once, while rows change. *Upsert* and *delete* change one row durably, in the process that searches.
The *first search after a deletion* by this process is compared with the other searches. Then another process
replaces, adds and deletes {rate} rows a second, one at a time, for {seconds:g} seconds, while this process
searches every {pause:g} ms; the 95th percentile is compared with that of the same time without changes. At
last, {upserts:,} single upserts replace rows, and the folder is compared with the fresh one."""


def main() -> None:
    """Print the section."""
    arguments = parser(__doc__)
    arguments.add_argument("--rows", type=int, default=1_000_000)
    arguments.add_argument("--dim", type=int, default=128)
    arguments.add_argument("--form", default="float32")
    arguments.add_argument("--changes", type=int, default=200, help="single upserts and deletions")
    arguments.add_argument("--rate", type=int, default=50, help="changes a second by another process")
    arguments.add_argument("--seconds", type=float, default=60.0, help="time of these changes")
    arguments.add_argument("--upserts", type=int, default=100_000, help="single upserts for the size on disk")
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(report(chosen, Path(folder)))


def report(chosen: Namespace, folder: Path) -> str:
    """Return the section."""
    rows, queries = clustered(chosen.rows, 1000, chosen.dim)
    fresh = build(folder / "gallery", rows, chosen.form)
    with Gallery.open(folder / "gallery", maintain=True) as gallery:
        single = changes(gallery, queries, chosen.changes, chosen.form)
        quiet = searched(gallery, queries, chosen.seconds)
        writer = multiprocessing.get_context("spawn").Process(target=write, args=(folder / "gallery", chosen))
        writer.start()
        busy = searched(gallery, queries, chosen.seconds)
        writer.join()
        for number in track(range(chosen.upserts), "upserts"):
            upsert(gallery, queries[number % len(queries)], number * 7 % chosen.rows, chosen.form)
    size = size_of(folder / "gallery") / fresh
    values = {
        "upsert": np.median(single["upsert"]),
        "delete": np.median(single["delete"]),
        "row": np.median(single["row"]),
        "after": np.median(single["after"]) / np.median(single["other"]),
        "meanwhile": np.quantile(busy, 0.95) / np.quantile(quiet, 0.95),
        "folder": size,
    }
    return section(
        "A gallery that changes",
        EXPLANATION.format(**vars(chosen), pause=1000 * PAUSE),
        table(("figure", "aim", "found", ""), aims(values)),
        table(
            ("", "p50", "p95"),
            [
                [name, *(f"{1000 * np.quantile(times, part):.2f} ms" for part in (0.5, 0.95))]
                for name, times in [*single.items(), ("without changes", quiet), ("while rows change", busy)]
            ],
        ),
    )


def build(folder: Path, rows: np.ndarray, form: str) -> int:
    """Write and index a gallery, and return its size on disk."""
    with Gallery.open(folder, create=True) as gallery:
        for start in track(range(0, len(rows), ADDED), "writing"):
            add(gallery, rows[start : start + ADDED], start, form)
        gallery.optimize(keep=0)  # a fresh gallery holds no old versions
        size = size_of(folder)
        gallery.optimize(keep=KEPT_AT_FIRST)
    return size


def changes(gallery: Gallery, queries: np.ndarray, count: int, form: str) -> dict[str, list[float]]:
    """Return the seconds of single operations."""
    taken: dict[str, list[float]] = {name: [] for name in ("upsert", "delete", "row", "after", "other")}
    for number in range(count):
        search = partial(gallery.search, queries[number % len(queries)][None], "f", exact=False)
        taken["other"] += [timed(search) for _ in range(5)]
        taken["row"].append(timed(partial(row_by_id, gallery, number)))
        taken["upsert"].append(timed(partial(upsert, gallery, queries[number % 100], 2 * number, form)))
        search()
        taken["delete"].append(timed(partial(gallery.delete, [f"{2 * number + 1:08d}"])))
        taken["after"].append(timed(search))
    return taken


def row_by_id(gallery: Gallery, number: int) -> Row:
    """Return a row with its embedding."""
    return next(gallery.rows([f"id={10_000 + number:08d}"], embeddings=True))


def upsert(gallery: Gallery, row: np.ndarray, number: int, form: str) -> None:
    """Replace one row."""
    add(gallery, row[None], number, form)


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def searched(gallery: Gallery, queries: np.ndarray, seconds: float) -> list[float]:
    """Return the seconds of searches, one after another."""
    until = time.monotonic() + seconds
    taken: list[float] = []
    while time.monotonic() < until:
        query = queries[len(taken) % len(queries)][None]
        taken.append(timed(partial(gallery.search, query, "f", exact=False)))
        time.sleep(PAUSE)
    return taken


def write(folder: Path, chosen: Namespace) -> None:
    """Replace, add and delete single rows for some seconds."""
    rows = clustered(1000, 1, chosen.dim)[0]
    with Gallery.open(folder) as gallery:
        start, number = time.monotonic(), 0
        while (now := time.monotonic()) < start + chosen.seconds:
            if number > (now - start) * chosen.rate:
                time.sleep(0.001)
                continue
            kind, place = number % 3, 10_000 + number
            if kind == 2:
                gallery.delete([f"{place:08d}"])
            else:
                upsert(gallery, rows[number % len(rows)], place + kind * chosen.rows, chosen.form)
            number += 1


def aims(values: dict[str, float]) -> Sequence[Sequence[str]]:
    """Return the rows of the table of aims."""
    names = {
        "upsert": "upsert of one row, p50",
        "delete": "deletion of one row, p50",
        "row": "row by id, p50",
        "after": "first search after a deletion / other searches, p50",
        "meanwhile": "search while rows change / without changes, p95",
        "folder": "folder after the upserts / fresh",
    }
    shown = {name: "{:.2f}" if LIMITS[name] >= 1 else "{:.2f} ms" for name in names}
    scale = {name: 1 if LIMITS[name] >= 1 else 1000 for name in names}
    return [
        [
            text,
            f"at most {shown[name].format(scale[name] * LIMITS[name])}",
            shown[name].format(scale[name] * values[name]),
            met(values[name] <= LIMITS[name]),
        ]
        for name, text in names.items()
    ]


if __name__ == "__main__":
    main()
