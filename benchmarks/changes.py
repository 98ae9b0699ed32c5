"""Changes of a gallery, as `durability` and `living` make them, and the rows that they leave."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sfsc import Gallery
from sfsc.gallery import index, upkeep
from sfsc.gallery.backup import restore
from sfsc.gallery.forms import normalised
from sfsc.gallery.imports.importing import import_embeddings

DIM, COUNT = 16, 20
DELETED = 50  # one of this many rows is deleted at once
FEW = 100  # rows that get an index here; galleries of this size need none otherwise

# The number of the change that wrote the embedding of each row, by the row's id.
Rows = Mapping[int, int]


class Change(NamedTuple):
    """A change of a gallery: its number, and the ids of the rows that it writes or deletes."""

    operation: str
    number: int
    ids: tuple[int, ...] = ()


def change_of(operation: str, number: int, rows: Rows) -> Change:
    """Choose the rows of a change of a gallery with these rows."""
    generator = np.random.default_rng(number)
    new = count(COUNT * number)  # ids that no other change has
    stored = sorted(rows)
    ids: list[int] = []
    if operation == "delete":
        ids = generator.choice(stored, -(-len(stored) // DELETED), replace=False).tolist()
    elif operation in ("replace", "import"):
        replaced = COUNT if operation == "replace" else COUNT // 2
        ids = generator.choice(stored, replaced, replace=False).tolist()
    if operation in ("add", "import"):
        ids += [next(new) for _ in range(COUNT - len(ids))]
    return Change(operation, number, tuple(ids))


def after(rows: Rows, change: Change | None) -> Rows:
    """Return the rows after a change."""
    if change is None:
        return rows
    if change.operation == "delete":
        return {id_: number for id_, number in rows.items() if id_ not in {*change.ids}}
    return {**rows, **dict.fromkeys(change.ids, change.number)}


def make(gallery: Gallery, change: Change, folder: Path) -> None:
    """Make a change; files that it needs or writes are in a folder. A restoration follows its backup."""
    if change.operation == "delete":
        gallery.delete(names_of(change.ids))
    elif change.operation == "import":
        import_embeddings(source_of(change, folder), gallery, fingerprint="f", width=1.0)
    elif change.operation == "backup":
        gallery.backup(backup_of(change, folder))
    elif change.operation == "restore":
        restore(backup_of(change, folder), restored_of(change, folder))
    elif change.ids:
        names = names_of(change.ids)
        gallery.add(embeddings(change.ids, change.number), names, paths=names, width=1.0, fingerprint="f")
    else:
        gallery.optimize()


def prepare(change: Change, folder: Path) -> None:
    """Write the files that a change needs."""
    if change.operation == "import":
        folder.mkdir(exist_ok=True)
        source = source_of(change, folder)
        np.save(source, embeddings(change.ids, change.number))
        source.with_suffix(".txt").write_text("".join(f"{name}\n" for name in names_of(change.ids)))


def source_of(change: Change, folder: Path) -> Path:
    """Return the file that a change imports."""
    return folder / f"import{change.number}.npy"


def backup_of(change: Change, folder: Path) -> Path:
    """Return the folder of the backup that a change makes, or restores."""
    return folder / f"backup{change.number - (change.operation == 'restore')}"


def restored_of(change: Change, folder: Path) -> Path:
    """Return the folder of the gallery that is restored from the backup of a change."""
    return folder / f"restored{change.number}"


def names_of(ids: Iterable[int]) -> list[str]:
    """Return the ids as a gallery stores them."""
    return [str(id_) for id_ in ids]


def embeddings(ids: Iterable[int], number: int) -> np.ndarray:
    """Return the embeddings that a change writes: (n, DIM) float32."""
    made = [np.random.default_rng((id_, number)).standard_normal(DIM, np.float32) for id_ in ids]
    return normalised(np.stack(made))


def quiet() -> None:
    """Let this process show no progress, as processes of `torchrun` do that are not the first."""
    os.environ["RANK"] = "1"


def index_few() -> None:
    """Let this process make the indexes of galleries of few rows."""
    index.INDEXED_FROM = upkeep.LOOKED_UP_FROM = index.LISTED_FROM = FEW
