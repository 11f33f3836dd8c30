"""Bicubic interpolation as MATLAB's imresize does it: half-pixel centres, mirrored borders, antialiased reduction."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv import memory
from fastdeconv.kernels.cpu import host
from fastdeconv.kernels.cpu.resampling import resample_units

Image = NDArray[np.float32]
Table = tuple[NDArray[np.int64], NDArray[Any]]

# Input pixels on each side of one that its enlarged pixels are made of.
REACH = 2


def cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic convolution kernel with a = -1/2, at distances `x` in pixels.

    References
    ----------
    Keys, Cubic convolution interpolation for digital image processing, IEEE Trans. ASSP 29 (1981).
    """
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def bicubic_kernel(scale: int, size: int | None = None) -> Image:
    """Return the kernel with which a transposed convolution of stride `scale` is bicubic enlargement.

    Parameters
    ----------
    scale : int
    size : int, optional
        Of a side, with zeros where the interpolation does not reach; odd if the scale is. None is the smallest.

    Returns
    -------
    ndarray of float32, shape (size, size)
    """
    if size is None:
        size = 4 * scale - scale % 2
    row = cubic((np.arange(size) - (size - 1) / 2) / scale)
    return np.outer(row, row).astype(np.float32)


def resize(image: Image, size: tuple[int, int]) -> Image:
    """Resize by bicubic interpolation as MATLAB's imresize does: antialiased when reducing, mirrored at borders.

    Parameters
    ----------
    image : ndarray of float32 or float64, shape (…, H, W)
    size : (int, int)
        The new height and width.

    Returns
    -------
    ndarray, shape (…, *size)
        Of the image's dtype.
    """
    dtype = image.dtype.name
    height, width = image.shape[-2:]
    return _resampled(image, size, _table(height, size[0], dtype), _table(width, size[1], dtype))


def enlarge_inside(plane: Image, scale: int) -> Image:
    """Enlarge a plane that has `REACH` pixels more on each side than the result is of.

    Whatever its size, a pixel's weights are the same to the last bit: parts of a plane give parts of its enlargement.

    Parameters
    ----------
    plane : ndarray of float32, shape (H + 2·REACH, W + 2·REACH)
    scale : int

    Returns
    -------
    ndarray of float32, shape (scale·H, scale·W)
    """
    height, width = (scale * (n - 2 * REACH) for n in plane.shape)
    dtype = plane.dtype.name
    return _resampled(
        plane, (height, width), _enlarging_table(height, scale, dtype), _enlarging_table(width, scale, dtype)
    )


def _resampled(image: Image, size: tuple[int, int], down: Table, across: Table) -> Image:
    *leading, height, width = image.shape
    result: Image = memory.empty((*leading, *size), image.dtype)
    if not result.size:
        return result
    (rows, row_weights), (columns, column_weights) = down, across
    dtype = image.dtype.name
    lanes = host.lanes(dtype)
    count = math.prod(leading) * -(-size[0] // lanes)
    work = 2 * lanes * count * (width * (rows.size // size[0]) + columns.size)
    launch = resample_units.launcher(dtype, count, work)
    launch(image.ravel(), result.ravel(), rows, row_weights, columns, column_weights, height, width, *size, lanes)
    return result


@lru_cache(maxsize=64)
def _enlarging_table(length: int, scale: int, dtype: str) -> Table:
    """Return the table of an axis for `enlarge_inside`."""
    pixel, phase = np.divmod(np.arange(length), scale)
    # Of the five pixels within reach, those on one side of the centre's four: the fifth has no weight.
    first = pixel + REACH - 1 - (2 * phase + 1 < scale)
    distance = (phase + 0.5) / scale - 0.5 + (2 * phase + 1 < scale) + 1
    weights = cubic(distance[:, None] - np.arange(4))
    weights /= weights.sum(axis=1, keepdims=True)
    return (first[:, None] + np.arange(4)).ravel(), weights.astype(dtype).ravel()


@lru_cache(maxsize=64)
def _table(length: int, new_length: int, dtype: str) -> Table:
    """Return which of an axis's elements make each new one, and with which weights, as vectors of all their taps."""
    scale = new_length / length
    shrink = min(scale, 1.0)  # a wider kernel when reducing is the antialiasing
    centre = (np.arange(new_length) + 0.5) / scale - 0.5
    taps = int(np.ceil(4 / shrink)) + 1
    index = np.floor(centre - 2 / shrink).astype(np.int64)[:, None] + 1 + np.arange(taps)
    weights = cubic(shrink * (centre[:, None] - index))
    weights /= weights.sum(axis=1, keepdims=True)
    mirrored = index % (2 * length)
    mirrored = np.minimum(mirrored, 2 * length - 1 - mirrored)
    used = weights.any(axis=0)  # where the scale is whole, the first or last taps of all are zero
    return np.ascontiguousarray(mirrored[:, used]).ravel(), weights[:, used].astype(dtype).ravel()
