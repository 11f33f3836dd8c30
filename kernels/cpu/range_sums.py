"""Sums of several ranges of pixels, added up in their order."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.kernels.cpu import workspace
from fastdeconv.kernels.cpu.jit import kernel
from fastdeconv.kernels.cpu.rows import add_row
from fastdeconv.kernels.cpu.sweep import sweep
from fastdeconv.kernels.geometry import Geometry

Array = NDArray[Any]

_UNITS = 16

_add = sweep(2, 1, 0, lambda vectors, read, _: ([vectors.builder.fadd(*read)], []))


@kernel("T[]", "T[]", "int", "int")
def add_units(lo: int, hi: int, sums: Any, out: Any, ranges: int, units: int) -> None:
    """Add up the sums of all ranges for one part of the weights."""
    size = out.size
    for unit in range(lo, hi):
        begin, end = size * unit // units, size * (unit + 1) // units
        add_row(out, begin, sums, begin, out.dtype.type(0), end - begin)
        for r in range(1, ranges):
            _add(sums[r * size :], out, out, begin, end - begin)


def by_ranges(
    g: Geometry, ranges: int, compute: Callable[..., None], *tables: Array
) -> tuple[Callable[[Array, Array, Array], None], int]:
    """Return the function of a weight gradient, and the bytes of sums that it takes.

    ``compute(x, gy, sums, *tables)`` sums each range of pixels; ``sums[r, i]`` are added up for each weight i, in the
    order of the ranges r. A single range is summed in the result itself.
    """
    weights = math.prod(g.weight_shape)
    elements = ranges * weights if ranges > 1 else 0
    units = max(1, min(_UNITS, weights >> 10))
    add = add_units.launcher(g.dtype, units, elements)

    def run(x: Array, gy: Array, gw: Array) -> None:
        if g.batch == 0:
            gw[:] = 0
        elif ranges == 1:
            compute(x, gy, gw, *tables)
        else:
            sums = workspace.take("sums", elements, g.dtype)
            compute(x, gy, sums, *tables)
            add(sums, gw, ranges, units)
            workspace.keep("sums", sums)

    return run, elements * np.dtype(g.dtype).itemsize
