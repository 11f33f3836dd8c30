"""When a kernel may start Numba's threads, so that no call can abort or hang the process.

Two things go wrong in Numba's threading layers: the workqueue layer aborts the process when two Python threads
enter it at once, and GNU OpenMP kills a forked child of a process that has used it. So a call under workqueue
takes its turn or runs serially, and a child forked after the threads started runs serially. A parallel function that
is not ours takes no turn: under workqueue it aborts the process if it runs in another Python thread during a call. That
cannot be seen from here; NUMBA_THREADING_LAYER=omp has no such limit.
"""

from __future__ import annotations

import os

import numba
from numba.core.compiler_lock import global_compiler_lock
from numba.np.ufunc import parallel as _layer

# Operations below which starting threads costs more than it saves.
WORTH_STARTING = 400_000

_inside: set[object] = set()  # calls that run threads of the workqueue layer, or look whether they may
_unsafe_after_fork = False


def _after_fork() -> None:
    global _unsafe_after_fork
    _inside.clear()  # other threads' calls are not in this process
    _unsafe_after_fork = _unsafe_after_fork or bool(_layer._is_initialized)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
    # A child inherits locks as they are, but not the threads that would release them: it would wait for ever. So a fork
    # waits for compilations in other threads. The last one registered is taken first, as Numba does.
    for _lock in (_layer._backend_init_thread_lock, global_compiler_lock):
        os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def enter(call: object) -> int:
    """Return the number of threads that a parallel loop may use until `leave(call)`; 1 means run serially.

    `call` is any new object. Leave in a ``finally`` whose ``try`` encloses this call, which may be interrupted.
    """
    if _unsafe_after_fork:
        return 1
    # Numba's own function takes two locks each time to see whether the threads have started: 10 µs after a kernel has
    # emptied the caches.
    count = int(_layer._get_num_threads() if _layer._is_initialized else numba.get_num_threads())
    if count == 1 or _layer._threading_layer != "workqueue":
        return count
    _inside.add(call)
    if len(_inside) == 1:
        return count
    _inside.discard(call)
    return 1


# No function around it: the exception of a signal handler could come before its first line.
leave = _inside.discard


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


def expected() -> int:
    """Return the number of threads that kernels would use, without starting any."""
    return int(numba.get_num_threads()) if _layer._is_initialized else int(numba.config.NUMBA_NUM_THREADS)


def get_num_threads() -> int:
    """Return the number of threads that kernels use, Numba's own setting."""
    return int(numba.get_num_threads())
