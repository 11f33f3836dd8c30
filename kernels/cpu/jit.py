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
from fastdeconv.kernels.cpu.cache import DiskCache
from fastdeconv.kernels.cpu.shared_loop import OPTIONS

# For functions that allocate nothing: without this, a call counts references to every array it passes, and takes 40 ns
# where a short row takes 10. Nothing calls them from Python or C.
device_function = njit(_nrt=False, forceinline=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, **OPTIONS)

Entry = Callable[..., None]


class Kernel:
    """A compiled ``units(lo, hi, *arguments)``, one specialisation for each element type.

    Parameters
    ----------
    units : callable
        The Python function.
    *arguments : str or numpy.dtype
        Types after ``lo`` and ``hi``: "T[]" is a C-contiguous vector of the element type, "int[]" one of 64-bit
        integers, "int" an integer, a dtype a vector of such records.
    """

    def __init__(self, units: Callable[..., None], *arguments: str | np.dtype[Any]) -> None:
        self.module = units.__module__
        self.name = f"{units.__module__.rpartition('.')[2]}.{units.__name__}"
        self._arguments = arguments
        self._units = njit(no_cfunc_wrapper=True, **OPTIONS)(units)
        self._units._cache = DiskCache(self.name)
        self._entries: dict[tuple[str, bool], Entry] = {}

    def entry(self, dtype: str, parallel: bool) -> Entry:
        """Return the compiled function: ``(lo, hi, *arguments)`` serial, ``(chunks, units, arguments)`` parallel."""
        key = dtype, parallel
        if key not in self._entries:
            arguments = [_numba_type(a, dtype) for a in self._arguments]
            signature = (types.int64, types.int64, *arguments)
            self._units.compile(signature)
            compiled = self._units.overloads[signature]
            self._entries[key] = shared_loop.entry(compiled, arguments) if parallel else compiled.entry_point
        return self._entries[key]

    def launcher(self, dtype: str, units: int, work: int, counted: bool = False) -> Entry:
        """Return ``launch(*arguments)``, which runs all units; it compiles when it is first called.

        `work` is an estimate in operations that decides whether threads are worth starting. If `counted`, the kernel's
        last argument is added here: into how many ranges the units are cut.
        """
        serial: Entry | None = None
        one = (1,) if counted else ()

        def launch(*arguments: Any) -> None:
            nonlocal serial
            if serial is None:
                serial = self.entry(dtype, False)
            serial(0, units, *arguments, *one)

        if work < threads.WORTH_STARTING or units < 2:
            return launch

        def launch_parallel(*arguments: Any) -> None:
            call = object()
            try:
                count = threads.enter(call)
                if count > 1:
                    chunks = min(units, count)
                    self.entry(dtype, True)(chunks, units, (*arguments, chunks) if counted else arguments)
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
