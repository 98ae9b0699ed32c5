"""Old models: what embedded the rows of an old gallery, or only a table of these embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sfsc.bridges.bridge import Space
from sfsc.bridges.stored import Find, Rows, digest_of, of_gallery, of_table, open_table
from sfsc.embedding.embedded import Embedded, Embedder, embed_images
from sfsc.embedding.exported import PROPERTY, open_session
from sfsc.embedding.foreign import CODE, COLOURS, ForeignModel, open_function, open_onnx
from sfsc.embedding.model import ONNX, Model, open_model
from sfsc.errors import SfscError
from sfsc.files.writing import read_bytes
from sfsc.gallery import Gallery
from sfsc.images.reading import CorruptImage, decode
from sfsc.runs.paths import CONFIG_FILE, DESCRIPTION_FILE, FAMILY_FILE, split_detail

if TYPE_CHECKING:
    import torch

MOST_ONNX = 1 << 31  # bytes, the limit of the format


@dataclass(frozen=True)
class OldModel:
    """A model that is not trained any more, and whose embeddings are known or can be computed.

    Attributes:
        name: how the user calls it.
        space: the space of its embeddings.
        find: returns the embeddings of those of the images at some paths that can be read and have one,
            (k, dim) float32 of length 1, and the positions of these images, (k,).
        stored: whether there are only embeddings, and no model that computes others.
        digest: returns the digest of a table, which identified it before tables had names.
    """

    name: str
    space: Space
    find: Find
    stored: bool = False
    digest: Callable[[], str] | None = None

    @property
    def split(self) -> str:
        """The part of a data set whose images are likely to have embeddings."""
        return "gallery" if self.stored else "train"

    def was(self, fingerprint: str) -> bool:
        """Return whether this is the model that a run has recorded under a fingerprint."""
        return fingerprint == self.space.fingerprint or (
            self.digest is not None and fingerprint == self.digest()
        )

    def check(self, paths: Sequence[str]) -> None:
        """Raise `SfscError` if the embedding of a readable image is not stored, or one is unsound."""
        if self.stored:
            self._check(paths, self.find(paths)[1])

    def embed(self, paths: Sequence[str]) -> np.ndarray:
        """Return the embeddings of all images at some paths, (len(paths), dimension) float32, of length 1.

        Raises:
            SfscError: an image cannot be read, or its embedding is not known.
        """
        images = {path: place for place, path in enumerate(dict.fromkeys(paths))}
        rows, found = self.find([*images])
        if len(found) < len(images):
            corrupt = self._check([*images], found)
            raise SfscError(f"{len(corrupt)} of {len(paths)} images cannot be read, the first: {corrupt[0]}")
        return np.asarray(rows[np.argsort(found)][[images[path] for path in paths]])

    def _check(self, paths: Sequence[str], found: np.ndarray) -> list[CorruptImage]:
        """Return the reasons why images were not found; raise `SfscError` for one that can be read."""
        missing = {path: _fault(path) for path in sorted({*paths} - {paths[place] for place in found})}
        readable = [path for path, fault in missing.items() if fault is None]
        if readable:
            raise SfscError(
                f"{self.name} lacks {len(readable)} of {len(paths)} images, the first: {readable[0]}; "
                "embed them with the old model and add their rows"
            )
        return [fault for fault in missing.values() if fault is not None]


def open_old(
    source: str | Path,
    *,
    allow_code: str | None = None,
    workers: int = 2,
    device: torch.device | None = None,
) -> OldModel:
    """Open an old model, or embeddings that it has left behind.

    A colon and what the source does not say may follow it: RUN:WIDTH for another sub-model than the full
    one, FILE.onnx:COLOURS for how another ONNX file wants its colours (`sfsc.embedding.foreign.COLOURS`,
    by default imagenet), and TABLE:SPACE for the name of a table's space, as for `sfsc gallery import
    --space`.

    Args:
        source: a run folder, a file that `sfsc export` wrote, another ONNX file with one image input,
            python:package.module:function, a gallery, or a table of embeddings that `sfsc gallery import`
            can read. The ids of a table are the paths of the images; those of a .npy file are in the file
            `.txt` beside it.
        allow_code: the function that may be called, as for `Family.load`.
        workers: the number of threads that decode images.
        device: where a family computes; by default on the CPU.

    Raises:
        SfscError: the source is none of these, is damaged, or cannot be what follows the colon.
    """
    source = str(source)
    place, detail = split_detail(source)
    path = Path(place)
    if not source.startswith(CODE):
        if not path.exists():
            raise SfscError(
                f"there is no old model {source}: name a run folder, an ONNX file, python:module:function, a "
                "gallery or a table of embeddings"
            )
        is_run = any((path / name).exists() for name in (FAMILY_FILE, CONFIG_FILE, DESCRIPTION_FILE))
        if not is_run and path.suffix != ONNX:
            return _stored(source, path, detail)
    model, width = _network(source, place, detail, allow_code)
    if device is not None:
        from sfsc.family.family import Family

        model = model.to(device) if isinstance(model, Family) else model
    space = Space.of(path.absolute().name + (detail and f":{detail}"), model)
    return OldModel(source, space, partial(_embedded, model, width, workers))


def open_any_model(source: str | Path, colours: str = "imagenet", allow_code: str | None = None) -> Model:
    """Open a model as `open_model` does, or a model that sfsc did not train.

    Args:
        source: as for `open_old`, without galleries and tables, and without a colon.
        colours: how another ONNX file wants its colours, one of `sfsc.embedding.foreign.COLOURS`.
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


def _network(source: str, place: str, detail: str, allow_code: str | None) -> tuple[Model, float]:
    """Return a model, and the width of the sub-model that is meant."""
    coloured = detail in COLOURS
    model = open_any_model(place, detail if coloured else "imagenet", allow_code)
    if not detail or (coloured and isinstance(model, ForeignModel)):
        return model, model.widest
    try:
        width = float(detail)
    except ValueError:
        wanted = f"one of {', '.join(COLOURS)}" if isinstance(model, ForeignModel) else "a width"
        raise SfscError(f"old model {source}: {wanted} must follow the colon, not {detail}") from None
    model.check_width(width)
    return model, width


def _stored(source: str, path: Path, detail: str) -> OldModel:
    from sfsc.gallery.lance_table import TABLE

    if (path / TABLE).is_dir():
        if detail:
            raise SfscError(f"old model {source}: a gallery says what its rows are: leave out :{detail}")
        return OldModel(source, *of_gallery(Gallery.open(path)), stored=True)
    table = open_table(path)
    return OldModel(source, *of_table(table, detail), stored=True, digest=partial(digest_of, table))


def _embedded(model: Model, width: float, workers: int, paths: Sequence[str]) -> Rows:
    embedder = {None: Embedder.of(model, width)}
    found = Embedded.join([*embed_images(embedder, paths, workers, "embedding by the old model")])
    return found.vectors[None], found.indices


def _fault(path: str) -> CorruptImage | None:
    """Return why an image cannot be read, or None if it can."""
    try:
        decode(path, None)
    except CorruptImage as error:
        return error
    return None
