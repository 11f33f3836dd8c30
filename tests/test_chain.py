"""The kernel of whole networks: exact on integers, against convolutions written out, and wherever tiles begin."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

import fastdeconv as fd
from fastdeconv.kernels.cpu import chain as kernel
from fastdeconv.kernels.cpu.chain import Chain, Layer

# Channels and kernel sizes after the one channel of the plane; the last gets the phases of the scale.
NETWORKS = {
    "one layer": [(None, 3)],
    "pointwise only": [(4, 1), (None, 1)],
    "wide and narrow": [(13, 5), (3, 1), (3, 3), (17, 1), (None, 5)],
    "even": [(2, 2), (5, 4), (None, 1)],
    "one row": [(1, 1), (1, 1), (None, 9)],
}


def layers(name, scale, seed=0):
    """Return layers of small integers, few enough that sums are exact, with slopes that are dyadic."""
    rng = np.random.default_rng(seed)
    made, channels = [], 1
    for c_out, size in NETWORKS[name]:
        c_out = c_out or scale * scale
        weight = rng.integers(-1, 2, (c_out, channels, size, size)) * (rng.random((c_out, channels, size, size)) < 0.3)
        bias, slope = rng.integers(-2, 3, c_out), rng.integers(0, 3, c_out) / 2
        made.append(Layer(*(a.astype(np.float32) for a in (weight, bias, slope))))
        channels = c_out
    return made


def reference(made, x, scale):
    a = x[None].astype(np.float64)
    for weight, bias, slope in made:
        windows = sliding_window_view(a, weight.shape[2:], axis=(1, 2))
        z = np.einsum("cijuv,mcuv->mij", windows, weight.astype(np.float64)) + bias[:, None, None]
        a = np.where(z > 0, z, slope[:, None, None] * z)
    height, width = a.shape[1:]
    return a.reshape(scale, scale, height, width).transpose(2, 0, 3, 1).reshape(scale * height, scale * width)


def run(chain, x):
    height, width = (chain.scale * (n - chain.margin) for n in x.shape)
    y = np.full((height, width), np.nan, x.dtype)
    chain.run(x, y)
    return y


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("name", NETWORKS)
def test_exact_on_integers(name, scale):
    made = layers(name, scale)
    chain = Chain(made, scale)
    assert chain.margin == sum(size - 1 for _, size in NETWORKS[name])
    for height, width in ((1, 1), (3, 37), (21, 8)):
        x = np.random.default_rng(1).integers(-2, 3, (height + chain.margin, width + chain.margin)).astype(np.float32)
        np.testing.assert_array_equal(run(chain, x), reference(made, x, scale))


def test_bounded_on_floats():
    rng = np.random.default_rng(0)
    made = [
        Layer(*(rng.standard_normal(a.shape).astype(np.float32) for a in each)) for each in layers("wide and narrow", 2)
    ]
    chain = Chain(made, 2)
    x = rng.standard_normal((40, 50)).astype(np.float32)
    absolute = [Layer(*(np.abs(a) for a in each)) for each in made]
    # Each layer's error is bounded by the sum of the absolute values of all that it adds up.
    bound = len(made) * 16 * np.finfo(np.float32).eps * reference(absolute, np.abs(x), 2)
    assert (np.abs(run(chain, x) - reference(made, x, 2)) <= bound).all()


def test_the_same_bits_wherever_tiles_begin_and_however_many_threads(monkeypatch):
    rng = np.random.default_rng(0)
    made = [
        Layer(*(rng.standard_normal(a.shape).astype(np.float32) for a in each)) for each in layers("wide and narrow", 2)
    ]
    chain = Chain(made, 2)
    x = rng.standard_normal((90, 150)).astype(np.float32)
    whole = run(chain, x)
    threads = fd.get_num_threads()
    fd.set_num_threads(1)
    np.testing.assert_array_equal(run(chain, x), whole)
    fd.set_num_threads(threads)
    monkeypatch.setattr(kernel, "_WIDTH", 19)
    monkeypatch.setattr(kernel, "_HEIGHT", 7)
    np.testing.assert_array_equal(run(chain, x), whole)
    part = np.ascontiguousarray(x[11 : 11 + 30, 23 : 23 + 40])
    side = chain.margin
    np.testing.assert_array_equal(run(chain, part), whole[22 : 22 + 2 * (30 - side), 46 : 46 + 2 * (40 - side)])
