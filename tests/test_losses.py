"""Losses against their definition, finite differences and torch."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import pytest

from fastdeconv import losses

LOSSES = {
    "mse": (losses.MSE(), lambda r: r * r),
    "l1": (losses.L1(), np.abs),
    "charbonnier": (losses.Charbonnier(eps=0.02), lambda r: np.sqrt(r * r + 4e-4)),
    "huber": (losses.Huber(delta=0.4), lambda r: np.where(abs(r) <= 0.4, r * r / 2, 0.4 * (abs(r) - 0.2))),
}
NAMES = list(LOSSES)
# More than two blocks, and no whole number of them.
LONG = 2 * losses._BLOCK + 37


def pair(shape, dtype="float64"):
    rng = np.random.default_rng(5)
    return rng.standard_normal(shape).astype(dtype), rng.standard_normal(shape).astype(dtype)


@pytest.mark.quick
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(1,), (5, 7), (2, 3, 4, 5), (LONG,)])
@pytest.mark.parametrize("name", NAMES)
def test_is_the_mean_over_elements(name, shape, dtype):
    loss, rho = LOSSES[name]
    y, y_true = pair(shape, dtype)
    value, gradient = loss.value_and_gradient(y, y_true)
    assert value == pytest.approx(rho(y.astype(float) - y_true).mean(), rel=20 * float(np.finfo(dtype).eps))
    assert value == loss(y, y_true)
    assert gradient.dtype == dtype
    assert gradient.shape == shape


@pytest.mark.quick
@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_the_difference_quotient(name):
    loss, _ = LOSSES[name]
    y, y_true = pair((6, 7))
    _, gradient = loss.value_and_gradient(y, y_true)
    step = 1e-6
    for at in [(0, 0), (3, 4), (5, 6)]:
        up, down = y.copy(), y.copy()
        up[at] += step
        down[at] -= step
        assert gradient[at] == pytest.approx((loss(up, y_true) - loss(down, y_true)) / (2 * step), abs=1e-8)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_against_torch(name, dtype):
    torch = pytest.importorskip("torch")
    loss, _ = LOSSES[name]
    theirs = {
        "mse": torch.nn.MSELoss(),
        "l1": torch.nn.L1Loss(),
        "charbonnier": lambda a, b: torch.sqrt((a - b) ** 2 + 4e-4).mean(),
        "huber": torch.nn.HuberLoss(delta=0.4),
    }[name]
    y, y_true = pair((2, 3, 40, 41), dtype)
    y[0, 0, 0, :5] = y_true[0, 0, 0, :5]  # the kink of |r|
    leaf = torch.tensor(y, requires_grad=True)
    value = theirs(leaf, torch.tensor(y_true))
    value.backward()
    ours, gradient = loss.value_and_gradient(y, y_true)
    eps = float(np.finfo(dtype).eps)
    assert ours == pytest.approx(value.item(), rel=50 * eps)
    np.testing.assert_allclose(gradient, leaf.grad.numpy(), rtol=8 * eps, atol=eps / y.size)


@pytest.mark.quick
@pytest.mark.parametrize("name", NAMES)
def test_out_and_memory_order(name):
    loss, _ = LOSSES[name]
    y, y_true = pair((11, 13))
    value, expected = loss.value_and_gradient(y, y_true)
    strided = np.full((22, 13), np.nan)[::2]
    wide = np.repeat(y, 2, axis=1)[:, ::2]  # one step between all elements, and not that of an element
    for a, b in [(y, y_true), (np.asfortranarray(y), y_true), (y, y_true[::-1][::-1]), (wide, y_true)]:
        for out in [None, np.full((11, 13), np.nan), np.full((11, 13), np.nan, order="F"), strided]:
            again, gradient = loss.value_and_gradient(a, b, out)
            assert again == value
            assert out is None or gradient is out
            np.testing.assert_array_equal(gradient, expected)
    for own in [y.copy(), np.asfortranarray(y)]:
        assert loss.value_and_gradient(own, y_true, own)[1] is own
        np.testing.assert_array_equal(own, expected)


@pytest.mark.quick
def test_float32_sums_do_not_drift():
    y, y_true = np.full(3_000_001, 0.1, "float32"), np.zeros(3_000_001, "float32")
    exact = float(np.float32(0.1)) ** 2
    assert losses.MSE()(y, y_true) == pytest.approx(exact, rel=1e-7)


@pytest.mark.quick
@pytest.mark.parametrize(("name", "small"), [("mse", 1e-4), ("l1", 1e-8), ("huber", 1e-4)])
def test_float32_terms_are_summed_in_double(name, small):
    loss, rho = LOSSES[name]
    y = np.array([0.25, small], "float32")
    assert loss(y, np.zeros(2, "float32")) == pytest.approx((rho(0.25) + rho(small)) / 2, rel=2e-9)


@pytest.mark.quick
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_shows_in_the_loss(name, bad):
    y, y_true = pair((4, 5))
    y[1, 2] = bad
    with np.errstate(all="ignore"):
        assert not np.isfinite(LOSSES[name][0](y, y_true))


@pytest.mark.quick
@pytest.mark.parametrize("name", NAMES)
def test_the_curvature_is_that_of_a_parabola_above(name):
    loss, rho = LOSSES[name]
    r = np.linspace(-3, 3, 6001)
    for at in (0.01, 0.3, 2.0):
        slope = loss.value_and_gradient(np.array([at]), np.zeros(1))[1][0]
        for sign in (1, -1):
            above = rho(at) + slope * (sign * r - at) + loss.curvature(at) / 2 * (sign * r - at) ** 2
            assert (above >= rho(r) - 1e-12).all()


@pytest.mark.quick
def test_names():
    for name in NAMES:
        assert losses.as_loss(name) == type(LOSSES[name][0])()
    own = losses.Huber(0.1)
    assert losses.as_loss(own) is own


@pytest.mark.quick
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: losses.as_loss("mae"), ValueError, r'loss must be one of "mse", .*; got \'mae\''),
        (lambda: losses.as_loss(None), TypeError, "loss must be one of .*; got None"),
        (lambda: losses.as_loss(losses.MSE), TypeError, "got MSE, a class: call it"),
        (lambda: losses.Huber(delta=0), ValueError, "delta must be a positive number; got 0"),
        (lambda: losses.Huber(delta="1"), TypeError, "delta must be a positive number; got '1'"),
        (lambda: losses.Charbonnier(eps=-1e-3), ValueError, "eps must be a positive number; got -0.001"),
        (lambda: losses.Charbonnier(eps=float("nan")), ValueError, "eps must be a positive number; got nan"),
        (lambda: losses.MSE()(np.ones(3), np.ones(4)), ValueError, r"one shape; got \(3,\) and \(4,\)"),
        (lambda: losses.MSE()(np.ones(0), np.ones(0)), ValueError, r"elements .* got shape \(0,\)"),
        (lambda: losses.MSE()(np.ones(3), np.ones(3, "float32")), TypeError, "y and y_true must have one dtype"),
        (lambda: losses.MSE()(np.ones(3, int), np.ones(3, int)), TypeError, "must be float32 or float64; got int64"),
        (lambda: losses.MSE()([1.0], np.ones(1)), TypeError, "y must be a NumPy array; got"),
        (
            lambda: losses.MSE().value_and_gradient(np.ones(3), np.ones(3), np.ones(3, "float32")),
            TypeError,
            "out must have the result's dtype float64",
        ),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


@dataclass(frozen=True)
class Fourth(losses.Loss):
    """A user's own, in NumPy."""

    def evaluate(self, residual, work):
        np.multiply(residual, residual, out=work)
        residual *= 4 * work
        work *= work
        return float(work.sum(dtype=float))

    def curvature(self, scale):
        return 12 * scale * scale


