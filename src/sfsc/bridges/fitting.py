"""Fitting maps between two spaces on pairs of embeddings of the same images, without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec

import numpy as np

from sfsc.bridges.space_map import LEAST_ERROR, SpaceMap, features
from sfsc.errors import SfscError

FOLDS = 5
MOST_COMPARED = 5000
PAIRS_PER_DIMENSION = 2  # the fewest pairs for each dimension of the larger space
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # of the ridge, relative to the mean variance of the rows
ERROR_STRENGTHS = (1e-2, 1e-1, 1.0, 10.0)

Fit = Callable[[np.ndarray, np.ndarray], SpaceMap]


@dataclass(frozen=True)
class Fitted:
    """A map that was chosen on held-out pairs.

    Attributes:
        map: the map, fitted on all pairs.
        kind: the kind of the map, one of `sfsc.bridges.space_map.KINDS`.
        cosines: the mean cosine of each kind on held-out pairs, between mapped rows and their targets.
        found: the share of held-out rows of each kind that find their own target first.
    """

    map: SpaceMap
    kind: str
    cosines: dict[str, float]
    found: dict[str, float]


def fit(rows: np.ndarray, targets: np.ndarray, kind: str | None = None, seed: int = 0) -> Fitted:
    """Fit the map whose rows find their targets.

    Every pair is held out once, in one of five parts. The kind by which the most held-out rows find their own
    target first is fitted again on all pairs; among equals, that with the greatest mean cosine. Its errors on
    held-out pairs are what the expected error is fitted to. The residual network needs torch; without it,
    only linear maps are compared.

    Args:
        rows: (n, from) float32 of length 1, the embeddings of n images in one space.
        targets: (n, to) float32 of length 1, the embeddings of the same images in the other space.
        kind: the kind of the map; by default the best one.
        seed: the seed of the parts and of the network.

    Raises:
        SfscError: there are too few pairs for maps of this size, the kind is unknown, or torch is missing.
    """
    check_pairs(len(rows), rows.shape[1], targets.shape[1])
    if kind == "residual" and find_spec("torch") is None:
        raise SfscError("a residual network needs torch: pip install 'sfsc[train]', or use another kind")
    fits = fits_of_kinds(rows, targets, seed)
    if kind is not None and kind not in fits:
        raise SfscError(f"unknown kind of map {kind!r}; choose one of {', '.join(fits)}")
    tried = fits if kind is None else {kind: fits[kind]}
    held_out = {name: _held_out(one, rows, targets, seed) for name, one in tried.items()}
    cosines = {name: float(cosine(mapped, targets).mean()) for name, mapped in held_out.items()}
    found = {name: found_first(mapped, targets) for name, mapped in held_out.items()}
    best = max(cosines, key=lambda name: (found[name], cosines[name]))
    errors = expected_errors(rows, held_out[best], targets, seed)
    return Fitted(replace(tried[best](rows, targets), error=errors.astype(np.float32)), best, cosines, found)


def check_pairs(pairs: int, size: int, to: int) -> None:
    """Raise `SfscError` if there are too few pairs to fit a map on."""
    fewest = PAIRS_PER_DIMENSION * max(size, to)
    if pairs < fewest:
        raise SfscError(
            f"{pairs} images are too few to fit a map from {size} to {to} dimensions: give at least "
            f"{fewest}, which can be any images like those of the gallery"
        )


def fits_of_kinds(rows: np.ndarray, targets: np.ndarray, seed: int) -> dict[str, Fit]:
    """Return a function for each kind that can be fitted here; the ridge is chosen on held-out pairs."""

    def score(strength: float) -> float:
        fit = _relaxed_by(strength)
        return float(cosine(_held_out(fit, rows, targets, seed), targets).mean())

    relaxed = _relaxed_by(max(STRENGTHS, key=score))
    fits: dict[str, Fit] = {"orthogonal": orthogonal, "relaxed": relaxed}
    if find_spec("torch") is not None:
        from sfsc.bridges.residual import add_residual

        fits["residual"] = lambda x, y: add_residual(relaxed(x, y), x, y, seed)
    return fits


def orthogonal(rows: np.ndarray, targets: np.ndarray) -> SpaceMap:
    """Solve the orthogonal Procrustes problem for centred rows (Schönemann, Psychometrika 1966).

    If the dimensions differ, the matrix has orthonormal rows or columns. The shift maps the mean of the rows
    to the mean of the targets.
    """
    x, y, centre, goal = _centred(rows, targets)
    rotation, _ = _rotation(x, y)
    return SpaceMap.linear(rotation, goal - centre @ rotation)


def relaxed(rows: np.ndarray, targets: np.ndarray, strength: float) -> SpaceMap:
    """Solve least squares with a ridge that pulls the matrix towards the scaled rotation of `orthogonal`.

    W = (X'X + l I)^-1 (X'Y + l s R), with s the best scale of the rotation R and l = strength * |X|^2 / from:
    a strength of 0 is linear regression, and a very large one the rotation.
    """
    x, y, centre, goal = _centred(rows, targets)
    rotation, scale = _rotation(x, y)
    covariance = x.T @ x
    ridge = strength * np.trace(covariance) / len(covariance)
    left = covariance + (ridge + 1e-9) * np.eye(len(covariance))
    matrix = np.linalg.solve(left, x.T @ y + ridge * scale * rotation)
    return SpaceMap.linear(matrix, goal - centre @ matrix)


def cosine(rows: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the cosines of rows of any length with targets of length 1: (n,)."""
    lengths = np.linalg.norm(rows, axis=1)
    return np.asarray((rows * targets).sum(axis=1) / np.where(lengths > 0, lengths, 1))


