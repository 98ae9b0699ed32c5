"""Old models: what embedded the rows of an old gallery, or only a table of these embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sfsc.bridges.bridge import Space
from sfsc.embedding.embedded import Embedded
from sfsc.embedding.engines import local_engine
from sfsc.embedding.exported import PROPERTY, open_session
from sfsc.embedding.foreign import CODE, open_function, open_onnx
from sfsc.embedding.model import ONNX, Model, named_space, open_model
from sfsc.errors import SfscError
from sfsc.files.writing import read_bytes
from sfsc.gallery import Condition, Gallery
from sfsc.gallery.store import BRIDGE_ERROR, EMBEDDING
from sfsc.images.reading import absolute
from sfsc.runs.paths import DESCRIPTION_FILE

if TYPE_CHECKING:
    from sfsc.gallery.imports.source import Source

MOST_ONNX = 1 << 31  # bytes, the limit of the format
PATHS_PER_CALL = 1000

Rows = tuple[np.ndarray, np.ndarray]  # (k, dim) float32 of length 1, and (k,) the positions of their images


@dataclass(frozen=True)
class OldModel:
    """Embeddings of images in an old space.

    Attributes:
        space: the space.
        split: the part of a data set whose images are likely to have embeddings.
        embed: returns the embeddings of those of the images at some paths that have one.
    """

    space: Space
    split: str
    embed: Callable[[Sequence[str]], Rows]


def open_old(
    source: str,
    *,
    name: str | None = None,
    ids: str | Path | None = None,
    colours: str = "imagenet",
    allow_code: str | None = None,
    workers: int = 2,
) -> OldModel:
    """Open an old model, or a table of its embeddings.

    Args:
        source: a run folder, a file that `sfsc export` wrote, another ONNX file with one image input,
            python:package.module:function, a gallery, or a table of embeddings that `sfsc gallery import`
            can read.
        name: the name of the space of a table, as for `sfsc gallery import --space`.
        ids: a file with one id per line, for a table without ids. Ids are the paths of the images.
        colours: how another ONNX file wants its colours, one of `sfsc.embedding.foreign.COLOURS`.
        allow_code: the function that may be called, as for `Family.load`.
        workers: the number of threads that decode images.

    Raises:
        SfscError: the source is none of these, is damaged, or a table has no name.
    """
    path = Path(source)
    if not (source.startswith(CODE) or path.suffix == ONNX or (path / DESCRIPTION_FILE).exists()):
        return _stored(path, name, None if ids is None else Path(ids))
    model = open_any_model(source, colours, allow_code)
    space = Space.of(path.absolute().name, model)
    engine = local_engine(model, model.widest, workers)

    def embed(paths: Sequence[str]) -> Rows:
        found = Embedded.join(list(engine(paths)))
        return found.vectors[model.widest], found.indices

    return OldModel(space, "train", embed)


def open_any_model(source: str | Path, colours: str = "imagenet", allow_code: str | None = None) -> Model:
    """Open a model as `open_model` does, or a model that sfsc did not train.

    Args:
        source: as for `open_old`, without galleries and tables.
        colours: as for `open_old`.
        allow_code: as for `open_old`.
    """
    if str(source).startswith(CODE):
        return open_function(str(source), allow_code)
    path = Path(source)
    if path.suffix == ONNX and path.is_file():
        data = read_bytes(path, MOST_ONNX)
        if PROPERTY not in open_session(data, path).metadata:
            return open_onnx(data, path, colours)
    return open_model(path, allow_code)


def _stored(path: Path, name: str | None, ids: Path | None) -> OldModel:
    """Return the embeddings in a gallery or a table."""
    from sfsc.gallery.imports.importing import open_source
    from sfsc.gallery.lance_table import TABLE

    if (path / TABLE).is_dir():
        return _of_gallery(Gallery.open(path))
    return _of_table(open_source(path, ids), name)


def _of_gallery(gallery: Gallery) -> OldModel:
    description = gallery.describe()
    if description is None:
        raise SfscError(f"gallery {gallery.name} contains no rows to fit a bridge on")
    unbridged = [f"{BRIDGE_ERROR}="] if BRIDGE_ERROR in description.attributes else []

    def embed(paths: Sequence[str]) -> Rows:
        places = {path: place for place, path in enumerate(paths)}
        rows: list[np.ndarray] = []
        found: list[int] = []
        for start in range(0, len(paths), PATHS_PER_CALL):
            chosen = Condition("path", "=", tuple(paths[start : start + PATHS_PER_CALL]))
            for row in gallery.rows([chosen, *unbridged], embeddings=True):
                rows.append(row[EMBEDDING])
                found.append(places[row["path"]])
        return _stacked(rows, found, description.dimension)

    space = Space(
        Path(gallery.name).name, description.fingerprint, description.dimension, tuple(description.dimensions)
    )
    return OldModel(space, "gallery", embed)


def _of_table(source: Source, name: str | None) -> OldModel:
    from sfsc.gallery.imports.importing import check_embeddings, check_unique

    fingerprint = _fingerprint(source, name)

    def embed(paths: Sequence[str]) -> Rows:
        wanted = {path: place for place, path in enumerate(paths)}
        rows: list[np.ndarray] = []
        found: list[int] = []
        for part in source.parts():
            check_embeddings(part, source.dimension)
            ids = [str(one) for one in part.columns.get("path", part.columns["id"])]
            check_unique(part, [str(one) for one in part.columns["id"]])
            for place, id_ in enumerate(ids):
                image = wanted.get(id_, wanted.get(absolute(id_)))
                if image is not None:
                    row = np.asarray(part.embeddings[place], np.float32)
                    rows.append(row / np.linalg.norm(row))
                    found.append(image)
        if len({*found}) < len(found):
            raise SfscError(f"{source.path} contains several rows of one image: ids must be unique")
        return _stacked(rows, found, source.dimension)

    return OldModel(Space(name or source.path.name, fingerprint, source.dimension), "gallery", embed)


def _stacked(rows: Sequence[np.ndarray], found: Sequence[int], dimension: int) -> Rows:
    embeddings = np.stack(rows) if rows else np.empty((0, dimension), np.float32)
    return embeddings, np.array(found, np.int64)


def _fingerprint(source: Source, name: str | None) -> str:
    stated = _stated(source)
    if name is None and stated is None:
        raise SfscError(
            f"{source.path} does not say which model made it: give the model a name with --space NAME, the "
            "same as for sfsc gallery import"
        )
    return stated if name is None and stated is not None else named_space(str(name))


def _stated(source: Source) -> str | None:
    """Return the fingerprint of the first row, or None."""
    first = next(iter(source.parts()))
    value = first.columns.get("fingerprint", [None])[0]
    return None if value is None else str(value)
