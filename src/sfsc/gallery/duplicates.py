"""Rows of a gallery that show the same: found in groups, and all but one of each group deleted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sfsc.decisions.pair import Pair
from sfsc.decisions.thresholds import Thresholds
from sfsc.errors import SfscError
from sfsc.gallery.gallery import Gallery
from sfsc.gallery.similar import similar_pairs
from sfsc.gallery.store import EMBEDDING
from sfsc.retrieval.linkage import complete_linkage

KEPT = ("first", "widest")
SCORES = np.linspace(-1, 1, 100_001)  # at which probabilities are looked up


class Copy(NamedTuple):
    """A row of a group of duplicates.

    Attributes:
        id: the id of the row.
        path: the path or URI of the image.
        identity: the identity that the image shows, or None if it is unknown.
        width: the width of the sub-model that embedded the row.
        form: the numeric form that the embedding is stored in.
        time: when the row was written, in seconds since 1970.
        score: the smallest cosine similarity to the other rows of the group.
    """

    id: str
    path: str
    identity: str | None
    width: float
    form: str
    time: float
    score: float


def find_duplicates(
    gallery: Gallery,
    min_score: float | None = None,
    min_probability: float | None = None,
    thresholds: Thresholds | None = None,
) -> list[list[Copy]]:
    """Find groups of rows in which every row is similar to every other one.

    Groups are made by complete linkage: the groups whose least similar rows are most similar are joined
    first. A chain of rows, each similar to the next, is therefore not one group. Every pair of up to 20,000
    different embeddings is compared; of more, nearly all that are similar are found (98% in a sample). All
    embeddings are read into memory: 4 bytes, and 2 in the index, for each component.

    Args:
        gallery: the gallery.
        min_score: the smallest cosine similarity of two rows of a group.
        min_probability: instead of `min_score`, the smallest probability that two rows of a group match.
        thresholds: the thresholds of the gallery's family, which give the probabilities.

    Returns:
        The groups, the largest first; the rows of each in the order in which they were written.

    Raises:
        SfscError: not exactly one limit is given, a limit is impossible, the thresholds are of another family
            or lack a pair of widths, or too many rows are similar.

    Example::

        for group in find_duplicates(gallery, min_score=0.99):
            print([row.path for row in group])
    """
    if (min_score is None) == (min_probability is None):
        raise SfscError("give either a smallest score or a smallest probability of duplicates")
    if min_score is not None and not 0 < min_score <= 1:
        raise SfscError(f"the smallest score of duplicates must be within (0, 1], not {min_score:g}")
    rows, embeddings = _read(gallery)
    if not rows:
        return []
    names = sorted({(row.width, row.form) for row in rows})
    kinds = np.array([names.index((row.width, row.form)) for row in rows], np.int64)
    if min_score is not None:
        least = np.full((len(names), len(names)), min_score)
    else:
        least = _least_scores(gallery, names, embeddings.shape[1], min_probability, thresholds)
    first, equal = _equal(embeddings, kinds)
    pairs, scores = similar_pairs(embeddings[first], kinds[first], least)
    grouped = complete_linkage(pairs, scores, len(first))
    alone = {*range(len(first))} - {item for group in grouped for item in group}
    grouped += [[item] for item in alone if len(equal[item]) > 1]
    found = [_group(rows, embeddings, [equal[item] for item in group]) for group in grouped]
    return sorted(found, key=lambda group: (-len(group), group[0].id))


def surplus(groups: Sequence[Sequence[Copy]], keep: str) -> list[str]:
    """Return the ids of all rows of each group but one.

    Args:
        groups: the groups that `find_duplicates` returned.
        keep: "first" for the row that was written first, "widest" for the one of the widest sub-model; of
            several of these, the one that was written first.

    Raises:
        SfscError: `keep` is neither.
    """
    if keep not in KEPT:
        raise SfscError(f"the row to keep must be one of {', '.join(KEPT)}, not {keep!r}")
    ids = []
    for group in groups:
        order = sorted(group, key=lambda row: (-row.width if keep == "widest" else 0, row.time, row.id))
        ids += [row.id for row in order[1:]]
    return ids


def _read(gallery: Gallery) -> tuple[list[Copy], np.ndarray]:
    """Return all rows in the order in which they were written, and their embeddings, (n, dim) float32."""
    description = gallery.describe()
    if description is None:
        return [], np.empty((0, 0), np.float32)
    embeddings = np.empty((len(gallery), description.dimension), np.float32)
    rows: list[Copy] = []
    for row in gallery.rows(embeddings=True):
        if len(rows) == len(embeddings):  # another process has added rows
            break
        embeddings[len(rows)] = row[EMBEDDING]
        rows.append(Copy._make([*(row[name] for name in Copy._fields[:-1]), 1.0]))
    order = sorted(range(len(rows)), key=lambda place: (rows[place].time, rows[place].id))
    return [rows[place] for place in order], embeddings[order]


def _least_scores(
    gallery: Gallery,
    names: Sequence[tuple[float, str]],
    dimension: int,
    probability: float | None,
    thresholds: Thresholds | None,
) -> np.ndarray:
    """Return the smallest scores with a probability for each pair of kinds, (m, m) float64.

    Both rows of a pair can be the query, so the greater of two scores counts.
    """
    if thresholds is None or probability is None or not 0 < probability < 1:
        raise SfscError("a smallest probability is within (0, 1), and needs the thresholds of the family")
    description = gallery.describe()
    assert description is not None
    thresholds.check(description.fingerprint)
    count = len(gallery)
    least, most = np.empty((len(names), len(names))), 0.0
    for q, (width, _) in enumerate(names):
        for g, (other, form) in enumerate(names):
            found = thresholds.of(Pair(width, other, form, dimension)).probability(SCORES, count)
            place = int(np.searchsorted(found, probability))
            least[q, g] = SCORES[place] if place < len(SCORES) else np.inf
            most = max(most, float(found[-1]))
    least = np.maximum(least, least.T)
    if np.isinf(least).all():
        raise SfscError(
            f"no cosine in a gallery of {count:,} rows means a match with a probability of {probability:g}: "
            f"the greatest is {most:.4f}; ask for less, or give a smallest score"
        )
    return least


def _equal(embeddings: np.ndarray, kinds: np.ndarray) -> tuple[np.ndarray, list[list[int]]]:
    """Return the first row of each set of equal embeddings, (k,) int64, and the rows of each set."""
    sets: dict[int, list[int]] = {}
    for place, (kind, row) in enumerate(zip(kinds.tolist(), embeddings, strict=True)):
        key = hash((kind, row.tobytes()))
        others = sets.get(key)
        if others and not (kinds[others[0]] == kind and np.array_equal(embeddings[others[0]], row)):
            key = ~place  # another row has the same hash
        sets.setdefault(key, []).append(place)
    equal = [*sets.values()]
    return np.array([places[0] for places in equal], np.int64), equal


def _group(rows: Sequence[Copy], embeddings: np.ndarray, sets: Sequence[Sequence[int]]) -> list[Copy]:
    """Return the rows of sets of equal embeddings with their smallest scores, in the order of writing."""
    first = embeddings[[places[0] for places in sets]]
    scores = (first @ first.T).min(axis=1)
    scored = [
        rows[place]._replace(score=float(score))
        for score, places in zip(scores, sets, strict=True)
        for place in places
    ]
    return sorted(scored, key=lambda row: (row.time, row.id))
