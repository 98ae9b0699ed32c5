"""Writing images into a gallery, by any sub-model of a family."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sfsc.data.image_paths import images_of
from sfsc.embedding.embedded import in_parts
from sfsc.embedding.engines import Engine, local_engine
from sfsc.embedding.model import Model
from sfsc.gallery import Condition, Gallery
from sfsc.gallery.attributes import Attributes, AttributeTable
from sfsc.gallery.forms import check_form
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
) -> list[CorruptImage]:
    """Embed images with one sub-model and add them to a gallery; a path added before is replaced.

    Args:
        model: a family in evaluation mode, as `Family.load` gives it, or an exported sub-model.
        images: an image, a folder of images, or "KIND:PATH" of a data set, whose gallery split, or all of it
            where it has none, is added with its identities and cameras.
        gallery: empty, or written by its family.
        width: the sub-model that embeds.
        workers: threads that decode images.
        form: in which embeddings are stored: float32, float16 or int8.
        attributes: a table, as `read_attributes` reads it, whose rows without an image and images without a
            row are remarked on; or by the absolute path of an image, what is said of it.
        resume: leave out images of which the gallery has a row by this sub-model.
        engine: embeds the images, with the sub-model at `width` and in `dimension`; by default this process
            does.
        dimension: how many of the embeddings' first components are stored; by default as many as the gallery
            has, or all where it is new.

    Returns:
        The images that could not be read or stored, and the folders that could not be opened; all others are
        in the gallery.

    Raises:
        SfscError: no images, not one of the model's widths or dimensions, an unknown form, or a gallery of
            another family or of more dimensions.
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
            "path": path,
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
        return [*found.skipped, *_write(model, gallery, rows, width, form, engine)]


def upgrade(
    model: Model, gallery: Gallery, width: float = 1.0, workers: int = 2, engine: Engine | None = None
) -> list[CorruptImage]:
    """Embed anew, with one sub-model, what narrower ones wrote; the narrowest first, for they gain most.

    It may be stopped at any time: the gallery is whole after every part, and the next call goes on. What a
    row says beside its embedding stays.

    Args:
        model: of the gallery's family.
        gallery: whose rows lead to their images by "path".
        width: the sub-model that embeds.
        workers: threads that decode images.
        engine: as for `index`.

    Returns:
        The images that could not be read; their rows stay as they were.

    Raises:
        SfscError: not one of the model's widths, or a gallery of another family.
    """
    model.check_width(width)
    gallery.check_family(model.dimension, model.fingerprint)
    engine = engine or local_engine(model, width, workers)
    info, corrupt = gallery.info(), []
    for narrow in (found for found in info.rows_by_width if found < width):
        for form in info.rows_by_form:
            rows = [
                {**row, "attributes": {name: row[name] for name in info.attributes}}
                for row in gallery.rows([f"width={narrow!r}", f"form={form}"])
            ]
            with going_on("run the same command again to continue"):
                corrupt += _write(model, gallery, rows, width, form, engine)
    return corrupt


def stored_ids(gallery: Gallery, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the ids of rows that names stand for, and the names that stand for none.

    A name is an id, or else a path: relative ones start at the working folder, as for `index`.
    """
    wanted = tuple({*names, *map(absolute, names)})
    there = {*gallery.column("id", [Condition("id", "=", wanted)])} if names else set()
    found = {name: name if name in there else absolute(name) for name in names}
    known = [id_ for id_ in found.values() if id_ in there]
    return known, [name for name, id_ in found.items() if id_ not in there]


def _write(
    model: Model, gallery: Gallery, rows: list[dict[str, Any]], width: float, form: str, engine: Engine
) -> list[CorruptImage]:
    """Embed the images of rows and add them; a row without an id has its path for one."""
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
