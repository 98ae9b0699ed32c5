"""Random retrieval cases, and a reference that is slow, plain and independent of the package."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sfsc.retrieval import Labels


class Case(NamedTuple):
    query_embeddings: np.ndarray
    gallery_embeddings: np.ndarray
    query: Labels
    gallery: Labels


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def random_case(
    seed: int,
    *,
    queries: int = 30,
    gallery: int = 120,
    dim: int = 16,
    cameras: bool = True,
    ties: bool = False,
) -> Case:
    """Identities of uneven sizes, distractors ("0") in the gallery, queries without any positive ("lost").

    With ties, embeddings are small integers: every sum is exact, and many scores are equal.
    """
    rng = np.random.default_rng(seed)
    people = 1 + int(rng.integers(3, 15))
    share = rng.dirichlet(np.ones(people))

    def items(count: int, other: str) -> tuple[np.ndarray, np.ndarray]:
        identities = rng.choice(people, count, p=share).astype("U8")
        identities[rng.random(count) < 0.1] = other
        centres = np.random.default_rng(seed).standard_normal((people, 16))
        numbers = np.where(np.char.isdigit(identities), identities, "0").astype(int)
        noisy = centres[numbers] + rng.standard_normal((count, 16))
        return (np.rint(noisy[:, :3]).astype(np.float32) if ties else unit(noisy)), identities

    query_embeddings, query_identities = items(queries, "lost")
    gallery_embeddings, gallery_identities = items(gallery, "0")
    names = tuple(f"{place}.png" for place in range(gallery))
    return Case(
        query_embeddings,
        gallery_embeddings,
        Labels(query_identities, rng.integers(0, 4, queries) if cameras else None),
        Labels(gallery_identities, rng.integers(0, 4, gallery) if cameras else None, names),
    )


def kept(case: Case, query: int) -> np.ndarray:
    """Which gallery items the rule leaves in the ranking of a query, (G,) bool."""
    if case.query.cameras is None or case.gallery.cameras is None:
        own = case.query.paths[query] if case.query.paths else None
        return np.array([path != own for path in case.gallery.paths or ()])
    same_identity = case.gallery.identities == case.query.identities[query]
    return ~(same_identity & (case.gallery.cameras == case.query.cameras[query]))


def naive_ranks(case: Case) -> list[list[int]]:
    """The 1-based ranks of each query's positives, by sorting the whole gallery in plain Python."""
    result = []
    for query, identity in enumerate(case.query.identities):
        scores = case.gallery_embeddings @ case.query_embeddings[query]
        stays = kept(case, query)
        candidates = [item for item in range(len(scores)) if stays[item]]
        candidates.sort(key=lambda item: -scores[item])
        ranking = [case.gallery.identities[item] == identity for item in candidates]
        result.append([rank for rank, positive in enumerate(ranking, start=1) if positive])
    return result
