"""Schedules against torch.optim.lr_scheduler, and against their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fastdeconv import optim
from fastdeconv.optim import Cosine, Plateau, StepDecay, Warmup


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (StepDecay(3, 0.5), lambda torch, o: torch.optim.lr_scheduler.StepLR(o, 3, 0.5)),
        (Cosine(12), lambda torch, o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 12)),
        (Cosine(12, floor=0.1), lambda torch, o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 12, eta_min=0.1)),
        (Warmup(5), lambda torch, o: torch.optim.lr_scheduler.LinearLR(o, 1 / 6, total_iters=5)),
    ],
)
def test_schedules_against_torch(ours, theirs):
    torch = pytest.importorskip("torch")
    other = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = theirs(torch, other)
    for step in range(12):
        assert ours(step) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-12, abs=1e-15)
        other.step()
        scheduler.step()


PLATEAUS = {
    "defaults": ({}, {}),
    "max": ({"mode": "max", "patience": 3}, {}),
    "absolute": ({"threshold_mode": "abs", "threshold": 0.05, "patience": 1}, {}),
    "max_absolute": ({"mode": "max", "threshold_mode": "abs", "threshold": 0.05, "patience": 1}, {}),
    "relative": ({"threshold": 0.1, "patience": 2}, {}),
    "cooldown": ({"cooldown": 4, "patience": 0}, {}),
    "floor": ({"patience": 0}, {"reduction": 0.3, "floor": 0.2}),
}


def metrics(name):
    """Values that get better in the mean, with noise, standstills and a NaN."""
    rng = np.random.default_rng(list(PLATEAUS).index(name))
    values = np.exp(-np.arange(80) / 30) + 0.1 * rng.random(80)
    values[20:40] = values[20]
    values[45] = np.nan
    return 1 - values if PLATEAUS[name][0].get("mode") == "max" else values


@pytest.mark.parametrize("name", list(PLATEAUS))
def test_plateau_against_torch(name):
    torch = pytest.importorskip("torch")
    options, ours = PLATEAUS[name]
    plateau = Plateau(**options, **ours)
    other = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        other, factor=ours.get("reduction", 0.1), min_lr=ours.get("floor", 0.0), eps=0, **options
    )
    for metric in metrics(name):
        plateau.observe(metric)
        theirs.step(metric)
        assert plateau.factor == other.param_groups[0]["lr"]
    assert plateau.factor < 1


@pytest.mark.quick
@pytest.mark.parametrize("name", list(PLATEAUS))
def test_plateau_goes_on_from_its_state(name):
    options, ours = PLATEAUS[name]
    whole, parts, factors = Plateau(**options, **ours), Plateau(**options, **ours), set()
    for metric in metrics(name):
        state = parts.state_dict()
        assert all(isinstance(each, np.ndarray) for each in state.values())
        parts = Plateau(**options, **ours)
        parts.load_state_dict(state)
        for each in (whole, parts):
            each.observe(metric)
        assert parts.factor == whole.factor == whole(3)
        factors.add(whole.factor)
    assert len(factors) > 1


@pytest.mark.quick
def test_plateau_by_hand():
    plateau = Plateau(0.5, patience=1)
    seen = []
    for metric in (1.0, 0.9, 0.9, 0.9, 0.9, 0.9, 0.1):
        plateau.observe(metric)
        seen.append(plateau.factor)
    assert seen == [1, 1, 1, 0.5, 0.5, 0.25, 0.25]
    assert repr(plateau).startswith("Plateau(0.5, mode='min', patience=1, threshold=0.0001,")


@pytest.mark.quick
def test_warmup_before_another_schedule():
    schedule = Warmup(4, StepDecay(2, 0.5))
    assert [schedule(step) for step in range(9)] == [0.2, 0.4, 0.6, 0.8, 1, 1, 0.5, 0.5, 0.25]
    assert Warmup(0)(0) == 1


@pytest.mark.quick
def test_cosine_with_warmup():
    schedule = Cosine(110, warmup=10, floor=0.2)
    factors = [schedule(step) for step in range(130)]
    np.testing.assert_allclose(np.diff(factors[:10]), 1 / 11)
    assert 0 < factors[0] < factors[9] < factors[10] == 1
    assert factors[60] == pytest.approx(0.6)
    assert (np.diff(factors[10:110]) < 0).all()
    np.testing.assert_allclose(factors[110:], 0.2)


@pytest.mark.quick
def test_names():
    assert [optim.as_schedule("step", 90)(step) for step in (0, 29, 30, 60)] == pytest.approx([1, 1, 0.1, 0.01])
    assert optim.as_schedule("cosine", 90) == Cosine(90)
    assert optim.as_schedule("warmup_cosine", 100) == Cosine(100, warmup=5)
    assert optim.as_schedule("warmup", 100) == Warmup(5)
    assert repr(optim.as_schedule("plateau", 100)) == repr(Plateau())
    assert optim.as_schedule("constant", 5) is optim.constant
    assert optim.as_schedule(math.cos, 5) is math.cos


@pytest.mark.quick
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: StepDecay(0), ValueError, "every must be at least 1; got 0"),
        (lambda: StepDecay(2.5), TypeError, "every must be an int; got 2.5"),
        (lambda: StepDecay(2, 0), ValueError, "factor must be a positive number; got 0"),
        (lambda: Cosine(0), ValueError, "steps must be at least 1; got 0"),
        (lambda: Cosine(5, warmup=5), ValueError, "warmup must be from 0 to below steps=5; got 5"),
        (lambda: Cosine(5, floor=1.5), ValueError, "floor must be from 0 to 1; got 1.5"),
        (lambda: Warmup(-1), ValueError, "steps must be at least 0; got -1"),
        (lambda: Warmup(3, Cosine), TypeError, "then must be a schedule, such as .* or None; got <class"),
        (lambda: Plateau(1.0), ValueError, "reduction must be above 0 and below 1; got 1.0"),
        (lambda: Plateau(0), ValueError, "reduction must be a positive number; got 0"),
        (lambda: Plateau(mode="least"), ValueError, 'mode must be "min" or "max"; got \'least\''),
        (lambda: Plateau(patience=-1), ValueError, "patience must be at least 0; got -1"),
        (lambda: Plateau(cooldown=1.5), TypeError, "cooldown must be an int; got 1.5"),
        (lambda: Plateau(threshold=-1), ValueError, "threshold must be a number of at least 0; got -1"),
        (lambda: Plateau(threshold_mode="both"), ValueError, "threshold_mode must be .*; got 'both'"),
        (lambda: Plateau(floor=2), ValueError, "floor must be from 0 to 1; got 2"),
        (lambda: Plateau().observe("0.1"), TypeError, "metric must be a number; got '0.1' of type str"),
        (lambda: Plateau().load_state_dict({}), ValueError, "'factor' is missing; 'best' is missing"),
        (lambda: optim.as_schedule("linear", 5), ValueError, "schedule must be one of \"constant\", .*; got 'linear'"),
        (lambda: optim.as_schedule(0.1, 5), TypeError, "or a callable that takes a step .*; got 0.1"),
        (lambda: optim.as_schedule(Cosine, 5), TypeError, "schedule must be one of"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
