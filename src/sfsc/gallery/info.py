"""A summary of a gallery."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from sfsc.gallery.store import BRIDGE_ERROR, Store


@dataclass(frozen=True)
class GalleryInfo:
    """A summary of a gallery, made by `Gallery.info`.

    Attributes:
        rows: the number of rows.
        dimension: the dimension of the rows, or None until the first row is added.
        fingerprint: the fingerprint of the family, or None until the first row is added.
        rows_by_width: the number of rows that each sub-model wrote, by width.
        rows_by_form: the number of rows in each numeric form (float32, float16, int8).
        attributes: the kind of each user-defined column: text, integer, number or boolean.
        dimensions: the dimensions that the family supports, ascending; empty if they are unknown.
        duplicates: ids that several rows share. Only galleries that several processes of an old version wrote
            to can contain them.
        bridged: the number of rows that a bridge has moved here and that were not embedded again.
        bridged_from: the fingerprint of the space that they came from, while their embeddings there are kept;
            otherwise empty.
    """

    rows: int
    dimension: int | None
    fingerprint: str | None
    rows_by_width: dict[float, int]
    rows_by_form: dict[str, int]
    attributes: dict[str, str]
    dimensions: tuple[int, ...] = ()
    duplicates: tuple[str, ...] = ()
    bridged: int = 0
    bridged_from: str = ""


def summary(store: Store) -> GalleryInfo:
    """Return the summary of a store."""
    description = store.describe()
    if description is None:
        return GalleryInfo(0, None, None, {}, {}, {})
    widths: Counter[float] = Counter()
    forms: Counter[str] = Counter()
    has_bridged, bridged = BRIDGE_ERROR in description.attributes, 0
    for columns, _ in store.rows([], ["width", "form", *([BRIDGE_ERROR] if has_bridged else [])]):
        bridged += sum(error is not None for error in columns.get(BRIDGE_ERROR, ()))
        widths.update(columns["width"])
        forms.update(columns["form"])
    return GalleryInfo(
        rows=widths.total(),
        dimension=description.dimension,
        fingerprint=description.fingerprint,
        rows_by_width=dict(sorted(widths.items())),
        rows_by_form=dict(sorted(forms.items())),
        attributes=dict(description.attributes),
        dimensions=description.dimensions,
        duplicates=tuple(store.duplicates()),
        bridged=bridged,
        bridged_from=description.bridged_from,
    )
