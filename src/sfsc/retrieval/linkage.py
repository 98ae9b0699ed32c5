"""Complete linkage of items from the pairs of them that are similar, without a matrix of all pairs."""

from __future__ import annotations

import numpy as np


def complete_linkage(pairs: np.ndarray, scores: np.ndarray, count: int) -> list[list[int]]:
    """Group items so that all pairs within a group are similar, by agglomeration with complete linkage.

    The two groups whose least similar pair is most similar are joined first, until no two groups have only
    similar pairs between them. Pairs are taken by falling score: when the last pair between two groups is
    seen, its score is that of their least similar pair. Time and memory grow with the number of pairs.

    Args:
        pairs: (P, 2) int64, two different items each, every pair once: all that are similar.
        scores: (P,) float32, their similarities. Of equal ones, the first pair comes first.
        count: the number of items.

    Returns:
        The groups of at least two items; the items of each in ascending order.
    """
    group = np.arange(count).tolist()  # the group of each item, named after one of its items
    members: dict[int, list[int]] = {}
    seen: dict[int, dict[int, int]] = {}  # how many pairs between two groups were seen

    for one, other in pairs[np.argsort(-scores, kind="stable")].tolist():
        a, b = group[one], group[other]
        own, theirs = members.setdefault(a, [a]), members.setdefault(b, [b])
        between = seen.setdefault(a, {}).get(b, 0) + 1
        if between < len(own) * len(theirs):
            seen[a][b] = between
            seen.setdefault(b, {})[a] = between
            continue
        if len(own) < len(theirs):
            a, b, own, theirs = b, a, theirs, own
        _join(seen, a, b)
        own += theirs
        del members[b]
        for item in theirs:
            group[item] = a
    return sorted(sorted(own) for own in members.values() if len(own) > 1)


def _join(seen: dict[int, dict[int, int]], a: int, b: int) -> None:
    """Give the pairs that were seen between group b and others to group a."""
    mine = seen.setdefault(a, {})
    mine.pop(b, None)
    for other, between in seen.pop(b, {}).items():
        seen[other].pop(b, None)
        if other != a:
            mine[other] = mine.get(other, 0) + between
            seen[other][a] = mine[other]
