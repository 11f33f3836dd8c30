"""Elements a stride apart come side by side, zeros where there are none, and no memory beside them is read."""

import numpy as np
import pytest
from numba.core.caching import NullCache

from fastdeconv.kernels.cpu import host
from fastdeconv.kernels.cpu.gather import COLUMNS, MOST_APART, gather_row, gather_tile
from fastdeconv.kernels.cpu.jit import kernel

BESIDE = 7.0


@kernel("T[]", "T[]", "int", "int", "int", "int", "int")
def gather(lo, hi, row, out, row_at, stride, first, stop, count):
    gather_row(out, 1, row, row_at, stride, first, stop, count)


@kernel("T[]", "T[]", "int")
def gather_whole(lo, hi, row, out, stride):
    gather_tile(out, 1, row, 2, stride)


for made in (gather, gather_whole):
    made._run._cache = NullCache()  # the cache on disk knows the content of the package's sources only


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("stride", range(1, MOST_APART + 1))
def test_a_row_with_zeros_at_its_ends(stride, dtype):
    lanes = host.lanes(dtype)
    for count in (1, 2, lanes - 1, lanes, lanes + 1, 3 * lanes, 5 * lanes + 3):
        for first, stop in {(0, count), (0, 0), (min(1, count), count), (0, count - 1), (count // 2, count // 2 + 1)}:
            # The elements that are wanted, and none before the first or after the last.
            row = np.arange(1, stride * (stop - first - 1) + 2 if stop > first else 1).astype(dtype)
            out = np.full(count + lanes + 2, BESIDE, dtype)
            gather.launcher(dtype, 1, 0)(row, out, -stride * first, stride, first, stop, count)
            expected = np.zeros(count, dtype)
            expected[first:stop] = row[::stride]
            np.testing.assert_array_equal(out[1 : count + 1], expected)
            assert out[0] == BESIDE
            assert out[count + lanes + 1] == BESIDE


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("stride", range(1, MOST_APART + 1))
def test_a_whole_tile(stride, dtype):
    width = COLUMNS * host.lanes(dtype)
    row = np.arange(stride * width + 2).astype(dtype)
    out = np.full(width + 2, BESIDE, dtype)
    gather_whole.launcher(dtype, 1, 0)(row, out, stride)
    np.testing.assert_array_equal(out, [BESIDE, *row[2::stride][:width], BESIDE])
