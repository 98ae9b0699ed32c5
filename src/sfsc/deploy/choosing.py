"""The best exported sub-model within the limits of a platform."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sfsc.deploy.profiling import Measured, Profile, file_digest
from sfsc.deploy.quantities import SIZES, TIMES, show_quantity
from sfsc.errors import SfscError


@dataclass(frozen=True)
class Limits:
    """What a platform allows; None for no limit.

    `latency`: seconds for one image, at the 95th percentile. `memory`: bytes, at the peak. `size`: bytes of
    the file. `accuracy`: the least mAP in the full sub-model's gallery, a fraction.
    """

    latency: float | None = None
    memory: float | None = None
    size: float | None = None
    accuracy: float | None = None


@dataclass(frozen=True)
class _Check:
    """A figure against its limit; `excess` above 1 breaks it."""

    name: str
    found: float
    limit: float
    excess: float
    show: Callable[[float], str]

    def __str__(self) -> str:
        return f"{self.name} {self.show(self.found)} instead of {self.show(self.limit)}"


def choose(run: str | Path, limits: Limits, dataset: str | None = None) -> Measured:
    """The exported sub-model of greatest accuracy that keeps to all limits; of equal ones, the fastest.

    Args:
        run: a run folder that `sfsc profile` has written to.
        limits: that must hold as the profile was measured.
        dataset: KIND:PATH that accuracies are of; by default the run's own.

    Returns:
        Its row of the profile; its file is the one that was measured.

    Raises:
        SfscError: no profile of this family, one without accuracies, a file that has changed, or nothing
            fits: then the message says what comes nearest, and what it breaks.
    """
    profile = Profile.read(run, dataset)
    tested = [row for row in profile.rows if row.file is not None and row.accuracy is not None]
    if not tested:
        raise SfscError(f"no sub-model of {run} has an mAP: run `sfsc profile {run}` where the data set is")
    fitting = [row for row in tested if _worst(row, limits) <= 1]
    if not fitting:
        nearest = min(tested, key=lambda row: _worst(row, limits))
        broken = ", ".join(str(check) for check in _checks(nearest, limits) if check.excess > 1)
        raise SfscError(f"nothing fits: the nearest is {nearest.name}, which has {broken}")
    best = max(fitting, key=lambda row: (row.accuracy, -row.p95))
    path = Path(run, str(best.file))
    if not path.is_file() or file_digest(path) != best.digest:
        raise SfscError(f"{path} is not the file that was measured: run `sfsc profile {run}` again")
    return best


def _worst(row: Measured, limits: Limits) -> float:
    return max((check.excess for check in _checks(row, limits)), default=0)


def _checks(row: Measured, limits: Limits) -> list[_Check]:
    """Of a row that has accuracy and file."""
    most: list[tuple[str, float, float | None, Mapping[str, float]]] = [
        ("p95", row.p95, limits.latency, TIMES),
        ("memory", row.memory, limits.memory, SIZES),
        ("file", row.size or 0, limits.size, SIZES),
    ]
    checks = [
        _Check(name, found, limit, found / limit, partial(show_quantity, units=units))
        for name, found, limit, units in most
        if limit is not None
    ]
    if limits.accuracy is not None:
        found = row.accuracy or 0
        excess = limits.accuracy / max(found, 1e-9)
        checks.append(_Check("mAP", found, limits.accuracy, excess, "{:.3g}".format))
    return checks
