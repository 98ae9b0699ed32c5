"""A test of compatibility without labels: whether neighbours are mutual."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np

NEIGHBOURS = 5


def mutual_neighbours(embeddings: Mapping[float, np.ndarray], count: int = NEIGHBOURS) -> np.ndarray:
    """Compute for each image and each pair of widths the share of its nearest neighbours that are mutual.

    The image, embedded at the query width, searches the others, embedded at the gallery width. A neighbour is
    mutual if it finds the image in the same way: the neighbour, embedded at the gallery width, searches the
    others, embedded at the query width. If both widths see the same identities, many neighbours are mutual.
    If their spaces differ, few are. If a space does not fit the images, some images are neighbours of very
    many others (hubs, Radovanović et al., JMLR 2010), and most of these are not theirs.

    Args:
        embeddings: for each of m widths, (n, dim) float32 embeddings, of length 1, of the same n images.
        count: the number of nearest neighbours, less than n.

    Returns:
        (m, m, n) float64, indexed [query width, gallery width, image]; widths ascending.
    """
    widths = sorted(embeddings)
    shares = [
        _mutual(embeddings[query] @ embeddings[gallery].T, count)
        for query, gallery in itertools.product(widths, widths)
    ]
    return np.stack(shares).reshape(len(widths), len(widths), -1)


def _mutual(scores: np.ndarray, count: int) -> np.ndarray:
    """Return the share for each image, (n,), from the scores [query, gallery item]."""
    np.fill_diagonal(scores, -np.inf)
    return (_nearest(scores, count) & _nearest(scores.T, count).T).sum(1) / count


def _nearest(scores: np.ndarray, count: int) -> np.ndarray:
    """Return where the `count` best items of each row are, (n, n) bool."""
    found = np.zeros(scores.shape, bool)
    np.put_along_axis(found, np.argpartition(-scores, count - 1, axis=1)[:, :count], True, axis=1)
    return found


def cross_tests(shares: np.ndarray) -> np.ndarray:
    """Return the mean over the cross-tests for each image, (n,); of a single width, its self-test.

    Args:
        shares: (m, m, n), as `mutual_neighbours` returns them.
    """
    size = len(shares)
    chosen = ~np.eye(size, dtype=bool) if size > 1 else np.ones((1, 1), bool)
    mean: np.ndarray = shares[chosen].mean(0)
    return mean
