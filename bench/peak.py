"""The machine's own limits, measured: multiply-adds without memory, and a copy of more than any cache holds.

Compiled anew in every process: the kernels' cache on disk knows only the kernels' sources.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import njit, prange, types
from numba.extending import intrinsic

from fastdeconv.kernels.cpu import host
from fastdeconv.kernels.cpu.vectors import Vectors, index, loop, pointer

# Accumulators that do not depend on each other: enough to hide the latency of a multiply-add, and with two operands
# still all in registers.
CHAINS = 3 * host.REGISTERS // 4

_STEPS = 200_000
_COPIED = 2**27  # bytes: more than the last cache of most machines
_REPEATS = 25  # the best of so many, as the limit of a machine is what it does undisturbed


@intrinsic
def _multiply_adds(typing_context: Any, steps: Any, values: Any) -> Any:
    """Do ``steps·CHAINS`` vector multiply-adds on registers, from and to the vector `values`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        steps, values = arguments
        vectors = Vectors(builder, signature.args[1].dtype)
        base = pointer(context, builder, signature.args[1], values, index(0))
        places = [index(i * vectors.lanes) for i in range(CHAINS)]
        factor, term = vectors.load(base, places[0]), vectors.load(base, places[1])

        def body(i: Any, sums: list[Any]) -> list[Any]:
            return [vectors.multiply_add(value, factor, term) for value in sums]

        for place, value in zip(places, loop(builder, steps, [vectors.load(base, place) for place in places], body)):
            vectors.store(value, base, place)
        return context.get_dummy_value()

    return types.void(types.int64, values), generate


@njit(nogil=True, parallel=True)
def _all_threads(threads: int, steps: int, values: Any) -> None:
    for thread in prange(threads):
        _multiply_adds(steps, values[thread])


@njit(nogil=True, parallel=True)
def _copy(source: Any, target: Any) -> None:
    for i in prange(len(source)):
        target[i] = source[i]


def flops_per_second(dtype: str) -> float:
    """Return the floating-point operations a second of all threads together, two a multiply-add."""
    threads = numba.get_num_threads()
    # Below 1 and above 0 the values tend to a limit: no infinities, no denormals.
    values = np.full((threads, CHAINS * host.lanes(dtype)), 0.5, dtype)
    operations: int = 2 * threads * _STEPS * CHAINS * host.lanes(dtype)
    return operations / _best(lambda: _all_threads(threads, _STEPS, values))


def bytes_per_second() -> float:
    """Return the speed of a copy by all threads: bytes read and bytes written, together."""
    source, target = np.ones(_COPIED // 8), np.ones(_COPIED // 8)
    return 2 * _COPIED / _best(lambda: _copy(source, target))


def _best(run: Callable[[], None]) -> float:
    run()
    seconds = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
