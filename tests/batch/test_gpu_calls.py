"""Prepared weights and functions in batches on a GPU: the kernels' PTX, executed, on a fake CuPy."""

import fake_cupy
import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda compiles the kernels")

import fastdeconv as fd
from fastdeconv import batch


class AtOnce:
    """A `Device` on which everything has happened when it is enqueued."""

    def free_memory(self):
        return 1 << 30

    def bound(self, nbytes):
        pass

    def put(self, array):
        return fake_cupy.asarray(array)

    def pinned(self, nbytes):
        return np.empty(nbytes, np.uint8)

    def upload(self, host):
        return fake_cupy.asarray(host), None

    def compute(self, function, x, after):
        return fake_cupy.ascontiguousarray(function(x)), None

    def download(self, y, host, after):
        host[...] = y.get()

    def wait(self, event):
        pass

    def settle(self):
        pass

    def is_out_of_memory(self, error):
        return False


@pytest.mark.parametrize("prepared", [True, False])
def test_calls_are_computed_on_the_gpu(monkeypatch, prepared):
    fake_cupy.install(monkeypatch)
    monkeypatch.setattr(batch, "_devices", lambda device: None if device == "cpu" else [AtOnce()])
    integers = np.random.default_rng(0).integers
    x, w, b = (integers(-3, 4, shape).astype("f4") for shape in ((5, 3, 5, 6), (3, 4, 4, 4), (4,)))
    want = fd.conv_transpose2d(x, w, b, stride=2, padding=1)
    if prepared:
        function = fd.prepare(w, b, stride=2, padding=1)
    else:
        on_gpu = fake_cupy.asarray(w), fake_cupy.asarray(b)

        def function(stack):
            assert isinstance(stack, fake_cupy.ndarray)
            return fd.conv_transpose2d(stack, *on_gpu, stride=2, padding=1)

    got = list(batch.map(function, x, batch_size=2))
    np.testing.assert_array_equal(np.stack(got), want)
