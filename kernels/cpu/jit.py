"""How a kernel is compiled, cached, and run on one thread or several.

A kernel is a function ``units(lo, hi, ...)`` that does the independent units of work ``lo .. hi - 1``. The same
machine code runs serially or under a parallel loop, whichever `threads.enter` allows, so the result cannot depend
on the choice as long as no unit depends on another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import njit, types

from fastdeconv.kernels.cpu import shared_loop, threads
from fastdeconv.kernels.cpu.compiler import DeviceCompiler

Entry = Callable[[int, int, int, int, tuple[Any, ...]], None]

# Operations of a piece of the units that a thread takes, and in how many pieces a thread's share is cut at most: each
# piece allocates its own buffers.
_PIECE, _PIECES = 8_000_000, 8

# Nothing calls these functions from Python or C.
_called_by_kernels = njit(pipeline_class=DeviceCompiler, no_cpython_wrapper=True, **shared_loop.OPTIONS)
# For functions that allocate nothing: without this, a call counts references to every array it passes, and takes 40 ns
# where a short row takes 10.
_without_memory = njit(pipeline_class=DeviceCompiler, _nrt=False, no_cpython_wrapper=True, **shared_loop.OPTIONS)


def device_function(function: Callable[..., Any]) -> Any:
    """Make a function that kernels call, and that allocates nothing."""
    compiled = _without_memory(function)
    template = compiled.get_call_template
    # Numba would compile it once for each constant among the arguments.
    compiled.get_call_template = lambda args, kws: template([types.unliteral(arg) for arg in args], kws)
    return compiled


class Kernel:
    """A compiled ``units(lo, hi, *arguments)``, one specialisation for each element type.

    Parameters
    ----------
    units : callable
        The Python function.
    *arguments : str or numpy.dtype
        Types after ``lo`` and ``hi``: "T[]" is a C-contiguous vector of the element type, "int[]" one of 64-bit
        integers, "int" an integer, a dtype a vector of such records. A last one "slot" is not passed: it is an integer
        below the number of threads that no two pieces have which run at the same time.
    """

    def __init__(self, units: Callable[..., None], *arguments: str | np.dtype[Any]) -> None:
        self.module = units.__module__
        self.name = f"{units.__module__.rpartition('.')[2]}.{units.__name__}"
        slot = arguments[-1:] == ("slot",)
        self._arguments = arguments[:-1] if slot else arguments
        self._run = shared_loop.runner(self.name, _called_by_kernels(units), slot)
        self._entries: dict[str, Entry] = {}

    @property
    def ready(self) -> int:
        """For how many element types it has been compiled or loaded."""
        return len(self._entries)

    def entry(self, dtype: str) -> Entry:
        """Return the compiled function ``(loop, threads, units, piece, arguments)``; see `shared_loop.runner`."""
        if dtype not in self._entries:
            self._entries[dtype] = self.compiled(dtype).entry_point
        return self._entries[dtype]

    def compiled(self, dtype: str) -> Any:
        """Return what Numba makes of the kernel, or what the disk holds."""
        signature = shared_loop.runner_signature([_numba_type(a, dtype) for a in self._arguments])
        self._run.compile(signature)
        return self._run.overloads[signature]

    def launcher(self, dtype: str, units: int, work: int) -> Callable[..., None]:
        """Return ``launch(*arguments)``, which runs all units; it compiles when it is first called.

        `work` is an estimate in operations that decides whether threads are worth starting, and how much they take at a
        time.
        """
        run: Entry | None = None

        def launch(*arguments: Any) -> None:
            nonlocal run
            if run is None:
                run = self.entry(dtype)
            run(0, 1, units, units, arguments)

        if work < threads.WORTH_STARTING or units < 2:
            return launch

        pieces: dict[int, int] = {}  # units of one, by threads
        loop = 0

        def launch_parallel(*arguments: Any) -> None:
            nonlocal run, loop
            call = object()
            try:
                count = min(units, threads.enter(call))
                if count > 1:
                    piece = pieces.get(count)
                    if piece is None or run is None:
                        run, loop = self.entry(dtype), shared_loop.loop_address()
                        cut = max(1, min(_PIECES, work // (_PIECE * count)))
                        piece = pieces[count] = max(1, units // (count * cut))
                    run(loop, count, units, piece, arguments)
                else:
                    launch(*arguments)
            finally:
                threads.leave(call)

        return launch_parallel


def kernel(*arguments: str | np.dtype[Any]) -> Callable[[Callable[..., None]], Kernel]:
    """Make a `Kernel` of a function."""
    return lambda units: Kernel(units, *arguments)


def _numba_type(argument: str | np.dtype[Any], dtype: str) -> types.Type:
    if argument == "int":
        return types.int64
    if argument == "int[]":
        return types.Array(types.int64, 1, "C")
    element = numba.from_dtype(np.dtype(dtype) if argument == "T[]" else argument)
    return types.Array(element, 1, "C")
