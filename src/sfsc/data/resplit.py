"""Other splits of a data set's images: for choosing settings, and for a domain without labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sfsc.data.dataset import Dataset, held_out


def validation(dataset: Dataset, source: str) -> Dataset:
    """Test on a quarter of the training identities instead of the test identities, which are left out.

    Settings are chosen here: what is then tested on the data set itself was never looked at.
    """
    chosen = held_out(dataset.train.identities.tolist(), 1 / 4)
    training = dataset.splits == "train"
    splits = np.where(np.isin(dataset.identities, list(chosen)), "test", "train")
    return _select(dataset, source, training, splits)


def target(dataset: Dataset, source: str) -> Dataset:
    """Train on a fifth of the test identities, at least two, and leave out the training identities.

    The fifth are images of the domain that is searched, without labels, as a calibration can have them; the
    others are the test.
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
