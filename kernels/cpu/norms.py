"""Sum of squares of a vector, in double precision.

A unit sums a block: the squares of each of `LANES` interleaved parts, then these parts, in their order. What the
blocks give is added outside, in their order, so that no number of threads changes the result. A NaN or Inf reaches it.
Parallel over blocks.

Versions: one sum is a chain of additions that take four cycles each; `LANES` sums side by side are vectors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.kernels.cpu.buffers import empty
from fastdeconv.kernels.cpu.jit import kernel

BLOCK = 16_384  # elements
LANES = 64


@kernel("T[]", np.dtype("f8"))
def squares(lo: int, hi: int, x: Any, sums: Any) -> None:
    """Write one sum a block."""
    parts = empty(LANES, np.float64)
    for unit in range(lo, hi):
        begin, end = unit * BLOCK, min(x.size, (unit + 1) * BLOCK)
        for lane in range(LANES):
            parts[lane] = 0.0
        for row in range(begin, end - LANES + 1, LANES):
            for lane in range(np.uint64(LANES)):
                value = np.float64(x[np.uint64(row) + lane])
                parts[lane] += value * value
        for i in range(end - (end - begin) % LANES, end):
            value = np.float64(x[i])
            parts[i % LANES] += value * value
        total = 0.0
        for lane in range(LANES):
            total += parts[lane]
        sums[unit] = total


def sum_of_squares(x: NDArray[Any], dtype: str) -> float:
    """Return the sum of squares of a contiguous vector of float32 or float64, as `dtype` says."""
    blocks = -(-x.size // BLOCK)
    sums = np.empty(blocks)
    squares.launcher(dtype, blocks, 16 * x.size)(x, sums)
    return float(sums.sum())
