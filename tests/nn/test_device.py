"""Layers on arrays of a GPU, on a fake CuPy: what they give on the CPU, without a transfer between."""

import fake_cupy
import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda compiles the kernels")

from fastdeconv import nn

MODELS = {
    "convolution": lambda: nn.Sequential(nn.Conv2d(2, 3, 3, 2, 1, rng=0), nn.PReLU(3)),
    "transposed": lambda: nn.Sequential(nn.ConvTranspose2d(2, 2, 4, 2, 1, rng=0), nn.Tanh()),
    "norm_relu": lambda: nn.Sequential(nn.BatchNorm2d(2), nn.ReLU()),
    "norm_sigmoid": lambda: nn.Sequential(nn.BatchNorm2d(2, momentum=None), nn.Sigmoid()),
    "gelu": lambda: nn.Sequential(nn.GELU(), nn.GELU("tanh"), nn.LeakyReLU()),
    "residual": lambda: nn.Residual(nn.PReLU(), nn.Identity()),
    "shuffle": lambda: nn.PixelShuffle(1),
}


@pytest.mark.parametrize("name", MODELS)
def test_as_on_the_cpu(name, monkeypatch):
    state = fake_cupy.install(monkeypatch)
    rng = np.random.default_rng(0)
    ours, device = MODELS[name](), MODELS[name]().to("cuda")
    for _ in range(2):
        x = rng.standard_normal((2, 2, 5, 4)).astype(np.float32)
        y = ours(x)
        gy = rng.standard_normal(y.shape).astype(np.float32)
        gx = ours.backward(gy)
        x_there, gy_there = fake_cupy.asarray(x), fake_cupy.asarray(gy)
        state.transfers.clear()
        y_there = device(x_there)
        gx_there = device.backward(gy_there)
        # Tables of kernels go up once; no array of the layers moves.
        assert all(way == "up" for way, _ in state.transfers)
        np.testing.assert_allclose(y_there.get(), y, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(gx_there.get(), gx, rtol=1e-4, atol=1e-5)
        for p, q in zip(ours.parameters(), device.parameters()):
            assert isinstance(q.data, fake_cupy.ndarray)
            np.testing.assert_allclose(q.grad.get(), p.grad, rtol=1e-4, atol=1e-5)
    back = device.to("cpu").state_dict()
    for key, value in ours.state_dict().items():
        np.testing.assert_allclose(back[key], value, rtol=1e-5, atol=1e-6)


def test_under_no_grad(monkeypatch):
    fake_cupy.install(monkeypatch)
    model = nn.Sequential(nn.BatchNorm2d(2), nn.PReLU(), nn.Residual(nn.ReLU())).eval()
    x = np.random.default_rng(0).standard_normal((2, 2, 5, 4)).astype(np.float32)
    expected = model(x)
    with nn.no_grad():
        np.testing.assert_allclose(model.to("cuda")(fake_cupy.asarray(x)).get(), expected, rtol=1e-6)


def test_arrays_of_the_other_place_are_refused(monkeypatch):
    fake_cupy.install(monkeypatch)
    x = np.zeros((1, 2, 5, 5), np.float32)
    with pytest.raises(ValueError, match="must be on a GPU, as the layer is; got an array on the CPU"):
        nn.Conv2d(2, 3, 3).to("cuda")(x)
    with pytest.raises(ValueError, match="must be on the CPU, as the layer is; got an array on a GPU"):
        nn.BatchNorm2d(2)(fake_cupy.asarray(x))


def test_state_of_a_device(monkeypatch):
    fake_cupy.install(monkeypatch)
    there, here = nn.BatchNorm2d(2).to("cuda"), nn.BatchNorm2d(2)
    here.running_mean[...] = 3
    there.load_state_dict(here.state_dict())
    np.testing.assert_array_equal(there.running_mean.get(), [3, 3])
    there.running_mean[...] = 5
    here.load_state_dict(there.state_dict())
    np.testing.assert_array_equal(here.running_mean, [5, 5])
    nn.init.icnr(layer := nn.ConvTranspose2d(1, 1, 4, 2).to("cuda").weight.data, np.random.default_rng(0), 2, True)
    values = layer.get()[0, 0]
    np.testing.assert_array_equal(values[::2, ::2], values[1::2, 1::2])
