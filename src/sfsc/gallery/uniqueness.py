"""Finding repeated ids among millions in little memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np


class Hashes:
    """The hashes of ids, which take 8 bytes each. Equal ids have equal hashes; the reverse is only likely."""

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = []

    def add(self, ids: Sequence[str]) -> None:
        """Add the hashes of some ids."""
        self._parts.append(np.fromiter(map(hash, ids), np.int64, len(ids)))

    def repeated(self) -> frozenset[int]:
        """Return the hashes that were added more than once."""
        ordered = np.sort(np.concatenate([np.empty(0, np.int64), *self._parts]))
        return frozenset(ordered[1:][ordered[1:] == ordered[:-1]].tolist())


def counts(parts: Iterable[Sequence[str]], hashes: frozenset[int]) -> Counter[str]:
    """Return how often the ids with these hashes occur in parts of ids."""
    return Counter(id_ for ids in parts for id_ in ids if hash(id_) in hashes)
