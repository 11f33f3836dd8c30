"""Elements a stride apart come side by side, zeros where there are none, and no memory beside them is read."""

import numpy as np
import pytest
from numba.core.caching import NullCache

from fastdeconv.kernels.cpu import host
from fastdeconv.kernels.cpu.gather import COLUMNS, MOST_APART, gather_row, gather_tile, gather_windows
from fastdeconv.kernels.cpu.jit import kernel

BESIDE = 7.0


@kernel("T[]", "T[]", "int", "int", "int", "int", "int")
def gather(lo, hi, row, out, row_at, stride, first, stop, count):
    gather_row(out, 1, row, row_at, stride, first, stop, count)


@kernel("T[]", "T[]", "int")
def gather_whole(lo, hi, row, out, stride):
    gather_tile(out, 1, row, 2, stride)


@kernel("T[]", "T[]", "int[]", "int", "int", "int", "int")
def gather_all(lo, hi, array, out, places, step, stride, count, whole):
    gather_windows(out, 0, step, array, places, places.size // 2, stride, count, whole > 0)


for made in (gather, gather_whole, gather_all):
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


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_windows_of_several_rows(dtype, whole):
    lanes = host.lanes(dtype)
    for stride, widths in ((1, [3, 3, 2]), (2, [lanes]), (3, [1, lanes, lanes - 1, 1, 2])):
        step, count, pitch = sum(widths), 9, 100
        places = np.array([(pitch * c + 5, sum(widths[:c])) for c in range(len(widths))], np.int64)
        array = np.arange(pitch * len(widths)).astype(dtype)
        expected = np.stack(
            [
                np.concatenate([array[at + stride * q :][:width] for (at, _), width in zip(places, widths)])
                for q in range(count)
            ]
        )
        if not whole:  # no place in the array for every second
            for at, width in zip(places[::2, 1], widths[::2]):
                expected[:, at : at + width] = 0
            places[::2, 0] = -1
        out = np.full(step * count + lanes, BESIDE, dtype)
        gather_all.launcher(dtype, 1, 0)(array, out, places.reshape(-1), step, stride, count, int(whole))
        np.testing.assert_array_equal(out[: step * count].reshape(count, step), expected)
