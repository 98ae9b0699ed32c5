"""Refitting a bridge on the rows of a gallery that were embedded again, for the rows that were not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import faiss
import numpy as np

from sfsc.bridges.fitting import cosine
from sfsc.bridges.space_map import LEAST_ERROR, MOST_ERROR, SpaceMap
from sfsc.errors import SfscError

NEIGHBOURS = 30
FEWEST = 20  # pairs
MOST, MOST_TESTED = 50_000, 5000  # pairs to correct by, and to choose the correction on
SHARPNESS = (2.5, 5.0, 10.0, 20.0)
NOISE = 0.3
BLOCK = 2048  # rows that are corrected at once


@dataclass(frozen=True)
class RefittedMap:
    """Corrects a map by what it misses at the nearest rows whose targets are known.

    A row x is mapped to v / |v| with v = m(x) + k (K + 0.3 I)^-1 R. Here, m is the map, R are the differences
    between target and mapped row of the 30 known rows that are nearest to x, K are the values of the kernel
    exp(b (cos - 1)) between these, and k those between them and x. This is the mean of a Gaussian process on
    the differences (Rasmussen and Williams 2006, equation 2.25), restricted to the neighbours of each row.

    Attributes:
        map: the map m.
        rows: the known rows, (n, from) float32 of length 1.
        differences: their differences, (n, to) float32.
        sharpness: b; the greater, the nearer a row must be to matter.
        error: (3,) float64, the logarithm of the expected error as a linear function of that by the map, of
            the variance 1 - k (K + 0.3 I)^-1 k' and of 1.
    """

    map: SpaceMap
    rows: np.ndarray
    differences: np.ndarray
    sharpness: float
    error: np.ndarray

    def __call__(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map rows of length 1, as `SpaceMap` does."""
        mapped, errors = self.map(rows)
        cosines, places = _nearest(rows, self.rows, min(NEIGHBOURS, len(self.rows)))
        moves, variances = self.corrections(cosines, places)
        logs = _features(errors, variances) @ self.error
        expected = np.exp(np.clip(logs, np.log(LEAST_ERROR), np.log(MOST_ERROR)))
        return _moved(mapped, moves), expected.astype(np.float32)

    def corrections(self, cosines: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return k (K + 0.3 I)^-1 R and the variance of m rows, given their k neighbours.

        Args:
            cosines: (m, k) float32, the cosines with the neighbours.
            places: (m, k) int64, the places of the neighbours among the known rows.

        Returns:
            (m, to) and (m,) float32.
        """
        moves = np.empty((len(places), self.differences.shape[1]), np.float32)
        variances = np.empty(len(places), np.float32)
        for block in _blocks(len(places)):
            near, kernel = self.rows[places[block]], self._kernel(cosines[block])
            among = self._kernel(near @ near.transpose(0, 2, 1))
            among += NOISE * np.eye(places.shape[1], dtype=np.float32)
            weights = np.linalg.solve(among, kernel[:, :, None])[:, :, 0]
            moves[block] = (weights[:, :, None] * self.differences[places[block]]).sum(axis=1)
            variances[block] = 1 - (weights * kernel).sum(axis=1)
        return moves, variances

    def _kernel(self, cosines: np.ndarray) -> np.ndarray:
        return np.asarray(np.exp(self.sharpness * (cosines - 1)))

    @property
    def digest(self) -> str:
        """The SHA-256 of everything that the map consists of, in hexadecimal digits."""
        digest = hashlib.sha256(repr((NEIGHBOURS, NOISE, self.sharpness)).encode())
        for array in (*self.map.arrays().values(), self.rows, self.differences, self.error):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def refit(map_: SpaceMap, rows: np.ndarray, targets: np.ndarray) -> RefittedMap:
    """Correct a map by pairs of the gallery that it is used for.

    The sharpness is that whose corrected rows have the greatest mean cosine with their targets, when each row
    is corrected by the others. The expected error is fitted to the same errors. Of more than 50,000 pairs,
    only as many are used, spread over all of them.

    Args:
        map_: the map.
        rows: (n, from) float32 of length 1, the original embeddings of rows that were embedded again.
        targets: (n, to) float32 of length 1, their new embeddings.

    Raises:
        SfscError: there are fewer than 20 pairs.
    """
    if len(rows) < FEWEST:
        raise SfscError(
            f"{len(rows)} rows that were embedded again and keep their original embeddings are too few to "
            f"refit a bridge: embed at least {FEWEST} again first with sfsc index --upgrade"
        )
    used = _spread(len(rows), MOST)
    rows, targets = rows[used], targets[used]
    mapped, errors = map_(rows)
    tested = _spread(len(rows), MOST_TESTED)
    others = _nearest_others(rows, tested)
    tried = [
        RefittedMap(map_, rows, targets - mapped, sharpness, np.array([1.0, 0.0, 0.0]))
        for sharpness in SHARPNESS
    ]

    def held_out(one: RefittedMap) -> np.ndarray:
        return cosine(mapped[tested] + one.corrections(*others)[0], targets[tested])

    best = max(tried, key=lambda one: float(held_out(one).mean()))
    known = _features(errors[tested], best.corrections(*others)[1])
    missed = np.maximum(1 - held_out(best), LEAST_ERROR)
    weights = np.linalg.lstsq(known, np.log(missed), rcond=None)[0]
    weights[-1] += np.log(missed.mean() / np.exp(known @ weights).mean())
    return replace(best, error=weights)


def _features(errors: np.ndarray, variances: np.ndarray) -> np.ndarray:
    return np.stack([np.log(errors), variances, np.ones(len(errors))], axis=1).astype(np.float64)


def _moved(mapped: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """Return the moved rows at length 1; a row that would be moved to no direction stays where it is."""
    moved = mapped + moves
    lengths = np.linalg.norm(moved, axis=1, keepdims=True)
    return np.where(lengths > 1e-6, moved / np.maximum(lengths, 1e-6), mapped).astype(np.float32)


def _nearest(rows: np.ndarray, among: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the cosines and the places of the `count` rows that are nearest to each row: (n, count) each."""
    x, y = (np.ascontiguousarray(one, np.float32) for one in (rows, among))
    cosines, places = faiss.knn(x, y, count, metric=faiss.METRIC_INNER_PRODUCT)
    return cosines, places


def _nearest_others(rows: np.ndarray, tested: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the same for some of the rows, without the row itself."""
    count = min(NEIGHBOURS, len(rows) - 1)
    cosines, places = _nearest(rows[tested], rows, count + 1)
    own = places == tested[:, None]
    own[~own.any(axis=1), -1] = True  # equal rows can hide it
    return cosines[~own].reshape(-1, count), places[~own].reshape(-1, count)


def _spread(count: int, most: int) -> np.ndarray:
    """Return at most `most` of `count` places, spread over all of them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))


def _blocks(count: int) -> Iterator[slice]:
    return (slice(start, start + BLOCK) for start in range(0, count, BLOCK))
