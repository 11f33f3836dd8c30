"""Gradient clipping against torch, and its sums."""

from __future__ import annotations

import math

import numba
import numpy as np
import pytest

from fastdeconv.kernels.cpu import norms
from fastdeconv.optim import clip_grad_norm, clip_grad_value

# The last has more than two blocks of sums, and no whole number of them.
SHAPES = [(), (5,), (3, 7, 11), (2 * norms.BLOCK + 37,)]


def gradients(dtype="float32", shapes=SHAPES):
    rng = np.random.default_rng(7)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("max_norm", [0.0, 1.0, 1e4])
def test_norm_against_torch(max_norm, dtype):
    torch = pytest.importorskip("torch")
    ours = gradients(dtype)
    leaves = [torch.zeros(each.shape, dtype=getattr(torch, dtype), requires_grad=True) for each in ours]
    for leaf, each in zip(leaves, ours):
        leaf.grad = torch.tensor(each)
    theirs = torch.nn.utils.clip_grad_norm_(leaves, max_norm)
    assert clip_grad_norm(ours, max_norm) == pytest.approx(theirs.item(), rel=1e-5 if dtype == "float32" else 1e-14)
    for leaf, each in zip(leaves, ours):
        np.testing.assert_allclose(each, leaf.grad.numpy(), rtol=1e-5 if dtype == "float32" else 1e-13)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_against_torch(bad):
    torch = pytest.importorskip("torch")
    ours = gradients(shapes=[(4,), (3,)])
    ours[0][2] = bad
    leaves = [torch.zeros(each.shape, requires_grad=True) for each in ours]
    for leaf, each in zip(leaves, ours):
        leaf.grad = torch.tensor(each)
    theirs = torch.nn.utils.clip_grad_norm_(leaves, 1.0)
    np.testing.assert_equal(clip_grad_norm(ours, 1.0), theirs.item())
    for leaf, each in zip(leaves, ours):
        np.testing.assert_array_equal(each, leaf.grad.numpy())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_value_against_torch(dtype):
    torch = pytest.importorskip("torch")
    ours = gradients(dtype)
    ours[1][:3] = np.nan, np.inf, -np.inf
    leaves = [torch.zeros(each.shape, dtype=getattr(torch, dtype), requires_grad=True) for each in ours]
    for leaf, each in zip(leaves, ours):
        leaf.grad = torch.tensor(each)
    torch.nn.utils.clip_grad_value_(leaves, 0.4)
    clip_grad_value(ours, 0.4)
    for leaf, each in zip(leaves, ours):
        np.testing.assert_array_equal(each, leaf.grad.numpy())


@pytest.mark.quick
@pytest.mark.parametrize("size", [0, 1, norms.LANES - 1, norms.LANES, norms.BLOCK, norms.BLOCK + 1, 100_003])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_norm_is_exact_on_integers(size, dtype):
    (g,) = gradients(dtype, [(size,)])
    g = np.rint(4 * g)
    kept = g.copy()
    assert clip_grad_norm([g], 1e9) == math.sqrt(int((g.astype(int) ** 2).sum()))
    np.testing.assert_array_equal(g, kept)


@pytest.mark.quick
def test_norm_is_summed_in_double():
    assert clip_grad_norm([np.full(3, 3e30, "float32")], 1e31) == pytest.approx(3e30 * math.sqrt(3), rel=1e-7)
    assert clip_grad_norm([], 1.0) == 0


@pytest.mark.quick
def test_any_number_of_threads_gives_the_same_bits():
    results = []
    count = numba.get_num_threads()
    try:
        for each in (1, count):
            numba.set_num_threads(each)
            ours = gradients(shapes=[(400_003,)])
            results.append((clip_grad_norm(ours, 1.0), ours[0]))
    finally:
        numba.set_num_threads(count)
    assert results[0][0] == results[1][0]
    np.testing.assert_array_equal(results[0][1], results[1][1])


@pytest.mark.quick
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: clip_grad_norm([np.zeros(2)], -1), ValueError, "max_norm must be a number of at least 0; got -1"),
        (lambda: clip_grad_norm([np.zeros(2)], "1"), TypeError, "max_norm must be a number .*; got '1'"),
        (lambda: clip_grad_norm([np.zeros(2, int)], 1), TypeError, r"gradients\[0\] must be float32 or float64"),
        (lambda: clip_grad_norm([None], 1), TypeError, r"gradients\[0\] must be a NumPy array; got None"),
        (lambda: clip_grad_value([np.zeros(2)], -1), ValueError, "limit must be a number of at least 0; got -1"),
        (lambda: clip_grad_value([np.zeros((4, 4)).T[:2]], 1), ValueError, r"gradients\[0\] must be C-contiguous"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
