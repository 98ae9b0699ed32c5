"""Choosing the best exported sub-model within the limits of a platform."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from sfsc.deploy.profile import Measured, Profile, file_digest
from sfsc.deploy.quantities import SIZES, TIMES, show_quantity
from sfsc.errors import SfscError


@dataclass(frozen=True)
class Limits:
    """The limits of a platform; None means that there is no limit.

    Attributes:
        latency: the maximum time for one image in seconds, at the 95th percentile.
        memory: the maximum peak memory in bytes.
        size: the maximum size of the file in bytes.
        accuracy: the minimum mAP in the gallery of the full sub-model, a fraction.
    """

    latency: float | None = None
    memory: float | None = None
    size: float | None = None
    accuracy: float | None = None


class Costed(Protocol):
    """A sub-model that can be compared with limits."""

    @property
    def name(self) -> str:
        """The name in messages."""

    @property
    def p95(self) -> float:
        """The 95th percentile of the time for one image in seconds."""

    @property
    def memory(self) -> float:
        """The peak memory in bytes."""

    @property
    def size(self) -> float | None:
        """The size of the file in bytes."""

    @property
    def accuracy(self) -> float | None:
        """The mAP in the gallery of the full sub-model, a fraction."""


@dataclass(frozen=True)
class _Check:
    """A measured value and its limit; an `excess` above 1 exceeds the limit."""

    name: str
    found: float
    limit: float
    excess: float
    show: Callable[[float], str]

    def __str__(self) -> str:
        return f"{self.name} {self.show(self.found)} instead of {self.show(self.limit)}"


def choose(run: str | Path, limits: Limits, dataset: str | None = None) -> Measured:
    """Choose the most accurate exported sub-model within all limits; among equals, the fastest.

    Args:
        run: a run folder that `profile` has measured.
        limits: the limits, which are compared with the measurements in the profile.
        dataset: KIND:PATH of the data set for the accuracies; by default the run's own.

    Returns:
        The row of the profile. Its file is unchanged since it was measured.

    Raises:
        SfscError: there is no profile of this family, the profile has no accuracies, the file has changed, or
            no sub-model is within the limits. In the last case the message names the closest sub-model and
            the limits that it exceeds.

    Example::

        from sfsc.deploy.choosing import Limits, choose

        best = choose("runs/photos", Limits(latency=0.010, memory=25e6, accuracy=0.3))
        print(best.file, best.accuracy)
    """
    profile = Profile.read(run, dataset)
    tested = [row for row in profile.rows if row.file is not None and row.accuracy is not None]
    if not tested:
        raise SfscError(
            f"no sub-model of {run} has an mAP: run `sfsc profile {run}` on a machine with the data set"
        )
    fitting = [row for row in tested if excess(row, limits) <= 1]
    if not fitting:
        nearest = min(tested, key=lambda row: excess(row, limits))
        raise SfscError(f"no sub-model is within the limits: the closest is {broken(nearest, limits)}")
    best = max(fitting, key=lambda row: (row.accuracy, -row.p95))
    path = Path(run, str(best.file))
    if not path.is_file() or file_digest(path) != best.digest:
        raise SfscError(f"{path} has changed since it was measured: run `sfsc profile {run}` again")
    return best


def excess(row: Costed, limits: Limits) -> float:
    """Return the largest quotient of a value and its limit; above 1, the sub-model exceeds a limit."""
    return max((check.excess for check in _checks(row, limits)), default=0)


def broken(row: Costed, limits: Limits) -> str:
    """Return the name of a sub-model and the limits that it exceeds, as a phrase."""
    return f"{row.name} with {', '.join(str(check) for check in _checks(row, limits) if check.excess > 1)}"


def _checks(row: Costed, limits: Limits) -> list[_Check]:
    """Compare a row that has an accuracy and a file with all limits."""
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