def found_first(rows: np.ndarray, targets: np.ndarray) -> float:
    """Return the share of rows that have a greater cosine with their own target than with any other.

    If there are more than 5,000 pairs, only as many are compared, spread over all of them.

    Args:
        rows: (n, dim) float32 of any length.
        targets: (n, dim) float32 of length 1.
    """
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST_COMPARED)).astype(int))
    first = (rows[chosen] @ targets[chosen].T).argmax(axis=1)
    return float((first == np.arange(len(chosen))).mean())


def expected_errors(rows: np.ndarray, mapped: np.ndarray, targets: np.ndarray, seed: int) -> np.ndarray:
    """Fit the expected error of rows to their errors as held-out rows.

    The logarithm of 1 - cos is regressed on `features`, with a ridge that is chosen on held-out rows. The
    constant is set so that the mean of the expected errors is that of the errors.

    Args:
        rows: (n, from) float32 of length 1.
        mapped: (n, to) float32, u of each row by a map that was fitted without it.
        targets: (n, to) float32 of length 1.
        seed: the seed of the parts.

    Returns:
        (from + 2,) float64, the `error` of a `SpaceMap`.
    """
    errors = np.maximum(1 - cosine(mapped, targets), LEAST_ERROR)
    known = features(rows, np.linalg.norm(mapped, axis=1, keepdims=True)).astype(np.float64)
    logs = np.log(errors)

    def loss(strength: float) -> float:
        parts = _parts(len(rows), seed)
        return sum(
            float(((known[t] @ _ridge(known[f], logs[f], strength) - logs[t]) ** 2).sum()) for f, t in parts
        )

    weights = _ridge(known, logs, min(ERROR_STRENGTHS, key=loss))
    weights[-1] += np.log(errors.mean() / np.exp(known @ weights).mean())
    return weights


def _ridge(known: np.ndarray, wanted: np.ndarray, strength: float) -> np.ndarray:
    """Regress on features whose last one is the constant, which is not pulled towards 0."""
    centre, middle = known[:, :-1].mean(axis=0), wanted.mean()
    x = known[:, :-1] - centre
    covariance = x.T @ x
    ridge = strength * np.trace(covariance) / len(covariance) + 1e-9
    weights = np.linalg.solve(covariance + ridge * np.eye(len(covariance)), x.T @ (wanted - middle))
    return np.append(weights, middle - centre @ weights)


def _held_out(fit: Fit, rows: np.ndarray, targets: np.ndarray, seed: int) -> np.ndarray:
    """Return u of every row by a map that was fitted without it: (n, to) float32."""
    mapped = np.empty(targets.shape, np.float32)
    for fitted, tested in _parts(len(rows), seed):
        mapped[tested] = fit(rows[fitted], targets[fitted]).raw(rows[tested])
    return mapped


def _parts(count: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the rows to fit on and the rows to test on, five times."""
    order = np.random.default_rng(seed).permutation(count)
    for part in range(FOLDS):
        tested = order[part::FOLDS]
        yield np.setdiff1d(order, tested), tested


def _relaxed_by(strength: float) -> Fit:
    return lambda rows, targets: relaxed(rows, targets, strength)


def _centred(rows: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return centred rows and targets, and both means, as float64."""
    x, y = rows.astype(np.float64), targets.astype(np.float64)
    centre, goal = x.mean(axis=0), y.mean(axis=0)
    return x - centre, y - goal, centre, goal


def _rotation(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the orthogonal matrix R that minimises |x R - y|, and the scale s that minimises |s x R - y|."""
    left, values, right = np.linalg.svd(x.T @ y, full_matrices=False)
    rotation = left @ right
    return rotation, float(values.sum() / max((np.asarray(x @ rotation) ** 2).sum(), 1e-30))
