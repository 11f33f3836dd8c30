"""Moving averages of weights against torch, their formula, and their state."""

from __future__ import annotations

import numpy as np
import pytest

from fastdeconv.optim import EMA

SHAPES = [(37, 61), (5,), ()]


def start(dtype="float32"):
    rng = np.random.default_rng(6)
    return rng, [rng.standard_normal(shape).astype(dtype) for shape in SHAPES]


def move(rng, parameters):
    for each in parameters:
        each += rng.standard_normal(each.shape).astype(each.dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_against_torch(dtype):
    torch = pytest.importorskip("torch")
    rng, parameters = start(dtype)
    average = EMA(0.9).start(parameters)
    step = torch.optim.swa_utils.get_ema_avg_fn(0.9)
    theirs = [torch.tensor(each) for each in parameters]
    for count in range(1, 6):
        move(rng, parameters)
        average.update()
        theirs = [step(mean, torch.tensor(each), count) for mean, each in zip(theirs, parameters)]
    for mean, other in zip(average.arrays, theirs):
        np.testing.assert_allclose(mean, other.numpy(), rtol=0, atol=20 * np.finfo(dtype).eps)


@pytest.mark.quick
def test_warmup():
    w = np.zeros(1)
    average = EMA(0.2, warmup=True).start([w])
    w[:] = 1
    kept = 1.0
    for decay in (1 / 10, 2 / 11, 0.2, 0.2):
        average.update()
        kept *= decay
        assert average.arrays[0] == pytest.approx(1 - kept)


@pytest.mark.quick
def test_starts_as_a_copy():
    _, parameters = start()
    average = EMA(0.5).start(iter(parameters))
    for mean, each in zip(average.arrays, parameters):
        np.testing.assert_array_equal(mean, each)
        assert not np.shares_memory(mean, each)
        assert mean.dtype == each.dtype


@pytest.mark.quick
def test_goes_on_from_its_state_to_the_bit():
    rng, parameters = start()
    rule = EMA(0.99, warmup=True)
    whole = rule.start(parameters)
    move(rng, parameters)
    whole.update()
    state = whole.state_dict()
    parts = rule.start(parameters)
    parts.load_state_dict(state)
    for _ in range(3):
        move(rng, parameters)
        for each in (whole, parts):
            each.update()
    assert parts.state_dict().keys() == {"step", "0", "1", "2"}
    for a, b in zip(whole.state_dict().values(), parts.state_dict().values()):
        np.testing.assert_array_equal(a, b)
    assert state["step"] == 1


@pytest.mark.quick
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: EMA(1.0), ValueError, "decay must be from 0 to below 1; got 1.0"),
        (lambda: EMA(0.9, warmup=1), TypeError, "warmup must be True or False; got 1"),
        (lambda: EMA(0.9).start([np.zeros(2), np.zeros(2, int)]), TypeError, r"parameters\[1\] must be float32 or"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
