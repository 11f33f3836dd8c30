"""What a kernel may rely on: all its units run, once each, and what fails in one is raised."""

import numpy as np
import pytest
from numba.core.caching import NullCache

from fastdeconv.kernels.cpu import shared_loop
from fastdeconv.kernels.cpu.buffers import empty
from fastdeconv.kernels.cpu.interchange import _emit_square
from fastdeconv.kernels.cpu.jit import kernel
from fastdeconv.kernels.cpu.vectors import _emitters, call_once_compiled

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


@kernel("int[]", "int[]", "slot")
def inside(lo, hi, users, seen, slot):
    """Count in `seen` how often two pieces had the same slot at the same time, and note each slot."""
    seen[1 + slot] = 1
    for _ in range(lo, hi):
        users[8 * slot] += 1
        for _ in range(10_000):
            if users[8 * slot] != 1:
                seen[0] += 1
        users[8 * slot] -= 1


for made in (mark, fail, inside):
    made._run._cache = NullCache()  # the cache on disk knows the content of the package's sources only


@pytest.mark.quick
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("piece", [1, 4, 61])
@pytest.mark.parametrize("threads", [0, 1, 2, 7, 61])
def test_all_units_run_once_on_several_threads(dtype, threads, piece):
    units = 61
    out, count = np.full(units, np.nan, dtype), np.zeros(units, np.int64)
    numbers = np.array([(3, 5)], NUMBERS)
    mark.entry(dtype)(shared_loop.loop_address(), threads, units, piece, (out, count, 100, numbers))
    np.testing.assert_array_equal(count, int(threads > 0))
    if threads:
        np.testing.assert_array_equal(out, 3 * np.arange(units) + 105)


@pytest.mark.quick
@pytest.mark.parametrize("threads", [1, 8])
def test_what_fails_in_a_unit_is_raised(threads):
    entry = fail.entry("float32")

    def run(a):
        entry(shared_loop.loop_address(), threads, 100, 3, (a,))

    run(np.array([100]))
    for unit in (0, 50, 99):
        with pytest.raises(MemoryError):
            run(np.array([unit]))
    run(np.array([100]))  # and the next call is not spoilt


@pytest.mark.quick
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_no_two_pieces_share_a_slot_at_the_same_time(threads):
    users, seen = np.zeros(8 * threads, np.int64), np.zeros(1 + threads, np.int64)
    inside.entry("float32")(shared_loop.loop_address(), threads, 200, 1, (users, seen))
    assert seen[0] == 0
    assert seen[1:].any()


def test_two_functions_of_one_name_are_refused(monkeypatch):
    """The linker would take the one that came first for both."""

    def emit(vectors, arguments):
        raise AssertionError

    monkeypatch.setitem(_emitters, "tile", _emit_square)
    with pytest.raises(ValueError, match=r"tile is the name of what _emit_square in .* emits; got .*emit"):
        call_once_compiled(None, "tile", None, [], emit)
