"""Elements a stride apart come side by side, zeros where there are none, and no memory beside them is read."""

import numpy as np
import pytest
from numba.core.caching import NullCache

from fastdeconv.kernels.cpu import host
from fastdeconv.kernels.cpu.gather import COLUMNS, MOST_APART, copy_tile, gather_row, gather_stretches, gather_windows
from fastdeconv.kernels.cpu.jit import kernel

BESIDE = 7.0


@kernel("T[]", "T[]", "int[]", "int[]", "int[]", "int")
def gather(lo, hi, array, out, to, of, masks, stride):
    gather_stretches(out, 1, array, 2, to, of, masks, 1, to.size, stride, 0)


@kernel("T[]", "T[]", "int")
def copy(lo, hi, row, out, present):
    copy_tile(out, 1, row, 2, present)


@kernel("T[]", "T[]", "int[]", "int", "int", "int", "int")
def gather_all(lo, hi, array, out, places, step, stride, count, whole):
    gather_windows(out, 0, step, array, places, places.size // 2, stride, count, whole > 0)


@kernel("T[]", "T[]", "int", "int")
def gather_one(lo, hi, array, out, step, count):
    gather_row(out, 1, array, 2, step, count)


for made in (gather, copy, gather_all, gather_one):
    made._run._cache = NullCache()  # the cache on disk knows the content of the package's sources only


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("stride", range(1, MOST_APART + 1))
def test_stretches_one_after_another(stride, dtype):
    lanes = host.lanes(dtype)
    # Pixels of each, and those of them that are there: others are zero, and nothing is read for them.
    stretches = [(lanes, 0, lanes), (3, 0, 3), (2, 0, 0), (lanes, 2, lanes), (5, 1, 4), (1, 0, 1), (lanes, 0, 0)]
    stretches = [(count, min(first, count), min(stop, count)) for count, first, stop in stretches if count <= lanes]
    to = np.cumsum([0] + [count for count, _, _ in stretches])
    of = 2 + np.arange(len(stretches)) * (stride * lanes + 3)
    masks = [
        (1 << stride * (stop - 1) + 1) - (1 << stride * first) if stop > first else 0 for _, first, stop in stretches
    ]
    array = np.full(2 + of[-1] + stride * lanes, np.nan, dtype)
    expected = np.zeros(to[-1], dtype)
    for at, begin, (_, first, stop) in zip(to, of, stretches):
        # Between elements that are wanted there are others.
        array[2 + begin + stride * first : 2 + begin + stride * (stop - 1) + 1] = BESIDE
        values = np.arange(1, stop - first + 1) + 10 * at
        array[2 + begin + stride * first : 2 + begin + stride * stop : stride][: len(values)] = values
        expected[at + first : at + stop] = values
    out = np.full(to[-1] + lanes + 2, BESIDE, dtype)
    tables = to[:-1], np.append(0, of), np.append(0, masks)  # their first entry is not used
    gather.launcher(dtype, 1, 0)(array, out, *(np.ascontiguousarray(t, np.int64) for t in tables), stride)
    np.testing.assert_array_equal(out[1 : to[-1] + 1], expected)
    assert out[0] == BESIDE
    assert out[-1] == BESIDE


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_tile_with_zeros_behind(dtype):
    width = COLUMNS * host.lanes(dtype)
    for present in (0, 1, host.lanes(dtype), width - 1, width, -3):
        row = np.full(width + 2, np.nan, dtype)
        row[2 : 2 + max(0, present)] = np.arange(1, max(0, present) + 1)
        out = np.full(width + 2, BESIDE, dtype)
        copy.launcher(dtype, 1, 0)(row, out, present)
        np.testing.assert_array_equal(out, [BESIDE, *np.nan_to_num(row[2:]), BESIDE])


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_windows_of_several_rows(dtype, whole):
    lanes = host.lanes(dtype)
    for stride, widths in ((1, [min(3, lanes), min(3, lanes), 2]), (2, [lanes]), (3, [1, lanes, lanes - 1, 1, 2])):
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


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_row_of_elements_apart(dtype):
    for step in (1, 2, 9, 64):
        for count in (0, 1, 3, 4, 7, 8, 17, 32):
            array = np.arange(2 + step * max(0, count - 1) + 1).astype(dtype)
            out = np.full(count + 2, BESIDE, dtype)
            gather_one.launcher(dtype, 1, 0)(array, out, step, count)
            np.testing.assert_array_equal(out, [BESIDE, *array[2::step][:count], BESIDE])
