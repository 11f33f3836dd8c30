"""When `fit_kernel` stops, and what it says then."""

from __future__ import annotations

import time

import numpy as np
import pytest
from fitting import smooth_signal, synthetic, textbook

import fastdeconv as fd
from fastdeconv import optim


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
def test_the_callback_sees_every_loss_and_may_stop():
    w, x, y_true = textbook()
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
def test_an_interrupt_gets_through():
    w, x, y_true = textbook()
    kept = w.copy()

    def callback(state):
        if state.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fd.fit_kernel(x, y_true, 3, padding=1, init=w, callback=callback, progress=False)
    np.testing.assert_array_equal(w, kept)
