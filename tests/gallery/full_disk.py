"""Do an operation on a gallery again and again, on a disk that is full at another moment each time.

Run as `python -m tests.gallery.full_disk OPERATION DISK FOLDER`, with the mount point of a small disk and an
empty folder elsewhere. Every round starts with the same gallery and prints a line of JSON that says how it
ended. The last round is the first one in which the disk was large enough.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from sfsc import Gallery, SfscError
from sfsc.cli import main as command_line
from sfsc.embedding.embedded import Embedded
from sfsc.gallery.indexing import upgrade

ROWS, DIM = 2000, 32
NEW = range(ROWS - 500, ROWS + 500)  # the rows that are written: half of them replace others
FREE = (0, 8, 40, 110, 200, 300, 450, 700, 1000, 2000)  # kB at the beginning of a round
Rows = dict[str, float]  # the first component of each embedding, by the id of the row


def embeddings(count: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def add(gallery: Gallery, ids: range, seed: int) -> None:
    names = [str(number) for number in ids]
    cameras = [str(number % 4) for number in ids]
    rows = embeddings(len(ids), seed)
    gallery.add(rows, names, paths=names, width=0.5, fingerprint="f", cameras=cameras)


def rows_of(path: Path) -> Rows:
    with Gallery.open(path) as gallery:
        rows = [(row["id"], float(row["embedding"][0])) for row in gallery.rows(embeddings=True)]
    assert len({*rows}) == len(rows), "an id is there twice"
    return dict(rows)


@dataclass(frozen=True)
class Place:
    """The folders of an operation: a gallery on the disk, a backup and a file to import elsewhere."""

    disk: Path
    elsewhere: Path

    @property
    def gallery(self) -> Path:
        return self.disk / "gallery"


def command(*arguments: object) -> None:
    """Run a command of sfsc in this process."""
    with mock.patch("sys.argv", ["sfsc", *map(str, arguments)]):
        command_line()


def upsert(place: Place) -> None:
    with Gallery.open(place.gallery) as gallery:
        add(gallery, NEW, 2)


def refresh(place: Place) -> None:
    with Gallery.open(place.gallery) as gallery:
        gallery.refresh()


def move(place: Place) -> None:
    with Gallery.open(place.gallery) as gallery:
        described = gallery.describe()
        assert described is not None
        to = replace(described, fingerprint="g", bridged_from="f")
        gallery.move(to, lambda rows: (-rows, np.zeros(len(rows), np.float32)), "token")


class Model:
    """What `upgrade` needs of a model."""

    fingerprint, dimension, dimensions, widest = "f", DIM, (), 1.0

    def check_width(self, width: float) -> None:
        assert width == 1


def engine(paths: list[str]) -> Iterator[Embedded[float]]:
    for start in range(0, len(paths), 64):
        count = len(paths[start : start + 64])
        yield Embedded({1.0: embeddings(count, 3)}, np.arange(start, start + count), [])


def upgraded(place: Place) -> None:
    model: Any = Model()
    with Gallery.open(place.gallery) as gallery:
        upgrade(model, gallery, engine=engine)


OPERATIONS: dict[str, Callable[[Place], None]] = {
    "upsert": upsert,
    "import": lambda place: command(
        *("gallery", "import", place.elsewhere / "new.npy", "--gallery", place.gallery),
        *("--fingerprint", "f", "--width", 0.5),
    ),
    "delete": lambda place: command("gallery", "delete", place.gallery, "--where", "camera=1"),
    "index build": refresh,
    "compaction": lambda place: command("gallery", "optimize", place.gallery, "--keep", 0),
    "backup": lambda place: command("gallery", "backup", place.gallery, "--out", place.disk / "backup"),
    "restore": lambda place: command(
        "gallery", "restore", place.elsewhere / "backup", "--to", place.disk / "restored"
    ),
    "upgrade": upgraded,
    "bridge": move,
}


def prepare(elsewhere: Path) -> None:
    """Make a gallery with many small changes, a backup of it, and a file with rows to import."""
    with Gallery.open(elsewhere / "gallery", create=True) as gallery:
        add(gallery, range(ROWS), 1)
        for number in range(10):
            add(gallery, range(number, number + 1), number)
        gallery.delete(where=["camera=3"])
        gallery.backup(elsewhere / "backup")
    np.save(elsewhere / "new.npy", embeddings(len(NEW), 2))
    (elsewhere / "new.txt").write_text("".join(f"{number}\n" for number in NEW))


def fill(disk: Path, left: int) -> Path:
    """Fill a disk but for some bytes."""
    filler = disk / "filler"
    filler.write_bytes(bytes(max(0, shutil.disk_usage(disk).free - left)))
    return filler


def attempt(work: Callable[[Place], None], place: Place) -> tuple[int, str]:
    """Return the exit code of an operation, and the last line of what it printed on standard error."""
    said = io.StringIO()
    with redirect_stderr(said), redirect_stdout(io.StringIO()):
        try:
            work(place)
        except SystemExit as end:
            return int(end.code or 0), said.getvalue().strip().rpartition("\n")[2]
        except SfscError as error:  # where there is no command
            return 2, f"sfsc: {error}"
    return 0, ""


def round_of(work: Callable[[Place], None], place: Place, left: int) -> dict[str, object]:
    """Do an operation on a disk with some bytes left, and again when there is room; report both."""
    shutil.copytree(place.elsewhere / "gallery", place.gallery)
    before = rows_of(place.gallery)
    filler = fill(place.disk, left)
    code, said = attempt(work, place)
    unchanged = rows_of(place.gallery) == before
    findings = [finding.what for finding in Gallery.open(place.gallery).verify().findings] if code else []
    filler.unlink()
    again = attempt(work, place) if code else (0, "")
    restored = place.disk / "restored"
    end = rows_of(restored if restored.exists() else place.gallery)
    return {
        "code": code,
        "said": said,
        "unchanged": unchanged,
        "findings": findings,
        "again": again,
        "end": sorted(end.items()),
    }


def main() -> None:
    """Print a report of every round."""
    work, disk, elsewhere = OPERATIONS[sys.argv[1]], Path(sys.argv[2]), Path(sys.argv[3])
    prepare(elsewhere)
    for left in FREE:
        with (
            mock.patch("sfsc.gallery.index.INDEXED_FROM", 100),
            mock.patch("sfsc.gallery.upkeep.LOOKED_UP_FROM", 100),
            mock.patch("sfsc.gallery.upkeep.WORN_FROM", 10),
        ):
            report = round_of(work, Place(disk, elsewhere), 1000 * left)
        sys.stdout.write(json.dumps(report) + "\n")
        if not report["code"]:
            break
        for path in disk.iterdir():
            shutil.rmtree(path)


if __name__ == "__main__":
    main()
