"""Sums of several ranges of pixels, added up in their order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from fastdeconv.kernels.cpu.jit import kernel
from fastdeconv.kernels.cpu.rows import add_row
from fastdeconv.kernels.cpu.sweep import sweep

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


def add_ranges(dtype: str, ranges: int, elements: int) -> Callable[[NDArray[Any], NDArray[Any]], None]:
    """Return ``add(sums, out)``: ``out[i] = Σ_r sums[r, i]`` for so many elements i, in the order of the ranges r."""
    units = max(1, min(_UNITS, elements >> 10))
    launch = add_units.launcher(dtype, units, ranges * elements)

    def add(sums: NDArray[Any], out: NDArray[Any]) -> None:
        launch(sums, out, ranges, units)

    return add
