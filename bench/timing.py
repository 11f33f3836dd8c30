"""Time contenders side by side: one after the other in every round, each alone on the machine."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# ``clock(call, repeats)`` makes so many calls and returns the seconds that they take together.
Clock = Callable[[Callable[[], Any], int], float]

# A measurement lasts at least so long: shorter calls are repeated within it.
_SHORTEST = 5e-3  # seconds
# Calls shorter than this come after some that do not count, for as long as the second says: they wake the library's
# threads, bring its data back into cache, and the processor back to its speed, which takes 8 ms after a rest of 0.2 s.
_LONG, _LEAD_IN = 0.05, 0.02  # seconds


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds a call, over the rounds."""

    best: float
    p20: float
    median: float
    p80: float
    rounds: int


def summary(seconds: Sequence[float]) -> Times:
    """Return the statistics of measurements of one call."""
    p20, median, p80 = (float(v) for v in np.percentile(seconds, (20, 50, 80)))
    return Times(float(min(seconds)), p20, median, p80, len(seconds))


def wall_clock(call: Callable[[], Any], repeats: int) -> float:
    """Time calls that wait for their results."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return time.perf_counter() - start


class Measurement:
    """Repeated timing of one call.

    Parameters
    ----------
    call : callable
        Already called once, so that nothing is compiled any more.
    seconds : float
        What may be spent on it, in all; one measurement is always taken.
    clock : callable
    """

    def __init__(self, call: Callable[[], Any], seconds: float, clock: Clock = wall_clock) -> None:
        self._call = call
        self._clock = clock
        self._left = seconds
        self.taken: list[float] = []
        first = self._timed(1)
        self._repeats = max(1, int(_SHORTEST / max(first, 1e-7)))
        self._lead_in = max(1, int(_LEAD_IN / max(first, 1e-7))) if first < _LONG else 0
        if self._left <= 0:  # too long to be called again
            self.taken.append(first)

    def _timed(self, repeats: int) -> float:
        elapsed = self._clock(self._call, repeats)
        self._left -= elapsed
        return elapsed / repeats

    def take(self) -> None:
        """Take one measurement, unless the time for it is spent."""
        if self.taken and self._left <= 0:
            return
        if self._lead_in:
            self._timed(self._lead_in)
        self.taken.append(self._timed(self._repeats))


def interleaved(
    calls: Sequence[Callable[[], Any]], rounds: int, seconds: float, clock: Clock = wall_clock
) -> list[Times]:
    """Time every call once a round, in turn, so that a drift of the machine's speed meets all alike.

    Parameters
    ----------
    calls : sequence of callable
        Each already called once.
    rounds : int
        Measurements of each call.
    seconds : float
        Time for each call over all rounds: one that takes longer gets fewer rounds.
    clock : callable
    """
    measurements = []
    collects = gc.isenabled()
    gc.disable()  # as timeit does: with several libraries in the process a collection takes longer than a short call
    try:
        for call in calls:
            settle()
            measurements.append(Measurement(call, seconds, clock))
        for _ in range(rounds):
            for measurement in measurements:
                settle()
                measurement.take()
    finally:
        if collects:
            gc.enable()
    return [summary(measurement.taken) for measurement in measurements]


def settle(limit: float = 0.1, look: float = 1e-3) -> None:
    """Wait until this process rests: a library's threads may go on spinning for work after its call has returned.

    It rests when all its threads together use less than a fifth of one core. Both times are in seconds.
    """
    end = time.perf_counter() + limit
    while time.perf_counter() < end:
        start, busy = time.perf_counter(), time.process_time()
        time.sleep(look)
        if time.process_time() - busy < 0.2 * (time.perf_counter() - start):
            return
