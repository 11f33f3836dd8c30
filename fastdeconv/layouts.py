"""Between arrays of any strides and the vectors that kernels take, channels first.

Adjacent elements are passed on as they are. Channels-last views, ``x.transpose(0, 3, 1, 2)`` of an NHWC array for
instance, are transposed by a kernel at about the speed of a copy; NumPy's own copies of them are several times slower.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv import memory
from fastdeconv.kernels.cpu import host
from fastdeconv.kernels.cpu.interchange import blocks, interchange_units

Array = NDArray[Any]

# NumPy copies so few elements before a kernel is called, and so few channels as fast.
_FEW, _CHANNELS = 4096, 8


def channel_axis(a: Array) -> int | None:
    """Return the axis whose elements lie side by side if all are adjacent and that is 0 or 1, but not the last."""
    if a.ndim >= 3 and not a.flags.c_contiguous:
        for axis in (1, 0):
            if np.moveaxis(a, axis, -1).flags.c_contiguous:
                return axis
    return None


def _served(a: Array) -> int | None:
    if a.dtype not in (np.float32, np.float64):
        return None
    axis = channel_axis(a)
    return axis if axis is not None and a.shape[axis] >= _CHANNELS else None


def to_vector(a: Array) -> Array:
    """Return the elements in C order as a vector: a view of them if they are adjacent."""
    axis = None if a.size < _FEW else _served(a)
    if axis is None:
        # Unlike reshape, ravel returns adjacent elements whatever the strides.
        return a.ravel()
    packed = memory.empty((a.size,), a.dtype)
    before, channels, pixels = math.prod(a.shape[:axis]), a.shape[axis], math.prod(a.shape[axis + 1 :])
    _interchange(np.moveaxis(a, axis, -1).reshape(-1), packed, before, pixels, channels)
    return packed


def from_vector(vector: Array, out: Array) -> None:
    """Write the elements of a vector to an array in C order."""
    axis = None if out.size < _FEW else _served(out)
    if axis is None:
        out[...] = vector.reshape(out.shape)
        return
    before, channels, pixels = math.prod(out.shape[:axis]), out.shape[axis], math.prod(out.shape[axis + 1 :])
    _interchange(vector, np.moveaxis(out, axis, -1).reshape(-1), before, channels, pixels)


def _interchange(source: Array, target: Array, matrices: int, rows: int, columns: int) -> None:
    dtype = source.dtype.name
    launch = interchange_units.launcher(dtype, matrices * blocks(rows, columns), 4 * source.size)
    launch(source, target, rows, columns, host.lanes(dtype))
