"""`fit_kernel`: what it learns, when it stops, what it refuses."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest

import fastdeconv as fd
from fastdeconv import losses, optim
from fastdeconv.losses import as_loss
from fastdeconv.objective import Objective

FORWARD = {1: fd.conv_transpose1d, 2: fd.conv_transpose2d, 3: fd.conv_transpose3d}


def synthetic(x_shape, w_shape, dtype="float64", bias=False, seed=0, **parameters):
    """Random x, a kernel, a bias, and what they give."""
    rng = np.random.default_rng(seed)
    x, w = (rng.standard_normal(shape).astype(dtype) for shape in (x_shape, w_shape))
    groups = parameters.get("groups", 1)
    b = rng.standard_normal(w_shape[1] * groups).astype(dtype) if bias else None
    return x, w, b, FORWARD[len(w_shape) - 2](x, w, b, **parameters)


def off(found, true):
    return float(np.abs(found - true).max() / np.abs(true).max())


@pytest.fixture
def textbook():
    rng = np.random.default_rng(1)
    return rng.random((3, 3)), rng.random((5, 5)), rng.random((5, 5))


# -- what it learns -----------------------------------------------------------------------------


@pytest.mark.quick
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-4), ("float64", 1e-8)])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_recovers_a_known_kernel(stride, bias, dtype, bound):
    x, w, b, y = synthetic((4, 3, 12, 11), (3, 4, 5, 5), dtype, bias, stride=stride, padding=1)
    r = fd.fit_kernel(x, y, 5, stride=stride, padding=1, bias=bias)
    assert r.converged
    assert r.kernel.dtype == dtype
    assert off(r.kernel, w) < bound
    assert (r.bias is None) if b is None else off(r.bias, b) < bound


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-4), ("float64", 1e-8)])
@pytest.mark.parametrize(
    ("x_shape", "w_shape", "parameters"),
    [
        ((6, 4, 9, 10), (4, 3, 3, 3), {"groups": 2, "stride": 2, "output_padding": 1}),
        ((6, 4, 9, 10), (4, 1, 3, 2), {"groups": 4, "padding": (1, 0)}),
        ((4, 2, 14, 13), (2, 2, 3, 3), {"dilation": (2, 3), "padding": 2}),
        ((2, 40), (2, 3, 9), {"stride": 4, "padding": 2}),
        ((5, 2, 30), (2, 1, 4), {"stride": 2, "dilation": 3}),
        ((2, 2, 6, 7, 5), (2, 3, 3, 2, 3), {"stride": (1, 2, 2), "padding": 1}),
        ((2, 6, 7, 8), (2, 2, 3, 3, 3), {"groups": 2}),
    ],
    ids=["groups", "depthwise", "dilated", "1d", "1d_dilated", "3d", "3d_depthwise"],
)
def test_recovers_it_in_any_geometry(x_shape, w_shape, parameters, dtype, bound):
    x, w, b, y = synthetic(x_shape, w_shape, dtype, bias=True, **parameters)
    r = fd.fit_kernel(x, y, w_shape[2:], bias=True, **parameters)
    assert r.converged
    assert off(r.kernel, w) < bound
    assert off(r.bias, b) < bound


@pytest.mark.parametrize("loss", ["mse", "l1", "charbonnier", "huber"])
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov", "adam", "adamw", "rmsprop"])
def test_every_loss_and_optimizer_learns_without_tuning(loss, optimizer):
    x, w, b, y = synthetic((3, 2, 10, 10), (2, 2, 4, 4), bias=True, stride=2, padding=1)
    r = fd.fit_kernel(x, y, 4, stride=2, padding=1, bias=True, loss=loss, optimizer=optimizer, max_steps=1000)
    assert off(r.kernel, w) < 0.02, r.message
    assert off(r.bias, b) < 0.02


@pytest.mark.quick
@pytest.mark.parametrize("size", [1e-3, 1e3])
@pytest.mark.parametrize("optimizer", ["sgd", "nesterov", "adam", "rmsprop"])
def test_the_automatic_rate_follows_the_units(optimizer, size):
    x, w, _, y = synthetic((3, 2, 10, 10), (2, 2, 3, 3))
    r = fd.fit_kernel(size * x, y, 3, optimizer=optimizer, max_steps=500)
    assert off(size * r.kernel, w) < 0.02, r.message


@pytest.mark.quick
def test_the_textbook_flow(textbook):
    w, x, y_true = textbook
    y = fd.conv_transpose2d(x, w, padding=1)
    before = ((y - y_true) ** 2).mean()
    gradient = fd.grad.conv_transpose2d_weight(x, w.shape, 2 / y.size * (y - y_true), padding=1)

    one = fd.fit_kernel(x, y_true, 3, padding=1, init=w, learning_rate=0.01, max_steps=1)
    np.testing.assert_allclose(one.kernel, w - 0.01 * gradient, rtol=1e-14)
    assert one.history[0] == pytest.approx(before)
    assert one.loss == one.history[1] < before
    assert (one.n_iter, one.converged) == (1, False)

    r = fd.fit_kernel(x, y_true, 3, padding=1, init=w)
    taps = [fd.conv_transpose2d(x, tap.reshape(3, 3), padding=1).ravel() for tap in np.eye(9)]
    best = np.linalg.lstsq(np.stack(taps, 1), y_true.ravel())[0]
    assert r.converged
    assert r.kernel.shape == (3, 3)
    np.testing.assert_allclose(r.kernel.ravel(), best, atol=1e-6)
    assert r.loss == pytest.approx(((np.stack(taps, 1) @ best - y_true.ravel()) ** 2).mean())


@pytest.mark.quick
def test_the_loss_is_the_mean_plus_the_penalties_and_spares_the_bias():
    x, w, _, y = synthetic((2, 2, 6, 6), (2, 3, 3, 3), bias=True)
    settings = {"l1": 0.3, "l2": 0.2, "bias": True, "learning_rate": 0.01}
    start = fd.fit_kernel(x, y, 3, init=w, max_steps=0, **settings)
    residual = fd.conv_transpose2d(x, w) - y
    assert start.loss == pytest.approx((residual**2).mean() + 0.3 * abs(w).sum() + 0.2 * (w**2).sum())
    assert (start.n_iter, len(start.history)) == (0, 1)
    np.testing.assert_array_equal(start.kernel, w)

    step = fd.fit_kernel(x, y, 3, init=w, max_steps=1, **settings)
    gy = 2 / y.size * residual
    gw = fd.grad.conv_transpose2d_weight(x, w.shape, gy) + 0.3 * np.sign(w) + 0.4 * w
    np.testing.assert_allclose(step.kernel, w - 0.01 * gw, rtol=1e-12)
    np.testing.assert_allclose(step.bias, -0.01 * gy.sum((0, 2, 3)), rtol=1e-12)


@pytest.mark.quick
def test_weight_decay_spares_the_bias():
    x, _, _, _ = synthetic((1, 1, 4, 4), (1, 1, 3, 3))
    y = np.full((1, 1, 6, 6), 5.0)
    settings = {"optimizer": optim.AdamW(0.1, weight_decay=1.0), "schedule": "constant", "max_steps": 300}
    r = fd.fit_kernel(0 * x, y, 3, bias=True, init=np.ones((1, 1, 3, 3)), **settings)
    assert r.bias == pytest.approx(5.0, abs=1e-2)


@pytest.mark.quick
def test_the_penalties_shrink_the_kernel():
    x, _, _, y = synthetic((2, 1, 8, 8), (1, 1, 3, 3))
    plain, ridge, lasso = (fd.fit_kernel(x, y, 5, padding=1, **p).kernel for p in ({}, {"l2": 1.0}, {"l1": 1.0}))
    assert np.abs(ridge).sum() < 0.9 * np.abs(plain).sum()
    assert np.abs(lasso).sum() < 0.9 * np.abs(plain).sum()


@pytest.mark.parametrize("name", ["mse", "l1", "charbonnier", "huber"])
@pytest.mark.parametrize("rule", [optim.SGD(0.02, momentum=0.9), optim.AdamW(0.02), optim.RMSprop(0.02)])
def test_the_run_is_torchs_step_by_step(rule, name):
    torch = pytest.importorskip("torch")
    x, _, _, y = synthetic((3, 4, 7, 6), (4, 3, 3, 3), stride=2, groups=2)
    init = synthetic((1, 4, 1, 1), (4, 3, 3, 3), seed=9)[1]
    criterion = {
        "mse": torch.nn.MSELoss(),
        "l1": torch.nn.L1Loss(),
        "charbonnier": lambda a, c: torch.sqrt((a - c) ** 2 + 1e-6).mean(),
        "huber": torch.nn.HuberLoss(),
    }[name]
    w, b = torch.tensor(init, requires_grad=True), torch.zeros(6, dtype=torch.float64, requires_grad=True)
    kinds = {optim.SGD: "SGD", optim.AdamW: "AdamW", optim.RMSprop: "RMSprop"}
    extra = {"momentum": 0.9} if isinstance(rule, optim.SGD) else {}
    other = getattr(torch.optim, kinds[type(rule)])(
        [{"params": [w]}, {"params": [b], "weight_decay": 0.0}], lr=0.02, **extra
    )
    history = []
    for _ in range(25):
        other.zero_grad()
        prediction = torch.nn.functional.conv_transpose2d(torch.tensor(x), w, b, stride=2, groups=2)
        loss = criterion(prediction, torch.tensor(y)) + 0.001 * w.abs().sum() + 0.002 * (w**2).sum()
        loss.backward()
        history.append(loss.item())
        other.step()
    settings = {"loss": name, "optimizer": rule, "l1": 0.001, "l2": 0.002, "schedule": "constant", "max_steps": 25}
    r = fd.fit_kernel(x, y, 3, stride=2, groups=2, init=init, bias=True, **settings)
    np.testing.assert_allclose(r.history[:-1], history, rtol=1e-9)
    assert r.history.argmin() == 25, "the kernel of the last step is the one to compare"
    np.testing.assert_allclose(r.kernel, w.detach().numpy(), rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(r.bias, b.detach().numpy(), rtol=1e-7, atol=1e-10)


# -- shapes -------------------------------------------------------------------------------------


@pytest.mark.quick
@pytest.mark.parametrize(
    ("x_shape", "kernel_size", "y_shape", "kernel_shape"),
    [
        ((20,), 3, (22,), (3,)),
        ((9, 8), 3, (11, 10), (3, 3)),
        ((9, 8), np.array(3), (11, 10), (3, 3)),
        ((9, 8), (3,), (5, 10), (9, 5, 3)),
        ((2, 9, 8), 3, (4, 11, 10), (2, 4, 3, 3)),
        ((4, 2, 9), (3,), (4, 1, 11), (2, 1, 3)),
        ((6, 7, 5), (3, 2, 1), (8, 8, 5), (3, 2, 1)),
        ((4, 2, 9, 8), (3, 5), (4, 2, 11, 12), (2, 2, 3, 5)),
        ((2, 6, 7, 5), [3, 3, 3], (3, 8, 9, 7), (2, 3, 3, 3, 3)),
        ((4, 2, 6, 7, 5), 3, (4, 2, 8, 9, 7), (2, 2, 3, 3, 3)),
        ((4, 2, 6, 7, 5), np.array([1, 2, 3]), (4, 2, 6, 8, 7), (2, 2, 1, 2, 3)),
    ],
)
def test_kernel_size_and_axes_tell_the_dimension(x_shape, kernel_size, y_shape, kernel_shape):
    x = np.random.default_rng(0).standard_normal(x_shape)
    assert fd.fit_kernel(x, np.zeros(y_shape), kernel_size, max_steps=2).kernel.shape == kernel_shape


@pytest.mark.quick
def test_output_padding_comes_from_y_true():
    x, w, _, y = synthetic((2, 2, 7, 8), (2, 1, 3, 3), stride=(2, 3), output_padding=(1, 2))
    r = fd.fit_kernel(x, y, 3, stride=(2, 3))
    assert r.output_padding == (1, 2)
    assert off(r.kernel, w) < 1e-8
    assert fd.conv_transpose2d(x, r.kernel, stride=(2, 3), output_padding=r.output_padding).shape == y.shape


@pytest.mark.quick
def test_inputs_of_any_memory_order_and_unchanged():
    x, _, _, y = synthetic((3, 2, 7, 8), (2, 1, 3, 3))
    init = np.full((2, 1, 3, 3), 0.1)
    expected = fd.fit_kernel(x, y, 3, init=init, max_steps=20)
    odd = np.asfortranarray(x), np.repeat(y, 2, axis=3)[..., ::2], np.asfortranarray(init)
    for a in odd:
        a.flags.writeable = False
    kept = [a.copy() for a in odd]
    r = fd.fit_kernel(*odd[:2], 3, init=odd[2], max_steps=20)
    np.testing.assert_array_equal(r.kernel, expected.kernel)
    for a, b in zip(odd, kept):
        np.testing.assert_array_equal(a, b)


# -- the start ----------------------------------------------------------------------------------


@pytest.mark.quick
def test_init():
    x, _, _, y = synthetic((2, 3, 6, 6), (3, 3, 4, 4), "float32", stride=2, padding=1)

    def start(init, seed=0):
        return fd.fit_kernel(x, y, 4, stride=2, padding=1, init=init, seed=seed, max_steps=0).kernel

    assert not start("zeros").any()
    assert start("normal").std() == pytest.approx(1 / np.sqrt(3 * 4), rel=0.2)
    assert not np.array_equal(start("normal", 0), start("normal", 1))
    own = np.arange(144, dtype="float32").reshape(3, 3, 4, 4)
    np.testing.assert_array_equal(start(own), own)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(4, 2, 1), (3, 2, 1), (5, 1, 2), (18, 2, 8), ((6, 4), (3, 2), (2, 1))]
)
def test_bilinear_init_keeps_a_constant_and_a_ramp(kernel, stride, padding):
    ramp = np.add.outer(np.arange(20.0), 2 * np.arange(20.0))
    x = np.stack([np.ones((20, 20)), ramp])
    size = [19 * s - 2 * p + k for s, p, k in zip(*(np.broadcast_to(v, 2) for v in (stride, padding, kernel)))]
    w = fd.fit_kernel(x, np.zeros((2, *size)), kernel, stride=stride, padding=padding, init="bilinear", max_steps=0)
    inside = fd.conv_transpose2d(x, w.kernel, stride=stride, padding=padding)[:, 8:-8, 8:-8]
    np.testing.assert_allclose(inside[0], 1, rtol=1e-12)
    sy, sx = np.broadcast_to(stride, 2)
    np.testing.assert_allclose(np.diff(inside[1], axis=0), 1 / sy, rtol=1e-9)
    np.testing.assert_allclose(np.diff(inside[1], axis=1), 2 / sx, rtol=1e-9)


# -- when it stops ------------------------------------------------------------------------------


def smooth_signal(roughness, dtype):
    """A nearly constant signal, whose taps are nearly alike: the condition number goes with 1 / roughness²."""
    rng = np.random.default_rng(0)
    x = (1 + roughness * rng.standard_normal(40)).astype(dtype)
    y = rng.random(38).astype(dtype)
    taps = np.stack([fd.conv_transpose1d(x.astype(float), tap, padding=2) for tap in np.eye(3)], 1)
    least = float(np.mean((taps @ np.linalg.lstsq(taps, y.astype(float))[0] - y) ** 2))
    return x, y, least, np.linalg.cond(taps) ** 2


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov"])
@pytest.mark.parametrize(("dtype", "gap"), [("float32", 1e-5), ("float64", 1e-12)])
def test_the_default_tol_stops_no_slow_run_before_the_minimum(dtype, gap, optimizer):
    x, y, least, condition = smooth_signal(0.1, dtype)
    assert condition > 500
    r = fd.fit_kernel(x, y, (3,), padding=2, optimizer=optimizer, max_steps=20_000)
    assert r.converged
    assert r.loss - least < gap * least
    assert "fell by nothing in 100 steps" in r.message


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", ["sgd", "nesterov", optim.SGD(momentum=0.99)])
def test_the_default_tol_stops_no_very_slow_run(dtype, optimizer):
    x, y, least, condition = smooth_signal(0.003, dtype)
    assert condition > 1e5
    r = fd.fit_kernel(x, y, (3,), padding=2, optimizer=optimizer, max_steps=3000)
    assert (r.converged, r.message) == (False, "stopped at max_steps=3000, with the loss still falling")
    assert r.loss > 1.01 * least
    assert r.history[-1] < r.history[-200]


@pytest.mark.quick
def test_an_explicit_tol_stops_earlier_the_larger_it_is():
    x, y, _, _ = smooth_signal(0.1, "float64")
    steps = [fd.fit_kernel(x, y, (3,), padding=2, tol=tol, max_steps=20_000) for tol in (1e-2, 1e-4, 1e-6)]
    assert all(r.converged for r in steps)
    assert steps[0].n_iter < steps[1].n_iter < steps[2].n_iter < 20_000
    for r, tol in zip(steps, (1e-2, 1e-4, 1e-6)):
        assert f"tol={tol:g}" in r.message
        assert r.history[-101] - r.history[-1] <= tol * r.history[-101]
        assert r.history[-102] - r.history[-2] > tol * r.history[-102]


@pytest.mark.quick
def test_a_decaying_schedule_runs_to_its_end_unless_tol_is_given():
    x, _, _, y = synthetic((2, 1, 6, 6), (1, 1, 3, 3))
    r = fd.fit_kernel(x, y, 3, schedule="cosine", max_steps=600, l2=1.0)
    assert (r.n_iter, r.message) == (600, "stopped at max_steps=600")
    early = fd.fit_kernel(x, y, 3, schedule="cosine", max_steps=600, tol=1e-3, patience=5, l2=1.0)
    assert early.converged
    assert early.n_iter < 300


@pytest.mark.quick
def test_steps_that_are_too_long_to_settle_are_no_convergence():
    x, _, _, y = synthetic((2, 1, 6, 6), (1, 1, 3, 3))
    r = fd.fit_kernel(x, y, 3, loss="l1", learning_rate=0.5, schedule="constant", patience=50)
    assert not r.converged
    assert "Use a learning_rate below 0.5" in r.message
    assert r.loss == r.history.min() < r.history[-1]


@pytest.mark.quick
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("learning_rate", [5.0, 1e30])
@pytest.mark.parametrize("optimizer", ["sgd", "nesterov"])
def test_divergence_stops_with_the_best_kernel(optimizer, learning_rate, dtype):
    x, w, _, y = synthetic((2, 1, 6, 6), (1, 1, 3, 3), dtype)
    start = (w + 0.1).astype(dtype)
    r = fd.fit_kernel(x, y, 3, init=start, optimizer=optimizer, learning_rate=learning_rate)
    assert not r.converged
    assert r.n_iter < 100
    assert r.message.startswith(f"diverged: the loss is {r.history[-1]:.3g} at step {r.n_iter}")
    assert "Use a learning_rate below" in r.message
    np.testing.assert_array_equal(r.kernel, start)
    assert r.loss == r.history[0] == r.history.min()


@pytest.mark.quick
def test_divergence_in_batches():
    x, _, _, y = synthetic((9, 1, 6, 6), (1, 1, 3, 3))
    r = fd.fit_kernel(x, y, 3, batch_size=2, learning_rate=50.0)
    assert r.message.startswith("diverged: the loss is")
    assert (r.loss, r.kernel.any()) == (r.history[0], False)


@pytest.mark.quick
def test_data_too_large_for_the_dtype_is_refused():
    x, _, _, y = synthetic((2, 1, 6, 6), (1, 1, 3, 3), "float32")
    with pytest.raises(ValueError, match="x must be small enough to be squared in float32"):
        fd.fit_kernel(np.float32(1e25) * x, y, 3)


@pytest.mark.quick
def test_a_start_that_overflows_is_divergence_too():
    x, _, _, y = synthetic((2, 1, 6, 6), (1, 1, 3, 3), "float32")
    r = fd.fit_kernel(x, y, 3, init=np.full((1, 1, 3, 3), 1e30, "float32"), learning_rate=0.1)
    assert r.message.startswith("diverged: the loss is inf at step 0")
    assert (r.n_iter, r.loss) == (0, np.inf)


@pytest.mark.quick
def test_a_loss_of_zero_stops_at_once():
    x, w, _, y = synthetic((2, 1, 6, 6), (1, 1, 3, 3))
    assert fd.fit_kernel(x, y, 3, init=w).n_iter == 0
    for optimizer in ("sgd", "adam"):
        r = fd.fit_kernel(0 * x, 0 * y, 3, optimizer=optimizer)
        assert (r.converged, r.n_iter, r.loss) == (True, 0, 0.0)
    blind = fd.fit_kernel(0 * x, y, 3)
    assert (blind.converged, blind.n_iter) == (True, 100)


@pytest.mark.quick
def test_max_seconds():
    x, y, _, _ = smooth_signal(0.003, "float64")
    before = time.perf_counter()
    r = fd.fit_kernel(x, y, (3,), padding=2, max_steps=10**9, max_seconds=0.3, bias=True)
    assert 0.3 <= r.seconds <= time.perf_counter() - before < 3
    assert r.message == f"stopped at max_seconds=0.3, at step {r.n_iter}"
    assert len(r.history) == r.n_iter + 1
    batches = np.tile(x, (50, 1, 1)), np.tile(y, (50, 1, 1))
    r = fd.fit_kernel(*batches, (3,), padding=2, max_steps=10**9, max_seconds=0.3, batch_size=1)
    assert r.seconds < 3
    assert r.message.startswith("stopped at max_seconds=0.3")


@pytest.mark.quick
def test_the_callback_sees_every_loss_and_may_stop(textbook):
    w, x, y_true = textbook
    seen = []

    def callback(state):
        seen.append((state.step, state.loss, state.kernel.copy(), state.bias.copy(), state.learning_rate))
        with pytest.raises(ValueError, match="read-only"):
            state.kernel[0, 0] = 1
        return state.step == 7

    settings = {"padding": 1, "init": w, "bias": True, "learning_rate": 0.1, "schedule": lambda step: 1 / (step + 1)}
    r = fd.fit_kernel(x, y_true, 3, callback=callback, **settings)
    assert [s[0] for s in seen] == list(range(8))
    assert [s[1] for s in seen] == list(r.history)
    np.testing.assert_array_equal(seen[-1][2], r.kernel)
    np.testing.assert_array_equal(seen[-1][3], r.bias)
    assert [s[4] for s in seen] == pytest.approx([0.1 / n for n in range(1, 9)])
    assert (r.n_iter, r.message, r.converged) == (7, "stopped by the callback at step 7", False)
    go_on = fd.fit_kernel(x, y_true, 3, padding=1, max_steps=5, callback=lambda state: state.loss)
    assert go_on.n_iter == 5


@pytest.mark.quick
def test_an_interrupt_gets_through(textbook):
    w, x, y_true = textbook
    kept = w.copy()

    def callback(state):
        if state.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fd.fit_kernel(x, y_true, 3, padding=1, init=w, callback=callback, progress=False)
    np.testing.assert_array_equal(w, kept)


# -- batches and seeds --------------------------------------------------------------------------


@pytest.mark.quick
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_batches_learn_and_repeat_to_the_bit(dtype):
    x, w, b, y = synthetic((22, 2, 8, 8), (2, 2, 3, 3), dtype, bias=True)
    y += 0.01 * np.random.default_rng(8).standard_normal(y.shape).astype(dtype)
    settings = {"bias": True, "batch_size": 5, "optimizer": "nesterov", "max_steps": 302, "init": "normal"}
    r, again, other = (fd.fit_kernel(x, y, 3, seed=seed, **settings) for seed in (4, 4, 5))
    assert off(r.kernel, w) < 2e-3
    assert off(r.bias, b) < 2e-3
    assert r.n_iter == 302
    assert len(r.history) == 62, "the start, 60 passes of 5 steps, and one cut short"
    assert r.kernel.tobytes() == again.kernel.tobytes()
    assert r.bias.tobytes() == again.bias.tobytes()
    np.testing.assert_array_equal(r.history, again.history)
    assert not np.array_equal(r.kernel, other.kernel)


@pytest.mark.quick
def test_full_batches_repeat_to_the_bit():
    x, _, _, y = synthetic((3, 2, 8, 8), (2, 2, 3, 3), "float32")
    runs = [fd.fit_kernel(x, y, 3, init="normal", seed=3, max_steps=50) for _ in range(2)]
    assert runs[0].kernel.tobytes() == runs[1].kernel.tobytes()
    np.testing.assert_array_equal(runs[0].history, runs[1].history)
    whole = fd.fit_kernel(x, y, 3, init="normal", seed=3, max_steps=50, batch_size=3)
    assert runs[0].kernel.tobytes() == whole.kernel.tobytes()


# -- the automatic rate -------------------------------------------------------------------------


@pytest.mark.quick
@pytest.mark.parametrize("shift", [0.0, 1.0, 10.0])
@pytest.mark.parametrize("bias", [False, True])
def test_the_curvature_is_the_hessians(bias, shift):
    rng = np.random.default_rng(2)
    x, y = shift + rng.standard_normal((2, 2, 6, 7)), np.zeros((2, 2, 8, 9))
    parameters = {"stride": 1, "padding": 0, "output_padding": 0, "groups": 1, "dilation": 1}
    objective = Objective(x, y, 3, parameters, as_loss("mse"), 0.0, 0.25, {"device": None, "algorithm": None})
    w, b = np.zeros((2, 2, 3, 3)), np.zeros(2) if bias else None
    columns = [fd.conv_transpose2d(x, tap.reshape(w.shape)).ravel() for tap in np.eye(w.size)]
    if bias:
        columns += [fd.conv_transpose2d(x, w, tap).ravel() for tap in np.eye(2)]
    a = np.stack(columns, 1)
    true = np.linalg.eigvalsh(2 / y.size * a.T @ a)[-1] + 0.5
    assert 0.97 * true < objective.curvature(w, b, None) <= true * (1 + 1e-9)


# -- the result ---------------------------------------------------------------------------------


@pytest.mark.quick
def test_the_result_is_a_mapping_with_attributes(textbook):
    _, x, y_true = textbook
    r = fd.fit_kernel(x, y_true, 3, padding=1)
    assert isinstance(r, fd.FitResult)
    assert r["kernel"] is r.kernel
    assert set(r) == {"kernel", "bias", "loss", "history", "converged", "message", "n_iter", "seconds",
                      "learning_rate", "output_padding"}  # fmt: skip
    assert set(r) <= set(dir(r))
    assert r.history.dtype == np.float64
    assert r.loss == r.history.min()
    text = repr(r)
    assert "converged: True" in text
    assert f"loss: {r.loss:.6g}" in text
    assert max(map(len, text.splitlines())) < 120
    with pytest.raises(AttributeError, match="FitResult has no 'weights'; it has kernel, bias"):
        _ = r.weights
    for twin in (copy.deepcopy(r), pickle.loads(pickle.dumps(r))):
        assert type(twin) is fd.FitResult
        np.testing.assert_array_equal(twin.kernel, r.kernel)
        assert repr(twin) == text


# -- the progress bar ---------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.quick
@pytest.mark.parametrize(
    ("progress", "stderr", "shown"),
    [(None, Terminal, True), (None, io.StringIO, False), (False, Terminal, False), (True, io.StringIO, True)],
)
def test_the_bar_shows_on_a_terminal_or_when_asked(monkeypatch, textbook, progress, stderr, shown):
    pytest.importorskip("tqdm")
    _, x, y_true = textbook
    stream = stderr()
    monkeypatch.setattr(sys, "stderr", stream)
    fd.fit_kernel(x, y_true, 3, padding=1, max_steps=40, tol=0, progress=progress)
    assert ("fit_kernel" in stream.getvalue()) is shown
    assert ("40/40" in stream.getvalue()) is shown


@pytest.mark.quick
def test_no_bar_without_tqdm(monkeypatch, textbook):
    _, x, y_true = textbook
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert fd.fit_kernel(x, y_true, 3, padding=1, max_steps=2).n_iter == 2
    with pytest.raises(ImportError, match="progress=True needs tqdm: pip install tqdm"):
        fd.fit_kernel(x, y_true, 3, padding=1, max_steps=2, progress=True)
    monkeypatch.setattr(sys, "stderr", None)
    assert fd.fit_kernel(x, y_true, 3, padding=1, max_steps=2).n_iter == 2


@pytest.mark.quick
def test_importing_brings_in_nothing_heavy():
    code = "import sys, fastdeconv; print(*(m for m in ('tqdm', 'torch', 'skimage', 'scipy.optimize') if m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


# -- what it refuses ----------------------------------------------------------------------------

X, Y = np.ones((2, 4, 6, 6)), np.ones((2, 2, 8, 8))
BAD = [
    ("x", [[1.0]], TypeError, "x must be a NumPy array"),
    ("x", np.ma.masked_array(X), TypeError, "x must have no mask"),
    ("x", X.astype(int), TypeError, "x and y_true must"),
    ("x", X.astype("float32"), TypeError, "x is float32, y_true is float64"),
    ("x", X.astype("float16"), TypeError, "x and y_true must"),
    ("x", np.ones((3, 4, 6, 6)), ValueError, r"one batch size; got shapes \(3, 4, 6, 6\) and \(2, 2, 8, 8\)"),
    ("x", np.ones((4, 6, 6)), ValueError, r"same number of axes; got shapes \(4, 6, 6\) and"),
    ("x", np.ones((0, 4, 6, 6)), ValueError, r"x must hold at least one element; got shape \(0, 4, 6, 6\)"),
    ("x", np.where(np.arange(6) == 3, np.nan, X), ValueError, r"x must be finite; got nan at index \(0, 0, 0, 3\)"),
    ("y_true", np.where(np.arange(8) == 1, np.inf, Y), ValueError, r"y_true must be finite; got inf at index"),
    (
        "y_true",
        np.ones((2, 2, 9, 8)),
        ValueError,
        r"the size of y_true must be from \(8, 8\) to \(8, 8\).*got \(9, 8\)",
    ),
    ("y_true", None, TypeError, "y_true must be a NumPy array"),
    ("kernel_size", 0, ValueError, "kernel_size must be at least 1"),
    ("kernel_size", 3.0, TypeError, "kernel_size must be an int or a tuple of 2 ints; got 3.0"),
    ("kernel_size", (3, 3, 3, 3), ValueError, r"kernel_size must be an int or a tuple of 1, 2 or 3 ints"),
    ("kernel_size", (3,), ValueError, r"x must have 1, 2 or 3 axes with kernel_size=\(3,\); got shape"),
    ("kernel_size", "3", TypeError, "kernel_size must be"),
    ("stride", 0, ValueError, "stride must be at least 1"),
    ("stride", (1, 1, 1), ValueError, "stride must be an int or a tuple of 2 ints"),
    ("padding", -1, ValueError, "padding must be at least 0"),
    ("padding", 9, ValueError, "padding|the size of y_true"),
    ("output_padding", 1, ValueError, "the size of y_true .* asks for output_padding"),
    ("groups", 0, ValueError, "groups must be at least 1.* got 0"),
    ("groups", 3, ValueError, "groups must divide"),
    ("groups", 4, ValueError, "groups must divide y_true's 2 channels; got groups = 4"),
    ("groups", 1.5, TypeError, "groups must be an int"),
    ("dilation", 2, ValueError, "the size of y_true must be from"),
    ("loss", "cosine", ValueError, "loss must be one of"),
    ("loss", losses.Huber, TypeError, "got Huber, a class: call it"),
    ("optimizer", "lbfgs", ValueError, "optimizer must be one of"),
    ("optimizer", None, TypeError, "optimizer must be one of"),
    ("learning_rate", 0, ValueError, "learning_rate must be a positive number; got 0"),
    ("learning_rate", "fast", TypeError, "learning_rate must be a positive number; got 'fast'"),
    ("learning_rate", np.array([0.1]), TypeError, "learning_rate must be a positive number"),
    ("schedule", "linear", ValueError, "schedule must be one of"),
    ("schedule", 3, TypeError, "schedule must be one of"),
    ("schedule", lambda step: -1.0, ValueError, "schedule must be .* got -1.0, as its factor at step 0"),
    ("schedule", lambda step: None, TypeError, "schedule must be .* got None"),
    ("l1", -0.1, ValueError, "l1 must be a number of at least 0; got -0.1"),
    ("l1", None, TypeError, "l1 must be a number of at least 0; got None"),
    ("l2", float("nan"), ValueError, "l2 must be a number of at least 0; got nan"),
    ("max_steps", -1, ValueError, "max_steps must be at least 0; got -1"),
    ("max_steps", 1e3, TypeError, "max_steps must be an int; got 1000.0"),
    ("max_seconds", -1, ValueError, "max_seconds must be a number of at least 0; got -1"),
    ("tol", -1e-3, ValueError, "tol must be a number of at least 0; got -0.001"),
    ("tol", "small", TypeError, "tol must be a number of at least 0; got 'small'"),
    ("patience", 0, ValueError, "patience must be at least 1; got 0"),
    ("batch_size", 0, ValueError, "batch_size must be at least 1; got 0"),
    ("batch_size", 3, ValueError, "batch_size must be at most the 2 images of x; got 3"),
    ("init", "random", ValueError, 'init must be "zeros", "normal", "bilinear" or an array; got \'random\''),
    ("init", "bilinear", ValueError, "y_true must have x's 4 channels; got 2"),
    ("init", np.ones((3, 3)), ValueError, r"init must have the kernel's shape \(4, 2, 3, 3\); got \(3, 3\)"),
    ("init", np.ones((4, 2, 3, 3), "float32"), TypeError, "init must have x's dtype float64; got float32"),
    ("init", np.full((4, 2, 3, 3), np.nan), ValueError, "init must be finite; got nan"),
    ("init", None, TypeError, "init must be a NumPy array"),
    ("bias", np.zeros(2), TypeError, "bias must be True or False"),
    ("bias", 1, TypeError, "bias must be True or False; got 1"),
    ("seed", -1, ValueError, "seed must be at least 0; got -1"),
    ("seed", 1.5, TypeError, "seed must be an int; got 1.5"),
    ("seed", None, TypeError, "seed must be an int; got None"),
    ("progress", "yes", TypeError, "progress must be True or False; got 'yes'"),
    ("callback", 3, TypeError, "callback must be callable; got 3"),
    ("device", "tpu", ValueError, "device must be"),
    ("algorithm", "magic", ValueError, "algorithm must be one of"),
]


@pytest.mark.quick
@pytest.mark.parametrize(("name", "value", "error", "message"), BAD, ids=[f"{i}-{row[0]}" for i, row in enumerate(BAD)])
def test_bad_input(name, value, error, message):
    arguments = {"x": X, "y_true": Y, "kernel_size": 3, "max_steps": 2, name: value}
    with pytest.raises(error, match=message):
        fd.fit_kernel(**arguments)


@pytest.mark.quick
def test_two_learning_rates_are_one_too_many():
    with pytest.raises(ValueError, match=r"learning_rate must be given once; got 0.1 and 0.2 in the optimizer"):
        fd.fit_kernel(X, Y, 3, learning_rate=0.1, optimizer=optim.SGD(0.2))
