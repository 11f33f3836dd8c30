"""Losses: the sum over elements of ρ(y - y_true), and its derivative times a scale, in one pass over memory.

Memory: vectors of one length; the result may be y itself. Terms are of the element type and summed in double precision.
A unit sums a block: each of `LANES` interleaved parts, then these parts, in their order. What the blocks give is added
outside, in their order, so that no number of threads changes the result. A NaN or Inf reaches the sum, and of the
derivatives its own.
Parallel over blocks.

Versions:
- NumPy expressions on one block after the other, of a size that stays in the second-level cache: six passes over it,
  and on one core three times as long (800,000 elements of float32).
- Differences of a row of `LANES` elements first, then terms: the result cannot overlap what the second loop reads, so
  that both are vectors.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.kernels.cpu.buffers import empty
from fastdeconv.kernels.cpu.jit import kernel

Array = NDArray[Any]

BLOCK = 16_384  # elements
LANES = 128

# The functions ρ; the second setting is ε² of `CHARBONNIER` and δ of `HUBER`.
SQUARE, ABSOLUTE, CHARBONNIER, HUBER = range(4)


@kernel("T[]", "T[]", "T[]", "T[]", np.dtype("f8"), "int")
def losses(
    lo: int, hi: int, y: Any, y_true: Any, gradient: Any, settings: Any, sums: Any, function: int
) -> None:  # fmt: skip
    """Write the derivatives times the first setting, and one sum a block."""
    scale, size = settings[0], settings[1]
    one, half, zero = y.dtype.type(1), y.dtype.type(0.5), y.dtype.type(0)
    residual, parts = empty(LANES, y.dtype), empty(LANES, np.float64)
    for unit in range(lo, hi):
        for lane in range(LANES):
            parts[lane] = 0.0
        end = min(y.size, (unit + 1) * BLOCK)
        for row in range(unit * BLOCK, end, LANES):
            at, count = np.uint64(row), np.uint64(min(LANES, end - row))
            for k in range(count):
                residual[k] = y[at + k] - y_true[at + k]
            if function == SQUARE:
                for k in range(count):
                    r = residual[k]
                    parts[k] += np.float64(r * r)
                    gradient[at + k] = (r + r) * scale
            elif function == ABSOLUTE:
                for k in range(count):
                    r = residual[k]
                    parts[k] += np.float64(abs(r))
                    sign = one if r > zero else zero
                    gradient[at + k] = (-one if r < zero else sign) * scale
            elif function == CHARBONNIER:
                for k in range(count):
                    r = residual[k]
                    root = math.sqrt(r * r + size)
                    parts[k] += np.float64(root)
                    gradient[at + k] = r / root * scale
            else:
                for k in range(count):
                    r = residual[k]
                    clipped = size if r > size else r
                    clipped = -size if r < -size else clipped
                    parts[k] += np.float64((r - half * clipped) * clipped)
                    gradient[at + k] = clipped * scale
        total = 0.0
        for lane in range(LANES):
            total += parts[lane]
        sums[unit] = total


def evaluate(
    function: int, size: float, dtype: str, y: Array, y_true: Array, gradient: Array, scale: float
) -> float:  # fmt: skip
    """Return ``Σ ρ(y - y_true)``, and write ``scale · ρ'(y - y_true)``; `size` is ε², or δ."""
    blocks = -(-y.size // BLOCK)
    sums = np.empty(blocks)
    launch = losses.launcher(dtype, blocks, 32 * y.size)
    launch(y, y_true, gradient, np.array((scale, size), y.dtype), sums, function)
    return float(sums.sum())
