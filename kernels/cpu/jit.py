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
from fastdeconv.kernels.cpu.compiler import DeviceCompiler, KernelCompiler
from fastdeconv.kernels.cpu.shared_loop import OPTIONS

# For functions that allocate nothing: without this, a call counts references to every array it passes, and takes 40 ns
# where a short row takes 10. Nothing calls them from Python or C.
_device = njit(_nrt=False, pipeline_class=DeviceCompiler, no_cpython_wrapper=True, no_cfunc_wrapper=True, **OPTIONS)


def device_function(function: Callable[..., Any]) -> Any:
    made = _device(function)
    template = made.get_call_template
    made.get_call_template = lambda args, kws: template([types.unliteral(a) for a in args], kws)
    return made


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
        self._units = njit(pipeline_class=KernelCompiler, no_cfunc_wrapper=True, **OPTIONS)(units)
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
            call = object()
            try:
                count = threads.enter(call)
                if count > 1:
                    self.entry(dtype, True)(min(units, count), units, arguments)
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
