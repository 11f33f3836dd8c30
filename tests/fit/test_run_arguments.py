"""What `fit` refuses: each message names the argument, what came and what would do."""

from __future__ import annotations

import numpy as np
import pytest
from training import Line, points

from fastdeconv import nn, optim
from fastdeconv.fit import fit

pytestmark = pytest.mark.quick

X, Y = points(6)
NAN = X.copy()
NAN[4] = np.nan


def frozen():
    model = Line()
    for parameter in model.parameters():
        parameter.requires_grad = False
    return model


def mixed():
    model = Line()
    model.bias = nn.Parameter(np.zeros(1, np.float32))
    return model


@pytest.mark.parametrize(("name", "value", "error", "told"), [
    ("model", lambda x: x, TypeError, "model must be a module of fastdeconv.nn; got <function"),
    ("model", nn.Sequential(nn.ReLU()), ValueError, "model must have parameters that require a gradient; got Sequent"),
    ("model", frozen(), ValueError, "model must have parameters that require a gradient; got Line"),
    ("model", mixed(), ValueError, "must have one dtype and one place; got weight: float64 on cpu and bias: float32"),
    ("data", X, TypeError, "data must be a pair of arrays (x, y_true), an iterable of such pairs as batches, or"),
    ("data", None, TypeError, "data must be a pair of arrays (x, y_true), an iterable of"),
    ("data", "photos", TypeError, "a callable(step, rng) that returns a pair; got 'photos'"),
    ("data", (X, Y[:4]), ValueError, "x and y_true of data must have as many items along their first axis; got shape"),
    ("data", (X[:0], Y[:0]), ValueError, "x of data must hold at least one item; got shape (0, 1)"),
    ("data", (np.array(1.0), Y), ValueError, "x of data must have its items along its first axis; got an array witho"),
    ("data", (X.astype("f4"), Y), TypeError, "x of data must have the model's dtype float64; got float32: convert it"),
    ("data", (X.tolist(), Y), TypeError, "must be a pair (x, y_true)"),
    ("data", (X, "y"), TypeError, "y_true of data must be a NumPy array; got 'y'"),
    ("data", (NAN, Y), ValueError, "x of data must be finite; got nan at index (4, 0)"),
    ("data", (X, NAN), ValueError, "y_true of data must be finite; got nan at index (4, 0)"),
    ("data", [], ValueError, "data must hold at least one batch; got none"),
    ("data", [(X, Y), (X, Y[:2])], ValueError, "x and y_true of batch 2 of data must have as many items"),
    ("data", [(X, Y), X, X], TypeError, "batch 2 of data must be a pair (x, y_true); got array"),
    ("data", iter([(X, Y)]), ValueError, "none in pass 2. An iterator lasts for one pass: give a list"),
    ("data", iter([]), ValueError, "data must give more than 0 batches a pass, where the run goes on; got 0"),
    ("data", [(X, np.hstack([Y, Y]))], ValueError, "y_true of data must have the shape (6, 1) of the model's result;"),
    ("validation", [(X, np.hstack([Y, Y]))], ValueError, "y_true of validation must have the shape (6, 1) of the mod"),
    ("validation", iter([(X, Y)]), TypeError, "validation must be a pair of arrays (x, y_true) or an iterable of suc"),
    ("validation", lambda step, rng: (X, Y), TypeError, "that can be gone through again; got <function"),
    ("validation", (X, NAN), ValueError, "y_true of validation must be finite; got nan at index (4, 0)"),
    ("validation", [(X, Y), (NAN, Y)], ValueError, "x of validation must be finite; got nan at index (4, 0)"),
    ("loss", "rmse", ValueError, "loss must be one of"),
    ("optimizer", "adagrad", ValueError, "optimizer must be one of"),
    ("optimizer", optim.Adam, TypeError, "a class: call it"),
    ("learning_rate", 0, ValueError, "learning_rate must be a positive number; got 0"),
    ("learning_rate", "fast", TypeError, "learning_rate must be a positive number; got 'fast'"),
    ("schedule", "linear", ValueError, "schedule must be one of"),
    ("schedule", lambda step: np.nan, ValueError, "schedule must be a number of at least 0; got nan, as its factor a"),
    ("epochs", -1, ValueError, "epochs must be at least 0; got -1"),
    ("epochs", 1.5, TypeError, "epochs must be"),
    ("epochs", None, ValueError, "epochs, max_steps or max_seconds must be given, for the run to end"),
    ("max_steps", -1, ValueError, "max_steps must be at least 0; got -1"),
    ("max_seconds", -1, ValueError, "max_seconds must be a number of at least 0; got -1"),
    ("batch_size", 0, ValueError, "batch_size must be at least 1; got 0"),
    ("batch_size", 2.5, TypeError, "batch_size must be"),
    ("shuffle", "no", TypeError, "shuffle must be True or False; got 'no'"),
    ("seed", -1, ValueError, "seed must be at least 0; got -1"),
    ("validate_every", 0, ValueError, "validate_every must be at least 1; got 0"),
    ("metric", "psnr", ValueError, "metric needs validation data"),
    ("peak", 0, ValueError, "peak must be a positive number; got 0"),
    ("patience", 0, ValueError, "patience must be at least 1; got 0"),
    ("patience", -3, ValueError, "patience must be at least 1; got -3"),
    ("restore_best", 1, TypeError, "restore_best must be True or False; got 1"),
    ("clip_norm", 0, ValueError, "clip_norm must be a positive number; got 0"),
    ("l1", -1, ValueError, "l1 must be a number of at least 0; got -1"),
    ("ema", 1.0, ValueError, "decay must be from 0 to below 1; got 1.0"),
    ("ema", "yes", TypeError, "ema must be a number from 0 to below 1 or an optim.EMA; got 'yes'"),
    ("callbacks", 3, TypeError, "callbacks must be a callable or several; got 3"),
    ("callbacks", [print, 3], TypeError, "callbacks must be a callable or several; got 3"),
    ("progress", "bar", TypeError, "progress must be True or False; got 'bar'"),
    ("checkpoint", 3, TypeError, "checkpoint must be the name of a file; got 3"),
    ("checkpoint", "", TypeError, "checkpoint must be the name of a file; got ''"),
    ("checkpoint_seconds", -1, ValueError, "checkpoint_seconds must be a number of at least 0; got -1"),
    ("resume", "yes", TypeError, "resume must be True or False; got 'yes'"),
], ids=lambda each: each if isinstance(each, str) and each.isidentifier() else "")  # fmt: skip
def test_bad_arguments(name, value, error, told):
    arguments = {"model": Line(), "data": (X, Y), "epochs": 2}
    with pytest.raises(error) as caught:
        fit(**arguments | {name: value})
    assert told in str(caught.value)


