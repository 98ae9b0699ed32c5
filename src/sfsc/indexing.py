"""Writing images into a gallery, by any sub-model of a family."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sfsc.data.dataset import names_dataset, open_dataset
from sfsc.data.images import CorruptImage, find_images
from sfsc.embedding import Embedded
from sfsc.engines import Engine, local_engine
from sfsc.errors import SfscError
from sfsc.gallery import Gallery
from sfsc.gallery.forms import check_form
from sfsc.interruption import INTERRUPTS, going_on, held
from sfsc.model import Model

BATCHES_PER_ADD = 64

# By the absolute path of an image, what is said of it.
Attributes = Mapping[str, Mapping[str, Any]]


def index(
    model: Model,
    images: str | Path,
    gallery: Gallery,
    width: float = 1.0,
    workers: int = 2,
    form: str = "float32",
    attributes: Attributes | None = None,
    resume: bool = False,
    engine: Engine | None = None,
    dimension: int | None = None,
) -> list[CorruptImage]:
    """Embed images with one sub-model and add them to a gallery; a path added before is replaced.

    Args:
        model: a family in evaluation mode, as `Family.load` gives it, or an exported sub-model.
        images: an image, a folder of images, or "KIND:PATH" of a data set, whose gallery split is added
            with its identities and cameras.
        gallery: empty, or written by its family.
        width: the sub-model that embeds.
        workers: threads that decode images.
        form: in which embeddings are stored: float32, float16 or int8.
        attributes: as `read_attributes` gives them.
        resume: leave out images of which the gallery has a row by this sub-model.
        engine: embeds the images, with the sub-model at `width` and in `dimension`; by default this process
            does.
        dimension: how many of the embeddings' first components are stored; by default as many as the gallery
            has, or all where it is new.

    Returns:
        The images that could not be read; all others are in the gallery.

    Raises:
        SfscError: no images, not one of the model's widths or dimensions, an unknown form, or a gallery of
            another family or of more dimensions.
    """
    model.check_width(width)
    if dimension is not None:
        model.check_dimension(dimension)
    check_form(form)
    paths, identities, cameras = labelled_paths(str(images))
    gallery.check_family(dimension or model.dimension, model.fingerprint)
    rows = [
        {
            "path": path,
            "identity": None if identities is None else str(identities[place]),
            "camera": None if cameras is None else str(cameras[place]),
            "attributes": (attributes or {}).get(path, {}),
        }
        for place, path in enumerate(paths)
    ]
    if resume:
        there = {row["path"] for row in gallery.rows([f"width={width!r}"])}
        rows = [row for row in rows if row["path"] not in there]
    engine = engine or local_engine(model, width, workers, dimension)
    with going_on("the same command goes on" if resume else "go on with --resume"):
        return _write(model, gallery, rows, width, form, engine)


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
            with going_on("the same command goes on"):
                corrupt += _write(model, gallery, rows, width, form, engine)
    return corrupt


def read_attributes(path: Path) -> Attributes:
    """The attributes of images from a csv file with a column "path" and others.

    Paths start at the file's folder. A column whose values are all integers, numbers, or true and false
    becomes one of integers, numbers or booleans; an empty value is none.

    Raises:
        SfscError: there is no such file, it is no csv file in UTF-8, or it has no column "path".
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SfscError(f"{path} is not a csv file in UTF-8: {error}") from error
    if not rows or "path" not in rows[0]:
        raise SfscError(f"{path}: there is no column 'path', or no row")
    columns = {name: _typed([row[name] for row in rows]) for name in rows[0] if name not in ("path", None)}
    return {
        _absolute(str(path.parent / row["path"])): {name: values[place] for name, values in columns.items()}
        for place, row in enumerate(rows)
    }


def labelled_paths(images: str) -> tuple[list[str], np.ndarray | None, np.ndarray | None]:
    """Absolute paths, and identities and cameras where they are known, each (N,) str.

    Raises:
        SfscError: there are no images.
    """
    if names_dataset(images):
        split = open_dataset(images).gallery
        return [_absolute(path) for path in split.paths], split.identities, split.cameras
    if not Path(images).exists():
        raise SfscError(f"there is nothing at {images}: give an image, a folder or KIND:PATH of a data set")
    return [_absolute(path) for path in find_images(Path(images))], None, None


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


def in_parts(batches: Iterator[Embedded[float]]) -> Iterator[Embedded[float]]:
    """The batches, some together: what is written at once is neither slow nor much to lose.

    What is finished when a signal comes is a part as well, before the signal is obeyed.
    """
    part: list[Embedded[float]] = []
    try:
        for batch in batches:
            part.append(batch)
            if len(part) == BATCHES_PER_ADD:
                finished, part = part, []
                yield Embedded.join(finished)
    except INTERRUPTS:
        if part:
            yield Embedded.join(part)
        raise
    if part:
        yield Embedded.join(part)


def _typed(texts: list[str | None]) -> list[Any]:
    """The values of a column as integers, numbers, booleans or texts; None for empty ones."""
    values = [text.strip() if text else None for text in texts]
    said = [value for value in values if value]
    for read in (int, float, {"true": True, "false": False}.__getitem__):
        try:
            typed = {value: read(value) for value in said}
        except (ValueError, KeyError):
            continue
        return [typed[value] if value else None for value in values]
    return [value or None for value in values]


def _absolute(path: str) -> str:
    return os.path.abspath(path)  # Path.absolute keeps ".."
