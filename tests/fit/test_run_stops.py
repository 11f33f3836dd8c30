"""When `fit` stops, what it says then, and which weights it leaves."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from training import Line, points

from fastdeconv.fit import TrainingState, fit, load

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("validated", [False, True])
@pytest.mark.parametrize("rate", [40.0, 1e300])
def test_divergence_stops_with_the_best_weights(tmp_path, validated, rate):
    x, y = points(6)
    seen = {0: Line().values()}
    # Good for three passes, then far too large.
    history = fit(
        model := Line(), (x, y), validation=(x, y) if validated else None, optimizer="sgd",
        learning_rate=rate, schedule=lambda step: 0.2 / rate if step < 6 else 1.0, batch_size=3, epochs=400,
        callbacks=lambda state: seen.update({state.step: state.model.values()}), restore_best=False,
        checkpoint=tmp_path / "run",
    )  # fmt: skip
    assert history.diverged
    assert history.best_step == 6 == history.step[int(history.loss.argmin())]
    assert model.values()[:2] == seen[6][:2]
    assert len(history) < 300
    assert history.message.startswith("diverged: the ")
    judged = "validation loss" if validated else "loss"
    assert f"the weights are those of step 6, with the lowest {judged}" in history.message
    assert f"Use a learning_rate below {rate:.3g}" in history.message
    state, _ = load(tmp_path / "run")
    assert float(state["weight"][0, 0]) == model.values()[0]


def test_divergence_in_the_first_pass_leaves_the_start():
    x, y = points(100)
    history = fit(model := Line(0.5), (x, y), optimizer="sgd", learning_rate=1e3, epochs=3, batch_size=1)
    assert (len(history), history.diverged, history.best_step) == (0, True, 0)
    assert model.values() == (0.5, 0.0, 0.0)
    assert "; the weights are those of the start. Use a learning_rate below 1e+03" in history.message


class Fragile(Line):
    """Its weights become NaN at a step, while the loss stays finite."""

    def __init__(self, at):
        super().__init__()
        self.at, self.count = at, 0

    def backward(self, grad_output):
        super().backward(grad_output)
        self.count += 1
        if self.count == self.at:
            self.weight.grad[...] = np.nan


@pytest.mark.parametrize("restore_best", [True, False])
def test_weights_that_become_nan_at_the_last_step_are_not_kept(restore_best):
    x, y = points(6)
    history = fit(model := Fragile(4), (x, y), max_steps=4, batch_size=3, learning_rate=0.1, restore_best=restore_best)
    assert history.diverged
    assert history.message.startswith("diverged: weights are no longer finite at step 4")
    assert history.best_step == 2
    assert np.isfinite(model.values()).all()
    validated = fit(Fragile(2), (x, y), validation=(x, y), epochs=3, batch_size=3)
    assert validated.message.startswith("diverged: the validation loss is nan at step 2")
    assert np.isnan(validated.validation_loss[-1])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", [0, 1])
def test_a_batch_with_nan_is_an_error_that_names_it(bad, where):
    batches = [points(3, seed=seed) for seed in range(3)]
    batches[2][where][1] = bad
    model = Line()
    name = ("x", "y_true")[where]
    with pytest.raises(
        ValueError, match=rf"{name} of batch 3 of pass 1 of data must be finite; got {bad} at index \(1, 0\)"
    ):
        fit(model, batches, epochs=2, learning_rate=0.1)
    assert np.isfinite(model.values()).all()


def test_max_seconds():
    x, y = points(8)
    before = time.perf_counter()
    history = fit(Line(), (x, y), max_seconds=0.2)
    assert 0.2 <= history.seconds[-1] <= time.perf_counter() - before < 2
    assert history.message.startswith(f"stopped at max_seconds=0.2, at step {history.step[-1]}")


@pytest.mark.parametrize("readings", range(10, 20))
def test_the_last_entry_is_not_before_max_seconds(readings, monkeypatch):
    # Whichever reading of the clock is the first after the end, entry and stop are from the same one.
    clock = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    history = fit(Line(), points(8), max_seconds=readings)
    assert history.seconds[-2] < readings <= history.seconds[-1]


def test_nothing_to_do():
    for end in ({"epochs": 0}, {"max_steps": 0}, {"max_seconds": 0}):
        history = fit(model := Line(3.0), points(4), **end)
        assert (len(history), model.values()[0], history.diverged) == (0, 3.0, False)
        assert "the weights are the last" in history.message


def test_the_first_end_that_is_reached_counts():
    x, y = points(8)
    assert fit(Line(), (x, y), epochs=3, max_steps=4, batch_size=4).message.startswith("stopped at max_steps=4")
    assert fit(Line(), (x, y), epochs=2, max_steps=4, batch_size=4).message.startswith("stopped at epochs=2")


def test_callbacks_see_each_step_and_may_stop():
    x, y = points(6)
    seen = []

    class Counter:
        def __call__(self, state):
            seen.append(state)
            with pytest.raises(AttributeError):
                state.step = 0
            state.model.eval()

    def stop(state):
        return state.step == 5 or "go on"

    history = fit(
        model := Line(), (x, y), batch_size=2, epochs=9, callbacks=[Counter(), stop], learning_rate=0.5,
        optimizer="sgd", schedule=lambda step: 1 / (step + 1),
    )  # fmt: skip
    assert all(type(state) is TrainingState and state.model is model for state in seen)
    assert [state.step for state in seen] == [1, 2, 3, 4, 5]
    assert [state.epoch for state in seen] == [0, 0, 1, 1, 1]
    assert [state.row is not None for state in seen] == [False, False, True, False, False]
    assert seen[2].row.loss == history.loss[0] == pytest.approx(np.mean([state.loss for state in seen[:3]]))
    assert [state.learning_rate for state in seen] == [0.5 / n for n in range(1, 6)]
    assert history.step.tolist() == [3, 5]
    assert history.message.startswith("stopped by a callback at step 5; ")
    # A callback that switched to evaluation has no effect on the next step.
    assert model.values()[2] != 0
    straight = fit(other := Line(), (x, y), batch_size=2, max_steps=5, learning_rate=0.5, optimizer="sgd",
        schedule=lambda step: 1 / (step + 1))  # fmt: skip
    assert straight.step.tolist() == [3, 5]
    assert other.values() == model.values()


def test_an_error_of_a_callback_gets_through_and_leaves_the_model_ready():
    model = Line()
    with pytest.raises(ZeroDivisionError):
        fit(model, points(4), epochs=1, callbacks=lambda state: 1 / 0)
    assert (model.training, model.needs_input_grad) == (False, True)
