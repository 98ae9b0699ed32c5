"""Upgrading a gallery of an old model in place: a bridge moves its rows into the space of a family."""

from __future__ import annotations

import numpy as np

from sfsc.bridges.bridge import Bridge
from sfsc.bridges.refitting import refit
from sfsc.embedding.model import same_space
from sfsc.errors import SfscError
from sfsc.gallery import Gallery
from sfsc.gallery.store import BRIDGE_ERROR, Description


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


def refit_gallery(gallery: Gallery, bridge: Bridge) -> int:
    """Move the bridged rows of a gallery again, corrected by the rows that were embedded again since.

    What the bridge misses at a row is taken from the nearest rows whose new embeddings are known, and the
    expected errors are fitted to them (`sfsc.bridges.refitting.refit`). Rows of the family stay as they are.
    Searches find the rows as they were until all are moved in one step. If the process is killed, nothing is
    lost, and the same call continues. Repeat it whenever more rows were embedded again: each time, rows are
    moved from their original embeddings.

    Args:
        gallery: a gallery that the bridge has moved, which keeps its originals.
        bridge: the bridge.

    Returns:
        The number of rows that were moved again.

    Raises:
        SfscError: the gallery keeps no originals, another bridge has moved it, or fewer than 20 rows with
            originals were embedded again. It is then unchanged.

    Example::

        sfsc.upgrade(family, gallery, order="spread", limit=10_000)
        sfsc.refit_gallery(gallery, sfsc.Bridge.load("old-to-new.safetensors"))
    """
    check_moved(gallery, bridge)
    pairs = [pair for _, *pair in gallery.originals(bridge.old.dimension, [f"{BRIDGE_ERROR}="])]
    none = np.empty((0, bridge.old.dimension), np.float32), np.empty((0, bridge.new.dimension), np.float32)
    originals, embeddings = (np.concatenate(parts) for parts in zip(none, *pairs, strict=True))
    refitted = refit(bridge.forward, originals, embeddings)
    rows = gallery.move_again(bridge.old.dimension, refitted, refitted.digest)
    gallery.refresh()
    return rows


def check_moved(gallery: Gallery, bridge: Bridge) -> None:
    """Raise `SfscError` unless a gallery keeps originals of the old model, and rows of the new one."""
    described = gallery.describe()
    if described is None or not described.bridged_from:
        raise SfscError(
            f"gallery {gallery.name} keeps no original embeddings, which refitting needs: upgrade it first "
            "with sfsc gallery upgrade --bridge"
        )
    bridge.check_old(described.bridged_from, f"what gallery {gallery.name} keeps")
    bridge.check_new(described.fingerprint, f"gallery {gallery.name}")
