"""Rows are cut into phases and put together again, and nothing beside them is touched."""

import numpy as np
import pytest
from numba.core.caching import NullCache

from fastdeconv.kernels.cpu.jit import kernel
from fastdeconv.kernels.cpu.rows import (
    MOST_INTERLEAVED,
    accumulate_rows,
    copy_padded,
    fill_row,
    interleave_rows,
    split_row,
    split_rows,
)

BESIDE = 7.0


@kernel("T[]", "T[]", "T[]", "int", "int", "int", "int", "int")
def interleave(lo, hi, tile, out, extra, out_step, step, phases, rows, count):
    interleave_rows(out, 1, out_step, tile, 0, phases * step, step, phases, extra, 1, rows, count)


@kernel("T[]", "T[]", "int", "int", "int", "int", "int")
def split(lo, hi, row, out, step, stride, wanted, present, count):
    split_row(out, 1, step, row, 0, 64, stride, wanted, present, count)


@kernel("T[]", "T[]", "int", "int", "int[]")
def split_several(lo, hi, row, out, rows, wanted, sizes):
    split_rows(out, 1, row, 0, rows, wanted, sizes)


@kernel("T[]", "T[]", "int", "int", "int", "int")
def accumulate(lo, hi, row, out, out_step, row_step, rows, count):
    accumulate_rows(out, 1, out_step, row, 2, row_step, rows, count)


@kernel("T[]", "T[]", "int", "int")
def copy(lo, hi, row, out, present, count):
    copy_padded(out, 1, row, 2, present, count)


@kernel("T[]", "int")
def fill(lo, hi, out, count):
    fill_row(out, 1, out.dtype.type(BESIDE + 1), count)


for made in (interleave, split, split_several, accumulate, copy, fill):
    made._run._cache = NullCache()  # the cache on disk knows the content of the package's sources only


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("rows", [0, 1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("phases", range(1, MOST_INTERLEAVED + 1))
def test_phases_are_put_side_by_side(phases, dtype, rows, biased):
    step = 61 + 64
    tile = np.arange((rows + 1) * phases * step).astype(dtype)  # rows of a tile are followed by others
    extra = np.array([100, *range(10, 10 + rows)] if biased else [], dtype)
    for count in (0, 1, phases - 1, phases, 3 * phases + 1, 16 * phases, 33 * phases - 1, 61 * phases):
        out = np.full((rows, count + 2), BESIDE, dtype)
        interleave.launcher(dtype, 1, 0)(tile, out.reshape(-1), extra, count + 2, step, phases, rows, count)
        whole = tile.reshape(rows + 1, phases, step)[:rows].transpose(0, 2, 1).reshape(rows, phases * step)
        expected = np.full_like(out, BESIDE)
        expected[:, 1:-1] = whole[:, :count] + (extra[1:, None] if biased else 0)
        np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("rows", [0, 1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("stride", range(1, MOST_INTERLEAVED + 1))
def test_only_phases_that_are_wanted_are_cut_out(stride, dtype, rows):
    step = 64
    for wanted in {1, 1 << (stride - 1), (1 << stride) - 1, 0b10101010 & ((1 << stride) - 1)} - {0}:
        chosen = [r for r in range(stride) if wanted >> r & 1]
        for present, count in ((0, 3), (1, 1), (stride * 5 + 1, 9), (stride * 16, 16), (stride * 40 - 1, 47)):
            lines = np.arange(1, (rows + 1) * (present + 5) + 1).astype(dtype).reshape(rows + 1, -1)
            whole = np.zeros((rows, stride * count), dtype)
            there = min(present, stride * count)
            whole[:, :there] = lines[:rows, :there]
            expected = np.full((rows + 1, len(chosen), step), BESIDE, dtype)
            expected[:rows, :, 1 : count + 1] = whole.reshape(rows, count, stride).transpose(0, 2, 1)[:, chosen]
            out = np.full(expected.size, BESIDE, dtype)
            sizes = np.array([step, len(chosen) * step, present + 5, 64, stride, present, count])
            split_several.launcher(dtype, 1, 0)(lines.reshape(-1), out, rows, wanted, sizes)
            np.testing.assert_array_equal(out, expected.reshape(-1))
            if rows == 1:
                alone = np.full(expected[0].size, BESIDE, dtype)
                split.launcher(dtype, 1, 0)(lines[0, :present], alone, step, stride, wanted, present, count)
                np.testing.assert_array_equal(alone, expected[0].reshape(-1))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_are_added_to_rows(dtype):
    for rows, count in ((0, 5), (1, 0), (1, 1), (3, 7), (2, 16), (3, 33)):
        out, row = (np.arange(start, start + (rows + 1) * 70).astype(dtype) for start in (0, 1000))
        expected = out.copy()
        for m in range(rows):
            expected[1 + 40 * m :][:count] += row[2 + 50 * m :][:count]
        accumulate.launcher(dtype, 1, 0)(row, out, 40, 50, rows, count)
        np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_copy_ends_with_zeros(dtype):
    row = np.arange(1, 80).astype(dtype)
    for count in (0, 1, 7, 8, 16, 37, 64):
        for present in (-9, -1, 0, 1, 5, 8, 17, count, count + 9):
            out = np.full(count + 2, BESIDE, dtype)
            copy.launcher(dtype, 1, 0)(row, out, present, count)
            there = max(0, min(present, count))
            expected = np.concatenate([[BESIDE], row[2 : 2 + there], np.zeros(count - there), [BESIDE]])
            np.testing.assert_array_equal(out, expected.astype(dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_row_is_filled(dtype):
    for count in (-1, 0, 1, 7, 8, 16, 37, 64):
        out = np.full(max(0, count) + 2, BESIDE, dtype)
        fill.launcher(dtype, 1, 0)(out, count)
        np.testing.assert_array_equal(out, [BESIDE, *[BESIDE + 1] * count, BESIDE])
