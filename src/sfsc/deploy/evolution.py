"""An evolutionary search over the points of a family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from sfsc.deploy.choosing import Limits, excess
from sfsc.deploy.device import Device
from sfsc.deploy.points import Point
from sfsc.deploy.validation import Validation
from sfsc.notation import name_of
from sfsc.progress import track

STARTING = 1 / 3  # share of the evaluations that points of one width everywhere get
TRIES = 100  # points that are drawn for each evaluation, until one is new and within the limits


@dataclass(frozen=True)
class Candidate:
    """A point that was evaluated, with the costs that are expected of it or, for the winner, measured.

    Attributes:
        width: the width of its sub-model.
        name: the width, the depth and the size of the images, such as 0.31@24.
        point: the point.
        trained: whether its sub-model was trained.
        accuracy: the mAP, a fraction, of its validation queries in the gallery of the full sub-model.
        multiply_adds: the multiply-adds for one image.
        p50: the median time for one image in seconds.
        p95: the 95th percentile of the time for one image in seconds.
        memory: the peak memory in bytes.
        size: the size of the file in bytes.
    """

    width: float
    name: str
    point: Point
    trained: bool
    accuracy: float
    multiply_adds: int
    p50: float
    p95: float
    memory: float
    size: float


def pareto(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates than which none is faster and at least as accurate, by increasing time."""
    best: list[Candidate] = []
    for one in sorted(candidates, key=lambda one: (one.p50, -one.accuracy)):
        if not best or one.accuracy > best[-1].accuracy:
            best.append(one)
    return best


class Evolution:
    """An evolutionary search: points of the front are crossed and mutated.

    It begins with the trained sub-models, the cheapest point, and points that have one width everywhere. All
    but the first are expected to be within the limits.
    """

    def __init__(self, validation: Validation, device: Device, limits: Limits, seed: int) -> None:
        self.validation, self.space, self.device = validation, validation.space, device
        self.costs = replace(limits, accuracy=None)
        self.random = np.random.default_rng(seed)
        self.found: dict[Point, Candidate] = {}

    def run(self, evaluations: int) -> list[Candidate]:
        """Evaluate the trained sub-models, the cheapest point, and a number of others; return all."""
        cheapest = self.space.uniform(self.space.narrowest, self.space.sizes[0], self.space.depths[0])
        for first in dict.fromkeys([*self.space.trained(), cheapest]):
            self._evaluate(first)
        started = len(self.found) + int(STARTING * evaluations)
        for _ in track(range(evaluations), "search"):
            makers = [self._uniform, self._child] if len(self.found) < started else [self._child]
            tries = (make() for make in makers for _ in range(TRIES))
            fresh = (point for point in tries if point not in self.found and self._fits(point))
            point = next(fresh, None)
            if point is None:  # nothing else is within the limits
                break
            self._evaluate(point)
        return [*self.found.values()]

    def _uniform(self) -> Point:
        size = self.space.sizes[self.random.integers(len(self.space.sizes))]
        width = self.random.uniform(self.space.narrowest, 1.0)
        depth = self.space.depths[self.random.integers(len(self.space.depths))]
        return self.space.uniform(width, size, depth)

    def _child(self) -> Point:
        fitting = [one for one in self.found.values() if excess(one, self.costs) <= 1]
        front = pareto(fitting or [*self.found.values()])
        places = self.random.integers(len(front), size=3)
        first, second = front[max(places[:2])].point, front[places[2]].point  # the better one of two
        return self.space.mutated(self.space.crossed(first, second, self.random), self.random)

    def _fits(self, point: Point) -> bool:
        return excess(self._candidate(point, 0.0), self.costs) <= 1

    def _evaluate(self, point: Point) -> None:
        self.found[point] = self._candidate(point, self.validation.accuracy(*self.validation.build(point)))

    def _candidate(self, point: Point, accuracy: float) -> Candidate:
        """Return a candidate with the costs that are expected of it."""
        trained = self.space.trained().get(point)
        width = self.space.width_of(point) if trained is None else trained
        return Candidate(
            width=width,
            name=name_of(width, point.size, self.space.family.image_size, point.depth),
            point=point,
            trained=trained is not None,
            accuracy=accuracy,
            multiply_adds=int(self.space.costs(point).multiply_adds.sum()),
            **asdict(self.device.predict(point)),
        )
