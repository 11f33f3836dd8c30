"""Convolution layers beside torch's: results and all gradients, in every way that they can be set up."""

import numpy as np
import pytest
from parity import compare

from fastdeconv import nn

torch = pytest.importorskip("torch")

CONV = [
    (1, (3, 5, 3), {}, (2, 3, 11)),
    (1, (4, 6, 5), {"stride": 2, "padding": 3, "dilation": 2, "groups": 2}, (3, 4, 17)),
    (1, (3, 2, 4), {"padding": "same", "dilation": 3}, (2, 3, 10)),
    (2, (1, 7, 5), {"padding": 2}, (2, 1, 9, 12)),
    (2, (7, 3, 1), {}, (2, 7, 5, 6)),
    (2, (3, 5, 3), {"stride": 2, "padding": 1}, (2, 3, 9, 12)),
    (2, (3, 5, 3), {"stride": 3, "bias": False}, (1, 3, 11, 10)),
    (2, (4, 8, (3, 2)), {"stride": (2, 3), "padding": (0, 2), "dilation": (2, 1), "groups": 4}, (2, 4, 9, 10)),
    (2, (5, 5, 3), {"padding": 1, "groups": 5}, (2, 5, 7, 8)),
    (2, (2, 3, 4), {"padding": "same"}, (1, 2, 6, 7)),
    (2, (2, 3, (4, 3)), {"padding": "same", "dilation": (1, 2)}, (1, 2, 6, 7)),
    (2, (2, 3, 3), {"padding": "valid"}, (1, 2, 6, 7)),
    (2, (2, 3, 3), {"padding": 4}, (1, 2, 3, 2)),
    (2, (2, 3, 3), {}, (2, 7, 6)),
    (3, (2, 3, 3), {"padding": 1}, (2, 2, 5, 4, 6)),
    (3, (4, 2, (1, 2, 3)), {"stride": (1, 2, 1), "groups": 2, "dilation": 2}, (1, 4, 3, 6, 7)),
    (3, (2, 2, 2), {"padding": "same"}, (2, 3, 4, 5)),
]
TRANSPOSED = [
    (1, (3, 5, 3), {}, (2, 3, 7)),
    (1, (4, 6, 5), {"stride": 3, "padding": 2, "output_padding": 2, "groups": 2}, (3, 4, 6)),
    (2, (6, 1, 9), {"stride": 2, "padding": 4, "output_padding": 1}, (2, 6, 5, 7)),
    (2, (5, 3, 4), {"stride": 2, "padding": 1, "bias": False}, (2, 5, 4, 5)),
    (2, (5, 7, 4), {}, (2, 5, 1, 1)),
    (2, (4, 8, (3, 2)), {"stride": (2, 1), "padding": (1, 0), "output_padding": (1, 0), "groups": 4}, (2, 4, 5, 6)),
    (2, (3, 3, 3), {"dilation": 2, "padding": 1, "output_padding": 1}, (1, 3, 5, 6)),
    (2, (5, 5, 2), {"stride": 2, "groups": 5}, (2, 5, 4, 3)),
    (2, (3, 2, 3), {"stride": 2}, (3, 4, 5)),
    (3, (2, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1}, (2, 2, 3, 4, 3)),
    (3, (4, 2, 2), {"groups": 2, "dilation": (1, 2, 1)}, (4, 3, 4, 3)),
]


def _id(case):
    ndim, arguments, keywords, shape = case
    listed = ",".join(f"{key}={value}" for key, value in keywords.items())
    return f"{ndim}d{arguments}{listed}on{shape}".replace(" ", "")


@pytest.mark.quick
@pytest.mark.parametrize("case", CONV, ids=map(_id, CONV))
@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
def test_convolution(case):
    ndim, arguments, keywords, shape = case
    ours = getattr(nn, f"Conv{ndim}d")(*arguments, **keywords, dtype="float64")
    theirs = getattr(torch.nn, f"Conv{ndim}d")(*arguments, **keywords, dtype=torch.float64)
    compare(ours, theirs, *shape)


@pytest.mark.quick
@pytest.mark.parametrize("case", TRANSPOSED, ids=map(_id, TRANSPOSED))
def test_transposed_convolution(case):
    ndim, arguments, keywords, shape = case
    ours = getattr(nn, f"ConvTranspose{ndim}d")(*arguments, **keywords, dtype="float64")
    theirs = getattr(torch.nn, f"ConvTranspose{ndim}d")(*arguments, **keywords, dtype=torch.float64)
    compare(ours, theirs, *shape)


@pytest.mark.parametrize("kind", ["Conv2d", "ConvTranspose2d"])
def test_float32(kind):
    arguments = (17, 19, 3, 2, 1)
    compare(getattr(nn, kind)(*arguments), getattr(torch.nn, kind)(*arguments), 3, 17, 13, 15, tolerance=3e-6)


def test_output_size():
    ours, theirs = nn.ConvTranspose2d(2, 3, 3, 2), torch.nn.ConvTranspose2d(2, 3, 3, 2)
    ours.load_state_dict(theirs.state_dict())
    x = np.random.default_rng(0).standard_normal((1, 2, 4, 5)).astype(np.float32)
    tx = torch.tensor(x, requires_grad=True)
    y, ty = ours.forward(x, output_size=(10, 11)), theirs(tx, output_size=(10, 11))
    np.testing.assert_allclose(y, ty.detach().numpy(), rtol=1e-5, atol=1e-6)
    gy = np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)
    ty.backward(torch.tensor(gy))
    np.testing.assert_allclose(ours.backward(gy), tx.grad.numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours.weight.grad, theirs.weight.grad.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_initial_values_have_torchs_range(kind, ndim):
    arguments = {"in_channels": 24, "out_channels": 36, "kernel_size": 5, "groups": 2}
    ours = getattr(nn, f"{kind}{ndim}d")(**arguments, rng=0)
    theirs = getattr(torch.nn, f"{kind}{ndim}d")(**arguments)
    for name in ("weight", "bias"):
        a, b = getattr(ours, name).data, getattr(theirs, name).detach().numpy()
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        bound = ours.weight.data[0].size ** -0.5
        # Of n uniform values the largest is within 10/n of the bound, but for once in 20,000 times.
        slack = 1 - 10 / a.size
        assert slack * bound <= abs(a).max() <= bound
        assert slack * bound <= abs(b).max() <= bound
    assert abs(ours.weight.data.mean()) < 0.1 * bound
