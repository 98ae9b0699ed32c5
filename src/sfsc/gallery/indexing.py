"""Embedding images with any sub-model of a family and writing them into a gallery."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sfsc.data.image_paths import images_of
from sfsc.embedding.embedded import Embedded, in_parts
from sfsc.embedding.engines import Engine, local_engine
from sfsc.embedding.model import Model
from sfsc.gallery import Condition, Gallery
from sfsc.gallery.attributes import Attributes, AttributeTable
from sfsc.gallery.forms import check_form
from sfsc.gallery.ordering import NEAREST, check_order, times_found, upgrade_order
from sfsc.gallery.spreading import spread_ranks
from sfsc.gallery.store import BRIDGE_ERROR, COLUMNS, EMBEDDING
from sfsc.images.boxes import Box
from sfsc.images.reading import CorruptImage, absolute
from sfsc.interruption import going_on, held
from sfsc.progress import say


def index(
    model: Model,
    images: str | Path,
    gallery: Gallery,
    width: float = 1.0,
    workers: int = 2,
    form: str = "float32",
    attributes: AttributeTable | Attributes | None = None,
    resume: bool = False,
    engine: Engine | None = None,
    dimension: int | None = None,
    box: Box | None = None,
) -> list[CorruptImage]:
    """Embed images with one sub-model and add them to a gallery.

    An image that is already in the gallery replaces its row.

    Args:
        model: a family in evaluation mode, as `Family.load` returns it, or an exported sub-model.
        images: an image, a folder of images, or KIND:PATH of a data set. Of a data set, the gallery split is
            added with its identities and cameras, or all images if it has no gallery split.
        gallery: a gallery that is empty or belongs to the model's family.
        width: the width of the sub-model that embeds the images.
        workers: the number of threads that decode images.
        form: the numeric form in which embeddings are stored: float32, float16 or int8.
        attributes: a table that `read_attributes` returned, or a dictionary of attributes for each absolute
            path. Rows of the table without an image, and images without a row, are reported on standard
            error.
        resume: whether to skip images that this sub-model has already added.
        engine: an engine that embeds the images at `width` and in `dimension`; by default this process.
        dimension: the number of first components to store; by default the dimension of the gallery, or all
            components if the gallery is new.
        box: the part of each image to embed, `Box(x, y, width, height)` in pixels of the upright image; by
            default the whole image. It belongs to the path of the row, as in `photo.jpg#xywh=10,20,64,48`, so
            a gallery can contain several parts of an image.

    Returns:
        The images that could not be read or stored, and the folders that could not be opened. All other
        images are in the gallery.

    Raises:
        SfscError: there are no images, the model has no such width or dimension, the form is unknown, or the
            gallery belongs to another family or has more dimensions.

    Example::

        family = sfsc.Family.load("runs/photos")
        gallery = sfsc.Gallery.open("galleries/photos", create=True)
        skipped = sfsc.index(family, "folder:photos", gallery, width=1.0)
        print(len(gallery), "rows,", len(skipped), "images skipped")
    """
    model.check_width(width)
    if dimension is not None:
        model.check_dimension(dimension)
    check_form(form)
    found = images_of(images, "gallery").storable()
    gallery.check_family(dimension or model.dimension, model.fingerprint)
    if isinstance(attributes, AttributeTable):
        attributes, remarks = attributes.match(found.paths)
        for text in remarks:
            say(text)
    rows = [
        {
            "path": path if box is None else box.named(path),
            "identity": None if found.identities is None else str(found.identities[place]),
            "camera": None if found.cameras is None else str(found.cameras[place]),
            "attributes": (attributes or {}).get(path, {}),
        }
        for place, path in enumerate(found.paths)
    ]
    if resume:
        there = {*gallery.column("path", [f"width={width!r}"])}
        rows = [row for row in rows if row["path"] not in there]
    engine = engine or local_engine(model, width, workers, dimension)
    with going_on("run the same command again to continue" if resume else "continue with --resume"):
        skipped = [*found.skipped, *_write(model, gallery, rows, width, form, engine)]
    gallery.refresh()
    return skipped


def upgrade(
    model: Model,
    gallery: Gallery,
    width: float = 1.0,
    workers: int = 2,
    engine: Engine | None = None,
    *,
    order: str = "width",
    limit: int | None = None,
    queries: str | Path | None = None,
) -> list[CorruptImage]:
    """Re-embed, with one sub-model, the rows that narrower sub-models wrote or that a bridge has moved.

    The upgrade can be interrupted at any time: the gallery is consistent after every part, and the next call
    continues. All other columns of a row are kept. A row that was bridged loses its mark, and keeps its
    original embedding for `sfsc.bridges.upgrading.refit_gallery`.

    Args:
        model: a family in evaluation mode or an exported sub-model, of the gallery's family.
        gallery: a gallery whose column "path" leads to the images.
        width: the width of the sub-model that embeds the images.
        workers: the number of threads that decode images.
        engine: as for `index`.
        order: which rows come first, as for `sfsc.gallery.ordering.upgrade_order`: width, uncertainty, age,
            queries or spread.
        limit: the number of rows after which to stop; by default all rows are re-embedded.
        queries: for the order "queries", the images of past queries, as for `index`; of a data set, the query
            split.

    Returns:
        The images that could not be read. Their rows are unchanged.

    Raises:
        SfscError: the model has no such width, the gallery belongs to another family, or the order is
            unknown or lacks queries.

    Example::

        gallery = sfsc.Gallery.open("galleries/photos")
        sfsc.upgrade(family, gallery, width=1.0, order="uncertainty", limit=10_000)
    """
    model.check_width(width)
    check_order(order, queries is not None)
    gallery.check_family(model.dimension, model.fingerprint)
    engine = engine or local_engine(model, width, workers)
    hits = _found(model, gallery, queries, workers)
    rows = upgradable(gallery, width, embeddings=order == "spread")
    found = None if hits is None else times_found(hits, rows.ids)
    spread = None if rows.embeddings is None else spread_ranks(rows.embeddings, _done(gallery, width))
    places = upgrade_order(order, rows.widths, rows.errors, rows.times, found, spread).tolist()
    corrupt: list[CorruptImage] = []
    left = len(places) if limit is None else limit
    with going_on("run the same command again to continue"):
        while places and left > 0:  # again only if images of chosen rows could not be read
            chosen, places = places[:left], places[left:]
            unread = _embed_again(model, gallery, rows, chosen, width, engine)
            corrupt += unread
            left -= len(chosen) - len(unread)
    gallery.refresh()
    return corrupt


def _embed_again(
    model: Model, gallery: Gallery, rows: Upgradable, chosen: list[int], width: float, engine: Engine
) -> list[CorruptImage]:
    """Embed the images of chosen rows in their order, and replace the rows; keep their other columns."""
    corrupt: list[CorruptImage] = []
    for embedded in in_parts(engine([rows.paths[place] for place in chosen])):
        corrupt += embedded.corrupt
        ids = [rows.ids[chosen[i]] for i in embedded.indices]
        vectors = dict(zip(ids, embedded.vectors[width], strict=True))
        there = [*gallery.rows([Condition("id", "=", tuple(ids))])] if ids else []
        with held():
            for form in dict.fromkeys(row["form"] for row in there):
                same = [row for row in there if row["form"] == form]
                own = [name for name in same[0] if name not in (*COLUMNS, BRIDGE_ERROR)]
                gallery.add(
                    np.stack([vectors[row["id"]] for row in same]),
                    [row["id"] for row in same],
                    paths=[row["path"] for row in same],
                    identities=[row["identity"] for row in same],
                    cameras=[row["camera"] for row in same],
                    attributes={name: [row[name] for row in same] for name in own},
                    width=width,
                    fingerprint=model.fingerprint,
                    form=form,
                    keep_originals=True,
                )
    return corrupt


class Upgradable(NamedTuple):
    """The n rows that can be re-embedded; the expected errors of those that are not bridged are NaN.

    `embeddings` are (n, dim) float32, if they were asked for.
    """

    ids: list[str]
    paths: list[str]
    widths: np.ndarray
    errors: np.ndarray
    times: np.ndarray
    embeddings: np.ndarray | None = None


def upgradable(gallery: Gallery, width: float, embeddings: bool = False) -> Upgradable:
    """Return the rows of a gallery that a narrower sub-model wrote, or that a bridge has moved."""
    parts: list[list[str]] = [[f"width<{width!r}"]]
    if _has_bridged(gallery):
        parts = [[f"{BRIDGE_ERROR}!="], [f"width<{width!r}", f"{BRIDGE_ERROR}="]]
    vectors: list[np.ndarray] = []
    rows = []
    for row in (row for where in parts for row in gallery.rows(where, embeddings)):
        rows.append((row["id"], row["path"], row["width"], row.get(BRIDGE_ERROR), row["time"]))
        vectors += [row[EMBEDDING]] if embeddings else []
    ids, paths, *numbers = zip(*rows, strict=True) if rows else ([], [], [], [], [])
    widths, errors, times = (np.array(column, np.float64) for column in numbers)
    stored = _stacked(vectors) if embeddings else None
    return Upgradable([*ids], [*paths], widths, errors, times, stored)


def _done(gallery: Gallery, width: float) -> np.ndarray:
    """Return the embeddings of all rows that `upgradable` does not return: (n, dim) float32."""
    where = [f"width>={width!r}", *([f"{BRIDGE_ERROR}="] if _has_bridged(gallery) else [])]
    return _stacked([row[EMBEDDING] for row in gallery.rows(where, embeddings=True)])


def _has_bridged(gallery: Gallery) -> bool:
    described = gallery.describe()
    return described is not None and BRIDGE_ERROR in described.attributes


def _stacked(vectors: list[np.ndarray]) -> np.ndarray:
    return np.stack(vectors) if vectors else np.empty((0, 0), np.float32)


def _found(
    model: Model, gallery: Gallery, queries: str | Path | None, workers: int
) -> list[list[str]] | None:
    """Return the ids of the rows that each query finds first."""
    if queries is None:
        return None
    paths = images_of(queries, "query").paths
    embedded = Embedded.join(list(local_engine(model, model.widest, workers)(paths)))
    found = gallery.search(embedded.vectors[model.widest], model.fingerprint, NEAREST, exact=False)
    return [[hit.id for hit in hits] for hits in found]


def stored_ids(gallery: Gallery, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the ids of the rows that names refer to, and the names that refer to no row.

    A name is an id or a path. Relative paths start at the working folder, as for `index`.
    """
    wanted = tuple({*names, *map(absolute, names)})
    there = {*gallery.column("id", [Condition("id", "=", wanted)])} if names else set()
    found = {name: name if name in there else absolute(name) for name in names}
    known = [id_ for id_ in found.values() if id_ in there]
    return known, [name for name, id_ in found.items() if id_ not in there]


def _write(
    model: Model, gallery: Gallery, rows: list[dict[str, Any]], width: float, form: str, engine: Engine
) -> list[CorruptImage]:
    """Embed the images of rows and add the rows; a row without an id uses its path as its id."""
    corrupt: list[CorruptImage] = []
    if not rows:
        return corrupt
    for embedded in in_parts(engine([row["path"] for row in rows])):
        corrupt += embedded.corrupt
        read = [rows[i] for i in embedded.indices]
        names = dict.fromkeys(name for row in read for name in row["attributes"])
        if read:
            with held():
                gallery.add(
                    embedded.vectors[width],
                    [row.get("id", row["path"]) for row in read],
                    paths=[row["path"] for row in read],
                    identities=[row["identity"] for row in read],
                    cameras=[row["camera"] for row in read],
                    attributes={name: [row["attributes"].get(name) for row in read] for name in names},
                    width=width,
                    fingerprint=model.fingerprint,
                    form=form,
                    dimensions=model.dimensions,
                )
    return corrupt
