"""Results that are sums over ranges which are computed beside each other, added up in the order of the ranges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.kernels.cpu import workspace
from fastdeconv.kernels.cpu.jit import kernel
from fastdeconv.kernels.cpu.long_kernel.layout import UNITS
from fastdeconv.kernels.geometry import Bound

Array = NDArray[Any]


@kernel("T[]", "T[]", "int")
def add_splits(lo: int, hi: int, sums: Any, result: Any, splits: int) -> None:
    """Add the sums of all ranges in their order; a unit is a piece of the result."""
    size = result.size
    for i in range(size * lo // UNITS, size * hi // UNITS):
        total = sums[i]
        for s in range(1, splits):
            total += sums[s * size + i]
        result[i] = total


def summed(
    compute: Callable[[Array, Array, Array], None], dtype: str, elements: int, splits: int, private: int, units: int
) -> Bound:
    """Return a pass whose result is the sum of so many `splits`.

    ``compute(a, b, sums)`` writes the sums of one after the other; it takes `private` bytes in each of its `units`.
    """
    if splits == 1:
        return Bound(compute, workspace.total(0, private, units))
    add = add_splits.launcher(dtype, UNITS, splits * elements)

    def run(a: Array, b: Array, result: Array) -> None:
        sums = workspace.take("sums", splits * elements, dtype)
        compute(a, b, sums)
        add(sums, result, splits)
        workspace.keep("sums", sums)

    return Bound(run, workspace.total(splits * elements * np.dtype(dtype).itemsize, private, units))
