"""Networks on a GPU's arrays, on a fake CuPy: what `apply` gives on the CPU."""

import fake_cupy
import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda compiles the kernels")

from fastdeconv.imaging import network as networks
from fastdeconv.imaging.network import Description, Network
from fastdeconv.imaging.tiles import apply


def test_as_on_the_cpu(monkeypatch, tmp_path):
    network = Network(Description(2, features=2, shrunk=2, maps=0, feature_size=3, taps=3))
    for parameter in network.body[-1].parameters():
        parameter.data[...] += 0.1
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
