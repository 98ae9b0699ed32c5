"""Fitting a bridge on images that both models embed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sfsc.bridges.bridge import Bridge, Choice, Space
from sfsc.bridges.fitting import check_pairs, fit
from sfsc.bridges.old import OldModel, open_old
from sfsc.data.image_paths import images_of
from sfsc.embedding.embedded import Embedded
from sfsc.embedding.engines import local_engine
from sfsc.embedding.model import Model, same_space, space_of
from sfsc.errors import SfscError

MOST_PAIRS = 50_000


def bridge(
    old: str | Path | OldModel,
    new: Model,
    images: str | Path,
    *,
    name: str = "new",
    kind: str | None = None,
    workers: int = 2,
    seed: int = 0,
) -> Bridge:
    """Fit maps between the spaces of an old model and of a family, on images without labels.

    The full sub-model of the family embeds the images. Both maps are chosen on held-out images, see
    `sfsc.bridges.fitting.fit`.

    Args:
        old: an old model that `sfsc.bridges.old.open_old` returned or can open, such as "old.npy:last-year".
        new: a family in evaluation mode, or an exported sub-model.
        images: an image folder, or KIND:PATH of a data set. Of a data set, the training split is used, or the
            gallery split if there are only embeddings of the old model. If there are more than 50,000 images,
            as many are used, spread over all of them.
        name: what people call the family.
        kind: orthogonal, relaxed or residual; by default the best one for each direction.
        workers: the number of threads that decode images.
        seed: the seed of everything that is random.

    Raises:
        SfscError: both are in one space already, there are too few images that both can embed, or a model or
            the images cannot be read.

    Example::

        bridge = sfsc.bridge("runs/old", sfsc.Family.load("runs/new"), "photos")
        bridge.save("old-to-new.safetensors")
    """
    opened = old if isinstance(old, OldModel) else open_old(str(old), workers=workers)
    goal = Space.of(name, new)
    if same_space(opened.space.fingerprint, goal.fingerprint):
        raise SfscError(f"both models belong to {space_of(goal.fingerprint)}: they need no bridge")
    found = images_of(images, opened.split).storable().paths
    chosen = np.unique(np.linspace(0, len(found) - 1, min(len(found), MOST_PAIRS)).astype(int))
    paths = [found[place] for place in chosen]
    rows, places = opened.find(paths)
    if not len(rows):
        raise SfscError(
            f"{opened.space.name} has embeddings of none of the images in {images}: its paths must be theirs"
        )
    check_pairs(len(rows), opened.space.dimension, goal.dimension)
    embedded = Embedded.join(list(local_engine(new, new.widest, workers)([paths[place] for place in places])))
    rows, targets = rows[embedded.indices], embedded.vectors[new.widest]
    forward, backward = fit(rows, targets, kind, seed), fit(targets, rows, kind, seed)
    choices = {
        "forward": Choice(forward.kind, forward.cosines, forward.found),
        "backward": Choice(backward.kind, backward.cosines, backward.found),
    }
    return Bridge(opened.space, goal, len(rows), choices, forward.map, backward.map)
