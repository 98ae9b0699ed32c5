"""Changes of a gallery that clients request at the same time, written with few commits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sfsc.gallery import Gallery
from sfsc.gallery.conditions import Value

MOST_ROWS = 10_000  # rows of one commit, because all of them are held in memory twice


@dataclass(frozen=True)
class Add:
    """Rows to store, as for `Gallery.add`, but with the attributes of each row."""

    embeddings: np.ndarray
    ids: Sequence[str]
    paths: Sequence[str]
    identities: Sequence[str | None]
    cameras: Sequence[str | None]
    attributes: Sequence[Mapping[str, Value | None]]
    width: float
    fingerprint: str
    form: str = "float32"

    def goes_with(self, other: Add) -> bool:
        """Return whether one call of `Gallery.add` can store the rows of both."""
        return (self.width, self.fingerprint, self.form, self.embeddings.shape[1]) == (
            *(other.width, other.fingerprint, other.form),
            other.embeddings.shape[1],
        )


@dataclass(frozen=True)
class Delete:
    """Rows to delete, as for `Gallery.delete`."""

    ids: Sequence[str]
    where: Sequence[str]


def choose(waiting: Sequence[Add | Delete]) -> list[int]:
    """Return the positions of the changes to make next: one deletion, or additions that go together.

    A deletion is made after everything that came before it, and before everything that came after it. The
    additions of one id keep their order, too.
    """
    first = waiting[0]
    places, rows, seen = [0], 0, set[str]()
    for place, change in enumerate(waiting):
        if isinstance(first, Delete) or isinstance(change, Delete) or not seen.isdisjoint(change.ids):
            break
        seen.update(change.ids)
        if place and change.goes_with(first) and rows + len(change.ids) <= MOST_ROWS:
            places.append(place)
        rows += len(change.ids)
    return places


def write(gallery: Gallery, changes: Sequence[Add | Delete]) -> list[int]:
    """Make changes that `choose` has chosen, and return the number of rows of each.

    Raises:
        SfscError: as `Gallery.add` and `Gallery.delete`. The gallery is then unchanged.
    """
    if isinstance(first := changes[0], Delete):
        return [gallery.delete(first.ids, first.where)]
    adds = [change for change in changes if isinstance(change, Add)]
    attributes = [values for add in adds for values in add.attributes]
    names = dict.fromkeys(name for values in attributes for name in values)
    gallery.add(
        np.concatenate([add.embeddings for add in adds]),
        [id_ for add in adds for id_ in add.ids],
        paths=[path for add in adds for path in add.paths],
        width=first.width,
        fingerprint=first.fingerprint,
        identities=[identity for add in adds for identity in add.identities],
        cameras=[camera for add in adds for camera in add.cameras],
        attributes={name: [values.get(name) for values in attributes] for name in names},
        form=first.form,
    )
    return [len(add.ids) for add in adds]
