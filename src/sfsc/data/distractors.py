"""Adding distractors to a data set: gallery images that show no query's identity."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np

from sfsc.data.dataset import Dataset
from sfsc.data.image_paths import images_of
from sfsc.data.sources import names_dataset
from sfsc.errors import SfscError
from sfsc.progress import say


def with_distractors(dataset: Dataset, source: str) -> Dataset:
    """Return a data set whose gallery also contains the images of another source.

    Images of an identity that the data set has, and images that it already contains, are left out; their
    number is printed on standard error.

    Args:
        dataset: the data set.
        source: an image, a folder of images, or KIND:PATH of a data set. For a data set, the gallery split
            is used, or all images if it has none. Images of a folder have no identity; all of them are used.

    Raises:
        SfscError: the source has no images or none that can be added, or a part of it cannot be read.
    """
    found = images_of(source, "gallery")
    if found.skipped:
        raise SfscError(str(found.skipped[0]))
    shown = np.zeros(len(found.paths), bool)
    if found.identities is not None:
        shown = np.isin(found.identities, dataset.identities)
    shown |= np.isin(np.array(found.paths), np.array([os.path.abspath(path) for path in dataset.paths]))
    added = tuple(path for path, skip in zip(found.paths, shown, strict=True) if not skip)
    if not added:
        raise SfscError(
            f"{source} has no distractors, because all of its images show identities of {dataset.source}: "
            "name another source"
        )
    if shown.any():
        say(f"{source}: left out {shown.sum()} images of identities of {dataset.source}")
    names = [f"distractor {number}" for number in range(len(added))]
    return replace(
        dataset,
        source=f"{dataset.source} + {_absolute(source)}",
        paths=(*dataset.paths, *added),
        identities=np.concatenate([dataset.identities, names]),
        cameras=None if dataset.cameras is None else np.concatenate([dataset.cameras, ["none"] * len(added)]),
        splits=np.concatenate([dataset.splits, ["gallery"] * len(added)]),
    )


def _absolute(source: str) -> str:
    if os.path.exists(source) or not names_dataset(source):
        return os.path.abspath(source)
    kind, _, path = source.rpartition(":")
    return f"{kind}:{os.path.abspath(path)}"
