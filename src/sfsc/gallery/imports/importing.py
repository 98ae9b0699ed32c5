"""Adding the rows of a source to a gallery: everything is checked first, and then written in parts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sfsc.dimensions import check_dimension, shorten
from sfsc.embedding.model import same_space
from sfsc.errors import SfscError
from sfsc.gallery.forms import check_form
from sfsc.gallery.gallery import Gallery
from sfsc.gallery.imports.faiss_file import INDEXES, open_faiss
from sfsc.gallery.imports.npy import MAGIC, open_npy
from sfsc.gallery.imports.source import Part, Source
from sfsc.gallery.imports.tables import open_lance, open_parquet
from sfsc.gallery.problems import rows_per_part
from sfsc.gallery.store import COLUMNS, Description
from sfsc.gallery.uniqueness import Hashes, counts
from sfsc.gallery.values import attribute_columns, check_columns, texts
from sfsc.interruption import going_on, held
from sfsc.progress import track

PARQUET = b"PAR1"
GROUPED = ("fingerprint", "width", "form")  # columns that `Gallery.add` takes once for all rows


class PartlyImported(SfscError):
    """Raised if an import failed after some rows were written; the message says how many."""


@dataclass(frozen=True)
class _Facts:
    """What the options say about rows whose source does not say it."""

    fingerprint: str | None
    width: float | None
    form: str | None


def import_embeddings(
    source: str | Path,
    gallery: Gallery,
    *,
    ids: str | Path | None = None,
    fingerprint: str | None = None,
    width: float | None = None,
    form: str | None = None,
    dimensions: Sequence[int] = (),
) -> int:
    """Add the embeddings in files of another program to a gallery.

    All rows are checked before the first is written. A row replaces the row with the same id, so that an
    interrupted import can be repeated. Rows are read in parts: memory is bounded by 8 bytes for each row and
    one part.

    Args:
        source: a `.npy` file, a Parquet file, a folder of Parquet files, a flat FAISS index, or the folder of
            a Lance table.
        gallery: a gallery that is empty or belongs to the family of the embeddings.
        ids: a file with one id per line, for a source without ids; by default the file `.txt` beside a
            `.npy` file.
        fingerprint: the fingerprint of the family, if the source has no such column.
        width: the width of the sub-model that embedded the images, if the source has no such column.
        form: the numeric form to store: float32, float16 or int8; by default that of the source, or float32.
        dimensions: the dimensions that the family supports, for a new gallery; by default those that the
            source states.

    Returns:
        The number of rows.

    Raises:
        SfscError: the source is damaged or of another kind, an option is missing or contradicts the source,
            a row cannot be stored, or an id is repeated. The gallery is then unchanged.
        PartlyImported: rows could not be written after others were.

    Example::

        from sfsc.gallery.imports.importing import import_embeddings

        model = sfsc.open_model("phone.onnx")
        import_embeddings("photos.npy", gallery, fingerprint=model.fingerprint, width=model.widest)
    """
    opened = open_source(Path(source), None if ids is None else Path(ids))
    facts = _Facts(fingerprint, width, None if form is None else check_form(form))
    dimensions = dimensions or opened.dimensions
    _check(opened, gallery, facts, dimensions)
    written = 0
    try:
        with going_on("run the same command again"):
            for part in _tracked(opened, "importing"):
                with held():
                    written += _add(gallery, part, facts, dimensions)
    except SfscError as error:
        if not written:
            raise
        raise PartlyImported(
            f"{written} of {opened.rows} rows were imported: {error}; then run the same command again"
        ) from error
    return written


def open_source(path: Path, ids: Path | None) -> Source:
    """Open a source by what it contains.

    Raises:
        SfscError: the path does not exist, or contains something else.
    """
    if path.is_dir():
        return open_lance(path) if (path / "_versions").is_dir() else _open_folder(path)
    try:
        with path.open("rb") as file:
            first = file.read(len(MAGIC))
    except OSError as error:
        raise SfscError(f"cannot read {path}: {error.strerror}") from error
    if first == MAGIC:
        return open_npy(path, ids)
    if first.startswith(PARQUET):
        return open_parquet(path)
    if first.startswith(INDEXES):
        return open_faiss(path, ids)
    raise SfscError(f"{path} is neither a .npy file, a Parquet file nor a flat FAISS index")


def _open_folder(path: Path) -> Source:
    tables = sorted(entry.name for entry in path.glob("*.lance"))
    if tables:
        raise SfscError(
            f"{path} contains tables: give one of them, such as {path / tables[0]}, or export a gallery with "
            "`sfsc gallery export` and import the file"
        )
    if not any(path.glob("*.parquet")):
        raise SfscError(f"{path} contains neither Parquet files nor a Lance table")
    return open_parquet(path)


def _tracked(source: Source, description: str) -> Iterator[Part]:
    total = math.ceil(source.rows / rows_per_part(source.dimension))
    return track(source.parts(), description, total)


def _check(source: Source, gallery: Gallery, facts: _Facts, dimensions: Sequence[int]) -> None:
    """Raise `SfscError` if a row of a source cannot be added to a gallery."""
    description, hashes = gallery.describe(), Hashes()
    for part in _tracked(source, "checking"):
        columns, attributes = _completed(part, facts)
        if description is None:
            check_dimension(source.dimension, dimensions or (source.dimension,))
            description = Description(source.dimension, columns["fingerprint"][0])
        gallery.check_family(source.dimension, columns["fingerprint"][0])
        _check_family(part, columns["fingerprint"], description)
        check_embeddings(part, description.dimension)
        check_unique(part, columns["id"])
        own, kinds = attribute_columns(attributes, gallery.name)
        check_columns(columns | own, len(part.embeddings), gallery.name)
        description = description.with_attributes(kinds, gallery.name)
        hashes.add(columns["id"])
    if repeated := hashes.repeated():
        ids = (texts(part.columns["id"]) for part in source.parts())
        twice = next((id_ for id_, times in counts(ids, repeated).items() if times > 1), None)
        if twice is not None:
            raise SfscError(f"{source.path} contains the id {twice!r} several times: ids must be unique")


def _check_family(part: Part, fingerprints: Sequence[str], description: Description) -> None:
    for place, fingerprint in enumerate(fingerprints):
        if not same_space(fingerprint, description.fingerprint):
            raise SfscError(
                f"{part.row(place)} belongs to the family {fingerprint}, but the gallery to "
                f"{description.fingerprint}: import it into another gallery"
            )


def check_unique(part: Part, ids: Sequence[str]) -> None:
    """Raise `SfscError` for the first id of a part that an earlier row of the part has."""
    if len({*ids}) < len(ids):
        place = next(place for place, id_ in enumerate(ids) if id_ in ids[:place])
        raise SfscError(f"{part.row(place)} has the id of an earlier row: ids must be unique")


def check_embeddings(part: Part, dimension: int) -> None:
    """Raise `SfscError` for the first row whose first components, (N, dimension), have no direction."""
    with np.errstate(over="ignore", invalid="ignore"):
        vectors = part.embeddings.astype(np.float32, copy=False)
        lengths = np.linalg.norm(vectors, axis=1)
        if vectors.shape[1] > dimension:
            lengths = lengths * np.linalg.norm(shorten(vectors, dimension), axis=1)
    odd = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if len(odd):
        what = "is all zeros" if lengths[odd[0]] == 0 else "contains NaN, infinity or too large numbers"
        raise SfscError(f"{part.row(int(odd[0]))}: its embedding {what}: correct or remove it")


def _completed(part: Part, facts: _Facts) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """Return the columns that every gallery has, with facts where the source has none, and the attributes."""
    count = len(part.embeddings)
    given = {name: values for name, values in part.columns.items() if name in COLUMNS}
    columns = {name: texts(given.get(name, [None] * count)) for name in ("id", "identity", "camera")}
    columns["path"] = texts(given.get("path", columns["id"]))
    columns["fingerprint"] = _filled(part, "fingerprint", facts.fingerprint)
    columns["width"] = _filled(part, "width", facts.width)
    for place, width in enumerate(columns["width"]):
        if not isinstance(width, float) or not 0 < width <= 1:
            raise SfscError(f"{part.row(place)} has width {width!r}: widths are numbers above 0, at most 1")
    columns["form"] = [
        facts.form or check_form(form or "float32") for form in given.get("form", [None] * count)
    ]
    return columns, {name: values for name, values in part.columns.items() if name not in COLUMNS}


def _filled(part: Part, name: str, fact: Any) -> list[Any]:
    """Return the values of a column, or the fact from an option where a row has none."""
    values = part.columns.get(name, [None] * len(part.embeddings))
    for place, value in enumerate(values):
        if value is None and fact is None:
            option = "--width WIDTH" if name == "width" else "--model MODEL or --fingerprint FINGERPRINT"
            raise SfscError(f"{part.row(place)} has no {name}: give {option}")
        agree = value is None or fact is None or value == fact
        if not agree and not (name == "fingerprint" and same_space(str(value), str(fact))):
            raise SfscError(
                f"{part.row(place)} has {name} {value}, but the options say {fact}: leave them out"
            )
    return [fact if value is None else value for value in values]


def _add(gallery: Gallery, part: Part, facts: _Facts, dimensions: Sequence[int]) -> int:
    """Add the rows of a part, those of equal fingerprint, width and form together."""
    columns, attributes = _completed(part, facts)
    groups: dict[tuple[Any, ...], list[int]] = {}
    for place, group in enumerate(zip(*(columns[name] for name in GROUPED), strict=True)):
        groups.setdefault(group, []).append(place)
    for (fingerprint, width, form), places in groups.items():
        gallery.add(
            part.embeddings[places],
            _take(columns["id"], places),
            paths=_take(columns["path"], places),
            identities=_take(columns["identity"], places),
            cameras=_take(columns["camera"], places),
            attributes={name: _take(values, places) for name, values in attributes.items()},
            width=width,
            fingerprint=fingerprint,
            form=form,
            dimensions=dimensions,
        )
    return len(part.embeddings)


def _take(values: Sequence[Any], places: Sequence[int]) -> list[Any]:
    return [values[place] for place in places]
