"""Results in memory that earlier results gave back: only once nothing refers to them any more."""

import subprocess
import sys
import threading

import numpy as np
import pytest

from fastdeconv import memory

SHAPE = (3, 1 << 18)


@pytest.fixture(autouse=True)
def nothing_kept():
    memory._kept.clear()
    yield
    memory._kept.clear()


def address(array):
    return array.__array_interface__["data"][0]


@pytest.mark.quick
def test_is_an_ordinary_array():
    a = memory.empty(SHAPE, "float32")
    assert type(a) is np.ndarray
    assert a.shape == SHAPE
    assert a.dtype == np.float32
    assert a.flags.carray
    assert address(a) % 64 == 0
    a[:] = 3
    assert a.copy().sum() == 3 * a.size


@pytest.mark.quick
def test_memory_comes_back_when_the_result_is_gone():
    a = memory.empty(SHAPE, "float32")
    where = address(a)
    del a
    assert address(memory.empty(SHAPE, "float32")) == where


@pytest.mark.quick
@pytest.mark.parametrize(
    "view",
    [
        lambda a: a[1:],
        lambda a: a.T,
        lambda a: a.reshape(-1).view("int32"),
        lambda a: np.asarray(a)[..., ::2][1],
        lambda a: np.lib.stride_tricks.sliding_window_view(a, 5, 1),
        lambda a: memoryview(a),
        lambda a: np.frombuffer(a, "uint8"),
        lambda a: a.flat,
    ],
)
def test_a_view_keeps_it(view):
    a = memory.empty(SHAPE, "float32")
    a[:] = 7
    kept = view(a)
    del a
    other = memory.empty(SHAPE, "float32")
    other[:] = 9
    assert not np.any(np.asarray(kept) == 9)


@pytest.mark.quick
def test_small_results_and_other_sizes_are_new():
    assert memory.empty((5, 5), "float64").flags.owndata
    a = memory.empty(SHAPE, "float32")
    where = address(a)
    del a
    assert address(memory.empty((SHAPE[0], SHAPE[1] // 2), "float32")) != where
    assert address(memory.empty((SHAPE[0] + 1, SHAPE[1] * 2), "float32")) != where


@pytest.mark.quick
def test_what_is_kept_is_limited(monkeypatch):
    monkeypatch.setattr(memory, "_LIMIT", 8 << 20)
    many = [memory.empty(SHAPE, "float32") for _ in range(5)]
    del many
    assert sum(b.size for b in memory._kept) <= 8 << 20


def test_many_threads_never_share_a_result():
    wrong = []

    def work(mark):
        for i in range(200):
            a = memory.empty((1 << 18,), "float32")
            a[:] = mark * 1000 + i
            if not (a == mark * 1000 + i).all():
                wrong.append((mark, i))

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(("value", "said"), [("0", "True"), ("", "False"), ("many", "FASTDECONV_KEPT_BYTES")])
def test_the_environment_variable(value, said):
    code = "from fastdeconv import memory; print(memory.empty((1 << 20,), 'float32').flags.owndata)"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"FASTDECONV_KEPT_BYTES": value}, capture_output=True, text=True
    )
    assert said in done.stdout + done.stderr
