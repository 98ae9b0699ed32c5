"""Embeddings that an old model has left behind: the rows of a gallery, or of a table in files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sfsc.bridges.bridge import Space
from sfsc.embedding.model import named_space
from sfsc.errors import SfscError, missing_extra
from sfsc.gallery import Condition, Gallery
from sfsc.gallery.store import BRIDGE_ERROR, EMBEDDING
from sfsc.images.reading import absolute
from sfsc.progress import say

if TYPE_CHECKING:
    from sfsc.gallery.imports.source import Source

PATHS_PER_CALL = 1000

Rows = tuple[np.ndarray, np.ndarray]  # (k, dim) float32 of length 1, and (k,) the positions of their images
Find = Callable[[Sequence[str]], Rows]  # the embeddings of those of the images at some paths that have one


def of_gallery(gallery: Gallery) -> tuple[Space, Find]:
    """Return the space of a gallery and its rows, without those that a bridge has moved.

    Raises:
        SfscError: the gallery is empty.
    """
    description = gallery.describe()
    if description is None:
        raise SfscError(f"gallery {gallery.name} contains no rows: index images into it first")
    unbridged = [f"{BRIDGE_ERROR}="] if BRIDGE_ERROR in description.attributes else []

    def find(paths: Sequence[str]) -> Rows:
        places = {absolute(path): place for place, path in enumerate(paths)}
        names = [*places]
        rows: list[np.ndarray] = []
        found: list[int] = []
        for start in range(0, len(names), PATHS_PER_CALL):
            chosen = Condition("path", "=", tuple(names[start : start + PATHS_PER_CALL]))
            for row in gallery.rows([chosen, *unbridged], embeddings=True):
                rows.append(row[EMBEDDING])
                found.append(places[row["path"]])
        return _stacked(rows, found, description.dimension)

    space = Space(
        Path(gallery.name).name, description.fingerprint, description.dimension, tuple(description.dimensions)
    )
    return space, find


def open_table(path: Path) -> Source:
    """Open a table as `sfsc gallery import` does, with the ids in a file `.txt` beside it, if there is one.

    Raises:
        SfscError: the path contains something else, or the `gallery` extra is not installed.
    """
    try:
        from sfsc.gallery.imports.importing import open_source
    except ImportError as error:
        raise missing_extra("pyarrow", "gallery") from error
    ids = path.with_suffix(".txt")
    return open_source(path, ids if ids.is_file() else None)


def of_table(source: Source, name: str) -> tuple[Space, Find]:
    """Return the space of a table and its rows.

    The fingerprint is made from the name. Without a name, it is what the table states, or its digest.

    Args:
        source: the table. Every row is checked whenever rows are looked up.
        name: the name of the space, or an empty text.

    Raises:
        SfscError: the name cannot be that of a space, or the table is damaged.
    """
    from sfsc.gallery.imports.importing import check_embeddings, check_unique

    def find(paths: Sequence[str]) -> Rows:
        wanted = {absolute(path): place for place, path in enumerate(paths)}
        rows: list[np.ndarray] = []
        found: list[int] = []
        for part in source.parts():
            check_embeddings(part, source.dimension)
            check_unique(part, [str(one) for one in part.columns["id"]])
            for place, id_ in enumerate(part.columns.get("path", part.columns["id"])):
                image = wanted.get(absolute(str(id_)))
                if image is not None:
                    row = np.asarray(part.embeddings[place], np.float32)
                    rows.append(row / np.linalg.norm(row))
                    found.append(image)
        if len({*found}) < len(found):
            raise SfscError(f"{source.path} contains several rows of one image: keep one of them")
        return _stacked(rows, found, source.dimension)

    return Space(name or source.path.name, _fingerprint(source, name), source.dimension), find


def digest_of(source: Source) -> str:
    """Return 16 hexadecimal digits that depend on all paths and embeddings of a table."""
    digest = sha256()
    for part in source.parts():
        names = "\n".join(map(str, part.columns.get("path", part.columns["id"])))
        vectors = np.ascontiguousarray(part.embeddings, np.float32)
        digest.update(names.encode("utf-8", "surrogateescape") + vectors.tobytes())
    return digest.hexdigest()[:16]


def _fingerprint(source: Source, name: str) -> str:
    if name:
        return named_space(name)
    first = next(iter(source.parts()))
    stated = first.columns.get("fingerprint", [None])[0]
    if stated is not None:
        return str(stated)
    say(
        f"remark: {source.path} does not say which model made it: if a gallery has these embeddings, name "
        f"their space as sfsc gallery import --space does, {source.path}:NAME"
    )
    return digest_of(source)


def _stacked(rows: Sequence[np.ndarray], found: Sequence[int], dimension: int) -> Rows:
    embeddings = np.stack(rows) if rows else np.empty((0, dimension), np.float32)
    return embeddings, np.array(found, np.int64)
