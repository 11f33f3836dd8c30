"""`fit` of a model on a GPU, on a fake CuPy: where batches go, and that nothing else differs from the CPU."""

from __future__ import annotations

import fake_cupy
import numpy as np
import pytest
from training import columns

pytest.importorskip("numba_cuda", reason="numba-cuda compiles the kernels")

from fastdeconv.fit import fit, load, save
from fastdeconv.nn import Module, Parameter

pytestmark = pytest.mark.quick

RNG = np.random.default_rng(0)
X = RNG.random((7, 1, 2, 3), dtype=np.float32)
Y = X / 2 + np.float32(0.25)


class Shift(Module):
    """``y = x + bias``, of which the bias has the axes of an image."""

    _buffers = ("count",)

    def __init__(self):
        self.bias = Parameter(np.zeros((1, 1, 2, 3), np.float32))
        self.count = np.zeros(1, np.float32)

    def forward(self, x):
        if self.training:
            self.count[...] = self.count + self.count + self.bias.data.reshape(-1)[:1]
        return x + self.bias.data

    def backward(self, grad_output):
        self.bias.accumulate(grad_output.sum(axis=0, keepdims=True))

    def value(self):
        data = self.bias.data
        return data if isinstance(data, np.ndarray) else data.get()


@pytest.fixture
def gpu(monkeypatch):
    return fake_cupy.install(monkeypatch, count=2)


SETTINGS = {
    "epochs": 3, "batch_size": 3, "learning_rate": 0.1, "ema": 0.5, "clip_norm": 0.3, "l1": 1e-3, "metric": "psnr",
}  # fmt: skip


def up(*arrays, device=1):
    with fake_cupy.Device(device):
        return tuple(fake_cupy.asarray(a) for a in arrays)


@pytest.mark.parametrize("kind", ["arrays on the GPU", "arrays on the CPU", "batches", "callable"])
def test_a_run_is_that_of_the_cpu(gpu, tmp_path, kind):
    data = {
        "arrays on the GPU": lambda: up(X, Y), "arrays on the CPU": lambda: (X, Y),
        "batches": lambda: [(X[:3], Y[:3]), up(X[3:], Y[3:])], "callable": lambda: lambda step, rng: (X, Y),
    }[kind]()  # fmt: skip
    on_host = [(X[:3], Y[:3]), (X[3:], Y[3:])] if kind == "batches" else data if kind == "callable" else (X, Y)
    ends = SETTINGS | ({"epochs": None, "max_steps": 5} if kind == "callable" else {})
    expected = fit(host := Shift(), on_host, validation=(X, Y), **ends)
    model = Shift().to("cuda:1")
    history = fit(
        model, data, validation=up(X, Y) if kind == "batches" else (X, Y), checkpoint=tmp_path / "run", **ends
    )
    assert isinstance(model.bias.data, fake_cupy.ndarray)
    assert model.bias.data.device.id == 1
    np.testing.assert_allclose(model.value(), host.value(), rtol=1e-5)
    assert history.step.tolist() == expected.step.tolist()
    np.testing.assert_allclose(history.validation_loss, expected.validation_loss, rtol=1e-5)
    np.testing.assert_allclose(history.metric, expected.metric, rtol=1e-5)
    again = fit(other := Shift().to("cuda:1"), data, validation=(X, Y), checkpoint=tmp_path / "run", **ends)
    assert columns(again) == columns(history)
    np.testing.assert_array_equal(other.value(), model.value())
    save(model, tmp_path / "weights")
    np.testing.assert_array_equal(load(tmp_path / "weights").state["bias"], model.value())


def test_batches_of_arrays_on_the_gpu_stay_there(gpu):
    model, data = Shift().to("cuda:1"), up(X, Y)
    gpu.transfers.clear()
    fit(model, data, epochs=2, batch_size=3)
    orders = [("up", 8 * len(X))] * 2 * 2
    assert sorted(gpu.transfers) == orders
    gpu.transfers.clear()
    fit(model, (X, Y), epochs=1, batch_size=3)
    assert sorted(gpu.transfers) == sorted([("up", 24 * n) for n in (3, 3, 1) for _ in "xy"])


def test_places_that_differ_are_refused(gpu):
    with pytest.raises(ValueError, match=r"x of data is on cuda:1 and the model on cpu: move the model with .to"):
        fit(Shift(), up(X, Y), epochs=1)
    with pytest.raises(ValueError, match="x of data is on cuda:0 and the model on cuda:1"):
        fit(Shift().to("cuda:1"), up(X, Y, device=0), epochs=1)
    bad = X.copy()
    bad[4, 0, 1, 2] = np.nan
    with pytest.raises(ValueError, match=r"x of data must be finite; got nan at index \(4, 0, 1, 2\)"):
        fit(Shift().to("cuda"), up(bad, Y, device=0), epochs=1)
