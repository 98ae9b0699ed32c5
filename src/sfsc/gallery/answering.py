"""Answers of a gallery beyond its nearest rows: re-ranked rows, and identities instead of rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sfsc.dimensions import shorten
from sfsc.errors import SfscError
from sfsc.gallery.conditions import Condition
from sfsc.gallery.gallery import Gallery, Where
from sfsc.gallery.store import EMBEDDING, Hit
from sfsc.gallery.values import unit_rows
from sfsc.retrieval.reranking import DEPTH, rule_of

BY = ("row", "identity")
ROWS_PER_IDENTITY = 4  # rows that are looked at for each identity wanted; more if these show fewer identities
MORE_CANDIDATES = 2  # identities that are compared by their best rows, for each one wanted


@dataclass(frozen=True)
class Wanted:
    """What a search should answer.

    Attributes:
        top: the maximum number of hits for each query.
        where: conditions that every hit fulfils, as for `Gallery.search`.
        exact: whether to compare every row, as for `Gallery.search`.
        by: "row", or "identity" for each identity once, with its best row.
        best: with "identity", the number of best rows of an identity whose mean cosine is its score.
        rerank: the rule that re-ranks the first rows, one of `sfsc.retrieval.reranking.RULES`, or None.
        rerank_depth: the number of rows that are re-ranked; all if the gallery has fewer.

    Raises:
        SfscError: a value is unknown or too small, or two of them exclude each other.
    """

    top: int = 10
    where: Where = ()
    exact: bool = True
    by: str = "row"
    best: int = 1
    rerank: str | None = None
    rerank_depth: int = DEPTH

    def __post_init__(self) -> None:
        if self.top < 1:
            raise SfscError(f"top must be at least 1, not {self.top}")
        if self.by not in BY:
            raise SfscError(f"by must be one of {', '.join(BY)}, not {self.by!r}")
        if self.best < 1 or (self.best > 1 and self.by == "row"):
            raise SfscError(f"best rows of each identity: {self.best} needs by identity, and at least 1")
        if self.rerank is not None:
            rule_of(self.rerank, self.rerank_depth)
            if self.best > 1:
                raise SfscError("re-ranking orders single rows: leave out the mean of several best rows")


def answer(gallery: Gallery, embeddings: np.ndarray, fingerprint: str, wanted: Wanted) -> list[list[Hit]]:
    """Search a gallery with embeddings, and return what is wanted.

    The `score` of a hit is always the cosine similarity to its query, also if re-ranking changed the order of
    the hits; by identity with several best rows, it is the mean of theirs.

    Args:
        gallery: the gallery.
        embeddings: (Q, dim) float32 by any sub-model of the family, finite and not zero.
        fingerprint: the fingerprint of the family.
        wanted: what to return.

    Returns:
        For each query a list of hits, best first.

    Raises:
        SfscError: as for `Gallery.search`, or identities are wanted of rows that have none.
    """
    embeddings = unit_rows(embeddings, gallery.name)
    if wanted.by == "row":
        return _rows(gallery, embeddings, fingerprint, wanted)
    known = Condition("identity", "!=", ("",))
    with_identity = replace(wanted, where=[*wanted.where, known])
    answers = [_identities(gallery, one[None], fingerprint, with_identity) for one in embeddings]
    if not any(answers) and not gallery.count([known]) and len(gallery):
        raise SfscError(
            f"gallery {gallery.name}: its rows have no identities to search by: index them from a data set "
            "with identities, or search by row"
        )
    return answers


def together(embeddings: np.ndarray) -> np.ndarray:
    """Make one query of several images of one object: the mean of their embeddings, scaled to length 1.

    This is the usual embedding of a track (for example Zheng et al., MARS, ECCV 2016): with unit rows, the
    cosine to the mean ranks like the mean of the cosines to each image.

    Args:
        embeddings: (N, dim) float32 of length 1.

    Returns:
        (1, dim) float32.

    Raises:
        SfscError: the embeddings cancel each other.
    """
    mean = embeddings.mean(axis=0, keepdims=True)
    length = float(np.linalg.norm(mean))
    if not length > 1e-6:
        raise SfscError("the embeddings of the query cancel each other: search with each image alone")
    return np.asarray(mean / length, np.float32)


def _rows(gallery: Gallery, embeddings: np.ndarray, fingerprint: str, wanted: Wanted) -> list[list[Hit]]:
    limit = wanted.top if wanted.rerank is None else max(wanted.top, wanted.rerank_depth)
    answers = gallery.search(embeddings, fingerprint, limit, wanted.where, wanted.exact)
    if wanted.rerank is not None:
        queries = zip(embeddings, answers, strict=True)
        answers = [_reranked(gallery, one, hits, wanted) for one, hits in queries]
    return [hits[: wanted.top] for hits in answers]


def _reranked(gallery: Gallery, query: np.ndarray, hits: list[Hit], wanted: Wanted) -> list[Hit]:
    """Re-rank the first hits by their stored embeddings; rows that were deleted meanwhile are left out."""
    assert wanted.rerank is not None
    stored = stored_embeddings(gallery, (hit.id for hit in hits[: wanted.rerank_depth]))
    first = [hit for hit in hits[: wanted.rerank_depth] if hit.id in stored]
    if not first:
        return hits[wanted.rerank_depth :]
    rows = np.stack([stored[hit.id] for hit in first])
    dimension = min(len(query), rows.shape[1])
    rule = rule_of(wanted.rerank, wanted.rerank_depth)
    distances = rule(shorten(query[None], dimension)[0], shorten(rows, dimension))
    order = np.argsort(distances, kind="stable")
    return [first[place] for place in order] + hits[wanted.rerank_depth :]


def stored_embeddings(gallery: Gallery, ids: Iterable[str]) -> dict[str, np.ndarray]:
    """Return the stored embeddings of rows by their ids, (dim,) float32 of length 1; others are left out."""
    named = tuple(ids)
    rows = gallery.rows([Condition("id", "=", named)], embeddings=True) if named else ()
    return {row["id"]: row[EMBEDDING] for row in rows}


def _identities(gallery: Gallery, query: np.ndarray, fingerprint: str, wanted: Wanted) -> list[Hit]:
    """Return the best row of each of the best identities, for one query, (1, dim)."""
    count = wanted.top if wanted.best == 1 else MORE_CANDIDATES * wanted.top
    found = _candidates(gallery, query, fingerprint, wanted, count)
    if wanted.best > 1:
        found = [_with_mean(gallery, query, fingerprint, wanted, hit) for hit in found]
        found.sort(key=lambda hit: (-hit.score, hit.id))
    return found[: wanted.top]


def _candidates(
    gallery: Gallery, query: np.ndarray, fingerprint: str, wanted: Wanted, count: int
) -> list[Hit]:
    """Return the first row of each of `count` identities; those found are not searched again."""
    seen: dict[str | None, Hit] = {}
    first = 0 if wanted.rerank is None else wanted.rerank_depth
    rows = replace(wanted, by="row", best=1, top=max(ROWS_PER_IDENTITY * count, first))
    while len(seen) < count:
        others = [*wanted.where, *([_other_than(seen)] if seen else [])]
        [hits] = _rows(gallery, query, fingerprint, replace(rows, where=others))
        for hit in hits:
            seen.setdefault(hit.identity, hit)
        if len(hits) < rows.top:
            break
        rows = replace(rows, rerank=None)  # the rows that are re-ranked come before all others
    return [*seen.values()][:count]


def _other_than(identities: Iterable[str | None]) -> Condition:
    return Condition("identity", "!=", tuple(identities))


def _with_mean(gallery: Gallery, query: np.ndarray, fingerprint: str, wanted: Wanted, hit: Hit) -> Hit:
    """Return the hit with the mean score of the best rows of its identity; of all if there are fewer."""
    own: Sequence[str | Condition] = [*wanted.where, Condition("identity", "=", (hit.identity,))]
    [rows] = gallery.search(query, fingerprint, wanted.best, own, wanted.exact)
    return hit._replace(score=float(np.mean([row.score for row in rows] or [hit.score])))
