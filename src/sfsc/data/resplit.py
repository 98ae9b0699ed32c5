"""Views of a data set with other splits: to choose settings, and for a domain without labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sfsc.data.dataset import Dataset, held_out


def validation(dataset: Dataset, source: str) -> Dataset:
    """Return a view that tests on a quarter of the training identities and leaves out the test identities.

    Settings that are chosen on this view can be tested on the data set itself, whose test identities were
    not used.
    """
    chosen = held_out(dataset.train.identities.tolist(), 1 / 4)
    training = dataset.splits == "train"
    splits = np.where(np.isin(dataset.identities, list(chosen)), "test", "train")
    return _select(dataset, source, training, splits)


def target(dataset: Dataset, source: str) -> Dataset:
    """Return a view that trains on a fifth of the test identities, at least two, and tests on the others.

    The training identities of the data set are left out. The fifth stands for the unlabelled images of the
    searched domain that a calibration can use.
    """
    testing = dataset.splits != "train"
    chosen = held_out(dataset.identities[testing].tolist(), 1 / 5, at_least=2)
    splits = np.where(np.isin(dataset.identities, list(chosen)), "train", dataset.splits)
    return _select(dataset, source, testing, splits)


def _select(dataset: Dataset, source: str, kept: np.ndarray, splits: np.ndarray) -> Dataset:
    return replace(
        dataset,
        source=source,
        paths=tuple(path for path, keep in zip(dataset.paths, kept, strict=True) if keep),
        identities=dataset.identities[kept],
        cameras=None if dataset.cameras is None else dataset.cameras[kept],
        splits=splits[kept].astype(str),
    )
