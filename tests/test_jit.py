"""What a kernel may rely on: all its units run, once each, and what fails in one is raised."""

import numpy as np
import pytest
from numba.core.caching import NullCache

from fastdeconv.kernels.cpu import shared_loop
from fastdeconv.kernels.cpu.buffers import empty
from fastdeconv.kernels.cpu.jit import kernel

NUMBERS = np.dtype([("scale", "i8"), ("offset", "i8")])


@kernel("T[]", "int[]", "int", NUMBERS)
def mark(lo, hi, out, count, extra, numbers):
    for unit in range(lo, hi):
        count[unit] += 1
        out[unit] = numbers[0].scale * unit + numbers[0].offset + extra


@kernel("int[]")
def fail(lo, hi, out):
    for unit in range(lo, hi):
        room = empty(2**58 if unit == out[0] else 1, np.float64)
        room[0] = unit


for made in (mark, fail):
    made._run._cache = NullCache()  # the cache on disk knows the content of the package's sources only


@pytest.mark.quick
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("chunks", [0, 1, 7, 64])
def test_all_units_run_once_on_several_threads(dtype, chunks):
    units = 61
    out, count = np.full(units, np.nan, dtype), np.zeros(units, np.int64)
    numbers = np.array([(3, 5)], NUMBERS)
    mark.entry(dtype)(shared_loop.loop_address(), chunks, units, (out, count, 100, numbers))
    np.testing.assert_array_equal(count, int(chunks > 0))
    if chunks:
        np.testing.assert_array_equal(out, 3 * np.arange(units) + 105)


@pytest.mark.quick
@pytest.mark.parametrize("chunks", [1, 8])
def test_what_fails_in_a_unit_is_raised(chunks):
    entry = fail.entry("float32")

    def run(a):
        entry(shared_loop.loop_address(), chunks, 100, (a,))

    run(np.array([100]))
    for unit in (0, 50, 99):
        with pytest.raises(MemoryError):
            run(np.array([unit]))
    run(np.array([100]))  # and the next call is not spoilt
