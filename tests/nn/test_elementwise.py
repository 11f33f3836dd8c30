"""The fused kernels: error of the functions in units of the last place, sums, threads, what lies around a row."""

import math
import subprocess
import sys

import numpy as np
import pytest

import fastdeconv as fd
from fastdeconv.kernels.cpu.elementwise import PIECE
from fastdeconv.nn import elementwise
from fastdeconv.nn.elementwise import Activation, Affine, Extent

RNG = np.random.default_rng(0)
SIGMOID = np.vectorize(lambda z: 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z)))
NORMAL = np.vectorize(lambda z: 0.5 * math.erfc(-z / math.sqrt(2)))


def _apply(kind, x):
    out = np.full_like(x, np.nan)
    elementwise.activate(Activation(kind, np.zeros(1, x.dtype)), x, Extent.of(x.shape), elementwise.plain(x), out)
    return out


def _points(dtype, limit):
    """Return values of all sizes, both signs."""
    small = np.logspace(-30, 0, 2000)
    values = np.concatenate([small, np.linspace(0, limit, 20_001)])
    return np.concatenate([values, -values]).astype(dtype)


@pytest.mark.quick
@pytest.mark.parametrize(("kind", "exact", "limit", "most"), [
    ("tanh", np.tanh, 25, 4), ("sigmoid", SIGMOID, 80, 4), ("gelu", lambda z: z * NORMAL(z), 5, 150),
])  # fmt: skip
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_units_in_the_last_place(kind, exact, limit, most, dtype):
    x = _points(dtype, limit)
    y, expected = _apply(kind, x), exact(x.astype(float))
    # The references for float64 are themselves only right to one unit or two; in tails of gelu
    # the error of x² counts x² times.
    unit = np.spacing(abs(expected).astype(dtype)).astype(float)
    assert (abs(y - expected) / unit).max() <= most


@pytest.mark.quick
def test_limits():
    x = np.array([math.nan, math.inf, -math.inf, 1e30, -1e30, 0.0, -0.0], np.float32)
    np.testing.assert_array_equal(_apply("tanh", x), [math.nan, 1, -1, 1, -1, 0, -0.0])
    assert math.copysign(1, _apply("tanh", x)[-1]) == -1
    np.testing.assert_array_equal(_apply("sigmoid", x), [math.nan, 1, 0, 1, 0, 0.5, 0.5])
    np.testing.assert_array_equal(_apply("gelu", x)[3:5], [np.float32(1e30), 0])


@pytest.mark.quick
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (2, 3, 7), (1, 2, PIECE), (2, 2, PIECE + 1), (1, 1, 5 * PIECE - 3)], ids=str
)
def test_every_element_is_written_and_nothing_around(shape):
    for kind in ("rectifier", "tanh"):
        around = np.full(math.prod(shape) + 128, 7.0)
        out = around[64:-64].reshape(shape)
        x = RNG.standard_normal(shape)
        f = Activation(kind, np.full(1, 0.5))
        elementwise.activate(f, x, Extent.of(shape, shape[1]), elementwise.plain(x), out)
        expected = np.tanh(x) if kind == "tanh" else np.where(x > 0, x, 0.5 * x)
        np.testing.assert_allclose(out, expected, rtol=1e-14)
        assert (around[:64] == 7).all()
        assert (around[-64:] == 7).all()


@pytest.mark.quick
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_integer_sums_are_exact(dtype):
    """Sums of small integers are the same in any order."""
    shape = (3, 5, 2 * PIECE + 11)
    x, gy = (RNG.integers(-3, 4, shape).astype(dtype) for _ in range(2))
    extent, vectors = Extent.of(shape, 5), RNG.integers(-2, 3, (4, 5)).astype(dtype)
    scale, shift, slope, mean = vectors
    each = vectors[..., np.newaxis]
    z = each[0] * x + each[1]
    gz = np.where(z > 0, gy, each[2] * gy)
    f, affine, out = Activation("rectifier", slope), Affine(scale, shift), np.full_like(x, np.nan)
    shift_grad, slope_grad = elementwise.activation_grad(f, x, gy, extent, affine, out)
    np.testing.assert_array_equal(out, gz)
    np.testing.assert_array_equal(shift_grad, gz.sum((0, 2)))
    np.testing.assert_array_equal(slope_grad, (gy * np.minimum(z, 0)).sum((0, 2)))
    sums = elementwise.norm_sums(f, x, gy, extent, affine, mean)
    np.testing.assert_array_equal(sums[0], gz.sum((0, 2)))
    np.testing.assert_array_equal(sums[1], (gz * (x - each[3])).sum((0, 2)))
    np.testing.assert_array_equal(sums[2], slope_grad)
    elementwise.norm_grad(f, x, gy, extent, affine, mean, (scale, shift, slope), out)
    np.testing.assert_array_equal(out, each[0] * gz + each[1] * (x - each[3]) + each[2])
    np.testing.assert_array_equal(elementwise.channel_sums(x, extent), x.sum((0, 2)))
    got_mean, got_var = elementwise.moments(x, extent)
    np.testing.assert_allclose(got_mean, x.mean((0, 2), dtype=float), rtol=0, atol=1e-6)
    np.testing.assert_allclose(got_var, x.var((0, 2), dtype=float), rtol=1e-6)


@pytest.mark.quick
def test_in_place_and_any_number_of_threads_give_the_same_bits():
    shape = (4, 7, 9001)
    x, gy = (RNG.standard_normal(shape).astype(np.float32) for _ in range(2))
    extent, f = Extent.of(shape, 7), Activation("rectifier", RNG.standard_normal(7).astype(np.float32))
    found = []
    before = fd.get_num_threads()
    try:
        for threads in (1, before):
            fd.set_num_threads(threads)
            for own in (False, True):
                y, gx = (a.copy() if own else np.full_like(a, np.nan) for a in (x, gy))
                elementwise.activate(f, y if own else x, extent, elementwise.plain(x), y)
                sums = elementwise.activation_grad(f, x, gx if own else gy, extent, elementwise.plain(x), gx)
                found.append((y, gx, *sums, *elementwise.moments(x, extent)))
    finally:
        fd.set_num_threads(before)
    for other in found[1:]:
        for a, b in zip(found[0], other):
            np.testing.assert_array_equal(a, b)


def test_after_a_fork():
    """A child has no threads: kernels run without."""
    program = """
import os, sys
import numpy as np
from fastdeconv import nn
model = nn.Sequential(nn.Conv2d(4, 8, 3, rng=0), nn.PReLU(), nn.BatchNorm2d(8), nn.Tanh())
x = np.random.default_rng(0).standard_normal((4, 4, 90, 90)).astype(np.float32)
y = model(x)
model.backward(y)
child = os.fork()
if child == 0:
    same = np.array_equal(model(x), y)
    model.backward(y)
    os._exit(0 if same else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
