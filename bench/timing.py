"""Time contenders side by side: one after the other in every round, after a warm-up that also checks them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

# A measurement lasts at least so long: shorter calls are repeated within it.
_SHORTEST = 1e-3  # seconds


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds a call, over the rounds."""

    best: float
    p20: float
    median: float
    p80: float


def interleaved(calls: list[Callable[[], Any]], rounds: int) -> list[Times]:
    """Time every call once a round, in turn, so that a drift of the machine's speed meets all alike."""
    repeats = [_repeats(call) for call in calls]
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, count, taken in zip(calls, repeats, seconds, strict=True):
            start = time.perf_counter()
            for _ in range(count):
                call()
            taken.append((time.perf_counter() - start) / count)
    return [Times(min(t), *(float(v) for v in np.percentile(t, (20, 50, 80)))) for t in seconds]


def _repeats(call: Callable[[], Any]) -> int:
    start = time.perf_counter()
    call()
    return max(1, int(_SHORTEST / max(time.perf_counter() - start, 1e-7)))
