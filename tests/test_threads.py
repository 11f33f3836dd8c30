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
import os, signal, sys, threading, time, multiprocessing
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


@pytest.mark.parametrize("where", ["in_another_thread", "around_the_fork"])
def test_fork_during_compilation(where):
    """A compiling thread holds Numba's lock, which the child must not inherit: whoever holds it is not there."""
    out = run(
        f"""
        from numba.core.compiler_lock import global_compiler_lock
        from numba.np.ufunc import parallel as layer
        signal.alarm(100)
        held = threading.Event()
        def hold():
            with global_compiler_lock, layer._backend_init_thread_lock:
                held.set()
                time.sleep(0.5)
        def fork():
            child = os.fork()
            if child == 0:
                signal.alarm(20)
                compute()
                os._exit(0 if fd.get_num_threads() == 2 else 1)
            return child
        if {where!r} == "in_another_thread":
            other = threading.Thread(target=hold)
            other.start()
            held.wait()
            child = fork()
            other.join()
        else:
            with global_compiler_lock, layer._backend_init_thread_lock:
                child = fork()
        code = os.waitpid(child, 0)[1]
        free = threading.Thread(target=hold)  # the parent's locks are whole
        free.start()
        free.join()
        print(code, len(compute()) > 0)
        """,
        NUMBA_NUM_THREADS="2",
    )
    assert out.split() == ["0", "True"]


def test_fork_while_another_thread_compiles(tmp_path):
    out = run(
        """
        from numba.core.compiler_lock import global_compiler_lock
        signal.alarm(100)
        def call():
            return fd.conv_transpose2d(np.ones((1, 4, 64, 64)), np.ones((4, 4, 3, 3))).tobytes()
        other = threading.Thread(target=call)
        other.start()
        lock = global_compiler_lock._lock
        while lock.acquire(blocking=False):  # until it compiles
            lock.release()
            time.sleep(0.01)
        codes = []
        while other.is_alive() and len(codes) < 3:
            child = os.fork()
            if child == 0:
                signal.alarm(50)
                call()
                os._exit(0)
            codes.append(os.waitpid(child, 0)[1])
        other.join()
        print(len(codes) > 0, sum(codes), len(call()) > 0)
        """,
        NUMBA_CACHE_DIR=str(tmp_path),
        NUMBA_NUM_THREADS="2",
    )
    assert out.split() == ["True", "0", "True"]


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


def test_an_interrupted_call_leaves_the_threads_to_the_next():
    """An exception wherever a signal handler can raise one: on entering a function, and after a builtin one."""
    out = run(
        """
        from fastdeconv.kernels.cpu import jit, threads, workspace
        files, parallel = (jit.__file__, threads.__file__, workspace.__file__), []
        entry = jit.Kernel.entry
        def observed(self, dtype):
            compiled = entry(self, dtype)
            def run(loop, threads, *arguments):
                parallel.append(threads > 1)
                compiled(loop, threads, *arguments)
            return run
        jit.Kernel.entry = observed
        x, w = np.ones((1, 32, 64, 64)), np.ones((32, 32, 3, 3))
        def call():
            fd.conv_transpose2d(x, w)
            return True in parallel
        def interrupt(frame, event, _):
            global left
            if event in ("call", "c_return") and frame.f_code.co_filename in files:
                left -= 1
                if left == 0:
                    raise KeyboardInterrupt
        assert call()
        at = 0
        while True:
            at += 1
            left = at
            sys.setprofile(interrupt)
            try:
                call()
            except KeyboardInterrupt:
                sys.setprofile(None)
            else:
                sys.setprofile(None)
                break
            parallel.clear()
            if not call():
                print("serial ever after interruption", at)
        print(numba.threading_layer(), at > 10)
        """,
        NUMBA_THREADING_LAYER="workqueue",
        NUMBA_NUM_THREADS="2",
    )
    assert out.split() == ["workqueue", "True"]


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
