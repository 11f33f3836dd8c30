"""Kernels that pass once over a parameter and what belongs to it, by the device that holds these."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.arrays import dtype_name
from fastdeconv.kernels.cpu import updates

Array = NDArray[Any]
# ``launch(arrays, settings, *flags)``: vectors of one length, numbers that are rounded to their dtype, bits.
Launch = Callable[..., None]

# Operations an element, going by the time it takes: from some 12,000 elements on, threads are worth starting.
_WORK = 32


def launcher(name: str, like: Array) -> Launch:
    """Return what launches a kernel of `kernels.cpu.updates`, or its twin on a device, on vectors like one."""
    if not isinstance(like, np.ndarray):
        from fastdeconv.cuda.updates import launcher as device_launcher

        return device_launcher(name, like)
    dtype = like.dtype
    run = getattr(updates, name).launcher(dtype_name("parameter", dtype), updates.units(like.size), _WORK * like.size)

    def launch(arrays: tuple[Array, ...], settings: tuple[float, ...], *flags: int) -> None:
        run(*arrays, np.array(settings, dtype), *flags)

    return launch
