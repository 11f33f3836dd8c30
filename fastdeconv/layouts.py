"""Between arrays of any strides and the vectors that kernels take, channels first or last.

Adjacent elements are passed on as they are, channels-last views, ``x.transpose(0, 3, 1, 2)`` of an NHWC array for
instance, too: their problem says so. Kernels for channels first, and calls that mix both, have them transposed at about
the speed of a copy; NumPy's own copies of them are several times slower.
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


def channels_last(ndim: int, *arrays: Any) -> bool:
    """Tell whether a call's input and output, those of them that there are, have channels last in memory.

    Not if all of them may as well have them first.
    """
    for a in arrays:
        if a is not None and not (isinstance(a, np.ndarray) and a.flags.c_contiguous):
            break
    else:
        return False
    some = [a for a in arrays if a is not None]
    return all(isinstance(a, np.ndarray) and a.ndim > ndim and _adjacent(pixels_first(ndim, a)) for a in some)


def _adjacent(a: Array) -> bool:
    return a.flags.c_contiguous and a.flags.aligned


def pixels_first(ndim: int, a: Array) -> Array:
    """Return a view with the channels moved behind the spatial axes."""
    axis = a.ndim - ndim - 1
    return a.transpose(*range(axis), *range(axis + 1, a.ndim), axis)


def new_channels_last(ndim: int, shape: tuple[int, ...], like: Array) -> Array:
    """Return an uninitialised array as `fastdeconv.arrays.new` does, with channels last in memory."""
    axis = len(shape) - ndim - 1
    made = memory.empty((*shape[:axis], *shape[axis + 1 :], shape[axis]), like.dtype)
    return made.transpose(*range(axis), made.ndim - 1, *range(axis, made.ndim - 1))


def _served(a: Array) -> int | None:
    if a.dtype not in (np.float32, np.float64):
        return None
    axis = channel_axis(a)
    return axis if axis is not None and a.shape[axis] >= _CHANNELS else None


def to_vector(a: Array) -> Array:
    """Return the elements in C order as a vector: a view of them if they are adjacent."""
    axis = None if a.size < _FEW else _served(a)
    if axis is None and _is_filter(a):
        return _filter_to_vector(a)
    if axis is None:
        # Unlike reshape, ravel returns adjacent elements whatever the strides.
        return a.ravel()
    packed = memory.empty((a.size,), a.dtype)
    before, channels, pixels = math.prod(a.shape[:axis]), a.shape[axis], math.prod(a.shape[axis + 1 :])
    interchange(np.moveaxis(a, axis, -1).reshape(-1), packed, before, pixels, channels)
    return packed


def _is_filter(a: Array) -> bool:
    """Tell whether elements lie as in a filter of TensorFlow's, (kh, kw, C_out, C_in), of which this is a view."""
    return (
        a.size >= _FEW
        and a.ndim >= 3
        and a.dtype in (np.float32, np.float64)
        and not a.flags.c_contiguous
        and a.transpose(*range(2, a.ndim), 1, 0).flags.c_contiguous
    )


def _filter_to_vector(a: Array) -> Array:
    inputs, outputs, taps = a.shape[0], a.shape[1], math.prod(a.shape[2:])
    turned, packed = (memory.empty((a.size,), a.dtype) for _ in range(2))
    interchange(a.transpose(*range(2, a.ndim), 1, 0).reshape(-1), turned, 1, taps * outputs, inputs)
    interchange(turned, packed, inputs, taps, outputs)
    return packed


def from_vector(vector: Array, out: Array) -> None:
    """Write the elements of a vector to an array in C order."""
    axis = None if out.size < _FEW else _served(out)
    if axis is None:
        out[...] = vector.reshape(out.shape)
        return
    before, channels, pixels = math.prod(out.shape[:axis]), out.shape[axis], math.prod(out.shape[axis + 1 :])
    interchange(vector, np.moveaxis(out, axis, -1).reshape(-1), before, channels, pixels)


def interchange(source: Array, target: Array, matrices: int, rows: int, columns: int) -> None:
    """Transpose matrices of a vector into another of the same element type."""
    if source.size < _FEW or source.dtype not in (np.float32, np.float64):
        target.reshape(matrices, columns, rows)[...] = source.reshape(matrices, rows, columns).swapaxes(1, 2)
        return
    dtype = source.dtype.name
    launch = interchange_units.launcher(dtype, matrices * blocks(rows, columns), 4 * source.size)
    launch(source, target, rows, columns, host.lanes(dtype))
