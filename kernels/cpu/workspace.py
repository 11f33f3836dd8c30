"""Scratch memory that a thread keeps between calls: fresh pages cost more than the copy that goes into them."""

from __future__ import annotations

import threading
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

# A larger buffer is given back to the system after the call.
MOST_KEPT = 64 << 20  # bytes, in each slot

_ALIGNMENT = 64  # bytes, a cache line
_kept = threading.local()


def take(slot: str, elements: int, dtype: str) -> NDArray[Any]:
    """Return an uninitialised vector that starts on a cache line.

    It is the caller's alone until `keep` gives it back: a signal handler that runs between two kernels of a call, and
    calls in turn, gets another.
    """
    kept: NDArray[Any] | None = _kept.__dict__.pop(slot, None)
    if kept is None:
        return new(elements, dtype)
    if kept.size == elements and kept.dtype == dtype:  # as the last call of this problem left it
        return kept
    buffer, size = kept.base, elements * np.dtype(dtype).itemsize
    assert isinstance(buffer, np.ndarray)
    return _aligned(buffer, size, dtype) if buffer.size >= size + _ALIGNMENT else new(elements, dtype)


def new(elements: int, dtype: str) -> NDArray[Any]:
    """Return an uninitialised vector that starts on a cache line, and that no slot knows of."""
    size = elements * np.dtype(dtype).itemsize
    return _aligned(np.empty(size + _ALIGNMENT, np.uint8), size, dtype)


def _aligned(buffer: NDArray[np.uint8], size: int, dtype: str) -> NDArray[Any]:
    start = -buffer.__array_interface__["data"][0] % _ALIGNMENT
    return buffer[start : start + size].view(dtype)


def total(shared: int, private: int = 0, units: int = 1) -> int:
    """Return the bytes that a run takes: `shared` ones, and `private` ones for each thread that computes units.

    Threads are as many as Numba may start, not those of the moment, so that no choice depends on `set_num_threads`.
    """
    return shared + private * min(units, int(numba.config.NUMBA_NUM_THREADS))


def keep(slot: str, vector: NDArray[Any]) -> None:
    """Give back what `take` returned, for the thread's next call."""
    if isinstance(vector.base, np.ndarray) and vector.base.size <= MOST_KEPT:
        _kept.__dict__[slot] = vector
