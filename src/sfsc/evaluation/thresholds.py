"""Fitting the thresholds of a family to images whose identities are known."""

from __future__ import annotations

import itertools

import numpy as np

from sfsc.data.dataset import Dataset
from sfsc.decisions.fitting import fit_map
from sfsc.decisions.pair import Pair
from sfsc.decisions.score_map import ScoreMap
from sfsc.decisions.scores import count_scores
from sfsc.decisions.thresholds import Thresholds
from sfsc.dimensions import shorten
from sfsc.embedding.image_set import embed_all
from sfsc.family.family import Family
from sfsc.gallery.forms import DTYPES, decode, encode
from sfsc.progress import track
from sfsc.runs.datasets import absolute

# Prefixes of views in `sfsc.data.sources.RESPLITS`; the training images of the second one fit thresholds.
VALIDATION, TARGET = "validation", "target:"


def fit_thresholds(family: Family, dataset: Dataset, workers: int = 2) -> Thresholds:
    """Fit what a cosine means for every pair of sub-models, numeric form and dimension.

    Args:
        family: the family, in any mode; its mode is restored.
        dataset: the data set; the pairs of its query and gallery images are used, or of a view "target:" the
            pairs of its training images, which stand for labelled images of the searched domain. Training
            must not have seen these identities: it tells those apart too well, and thresholds that are fitted
            to them let more false matches pass than they promise.
        workers: the number of threads that decode images.

    Raises:
        SfscError: a split is empty, an image cannot be read, or there are too few pairs.

    Example::

        family = sfsc.Family.load("runs/photos")
        thresholds = sfsc.fit_thresholds(family, sfsc.open_dataset("validation:folder:photos"))
        thresholds.save("runs/photos/thresholds.json")
    """
    query, gallery = dataset.query, dataset.gallery
    if dataset.source.startswith(TARGET):
        query = gallery = dataset.train
    images = embed_all(family, [*query.paths, *gallery.paths], workers)
    queries, rows = images.of(query.paths), images.of(gallery.paths)
    pairs = [
        Pair(*widths, form, dimension)
        for dimension, form in itertools.product(family.dimensions, DTYPES)
        for widths in itertools.product(family.widths, family.widths)
    ]

    def fitted(pair: Pair) -> ScoreMap:
        asked = shorten(queries[pair.query_width], pair.dimension)
        stored = as_stored(rows[pair.gallery_width], pair)
        return fit_map(count_scores(asked, stored, query, gallery), len(gallery))

    return Thresholds(
        fingerprint=family.fingerprint,
        data=absolute(dataset.source),
        images=len({*query.paths, *gallery.paths}),
        identities=len({*query.identities.tolist(), *gallery.identities.tolist()}),
        maps={pair: fitted(pair) for pair in track(pairs, "thresholds")},
    )


def as_stored(embeddings: np.ndarray, pair: Pair) -> np.ndarray:
    """Return embeddings as a gallery of the pair's form and dimension returns them."""
    return decode(encode(shorten(embeddings, pair.dimension), pair.form))


def validation_of(dataset: str) -> str:
    """Return the name of the validation view of a data set, which can be such a view itself."""
    return dataset if dataset.startswith(f"{VALIDATION}:") else f"{VALIDATION}:{dataset}"
