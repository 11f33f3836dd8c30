"""Nothing is left of a run, however it ends."""

import gc
import subprocess
import sys

import pytest
from batching import check, numbered, reading_threads, tripled
from fake_device import FakeDevice

from fastdeconv import batch


@pytest.mark.quick
@pytest.mark.parametrize("devices", [0, 1, 2])
@pytest.mark.parametrize("taken", [0, 1, 13, 60])
def test_closing_early(on_devices, devices, taken):
    if devices:
        on_devices(*(FakeDevice(seed) for seed in range(devices)))
    given = []

    def source():
        for item in numbered(10_000):
            given.append(1)
            yield item

    results = batch.map(tripled, source(), device="auto" if devices else "cpu", batch_size=4)
    got = [next(results) for _ in range(taken)]
    check(got)
    assert bool(reading_threads()) is (taken > 0)
    results.close()
    assert not reading_threads()
    assert len(given) < 120


@pytest.mark.quick
def test_dropping_the_generator_ends_the_thread():
    results = batch.map(tripled, iter(numbered(1000)), device="cpu", batch_size=1)
    next(results)
    assert reading_threads()
    del results
    gc.collect()
    assert not reading_threads()


def test_control_c(tmp_path):
    code = """
import os, signal, sys, threading
import numpy as np
import fastdeconv as fd

def function(x):
    if x[0, 0] >= 20:
        os.kill(os.getpid(), signal.SIGINT)
    return x + 1

try:
    fd.batch.map(function, [np.full(3, i) for i in range(100)], device="cpu", batch_size=2, out=sys.argv[1])
except KeyboardInterrupt:
    print(threading.active_count(), os.listdir(os.path.dirname(sys.argv[1])))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out.npy")], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 []\n", "")
