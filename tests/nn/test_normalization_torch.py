"""BatchNorm beside torch's: results, all gradients and running statistics, while training and after."""

import numpy as np
import pytest
from parity import compare, copied

from fastdeconv import nn

torch = pytest.importorskip("torch")

SHAPES = {1: [(7, 5), (3, 5, 11)], 2: [(2, 5, 3, 4), (1, 5, 45, 50)], 3: [(2, 5, 3, 2, 3)]}
SETTINGS = [
    {},
    {"momentum": None},
    {"momentum": 0.7, "eps": 1e-2},
    {"affine": False},
    {"track_running_stats": False},
    {"affine": False, "track_running_stats": False},
]


def _pair(ndim, keywords, dtype="float64"):
    ours = getattr(nn, f"BatchNorm{ndim}d")(5, **keywords, dtype=dtype)
    theirs = getattr(torch.nn, f"BatchNorm{ndim}d")(5, **keywords, dtype=getattr(torch, dtype))
    if keywords.get("affine", True):
        torch.manual_seed(0)
        torch.nn.init.normal_(theirs.weight)
        torch.nn.init.normal_(theirs.bias)
    return ours, theirs


@pytest.mark.quick
@pytest.mark.parametrize("keywords", SETTINGS, ids=str)
@pytest.mark.parametrize(("ndim", "shape"), [(n, s) for n in SHAPES for s in SHAPES[n]])
def test_batches(keywords, ndim, shape):
    ours, theirs = _pair(ndim, keywords)
    compare(ours, theirs, *shape, rounds=3, spread=4)
    compare(ours.eval(), theirs.eval(), *shape, spread=4)
    compare(ours.train(), theirs.train(), *shape)


def test_float32_far_from_zero():
    # The mean is a thousand times the spread: what is squared must be the difference from it.
    ours, theirs = _pair(2, {}, "float32")
    copied(ours, theirs)
    x = (1000 + np.random.default_rng(0).standard_normal((4, 5, 60, 70))).astype(np.float32)
    exact = _pair(2, {})[1]
    exact.load_state_dict({name: value.double() for name, value in theirs.state_dict().items()})
    expected = exact(torch.tensor(x, dtype=torch.float64)).detach().numpy()
    # One unit in the last place of x is 6e-5 of its spread.
    np.testing.assert_allclose(ours(x), expected, atol=3e-4)
    np.testing.assert_allclose(ours.running_var, exact.running_var.numpy(), rtol=1e-6)
    np.testing.assert_allclose(ours.running_mean, exact.running_mean.numpy(), rtol=1e-7)


def test_frozen_parameters_get_no_gradient():
    layer = nn.BatchNorm2d(5)
    layer.weight.requires_grad = False
    layer.backward(layer(np.random.default_rng(0).standard_normal((2, 5, 3, 3)).astype(np.float32)))
    assert layer.weight.grad is None
    assert layer.bias.grad is not None
