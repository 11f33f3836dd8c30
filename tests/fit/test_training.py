"""`fit`: what it does with data, seeds, validation, penalties, averages and schedules."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
from training import Line, columns, points

import fastdeconv.fit.training
from fastdeconv import losses, nn, optim
from fastdeconv.fit import fit

pytestmark = pytest.mark.quick


def by_hand(x, y_true, batches, rate=0.1):
    """Return what gradient descent on the mean squared error makes of the line that starts at zero."""
    w = b = mean = 0.0
    for batch in batches:
        xs, ys = x[batch], y_true[batch]
        mean += 0.1 * (xs.mean() - mean)
        residual = w * xs + b - ys
        w, b = w - rate * 2 * (residual * xs).mean(), b - rate * 2 * residual.mean()
    return w, b, mean


# -- data ----------------------------------------------------------------------------------------


def test_a_pass_takes_each_item_once_in_the_order_of_the_seed():
    x, y = points(7)
    order = [np.random.default_rng((5, epoch)).permutation(7) for epoch in range(3)]
    assert order[0].tolist() != order[1].tolist()
    batches = [each[lo : lo + 3] for each in order for lo in (0, 3, 6)]
    model = Line()
    history = fit(model, (x, y), optimizer="sgd", learning_rate=0.1, epochs=3, batch_size=3, seed=5, restore_best=False)
    assert model.values() == pytest.approx(by_hand(x, y, batches), rel=1e-12)
    assert history.step.tolist() == [3, 6, 9]
    assert history.epoch.tolist() == [1, 2, 3]
    assert history.message == "stopped at epochs=3; the weights are the last"


def test_without_shuffling_batches_are_taken_as_they_lie():
    x, y = points(7)
    model = Line()
    fit(model, [x, y], optimizer="sgd", learning_rate=0.1, epochs=2, batch_size=3, shuffle=False, restore_best=False)
    expected = by_hand(x, y, [slice(0, 3), slice(3, 6), slice(6, 9)] * 2)
    assert model.values() == pytest.approx(expected, rel=1e-12)


def test_the_loss_of_a_pass_is_the_mean_over_its_items():
    x, y = points(7)
    history = fit(Line(), (x, y), optimizer=optim.SGD(1e-30), epochs=1, batch_size=3)
    assert history.loss[0] == pytest.approx((y**2).mean(), rel=1e-12)


def test_batches_of_an_iterable_and_of_a_callable():
    x, y = points(6)
    parts = [(x[:4], y[:4]), (x[4:], y[4:])]
    expected = by_hand(x, y, [slice(0, 4), slice(4, 6)] * 2)
    settings = {"optimizer": "sgd", "learning_rate": 0.1, "restore_best": False}

    class Again:
        def __iter__(self):
            return iter(parts)

    for data in (parts, tuple(map(list, parts)), Again()):
        model = Line()
        history = fit(model, data, epochs=2, **settings)
        assert model.values() == pytest.approx(expected, rel=1e-12)
        assert history.step.tolist() == [2, 4]
    model = Line()
    history = fit(model, lambda step, rng: parts[step % 2], max_steps=4, **settings)
    assert model.values() == pytest.approx(expected, rel=1e-12)
    assert (history.step.tolist(), history.epoch.tolist()) == ([4], [1])
    model = Line()
    history = fit(model, iter(parts * 2), max_steps=3, **settings)
    assert model.values() == pytest.approx(by_hand(x, y, [slice(0, 4), slice(4, 6), slice(0, 4)]), rel=1e-12)


def test_a_callable_has_a_generator_for_each_step():
    drawn = []

    def data(step, rng):
        x = rng.standard_normal((2, 1))
        drawn.append((step, x))
        return x, x

    fit(Line(), data, max_steps=3, seed=9)
    assert [step for step, _ in drawn] == [0, 1, 2]
    for step, x in drawn:
        np.testing.assert_array_equal(x, np.random.default_rng((9, step)).standard_normal((2, 1)))


def test_an_iterable_is_told_which_pass_begins():
    passes = []

    class Batches(list):
        def set_epoch(self, epoch):
            passes.append(epoch)

    fit(Line(), Batches([points(3)]), epochs=3)
    assert passes == [0, 1, 2]


def test_the_same_seed_gives_the_same_bits_and_another_one_others():
    x, y = points(50, noise=0.3)
    results = []
    for seed in (1, 1, 2):
        model = Line()
        history = fit(model, (x, y), epochs=3, batch_size=4, seed=seed, learning_rate=0.05)
        results.append((model.values(), columns(history)))
    assert results[0] == results[1]
    assert results[0] != results[2]


def test_data_are_left_as_they_are():
    x, y = points(8)
    kept = x.copy(), y.copy()
    for a in (x, y):
        a.flags.writeable = False
    fit(Line(), (x, y), epochs=2, batch_size=3)
    fit(Line(), (x, y), epochs=2, batch_size=3, shuffle=False)
    np.testing.assert_array_equal((x, y), kept)


# -- validation, best weights, early stop ----------------------------------------------------------


def test_validation_computes_in_evaluation_mode_and_changes_nothing():
    x, y = points(9, noise=0.5)
    settings = {"epochs": 3, "batch_size": 2, "learning_rate": 0.05, "restore_best": False}
    alone, judged = Line(), Line()
    fit(alone, (x, y), **settings)

    def deviation(y, y_true):
        return np.abs(y - y_true).mean()

    history = fit(judged, (x, y), validation=(x[:5], y[:5]), metric=deviation, **settings)
    assert alone.values() == judged.values()
    w, b, _ = judged.values()
    residual = w * x[:5] + b - y[:5]
    assert history.validation_loss[-1] == pytest.approx((residual**2).mean(), rel=1e-12)
    assert history.metric[-1] == pytest.approx(np.abs(residual).mean(), rel=1e-12)
    assert history.metric_name == "deviation"


def test_validation_between_passes_and_at_the_end():
    x, y = points(10)
    history = fit(
        Line(), (x, y), validation=[(x[:3], y[:3]), (x[3:], y[3:])], batch_size=1, max_steps=25, validate_every=7
    )
    assert history.step.tolist() == [7, 14, 21, 25]
    assert history.epoch.tolist() == [1, 2, 3, 3]
    assert np.isfinite(history.validation_loss).all()


def test_the_best_weights_come_back():
    x, y = points(6)
    seen = {}
    history = fit(
        model := Line(), (x, y), validation=(x, y), optimizer="momentum", learning_rate=0.5, epochs=12, batch_size=6,
        callbacks=lambda state: seen.update({state.step: model.values()}),
    )  # fmt: skip
    best = int(history.validation_loss.argmin())
    assert history.validation_loss[best] < history.validation_loss[-1]
    assert history.best_step == history.step[best]
    assert model.values() == seen[history.best_step]
    assert f"the weights are those of step {history.best_step}, with the lowest validation loss" in history.message
    last = Line()
    fit(last, (x, y), optimizer="momentum", learning_rate=0.5, epochs=12, batch_size=6, restore_best=False)
    assert last.values() == seen[12]


def test_patience_stops_where_nothing_gets_better():
    x, y = points(6)
    history = fit(
        Line(), (x, y), validation=(x, -y), learning_rate=0.01, epochs=50, patience=3, batch_size=6, optimizer="sgd"
    )
    assert history.step.tolist() == [1, 2, 3, 4]
    assert history.best_step == 1
    assert history.message.startswith("stopped at step 4: no lower validation loss in patience=3 entries")


def test_psnr_of_images():
    rng = np.random.default_rng(0)
    y = rng.random((4, 1, 5, 5))
    x = y + 0.1 * rng.standard_normal(y.shape)
    still = {"optimizer": optim.SGD(1e-30), "epochs": 1}
    errors = ((x - y) ** 2).reshape(4, -1).mean(axis=1)
    history = fit(Line(1.0), (x, y), validation=(x, y), batch_size=3, **still)
    assert history.metric_name == "psnr"
    assert history.metric[0] == pytest.approx(np.mean(10 * np.log10(1 / errors)))
    history = fit(Line(1.0), (255 * x, 255 * y), validation=(255 * x, 255 * y), peak=255, **still)
    assert history.metric[0] == pytest.approx(np.mean(10 * np.log10(1 / errors)))
    plain = fit(Line(1.0), (255 * x, 255 * y), validation=(255 * x, 255 * y), **still)
    assert (plain.metric_name, np.isnan(plain.metric).all()) == ("", True)
    asked = fit(Line(1.0), (255 * x, 255 * y), validation=(255 * x, 255 * y), metric="psnr", **still)
    assert asked.metric[0] == pytest.approx(history.metric[0] - 20 * math.log10(255))


# -- the step ---------------------------------------------------------------------------------------


def test_l1_pulls_weights_but_no_biases():
    x, _ = points(400)
    x -= x.mean()
    x /= x.std()
    model = Line()
    settings = {"optimizer": "sgd", "learning_rate": 0.2, "batch_size": 400, "restore_best": False}
    history = fit(model, (x, 2 * x - 1), l1=0.5, epochs=60, **settings)
    # 2 (w - 2) + 0.5 sign(w) = 0
    assert model.values()[:2] == pytest.approx((1.75, -1.0), abs=1e-6)
    assert history.loss[-1] == pytest.approx(0.25**2, rel=1e-4)


def test_gradients_are_clipped_together():
    x, y = points(5)
    model = Line()
    fit(
        model, (x, y), optimizer="sgd", learning_rate=1.0, max_steps=1, batch_size=5, clip_norm=0.01, restore_best=False
    )
    step = np.array(model.values()[:2])
    gradient = np.array(by_hand(x, y, [slice(None)], rate=1.0)[:2])
    assert np.hypot(*step) == pytest.approx(0.01, rel=1e-4)
    np.testing.assert_allclose(step / np.hypot(*step), gradient / np.hypot(*gradient), rtol=1e-6)


def test_ema_is_what_is_validated_and_kept():
    x, y = points(8)
    seen = [(0.0, 0.0)]
    model = Line()
    history = fit(
        model, (x, y), validation=(x, y), ema=0.6, epochs=4, batch_size=8, learning_rate=0.3, optimizer="sgd",
        callbacks=lambda state: seen.append(state.model.values()[:2]),
    )  # fmt: skip
    mean = np.zeros(2)
    for values in seen[1:]:
        mean = 0.6 * mean + 0.4 * np.array(values)
    np.testing.assert_allclose(model.values()[:2], mean, rtol=1e-12)
    assert history.validation_loss[-1] == pytest.approx((((mean[0] * x + mean[1]) - y) ** 2).mean(), rel=1e-9)
    assert seen[-1] == pytest.approx(by_hand(x, y, [slice(None)] * 4, rate=0.3)[:2], rel=1e-12)


def test_learning_rates_and_schedules():
    x, y = points(4)

    def rates(**settings):
        return fit(Line(), (x, y), batch_size=4, **settings).learning_rate.tolist()

    assert rates(epochs=2) == [1e-3, 1e-3]
    assert rates(epochs=1, optimizer="rmsprop") == [1e-2]
    assert rates(epochs=1, optimizer=optim.AdamW(0.5)) == [0.5]
    assert rates(epochs=3, learning_rate=0.5, schedule=lambda step: 1 / (step + 1)) == pytest.approx(
        [0.5, 0.25, 0.5 / 3]
    )
    assert rates(epochs=3, learning_rate=1.0, schedule="step") == pytest.approx([1, 0.1, 0.01])
    cosine = [optim.Cosine(4)(step) for step in range(4)]
    assert rates(epochs=4, learning_rate=1.0, schedule="cosine") == cosine
    assert rates(max_steps=2, learning_rate=1.0, schedule="cosine") == [1.0, 0.5]


def test_a_plateau_sees_the_validation_loss_and_begins_anew_in_each_run():
    x, y = points(4)
    plateau = optim.Plateau(0.5, patience=0)
    for _ in range(2):
        history = fit(Line(), (x, y), validation=(x, -y), learning_rate=1e-3, epochs=4, batch_size=4, schedule=plateau)
        assert history.learning_rate.tolist() == [1e-3, 1e-3, 5e-4, 2.5e-4]
    assert plateau.factor == 1


def test_the_loss_is_the_one_asked_for():
    x, y = points(30)
    y[0] = 1e3
    model = Line()
    fit(model, (x, y), loss=losses.Huber(0.1), optimizer="adam", learning_rate=0.1, epochs=300, batch_size=30)
    assert model.values()[:2] == pytest.approx((2, -1), abs=0.05)
    squares = Line()
    fit(squares, (x, y), optimizer="adam", learning_rate=0.1, epochs=300, batch_size=30)
    assert abs(squares.values()[1]) > 5


# -- layers -----------------------------------------------------------------------------------------


def test_layers_learn_and_are_left_ready_for_use():
    rng = np.random.default_rng(0)
    x = rng.random((12, 1, 4, 5), dtype=np.float32)
    y = x.repeat(2, axis=2).repeat(2, axis=3)
    model = nn.Sequential(nn.ConvTranspose2d(1, 1, 4, stride=2, padding=1, rng=0))
    fixed = nn.ConvTranspose2d(1, 1, 4, stride=2, padding=1, rng=0)
    asked = set()
    history = fit(
        model, (x, y), epochs=100, learning_rate=0.03, batch_size=6, schedule="cosine",
        callbacks=lambda state: asked.add(state.model.needs_input_grad),
    )  # fmt: skip
    assert history.loss[-1] < 0.01 * history.loss[0]
    assert not model.training
    assert (asked, model.needs_input_grad) == ({False}, True)
    # Weights, biases and slopes, whose gradients come from kernels of several kinds.
    deep = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1, rng=1), nn.PReLU(3), nn.ConvTranspose2d(3, 1, 4, stride=2, padding=1, rng=2)
    )
    history = fit(deep, (x, y), epochs=100, learning_rate=0.03, batch_size=6, schedule="cosine", clip_norm=1.0)
    assert history.loss[-1] < 0.02 * history.loss[0]
    fixed.bias.requires_grad = False
    kept = fixed.bias.data.copy()
    fit(fixed, (x, y), epochs=1)
    np.testing.assert_array_equal(fixed.bias.data, kept)


def test_the_example():
    found = doctest.DocTestFinder().find(fastdeconv.fit.training.fit, globs={})
    assert sum(doctest.DocTestRunner().run(test).failed for test in found) == 0
    assert found[0].examples
