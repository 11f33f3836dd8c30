"""Batch normalisation: moments of channels, and the gradient through them.

    mean[c], var[c] of x        y = f(z), z = scale[c]·x + shift[c]        gz = f'(z)·gy
    gx = a[c]·gz + b[c]·(x - mean[c]) + d[c]

f is a rectifier, so that a normalisation and the activation behind it are one: forward, reading x for its moments and
once more for y (`elementwise.rectifier`); backward, reading x and gy for three sums and once more for gx. z is computed
again from x where it is needed, so that only x is kept. Units of work, and how sums come together, are as in
`elementwise`. Moments of a piece are those of the differences from its own mean, added up by Chan, Golub and LeVeque,
Updating formulae and a pairwise algorithm for computing sample variances, 1979.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdeconv.kernels.cpu.elementwise import channel_value, falls, row_sum, sloped
from fastdeconv.kernels.cpu.jit import kernel
from fastdeconv.kernels.cpu.sweep import part_of, sweep
from fastdeconv.kernels.cpu.vectors import Vectors

_DOUBLE = np.dtype("float64")


def _differences(v: Vectors, read: list[Any], scalars: list[Any]) -> tuple[list[Any], list[Any]]:
    d = v.builder.fsub(read[0], scalars[0])
    return [], [d, v.builder.fmul(d, d)]


def _rectified(v: Vectors, x: Any, gy: Any, scalars: list[Any]) -> tuple[Any, Any, Any]:
    """Return gz, x - mean, and the addend of the slope's gradient."""
    scale, shift, slope, mean = scalars
    z = v.multiply_add(x, scale, shift)
    below = falls(v, z)
    gz = v.builder.select(below, sloped(v, slope, gy), gy)
    return gz, v.builder.fsub(x, mean), v.builder.select(below, v.builder.fmul(gy, z), v.zero)


def _sums(v: Vectors, read: list[Any], scalars: list[Any]) -> tuple[list[Any], list[Any]]:
    x, gy = read
    gz, difference, slope = _rectified(v, x, gy, scalars)
    return [], [gz, v.builder.fmul(gz, difference), slope]


def _grad(v: Vectors, read: list[Any], scalars: list[Any]) -> tuple[list[Any], list[Any]]:
    x, gy = read
    gz, difference, _ = _rectified(v, x, gy, scalars[:4])
    a, b, d = scalars[4:]
    return [v.multiply_add(a, gz, v.multiply_add(b, difference, d))], []


_difference_row = sweep(1, 0, 2, _differences)
_sum_row = sweep(2, 0, 3, _sums)
_grad_row = sweep(2, 1, 0, _grad)


@kernel("T[]", _DOUBLE, "int", "int")
def moments(lo: int, hi: int, x: Any, sums: Any, pixels: int, pieces: int) -> None:
    """Write the mean of each piece and its sum of squared differences from it."""
    for unit in range(lo, hi):
        plane, begin, end = part_of(unit, pieces, pixels)
        at, count = plane * pixels + begin, end - begin
        (total,) = row_sum(x, at, count)
        pivot = x.dtype.type(total / count)
        difference, square = _difference_row(x, at, count, pivot)
        sums[2 * unit] = pivot + difference / count
        sums[2 * unit + 1] = square - difference * (difference / count)


@kernel("T[]", "T[]", "T[]", "T[]", "T[]", "T[]", "T[]", "int", "int", "int")
def norm_sums(
    lo: int, hi: int, x: Any, gy: Any, scale: Any, shift: Any, slope: Any, mean: Any, sums: Any,
    channels: int, pixels: int, pieces: int,
) -> None:  # fmt: skip
    """Write ``Σ gz``, ``Σ gz·(x - mean)`` and ``Σ gy·min(z, 0)`` of each piece."""
    for unit in range(lo, hi):
        plane, begin, end = part_of(unit, pieces, pixels)
        c = plane % channels
        total, product, slope_total = _sum_row(x, gy, plane * pixels + begin, end - begin, scale[c], shift[c],
                                               channel_value(slope, c), mean[c])  # fmt: skip
        sums[3 * unit], sums[3 * unit + 1], sums[3 * unit + 2] = total, product, slope_total


@kernel("T[]", "T[]", "T[]", "T[]", "T[]", "T[]", "T[]", "T[]", "T[]", "T[]", "int", "int", "int")
def norm_grad(
    lo: int, hi: int, x: Any, gy: Any, scale: Any, shift: Any, slope: Any, mean: Any, a: Any, b: Any, d: Any, gx: Any,
    channels: int, pixels: int, pieces: int,
) -> None:  # fmt: skip
    """Write ``a·gz + b·(x - mean) + d``."""
    for unit in range(lo, hi):
        plane, begin, end = part_of(unit, pieces, pixels)
        c = plane % channels
        _grad_row(x, gy, gx, plane * pixels + begin, end - begin, scale[c], shift[c], channel_value(slope, c), mean[c],
                  a[c], b[c], d[c])  # fmt: skip
