"""What is added to an enlarged plane, kept within the range of the source around each pixel.

With low and high the smallest and largest of the (2·reach + 1)² source pixels around a source pixel, for each of its
scale² enlarged ones p:

    added[p] = clip(added[p], min(low - base[p], 0), max(high - base[p], 0))

so that base + added stays between low and high, or does not go beyond them where the base itself does. Parallel over
rows of the source. A NaN in the source limits nothing, one in `added` stays.

The extremes of columns come first, then those of rows: 4·reach comparisons a source pixel instead of the square's.
Memory bounds it: 12 bytes an enlarged pixel.
"""

from __future__ import annotations

from typing import Any

from fastdeconv.kernels.cpu import host
from fastdeconv.kernels.cpu.buffers import empty
from fastdeconv.kernels.cpu.jit import kernel
from fastdeconv.kernels.cpu.rows import interleave_rows
from fastdeconv.kernels.cpu.sweep import sweep
from fastdeconv.kernels.cpu.vectors import Vectors

_LANES = host.lanes("float32")


def _smaller(v: Vectors, a: Any, b: Any) -> Any:
    return v.builder.select(v.builder.fcmp_ordered("<", b, a), b, a)


def _larger(v: Vectors, a: Any, b: Any) -> Any:
    return v.builder.select(v.builder.fcmp_ordered(">", b, a), b, a)


def _widened(v: Vectors, read: list[Any], scalars: list[Any]) -> tuple[list[Any], list[Any]]:
    low, high, other_low, other_high = read
    return [_smaller(v, low, other_low), _larger(v, high, other_high)], []


def _clipped(v: Vectors, read: list[Any], scalars: list[Any]) -> tuple[list[Any], list[Any]]:
    added, base, low, high = read
    least = _smaller(v, v.zero, v.builder.fsub(low, base))
    most = _larger(v, v.zero, v.builder.fsub(high, base))
    return [_smaller(v, _larger(v, added, least), most)], []


_widen = sweep(4, 2, 0, _widened)
_clip = sweep(4, 1, 0, _clipped)


@kernel("T[]", "T[]", "T[]", "int", "int", "int", "int", "int")
def limit_units(
    lo: int, hi: int, added: Any, base: Any, source: Any, margin: int, pitch: int, columns: int, scale: int, reach: int
) -> None:
    """Do the rows of enlarged pixels of a row of the source.

    The source has `margin` pixels more on each side, `pitch` in a row, and `columns` without them.
    """
    wide, size = columns + 2 * reach, columns * scale
    # What interleaves reads up to a vector more.
    low, high = empty(wide + _LANES, source.dtype), empty(wide + _LANES, source.dtype)
    lows, highs = empty(size, source.dtype), empty(size, source.dtype)
    for i in range(lo, hi):
        first = (margin + i - reach) * pitch + margin - reach
        for j in range(wide):
            low[j] = source[first + j]
            high[j] = source[first + j]
        for t in range(1, 2 * reach + 1):
            row = source[first + t * pitch : first + t * pitch + wide]
            _widen(low, high, row, row, low, high, 0, wide)
        for t in range(2 * reach):
            # An element takes the one after it, which is still as it was.
            _widen(low, high, low[1:], high[1:], low, high, 0, wide - 1 - t)
        # Steps of 0: every phase of an enlarged pixel is the same row.
        interleave_rows(lows, 0, 0, low, 0, 0, 0, scale, low[:0], 0, 1, size)
        interleave_rows(highs, 0, 0, high, 0, 0, 0, scale, low[:0], 0, 1, size)
        for row in range(i * scale, (i + 1) * scale):
            values, under = added[row * size : (row + 1) * size], base[row * size : (row + 1) * size]
            _clip(values, under, lows, highs, values, 0, size)