@pytest.mark.quick
@pytest.mark.parametrize("shape", [(1,), (2, 3, 4, 5), (LONG,)])
def test_a_loss_of_ones_own(shape):
    y, y_true = pair(shape)
    value, gradient = Fourth().value_and_gradient(y, y_true)
    assert value == pytest.approx(((y - y_true) ** 4).mean(), rel=1e-14)
    np.testing.assert_allclose(gradient, 4 * (y - y_true) ** 3 / y.size, rtol=1e-14)


@pytest.mark.quick
def test_a_loss_that_is_derived_from_one_with_a_kernel():
    class Halved(losses.MSE):
        def evaluate(self, residual, work):
            total = 0.5 * super().evaluate(residual, work)
            residual *= 0.5
            return total

    y, y_true = pair((5, 7))
    value, gradient = Halved().value_and_gradient(y, y_true)
    wanted, other = losses.MSE().value_and_gradient(y, y_true)
    assert value == pytest.approx(wanted / 2, rel=1e-14)
    np.testing.assert_allclose(gradient, other / 2, rtol=1e-14)


@pytest.mark.quick
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_the_kernel_does_what_the_expressions_do(name, dtype):
    """The gradient to the bit, the sum to rounding in double precision."""
    y, y_true = pair((LONG,), dtype)
    y[:5] = y_true[:5]
    y[7], y[8] = np.inf, -np.inf
    kind = type(LOSSES[name][0])

    class Expressions(kind):
        def _fused(self):
            return None

    expressions = Expressions(**LOSSES[name][0].__dict__)
    with np.errstate(invalid="ignore"):
        value, gradient = LOSSES[name][0].value_and_gradient(y, y_true)
        wanted, other = expressions.value_and_gradient(y, y_true)
        np.testing.assert_array_equal(gradient, other)
        assert value == wanted
        y[7:9] = 0
        assert LOSSES[name][0](y, y_true) == pytest.approx(expressions(y, y_true), rel=1e-14)


@pytest.mark.quick
@pytest.mark.parametrize("name", NAMES)
def test_any_number_of_threads_gives_the_same_bits(name):
    y, y_true = pair((400_003,), "float32")
    count = numba.get_num_threads()
    results = []
    try:
        for each in (1, count):
            numba.set_num_threads(each)
            results.append(LOSSES[name][0].value_and_gradient(y, y_true))
    finally:
        numba.set_num_threads(count)
    assert results[0][0] == results[1][0]
    np.testing.assert_array_equal(results[0][1], results[1][1])
