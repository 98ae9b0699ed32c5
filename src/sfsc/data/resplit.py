"""Views of a data set with other splits: for choosing settings, other cameras, or a domain without labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sfsc.data.dataset import Dataset, held_out
from sfsc.errors import SfscError


def validation(dataset: Dataset, source: str) -> Dataset:
    """Return a view that tests on a quarter of the training identities and leaves out the test identities.

    Settings that are chosen on this view can be tested on the data set itself, whose test identities were
    not used.
    """
    chosen = held_out(dataset.train.identities.tolist(), 1 / 4)
    training = dataset.splits == "train"
    splits = np.where(np.isin(dataset.identities, list(chosen)), "test", "train")
    return _select(dataset, source, training, splits)


def half(dataset: Dataset, source: str) -> Dataset:
    """Return a view that trains on the first half of the training identities, in sorted order.

    It stands for the data that an old model was trained on, before further identities arrived. The test
    images stay.
    """
    identities = np.unique(dataset.train.identities)
    later = (dataset.splits == "train") & np.isin(dataset.identities, identities[len(identities) // 2 :])
    return _select(dataset, source, ~later, dataset.splits)


def target(dataset: Dataset, source: str) -> Dataset:
    """Return a view that trains on a fifth of the test identities, at least two, and tests on the others.

    The training identities of the data set are left out. The fifth stands for the unlabelled images of the
    searched domain that a calibration can use.
    """
    testing = dataset.splits != "train"
    chosen = held_out(dataset.identities[testing].tolist(), 1 / 5, at_least=2)
    splits = np.where(np.isin(dataset.identities, list(chosen)), "train", dataset.splits)
    return _select(dataset, source, testing, splits)


def cameras(dataset: Dataset, source: str) -> Dataset:
    """Return a view whose training, query and gallery images were seen by chosen cameras.

    It stands for a family that meets other cameras than it was trained on. Training images stay training
    images, so a test identity is trained on only if the data set itself does so. All other images are left
    out.

    Args:
        dataset: a data set with cameras.
        source: the name of the view, "cameras:TRAIN/QUERY/GALLERY:KIND:PATH", where each of the three parts
            lists cameras separated by commas.

    Raises:
        SfscError: the name has another form, or the data set lacks cameras or one of those named.
    """
    given = [part.split(",") for part in source.split(":")[1].split("/")]
    if len(given) != 3:
        raise SfscError(f"{source!r}: name three lists of cameras, as in cameras:c1,c2/c3/c4:KIND:PATH")
    if dataset.cameras is None:
        raise SfscError(f"{source}: {dataset.source} has no cameras to choose from")
    known = sorted(set(dataset.cameras.tolist()))
    unknown = [camera for part in given for camera in part if camera not in known]
    if unknown:
        raise SfscError(f"{source}: there is no camera {unknown[0]!r}; the cameras are {', '.join(known)}")
    train, query, gallery = (np.isin(dataset.cameras, part) for part in given)
    splits = dataset.splits
    query &= np.isin(splits, ["query", "test"])
    gallery &= np.isin(splits, ["gallery", "test"])
    train &= splits == "train"
    chosen = np.select([train, query & gallery, query, gallery], ["train", "test", "query", "gallery"], "")
    return _select(dataset, source, chosen != "", chosen)


def _select(dataset: Dataset, source: str, kept: np.ndarray, splits: np.ndarray) -> Dataset:
    return replace(
        dataset,
        source=source,
        paths=tuple(path for path, keep in zip(dataset.paths, kept, strict=True) if keep),
        identities=dataset.identities[kept],
        cameras=None if dataset.cameras is None else dataset.cameras[kept],
        splits=splits[kept].astype(str),
    )
