"""`ScoreMap`: what a cosine means for one pair of sub-models."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sfsc.errors import SfscError

RATES = (1e-2, 1e-3, 1e-4)  # the false match rates that tables show
RULE = 30  # errors that an error rate must rest on (Doddington et al., Speech Communication 2000)


@dataclass(frozen=True)
class ScoreMap:
    """A monotone map from the cosine of a pair to the probability of a match, and thresholds for error rates.

    The map stores the logarithm of the likelihood ratio p(cosine | match) / p(cosine | no match), which does
    not depend on how frequent matches are. The probability follows by Bayes' rule from the odds of a match
    before the cosine is known. In a search, these are the number of matching rows per query, taken from the
    data that the map was fitted on, over the number of other rows of the gallery. The same cosine therefore
    says less in a larger gallery, where more rows reach it by chance.

    Attributes:
        cosines: k increasing cosines, at which the map is known. It is linear between them and constant
            outside.
        log_ratios: k natural logarithms of likelihood ratios, not decreasing.
        rates: n false match rates, decreasing; the last one is the smallest that the pairs support.
        thresholds: n cosines, not decreasing: the smallest cosine whose false match rate is at most `rates`.
        matches: the number of matching pairs that the map was fitted on.
        non_matches: the number of non-matching pairs that the map was fitted on.
        queries: the number of queries with a match among these pairs.
        gallery: the number of rows that each of these queries was compared with.
    """

    cosines: tuple[float, ...]
    log_ratios: tuple[float, ...]
    rates: tuple[float, ...]
    thresholds: tuple[float, ...]
    matches: int
    non_matches: int
    queries: int
    gallery: int

    @property
    def smallest_rate(self) -> float:
        """The smallest false match rate that the pairs support: 30 of them reach its threshold."""
        return self.rates[-1]

    @property
    def matching_rows(self) -> float:
        """The mean number of rows that match a query, in the data that the map was fitted on."""
        return self.matches / self.queries

    def log_ratio(self, scores: np.ndarray | float) -> np.ndarray:
        """Return the natural logarithms of the likelihood ratios of cosines of any shape, float64."""
        return np.asarray(np.interp(scores, self.cosines, self.log_ratios))

    def probability(self, scores: np.ndarray | float, rows: int | None = None) -> np.ndarray:
        """Return the probabilities that pairs with these cosines match, float64.

        Args:
            scores: cosines, of any shape.
            rows: the number of rows of the gallery that is searched; by default the number of rows in the
                data that the map was fitted on.
        """
        log_odds = self.log_ratio(scores) + math.log(self.matching_rows / self._others(rows))
        return 1 / (1 + np.exp(-np.clip(log_odds, -700, 700)))

    def _others(self, rows: int | None) -> float:
        """Return the number of rows that do not match a query, at least 1, among this many rows."""
        return max((self.gallery if rows is None else rows) - self.matching_rows, 1.0)

    def cosine(self, probability: float, rows: int | None = None) -> float | None:
        """Return the smallest cosine with at least a probability, or None if no cosine has it.

        Args:
            probability: a probability below 1.
            rows: as for `probability`.
        """
        others = self._others(rows)
        wanted = math.log(probability / (1 - probability)) - math.log(self.matching_rows / others)
        if wanted > self.log_ratios[-1]:
            return None
        first = int(np.searchsorted(self.log_ratios, wanted))
        if first == 0:
            return -1.0
        return float(np.interp(wanted, self.log_ratios[: first + 1], self.cosines[: first + 1]))

    def threshold(self, fmr: float) -> float:
        """Return the smallest cosine whose false match rate is at most `fmr`.

        The false match rate is the share of non-matching pairs that reach the cosine. A search of N rows
        finds about N times as many false matches for each query.

        Raises:
            SfscError: the rate is not between 0 and 1, or smaller than the pairs support.
        """
        if not 0 < fmr <= 1:
            raise SfscError(f"a false match rate is greater than 0 and at most 1, not {fmr:g}")
        if fmr < self.smallest_rate * (1 - 1e-9):
            raise SfscError(
                f"a false match rate of {fmr:g} needs {math.ceil(RULE / fmr):,} non-matching pairs, and the "
                f"thresholds were fitted on {self.non_matches:,}: the smallest rate that they support is "
                f"{rounded_up(self.smallest_rate)}; ask for that, or fit them on more images with "
                "sfsc thresholds RUN --dataset"
            )
        return float(np.interp(-math.log(fmr), -np.log(self.rates), self.thresholds))


def rounded_up(rate: float) -> str:
    """Return a rate with two digits, not below it."""
    size = 10 ** (math.floor(math.log10(rate)) - 1)
    return f"{math.ceil(rate / size - 1e-9) * size:.2g}"
