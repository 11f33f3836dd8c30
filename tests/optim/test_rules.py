"""Update rules against torch.optim, step by step, and against their formulas."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from fastdeconv import optim
from fastdeconv.optim import SGD, Adam, AdamW, RMSprop

RULES = {
    "sgd": (SGD(0.05), "SGD", {}),
    "sgd_decay": (SGD(0.05, weight_decay=0.1), "SGD", {"weight_decay": 0.1}),
    "momentum": (SGD(0.05, momentum=0.9), "SGD", {"momentum": 0.9}),
    "momentum_dampening": (
        SGD(0.05, momentum=0.8, dampening=0.3, weight_decay=0.01),
        "SGD",
        {"momentum": 0.8, "dampening": 0.3, "weight_decay": 0.01},
    ),
    "nesterov": (SGD(0.05, momentum=0.9, nesterov=True), "SGD", {"momentum": 0.9, "nesterov": True}),
    "adam": (Adam(0.03), "Adam", {}),
    "adam_parameters": (
        Adam(0.03, betas=(0.7, 0.95), eps=1e-3, weight_decay=0.1),
        "Adam",
        {"betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.1},
    ),
    "amsgrad": (Adam(0.03, betas=(0.9, 0.5), amsgrad=True), "Adam", {"betas": (0.9, 0.5), "amsgrad": True}),
    "adamw": (AdamW(0.03), "AdamW", {}),
    "adamw_parameters": (AdamW(0.03, weight_decay=0.3, amsgrad=True), "AdamW", {"weight_decay": 0.3, "amsgrad": True}),
    "rmsprop": (RMSprop(0.02), "RMSprop", {}),
    "rmsprop_parameters": (
        RMSprop(0.02, alpha=0.8, eps=1e-4, momentum=0.7, weight_decay=0.1),
        "RMSprop",
        {"alpha": 0.8, "eps": 1e-4, "momentum": 0.7, "weight_decay": 0.1},
    ),
    "rmsprop_centered": (RMSprop(0.02, centered=True), "RMSprop", {"centered": True}),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", list(RULES))
def test_against_torch_step_by_step(name, dtype):
    torch = pytest.importorskip("torch")
    rule, theirs, parameters = RULES[name]
    rng = np.random.default_rng(3)
    w = rng.standard_normal((37, 61)).astype(dtype)  # more than two blocks, and no whole number of vectors
    leaf = torch.tensor(w, requires_grad=True)
    other = getattr(torch.optim, theirs)([leaf], lr=rule.learning_rate, **parameters)
    step = rule.start(w)
    for count in range(1, 31):
        gradient = (rng.standard_normal(w.shape) * rng.choice([0.0, 0.1, 10.0], w.shape)).astype(dtype)
        kept = gradient.copy()
        leaf.grad = torch.tensor(gradient)
        other.step()
        step(gradient)
        np.testing.assert_array_equal(gradient, kept)
        wanted = leaf.detach().numpy()
        size = max(1, abs(wanted).max())
        np.testing.assert_allclose(w, wanted, rtol=0, atol=2 * count * np.finfo(dtype).eps * size)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["sgd", "momentum_dampening", "adam", "adamw", "rmsprop_parameters"])
def test_l1_is_the_penalty_of_a_loss_in_torch(name, dtype):
    torch = pytest.importorskip("torch")
    rule, theirs, parameters = RULES[name]
    rng = np.random.default_rng(4)
    w = rng.standard_normal(1500).astype(dtype)
    w[::7] = 0
    leaf = torch.tensor(w, requires_grad=True)
    other = getattr(torch.optim, theirs)([leaf], lr=rule.learning_rate, **parameters)
    update = replace(rule, l1=0.3).start(w)
    for _ in range(3):
        gradient = rng.standard_normal(w.shape).astype(dtype)
        gradient[::14] = 0  # so that weights of zero stay there
        other.zero_grad()
        ((leaf * torch.tensor(gradient)).sum() + 0.3 * leaf.abs().sum()).backward()
        other.step()
        update(gradient)
        np.testing.assert_allclose(w, leaf.detach().numpy(), rtol=0, atol=20 * np.finfo(dtype).eps)
    assert (w[::14] == 0).all()


@pytest.mark.quick
@pytest.mark.parametrize("name", list(RULES))
def test_descends_a_bowl(name):
    rule, _, _ = RULES[name]
    w = np.array([1.0, -2.0])
    step = rule.start(w)
    before = float(w @ w)
    for _ in range(400):
        step(2 * w)
    assert w @ w < 2e-3 * before


@pytest.mark.quick
def test_first_steps_by_hand():
    def first(rule, gradient=(4.0, -2.0)):
        w = np.array([1.0, 1.0])
        rule.start(w)(np.array(gradient))
        return w

    np.testing.assert_allclose(first(SGD(0.1)), [0.6, 1.2])
    np.testing.assert_allclose(first(SGD(0.1, momentum=0.5, nesterov=True)), [0.4, 1.3])
    np.testing.assert_allclose(first(Adam(0.1)), [0.9, 1.1])
    np.testing.assert_allclose(first(AdamW(0.1, weight_decay=0.5)), [0.85, 1.05])
    np.testing.assert_allclose(first(RMSprop(0.1)), [0.0, 2.0], atol=1e-7)


@pytest.mark.quick
def test_a_rule_starts_afresh_and_a_factor_scales_its_rate():
    rule = SGD(0.1, momentum=0.9)
    for _ in range(2):
        w = np.ones(1)
        step = rule.start(w)
        step(np.ones(1), 0.5)
        assert w == pytest.approx(0.95)
        step(np.ones(1), factor=0.0)
        assert w == pytest.approx(0.95)


@pytest.mark.quick
def test_names():
    assert optim.as_optimizer("momentum") == SGD(momentum=0.9)
    assert optim.as_optimizer("nesterov") == SGD(momentum=0.9, nesterov=True)
    for name, rule in {"sgd": SGD, "adam": Adam, "adamw": AdamW, "rmsprop": RMSprop}.items():
        assert optim.as_optimizer(name) == rule()
    rule = Adam(0.5)
    assert optim.as_optimizer(rule) is rule


@pytest.mark.quick
def test_memory_covers_the_running_means():
    assert SGD().memory == 10
    assert SGD(momentum=0.99).memory == 1000
    assert Adam().memory == 1000
    assert RMSprop().memory == 100


@pytest.mark.quick
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: SGD(0), ValueError, "learning_rate must be a positive number; got 0"),
        (lambda: SGD(-0.1), ValueError, "learning_rate must be a positive number; got -0.1"),
        (lambda: SGD(math.nan), ValueError, "learning_rate must be a positive number; got nan"),
        (lambda: SGD(math.inf), ValueError, "learning_rate must be a positive number; got inf"),
        (lambda: SGD("0.1"), TypeError, "learning_rate must be a positive number; got '0.1' of type str"),
        (lambda: SGD(True), TypeError, "learning_rate must be a positive number; got True"),
        (lambda: SGD(momentum=1.0), ValueError, "momentum must be from 0 to below 1; got 1.0"),
        (lambda: SGD(momentum=0.9, dampening=2), ValueError, "dampening must be from 0 to below 1; got 2"),
        (lambda: SGD(nesterov=True), ValueError, "nesterov=True needs momentum above 0 and dampening=0"),
        (lambda: SGD(momentum=0.9, nesterov=1), TypeError, "nesterov must be True or False; got 1"),
        (lambda: SGD(weight_decay=-1), ValueError, "weight_decay must be a number of at least 0; got -1"),
        (lambda: SGD(l1=-1), ValueError, "l1 must be a number of at least 0; got -1"),
        (lambda: Adam(betas=0.9), TypeError, "betas must be a pair of numbers; got 0.9"),
        (lambda: Adam(betas=(0.9, 1.0)), ValueError, "betas must be from 0 to below 1; got 1.0"),
        (lambda: Adam(eps=-1e-8), ValueError, "eps must be a number of at least 0; got -1e-08"),
        (lambda: AdamW(amsgrad="no"), TypeError, "amsgrad must be True or False; got 'no'"),
        (lambda: RMSprop(alpha=1.5), ValueError, "alpha must be from 0 to below 1; got 1.5"),
        (lambda: SGD().start(np.ones(1)), ValueError, r"learning_rate must be given: SGD\(learning_rate=0.01\)"),
        (lambda: optim.as_optimizer("lbfgs"), ValueError, "optimizer must be one of \"sgd\", .*; got 'lbfgs'"),
        (lambda: optim.as_optimizer(Adam), TypeError, "got Adam, a class: call it"),
        (lambda: optim.as_optimizer(0.1), TypeError, "got 0.1"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
