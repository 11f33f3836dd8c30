"""Networks on a GPU's arrays, on a fake CuPy: what `apply` gives on the CPU."""

import fake_cupy
import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda compiles the kernels")

import fastdeconv as fd
from fastdeconv.cuda import cost
from fastdeconv.imaging import network as networks
from fastdeconv.imaging.enhance import Upscaler
from fastdeconv.imaging.network import Description, Network
from fastdeconv.imaging.tiles import apply
from fastdeconv.imaging.training import learn
from fastdeconv.imaging.training.settings import Recipe

SMALL = {"features": 2, "shrunk": 2, "maps": 0, "feature_size": 3, "taps": 3}


def small():
    network = Network(Description(2, **SMALL))
    for parameter in network.body[-1].parameters():
        parameter.data[...] += 0.1
    return network


def test_as_on_the_cpu(monkeypatch, tmp_path):
    network = small()
    plane = np.random.default_rng(0).random((3, 5), dtype=np.float32)
    expected = apply(network, plane)
    weights = {name: array.copy() for name, array in network.state_dict().items()}
    fake_cupy.install(monkeypatch)
    network.to("cuda")
    result = apply(network, fake_cupy.asarray(plane), tile=3)
    assert isinstance(result, fake_cupy.ndarray)
    np.testing.assert_allclose(result.get(), expected, atol=1e-5)
    networks.save(network, tmp_path / "network")
    for name, array in networks.load(tmp_path / "network").state_dict().items():
        np.testing.assert_array_equal(array, weights[name])


@pytest.mark.parametrize("way", ["argument", "setting", "auto"])
def test_images_are_sent_there(monkeypatch, way):
    upscaler = Upscaler(2, **SMALL)
    upscaler.network = small()
    image = np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)
    expected = upscaler.transform(image, channel_axis=-1).astype(int)
    gpu = fake_cupy.install(monkeypatch)
    # A call of the CPU that takes forever: "auto" sends it away.
    monkeypatch.setattr(cost, "_CPU_CALL", 1.0)
    if way == "setting":
        fd.set_device("cuda")
    try:
        device = {"argument": "cuda", "setting": None, "auto": "auto"}[way]
        result = upscaler.transform(image, channel_axis=-1, tile=3, device=device)
    finally:
        fd.set_device(None)
    assert type(result) is np.ndarray
    np.testing.assert_allclose(result, expected, atol=1)
    assert gpu.launches


def test_auto_keeps_what_transfers_would_hold_up(monkeypatch):
    upscaler = Upscaler(2, **SMALL)
    upscaler.network = small()
    gpu = fake_cupy.install(monkeypatch)
    upscaler.transform(np.zeros((4, 4), np.float32), device="auto")
    assert not gpu.launches


def test_a_network_learns_there_what_it_learns_on_the_cpu(monkeypatch, tmp_path):
    image = np.random.default_rng(0).random((64, 64), dtype=np.float32)
    monkeypatch.setattr(learn, "Recipe", lambda: Recipe(**SMALL, crop=4, batch=1))
    here, there = (Upscaler(2, **SMALL) for _ in range(2))
    here.fit([image], steps=1, progress=False)
    gpu = fake_cupy.install(monkeypatch)
    there.fit([image], steps=1, progress=False, device="cuda")
    assert gpu.launches
    for name, array in there.network.state_dict().items():
        assert type(array) is np.ndarray
        np.testing.assert_allclose(array, here.network.state_dict()[name], atol=1e-5)


@pytest.mark.parametrize(("device", "message"), [("auto", "which is for single calls"), ("float64", "device must be")])
def test_where_no_network_learns(device, message):
    with pytest.raises(ValueError, match=message):
        Upscaler(2, **SMALL).fit([np.zeros((200, 200), np.float32)], steps=1, device=device)
