"""Calls from many threads, after a fork, and with any number of threads, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import numba
import pytest

import fastdeconv as fd

LAYERS = ["omp", "workqueue"]

# Problems that start threads and some that do not, in all passes; every result is compared with the first one's bits.
WORK = """
import os, signal, sys, threading, multiprocessing
import numpy as np, numba
import fastdeconv as fd
from fastdeconv.dispatch import plan

TEXTS = ("mb2ic24ih40iw41oc17kh4kw4sh2sw2ph1pw1", "--dt=f64 mb3ic9ih50iw31oc8kh3kw3sh1sw1ph1pw1",
         "g12mb1ic12ih60iw60oc12kh3kw3sh2sw2ph1pw1", "mb1ic1ih300iw300oc1kh5kw5ph2pw2", "mb1ic1ih5iw5oc1kh3kw3")

def compute(seed=0):
    results = []
    for text in TEXTS:
        p = fd.Problem.parse(text)
        rng = np.random.default_rng(seed)
        x, w, gy = (rng.standard_normal(s).astype(p.dtype) for s in (p.input_shape, p.weight_shape, p.output_shape))
        arguments = (p.stride, p.padding, p.output_padding, p.groups, p.dilation)
        results.append(fd.conv_transpose2d(x, w, None, *arguments))
        results += fd.conv_transpose2d_vjp(gy, x, w, None, *arguments)[:2]
    return b"".join(r.tobytes() for r in results)
"""


def run(script: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WORK + textwrap.dedent(script)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("layer", LAYERS)
def test_many_python_threads_at_once(layer):
    out = run(
        """
        want = compute()
        wrong = []
        def repeat():
            for _ in range(6):
                if compute() != want:
                    wrong.append(1)
        threads = [threading.Thread(target=repeat) for _ in range(8)]
        for t in threads: t.start()
        for t in threads: t.join()
        print(numba.threading_layer(), len(wrong))
        """,
        NUMBA_THREADING_LAYER=layer,
        NUMBA_NUM_THREADS="2",
    )
    assert out.split() == [layer, "0"]


def test_while_another_thread_runs_numba_itself():
    out = run(
        """
        @numba.njit(parallel=True, nogil=True)
        def own(a):
            for i in numba.prange(a.size):
                a[i] = np.sqrt(a[i])
        want = compute()
        stop = threading.Event()
        def loop():
            a = np.ones(100000)
            while not stop.is_set():
                own(a)
        other = threading.Thread(target=loop)
        other.start()
        same = all(compute() == want for _ in range(5))
        stop.set()
        other.join()
        print(same)
        """,
        NUMBA_THREADING_LAYER="omp",
        NUMBA_NUM_THREADS="2",
    )
    assert out.split() == ["True"]


@pytest.mark.parametrize("started", [True, False], ids=["after_threads_started", "before"])
@pytest.mark.parametrize("layer", LAYERS)
def test_after_fork(layer, started):
    out = run(
        f"""
        want = compute() if {started} else None
        signal.alarm(100)
        read, write = os.pipe()
        if os.fork() == 0:
            grandchild = os.fork()  # a fork in a fork
            first = compute()
            if grandchild:
                assert os.waitpid(grandchild, 0)[1] == 0
            os.write(write, b"1" if first == (want or compute()) else b"0")
            os._exit(0)
        os.close(write)
        os.wait()
        assert want is None or compute() == want  # the parent goes on
        with multiprocessing.get_context("fork").Pool(2) as pool:
            same = len(set(pool.map(compute, [0] * 4) + [compute()]))
        print(os.read(read, 9).decode(), same)
        """,
        NUMBA_THREADING_LAYER=layer,
        NUMBA_NUM_THREADS="2",
    )
    assert out.split() == ["11", "1"]


@pytest.mark.parametrize("layer", LAYERS)
def test_fork_while_another_thread_computes(layer):
    out = run(
        """
        want = compute()
        signal.alarm(100)
        stop = threading.Event()
        def loop():
            while not stop.is_set():
                compute()
        other = threading.Thread(target=loop)
        other.start()
        codes = []
        for _ in range(10):
            child = os.fork()
            if child == 0:
                os._exit(0 if compute() == want else 1)
            codes.append(os.waitpid(child, 0)[1])
        stop.set()
        other.join()
        print(sum(codes))
        """,
        NUMBA_THREADING_LAYER=layer,
        NUMBA_NUM_THREADS="2",
    )
    assert out.split() == ["0"]


def test_a_signal_handler_may_call_during_a_call():
    out = run(
        """
        want = compute()
        seen = []
        def handler(*_):
            seen.append(compute(1))
            signal.setitimer(signal.ITIMER_REAL, 0.002)  # not before: a slow machine would nest handlers without end
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.002)
        same = all(compute() == want for _ in range(20))
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(same, len(set(seen)))
        """
    )
    assert out.split() == ["True", "1"]


def test_the_same_bits_with_any_number_of_threads():
    script = """
        import hashlib
        for n in range(1, numba.config.NUMBA_NUM_THREADS + 1):
            fd.set_num_threads(n)
            assert fd.get_num_threads() == n == numba.get_num_threads()
            print(hashlib.sha256(compute()).hexdigest())
        """
    digests = [line for n in ("1", "2", "4") for line in run(script, NUMBA_NUM_THREADS=n).split()]
    assert len(digests) == 7
    assert len(set(digests)) == 1


def test_a_call_starts_threads_and_an_import_does_not():
    out = run(
        """
        def count():
            return len(os.listdir("/proc/self/task"))
        before = count()
        fd.conv_transpose2d(np.ones((5, 5)), np.ones((3, 3)))
        tiny = count()
        compute()
        print(before == tiny, count() > tiny)
        """,
        NUMBA_NUM_THREADS="3",
        OPENBLAS_NUM_THREADS="1",
        NUMBA_THREADING_LAYER="workqueue",
    )
    assert out.split() == ["True", "True"]


@pytest.mark.quick
def test_the_setting_is_numbas_own():
    before = numba.get_num_threads()
    try:
        fd.set_num_threads(1)
        assert numba.get_num_threads() == 1
        numba.set_num_threads(before)
        assert fd.get_num_threads() == before
    finally:
        numba.set_num_threads(before)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("n", "error"), [(0, ValueError), (-1, ValueError), (10**6, ValueError), (1.0, TypeError), ("2", TypeError),
                     (None, TypeError), (True, TypeError)]
)  # fmt: skip
def test_impossible_numbers_of_threads(n, error):
    with pytest.raises(error, match=r"^n must be"):
        fd.set_num_threads(n)