@pytest.mark.parametrize(("arguments", "told"), [
    ({"data": lambda step, rng: (X, Y), "epochs": 2}, "epochs must be None for a callable, which has no last batch"),
    ({"data": lambda step, rng: X, "max_steps": 2}, "data(0, rng) must be a pair (x, y_true); got array"),
    ({"data": lambda step, rng: (X[:0], Y[:0]), "max_steps": 2}, "x and y_true of data(0, rng) must have as many ite"),
    ({"max_seconds": 1, "schedule": "cosine"}, 'schedule="cosine" must know how many steps there are: give max_steps'),
    ({"data": iter([(X, Y)]), "epochs": 1, "schedule": "step"}, 'schedule="step" must know how many steps there are'),
    ({"optimizer": optim.SGD(0.1), "learning_rate": 0.1, "epochs": 1}, "learning_rate must be given once; got 0.1 an"),
    ({"optimizer": optim.SGD(l1=0.1), "l1": 0.2, "epochs": 1}, "l1 must be given once; got 0.2 and 0.1 in the optimi"),
    ({"validation": (X, Y), "metric": "ssim", "epochs": 1}, "metric must be \"psnr\", a callable(y, y_true) or None;"),
    ({"validation": (X, Y), "metric": lambda y, t: "good", "epochs": 1}, "metric must return a number; got 'good' of"),
])  # fmt: skip
def test_arguments_that_do_not_go_together(arguments, told):
    with pytest.raises((ValueError, TypeError)) as caught:
        fit(**{"model": Line(), "data": (X, Y)} | arguments)
    assert told in str(caught.value)


def test_nothing_is_changed_by_arguments_that_are_refused():
    model = Line(2.0)
    model.eval()
    with pytest.raises(ValueError, match="patience"):
        fit(model, (X, Y), epochs=1, patience=0)
    assert model.values() == (2.0, 0.0, 0.0)
    assert not model.training
