"""When a kernel may start Numba's threads, so that no call can abort or hang the process.

Two things go wrong in Numba's threading layers: the workqueue layer aborts the process when two Python threads
enter it at once, and GNU OpenMP kills a forked child of a process that has used it. So a call under workqueue
takes its turn or runs serially, and a child forked after the threads started runs serially.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numba
from numba.np.ufunc import parallel as _layer

# Operations below which starting threads costs more than it saves.
WORTH_STARTING = 400_000

_turn = threading.Lock()
_unsafe_after_fork = False


def _after_fork() -> None:
    global _turn, _unsafe_after_fork
    _turn = threading.Lock()  # the thread that held it is not in this process
    _unsafe_after_fork = _unsafe_after_fork or bool(_layer._is_initialized)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def parallel() -> Iterator[int]:
    """Give the number of threads that a parallel loop inside may use; 1 means run serially."""
    if _unsafe_after_fork:
        yield 1
        return
    count = numba.get_num_threads()
    if count == 1 or numba.threading_layer() != "workqueue":
        yield count
        return
    if not _turn.acquire(blocking=False):
        yield 1
        return
    try:
        yield count
    finally:
        _turn.release()


def set_num_threads(n: int) -> None:
    """Set the number of threads, Numba's own setting (`numba.set_num_threads`), for the calling thread.

    Raises
    ------
    TypeError
        `n` is not an int.
    ValueError
        `n` is not from 1 to NUMBA_NUM_THREADS.
    """
    limit = numba.config.NUMBA_NUM_THREADS
    if isinstance(n, bool) or not hasattr(n, "__index__"):
        raise TypeError(f"n must be an int; got {n!r} of type {type(n).__name__}")
    if not 1 <= n <= limit:
        raise ValueError(f"n must be from 1 to {limit} (NUMBA_NUM_THREADS); got {n}")
    numba.set_num_threads(int(n))


def get_num_threads() -> int:
    """Return the number of threads that kernels use, Numba's own setting."""
    return int(numba.get_num_threads())
