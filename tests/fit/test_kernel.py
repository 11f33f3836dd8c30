"""`fit_kernel`: what it learns, batches and seeds, its result and its progress bar."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys

import numpy as np
import pytest
from fitting import off, synthetic, textbook

import fastdeconv as fd
from fastdeconv import optim

# -- what it learns ------------------------------------------------------------------------------


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
def test_the_textbook_flow():
    w, x, y_true = textbook()
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


# -- batches and seeds ---------------------------------------------------------------------------


@pytest.mark.quick
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_batches_learn_and_repeat_to_the_bit(dtype):
    x, w, b, y = synthetic((22, 2, 8, 8), (2, 2, 3, 3), dtype, bias=True)
    y += 0.01 * np.random.default_rng(8).standard_normal(y.shape).astype(dtype)
    settings = {"bias": True, "batch_size": 5, "optimizer": "nesterov", "max_steps": 302}
    r, again, other = (fd.fit_kernel(x, y, 3, seed=seed, **settings) for seed in (4, 4, 5))
    assert off(r.kernel, w) < 2e-3
    assert off(r.bias, b) < 2e-3
    assert r.n_iter == 302
    assert len(r.history) == 62, "the start, 60 passes of 5 steps, and one cut short"
    assert r.kernel.tobytes() == again.kernel.tobytes()
    assert r.bias.tobytes() == again.bias.tobytes()
    np.testing.assert_array_equal(r.history, again.history)
    assert not np.array_equal(r.kernel, other.kernel), "the seed orders the batches"


@pytest.mark.quick
def test_full_batches_repeat_to_the_bit():
    x, _, _, y = synthetic((3, 2, 8, 8), (2, 2, 3, 3), "float32")
    runs = [fd.fit_kernel(x, y, 3, init="normal", seed=3, max_steps=50) for _ in range(2)]
    assert runs[0].kernel.tobytes() == runs[1].kernel.tobytes()
    np.testing.assert_array_equal(runs[0].history, runs[1].history)
    whole = fd.fit_kernel(x, y, 3, init="normal", seed=3, max_steps=50, batch_size=3)
    assert runs[0].kernel.tobytes() == whole.kernel.tobytes()


# -- the result ----------------------------------------------------------------------------------


@pytest.mark.quick
def test_the_result_is_a_mapping_with_attributes():
    _, x, y_true = textbook()
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


# -- the progress bar ----------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.quick
@pytest.mark.parametrize(
    ("progress", "stderr", "shown"),
    [(None, Terminal, True), (None, io.StringIO, False), (False, Terminal, False), (True, io.StringIO, True)],
)
def test_the_bar_shows_on_a_terminal_or_when_asked(monkeypatch, progress, stderr, shown):
    pytest.importorskip("tqdm")
    _, x, y_true = textbook()
    stream = stderr()
    monkeypatch.setattr(sys, "stderr", stream)
    fd.fit_kernel(x, y_true, 3, padding=1, max_steps=40, tol=0, progress=progress)
    assert ("fit_kernel" in stream.getvalue()) is shown
    assert ("40/40" in stream.getvalue()) is shown


@pytest.mark.quick
def test_no_bar_without_tqdm(monkeypatch):
    _, x, y_true = textbook()
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert fd.fit_kernel(x, y_true, 3, padding=1, max_steps=2).n_iter == 2
    with pytest.raises(ImportError, match="progress=True needs tqdm: pip install tqdm"):
        fd.fit_kernel(x, y_true, 3, padding=1, max_steps=2, progress=True)
    monkeypatch.setattr(sys, "stderr", None)
    assert fd.fit_kernel(x, y_true, 3, padding=1, max_steps=2).n_iter == 2


@pytest.mark.quick
def test_importing_brings_in_nothing_heavy():
    code = "import sys, fastdeconv; print(*(m for m in ('tqdm', 'torch', 'skimage') if m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


def test_a_plateau_is_given_the_loss():
    rng = np.random.default_rng(0)
    rates = []
    fd.fit_kernel(
        rng.random((6, 6)), rng.random((6, 6)), 3, padding=1, optimizer="adam", max_steps=400,
        schedule=optim.Plateau(0.5, patience=3), callback=lambda state: rates.append(state.learning_rate),
    )  # fmt: skip
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < rates[0]
