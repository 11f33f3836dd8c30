"""How a kernel is compiled, cached, and run on one thread or several.

A kernel is a function ``units(lo, hi, ...)`` that does the independent units of work ``lo .. hi - 1``. The same
function runs serially or under a parallel loop, whichever `threads.parallel` allows, so the result cannot depend
on the choice as long as no unit depends on another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import njit, prange, types

from fastdeconv.kernels.cpu import threads
from fastdeconv.kernels.cpu.cache import DiskCache

# error_model: division by zero must not raise inside a kernel; nogil: calls from several Python threads overlap.
OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}

# For functions that allocate nothing: without this, a call counts references to every array it passes, and takes 40 ns
# where a short row takes 10.
device_function = njit(_nrt=False, forceinline=True, **OPTIONS)

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
        self._units = njit(**OPTIONS)(units)
        self._units._cache = DiskCache(self.name)
        self._parallel = njit(parallel=True, **OPTIONS)(_parallel_version(self._units))
        self._parallel._cache = DiskCache(self.name + ".parallel")
        self._entries: dict[tuple[str, bool], Entry] = {}

    def entry(self, dtype: str, parallel: bool) -> Entry:
        """Return the compiled function: ``(lo, hi, *arguments)`` serial, ``(chunks, units, arguments)`` parallel."""
        key = dtype, parallel
        if key not in self._entries:
            function = self._parallel if parallel else self._units
            arguments = [_numba_type(a, dtype) for a in self._arguments]
            signature = (types.int64, types.int64, *([types.Tuple(arguments)] if parallel else arguments))
            function.compile(signature)
            self._entries[key] = function.overloads[signature].entry_point
        return self._entries[key]

    def launcher(self, dtype: str, units: int, work: int) -> Entry:
        """Return ``launch(*arguments)``, which runs all units; it compiles when it is first called.

        `work` is an estimate in operations that decides whether threads are worth starting.
        """
        serial: Entry | None = None

        def launch(*arguments: Any) -> None:
            nonlocal serial
            if serial is None:
                serial = self.entry(dtype, False)
            serial(0, units, *arguments)

        if work < threads.WORTH_STARTING or units < 2:
            return launch

        def launch_parallel(*arguments: Any) -> None:
            with threads.parallel() as count:
                if count > 1:
                    self.entry(dtype, True)(min(units, 8 * count), units, arguments)
                else:
                    launch(*arguments)

        return launch_parallel


def kernel(*arguments: str | np.dtype[Any]) -> Callable[[Callable[..., None]], Kernel]:
    """Make a `Kernel` of a function."""
    return lambda units: Kernel(units, *arguments)


def _parallel_version(units: Any) -> Callable[..., None]:
    def run(chunks: int, count: int, arguments: tuple[Any, ...]) -> None:
        for chunk in prange(chunks):
            units(count * chunk // chunks, count * (chunk + 1) // chunks, *arguments)

    return run


def _numba_type(argument: str | np.dtype[Any], dtype: str) -> types.Type:
    if argument == "int":
        return types.int64
    if argument == "int[]":
        return types.Array(types.int64, 1, "C")
    element = numba.from_dtype(np.dtype(dtype) if argument == "T[]" else argument)
    return types.Array(element, 1, "C")
