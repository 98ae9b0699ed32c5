"""Upgrading a gallery of an old model in place: a bridge moves its rows into the space of a family."""

from __future__ import annotations

from sfsc.bridges.bridge import Bridge
from sfsc.embedding.model import same_space
from sfsc.errors import SfscError
from sfsc.gallery import Gallery
from sfsc.gallery.store import Description


def upgrade_gallery(gallery: Gallery, bridge: Bridge) -> int:
    """Move all rows of an old gallery into the space of a family, in place.

    Every row becomes a bridged row: its attribute `bridge_error` is the expected value of 1 - cos between the
    row and the embedding of its image by the family. The original embeddings are kept until
    `Gallery.drop_originals`. Searches find the old rows until all rows are moved in one step. If the process
    is killed, nothing is lost, and the same call continues.

    Args:
        gallery: a gallery whose rows the old model of the bridge has embedded.
        bridge: the bridge.

    Returns:
        The number of rows; 0 if the bridge has already moved them.

    Raises:
        SfscError: the gallery belongs to another model, has another dimension, or cannot be written. It is
            then unchanged.

    Example::

        from sfsc.bridges.bridge import Bridge
        from sfsc.bridges.upgrading import upgrade_gallery

        with sfsc.Gallery.open("galleries/old") as gallery:
            upgrade_gallery(gallery, Bridge.load("old-to-new.safetensors"))
    """
    described, new = gallery.describe(), bridge.new
    if described is not None:
        moved = same_space(described.fingerprint, new.fingerprint)
        if moved and same_space(described.bridged_from, bridge.old.fingerprint):
            return 0
        bridge.check_old(described.fingerprint, f"gallery {gallery.name}")
        if described.dimension != bridge.old.dimension:
            raise SfscError(
                f"gallery {gallery.name} has {described.dimension} dimensions, but the bridge maps "
                f"{bridge.old.dimension}: fit a bridge with this gallery as the old model"
            )
    to = Description(new.dimension, new.fingerprint, dimensions=new.dimensions)
    rows = gallery.move(to, bridge.forward, bridge.digest)
    gallery.refresh()
    return rows
