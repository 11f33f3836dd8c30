"""Activations beside torch's: results and gradients, alone and behind layers that they share a pass with."""

import math

import numpy as np
import pytest
from parity import compare

from fastdeconv import nn

torch = pytest.importorskip("torch")

LAYERS = {
    "relu": ("ReLU", (), {}),
    "leaky": ("LeakyReLU", (), {}),
    "leaky_by_slope": ("LeakyReLU", (0.3,), {}),
    "leaky_falling": ("LeakyReLU", (-0.3,), {}),
    "prelu": ("PReLU", (), {}),
    "prelu_by_channel": ("PReLU", (5, 0.1), {}),
    "tanh": ("Tanh", (), {}),
    "sigmoid": ("Sigmoid", (), {}),
    "gelu": ("GELU", (), {}),
    "gelu_tanh": ("GELU", (), {"approximate": "tanh"}),
}
# Longer than a piece of a plane, shorter than a vector, empty of other axes, none of them a multiple of anything.
SHAPES = [(2, 5, 3, 7), (1, 5, 2, 1999), (3, 5), (2, 5, 1), (2, 5, 3, 2, 9)]


def _pair(name, dtype="float64"):
    kind, arguments, keywords = LAYERS[name]
    ours = getattr(nn, kind)(*arguments, **keywords, **({"dtype": dtype} if kind == "PReLU" else {}))
    return ours, getattr(torch.nn, kind)(*arguments, **keywords).to(getattr(torch, dtype))


@pytest.mark.quick
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_alone(name, shape):
    compare(*_pair(name), *shape, spread=3, tolerance=1e-13)


@pytest.mark.parametrize("name", LAYERS)
def test_unbatched(name):
    if name != "prelu_by_channel":
        compare(*_pair(name), 37)


@pytest.mark.quick
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("before", ["Conv2d", "ConvTranspose2d", "BatchNorm2d"])
@pytest.mark.parametrize("bias", [True, False])
def test_behind_a_layer_that_it_shares_a_pass_with(name, before, bias):
    arguments = (5,) if before == "BatchNorm2d" else (3, 5, 3)
    keywords = {"affine": bias} if before == "BatchNorm2d" else {"bias": bias}
    ours, theirs = _pair(name)
    ours = nn.Sequential(getattr(nn, before)(*arguments, **keywords, dtype="float64"), ours)
    theirs = torch.nn.Sequential(getattr(torch.nn, before)(*arguments, **keywords, dtype=torch.float64), theirs)
    compare(ours, theirs, 2, arguments[0], 6, 7, rounds=2)
    compare(ours.eval(), theirs.eval(), 2, arguments[0], 6, 7)


def test_unbatched_behind_a_convolution():
    ours = nn.Sequential(nn.Conv2d(3, 5, 3, dtype="float64"), nn.PReLU(dtype="float64"))
    theirs = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.PReLU()).double()
    compare(ours, theirs, 3, 6, 7)


def test_inplace():
    x = np.array([-1.0, 2.0])
    assert nn.ReLU(inplace=True)(x) is x
    np.testing.assert_array_equal(x, [0, 2])
    x = np.array([-1.0, 2.0])
    assert nn.LeakyReLU(0.5, inplace=True)(x) is x
    np.testing.assert_array_equal(x, [-0.5, 2])


@pytest.mark.parametrize("name", LAYERS)
def test_not_finite(name):
    ours, theirs = _pair(name)
    if name == "prelu_by_channel":
        return
    x = np.array([math.nan, math.inf, -math.inf, 1e300, -1e300, 1e-300, 0.0])
    np.testing.assert_allclose(ours(x), theirs(torch.tensor(x)).detach().numpy(), rtol=1e-15)
