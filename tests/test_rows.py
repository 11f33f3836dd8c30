"""Rows are cut into phases and put together again, and nothing beside them is touched."""

import numpy as np
import pytest
from numba.core.caching import NullCache

from fastdeconv.kernels.cpu.jit import kernel
from fastdeconv.kernels.cpu.rows import MOST_INTERLEAVED, interleave_rows, split_row

BESIDE = 7.0


@kernel("T[]", "T[]", "int", "int", "int")
def interleave(lo, hi, rows, out, step, phases, count):
    interleave_rows(out, 1, rows, 0, step, phases, out.dtype.type(0.5), count)


@kernel("T[]", "T[]", "int", "int", "int", "int", "int")
def split(lo, hi, row, out, step, stride, wanted, present, count):
    split_row(out, 1, step, row, 0, 64, stride, wanted, present, count)


for made in (interleave, split):
    made._run._cache = NullCache()  # the cache on disk knows the content of the package's sources only


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("phases", range(1, MOST_INTERLEAVED + 1))
def test_phases_are_put_side_by_side(phases, dtype):
    step = 61 + 64
    rows = np.arange(phases * step).astype(dtype)
    for count in (0, 1, phases - 1, phases, 3 * phases + 1, 16 * phases, 33 * phases - 1, 61 * phases):
        out = np.full(count + 2, BESIDE, dtype)
        interleave.launcher(dtype, 1, 0)(rows, out, step, phases, count)
        expected = rows.reshape(phases, step).T.reshape(-1)[:count] + 0.5
        np.testing.assert_array_equal(out, [BESIDE, *expected, BESIDE])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("stride", range(1, MOST_INTERLEAVED + 1))
def test_only_phases_that_are_wanted_are_cut_out(stride, dtype):
    step = 64
    for wanted in {1, 1 << (stride - 1), (1 << stride) - 1, 0b10101010 & ((1 << stride) - 1)} - {0}:
        chosen = [r for r in range(stride) if wanted >> r & 1]
        for present, count in ((0, 3), (1, 1), (stride * 5 + 1, 9), (stride * 16, 16), (stride * 40 - 1, 47)):
            row = np.arange(1, present + 1).astype(dtype)
            whole = np.zeros(stride * count, dtype)
            whole[: min(present, whole.size)] = row[: whole.size]
            expected = np.full((len(chosen), step), BESIDE, dtype)
            expected[:, 1 : count + 1] = whole.reshape(count, stride).T[chosen]
            out = np.full(expected.size, BESIDE, dtype)
            split.launcher(dtype, 1, 0)(row, out, step, stride, wanted, present, count)
            np.testing.assert_array_equal(out, expected.reshape(-1))
