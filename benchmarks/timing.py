"""Timing of calls that take turns in one run, so that their times can be compared."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

import torch

FEWEST_ROUNDS = 5

Call = Callable[[], object]


def seconds(call: Call, device: str, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the duration of one call by a clock; on a GPU, until the device is done."""
    if torch.device(device).type != "cuda":
        start = clock()
        call()
        return clock() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    begin.record()
    call()
    end.record()
    end.synchronize()
    milliseconds: float = begin.elapsed_time(end)
    return milliseconds / 1000


def take_turns(
    calls: Mapping[str, Call],
    budget: float,
    device: str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Return the seconds of each call in every round. There are at least five rounds, for `budget` seconds.

    Every other round runs backwards, so that no call always comes first or always follows another. The first
    round is not counted. With `time.process_time` as the clock, other processes have less influence.
    """
    for call in calls.values():
        seconds(call, device)
    times: dict[str, list[float]] = {name: [] for name in calls}
    names, end = list(calls), time.perf_counter() + budget
    while len(times[names[0]]) < FEWEST_ROUNDS or time.perf_counter() < end:
        for name in names:
            times[name].append(seconds(calls[name], device, clock))
        names.reverse()
    return times


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Return the median of the ratios of times from the same rounds."""
    return median(a / b for a, b in zip(numerators, denominators, strict=True))
