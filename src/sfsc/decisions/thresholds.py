"""`Thresholds`: the maps of all pairs of one family, kept with a run and carried by exported files."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sfsc.decisions.pair import Pair
from sfsc.decisions.score_map import ScoreMap
from sfsc.errors import SfscError
from sfsc.files.schema import conform
from sfsc.files.writing import read_json, write_json

THRESHOLDS_FILE = "thresholds.json"
FORMAT = 1
MOST_MAPS, MOST_KNOTS = 1 << 14, 1 << 10
REMEDY = "fit them with `sfsc thresholds RUN`"


@dataclass(frozen=True)
class _Fitted:
    """A pair and its map, as a file contains them."""

    query_width: float
    gallery_width: float
    form: str
    dimension: int
    map: ScoreMap


@dataclass(frozen=True)
class _Stored:
    """The contents of `thresholds.json`."""

    format: int
    fingerprint: str
    data: str
    images: int
    identities: int
    maps: list[_Fitted]


@dataclass(frozen=True)
class Thresholds:
    """What the cosines of one family mean, for each pair of sub-models, numeric form and dimension.

    Attributes:
        fingerprint: the fingerprint of the family.
        data: the name of the data set that the maps were fitted on.
        images: the number of images that the maps were fitted on.
        identities: the number of their identities.
        maps: the map of each pair.

    Example::

        from sfsc.decisions.pair import Pair
        from sfsc.decisions.thresholds import Thresholds

        thresholds = Thresholds.load("runs/photos/thresholds.json")
        phone = thresholds.of(Pair(0.25, 1.0, "float32", 128))
        print(phone.threshold(1e-3), phone.probability(0.7, rows=10_000))
    """

    fingerprint: str
    data: str
    images: int
    identities: int
    maps: Mapping[Pair, ScoreMap]

    def of(self, pair: Pair) -> ScoreMap:
        """Return the map of a pair; raise `SfscError` if there is none."""
        if pair not in self.maps:
            raise SfscError(f"there is no threshold for {pair}: {REMEDY}")
        return self.maps[pair]

    def check(self, fingerprint: str) -> None:
        """Raise `SfscError` if the thresholds are of another family than the one with this fingerprint."""
        if fingerprint != self.fingerprint:
            raise SfscError(
                f"the thresholds are of the family {self.fingerprint}, not of {fingerprint}: {REMEDY}"
            )

    def chosen(self, keep: Callable[[Pair], bool]) -> Thresholds:
        """Return the thresholds of some of the pairs."""
        maps = {pair: one for pair, one in self.maps.items() if keep(pair)}
        return Thresholds(self.fingerprint, self.data, self.images, self.identities, maps)

    def to_json(self) -> dict[str, Any]:
        """Return the thresholds as plain lists and numbers."""
        return {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "data": self.data,
            "images": self.images,
            "identities": self.identities,
            "maps": [{**pair._asdict(), "map": asdict(one)} for pair, one in self.maps.items()],
        }

    @classmethod
    def from_json(cls, content: Any, path: Path) -> Thresholds:
        """Return the thresholds that `to_json` wrote, read from the file at `path`.

        Raises:
            SfscError: the content is damaged, or was written by a newer sfsc.
        """
        try:
            if conform(conform(content, dict[str, Any]).get("format"), int, "its format") > FORMAT:
                raise SfscError(f"{path} was written by a newer sfsc: upgrade sfsc to read it")
            stored: _Stored = conform(content, _Stored)
            _check(len(stored.maps) <= MOST_MAPS, "it has too many maps")
            maps = {Pair(*(getattr(one, name) for name in Pair._fields)): one.map for one in stored.maps}
            for pair, one in maps.items():
                _check(0 < pair.query_width <= 1 and 0 < pair.gallery_width <= 1, "a width is impossible")
                _check_map(one)
        except ValueError as error:
            raise SfscError(f"the thresholds in {path} are damaged ({error}): {REMEDY}") from None
        return cls(stored.fingerprint, stored.data, stored.images, stored.identities, maps)

    def save(self, path: str | Path) -> None:
        """Write the thresholds as JSON, atomically."""
        write_json(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Thresholds:
        """Read the thresholds that `save` wrote; raise `SfscError` if the file is missing or damaged."""
        return cls.from_json(read_json(Path(path)), Path(path))


def _check_map(one: ScoreMap) -> None:
    counts = (one.matches, one.non_matches, one.queries, one.gallery)
    _check(min(counts) > 0 and one.queries <= one.matches, "the numbers of pairs are impossible")
    _check(0 < len(one.cosines) == len(one.log_ratios) <= MOST_KNOTS, "a map is incomplete")
    _check(0 < len(one.rates) == len(one.thresholds) <= MOST_KNOTS, "its thresholds are incomplete")
    _check(_increases(one.cosines, strictly=True) and _increases(one.log_ratios), "a map does not increase")
    falling = _increases([-rate for rate in one.rates], strictly=True)
    _check(falling and one.rates[-1] > 0 and one.rates[0] <= 1, "its error rates do not fall")
    _check(_increases(one.thresholds), "its thresholds do not rise")
    values = np.abs([*one.cosines, *one.log_ratios, *one.thresholds])
    _check(bool((values < 1000).all()), "its values are impossible")


def _increases(values: Any, strictly: bool = False) -> bool:
    return all(a < b or (a == b and not strictly) for a, b in itertools.pairwise(values))


def _check(fulfilled: bool, what: str) -> None:
    if not fulfilled:
        raise ValueError(what)
