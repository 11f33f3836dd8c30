"""What `fit_kernel` makes of its arguments: shapes, the start, the automatic rate, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from fitting import off, synthetic

import fastdeconv as fd
from fastdeconv import losses, optim
from fastdeconv.fit.objective import Objective
from fastdeconv.losses import as_loss

# -- shapes --------------------------------------------------------------------------------------


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


# -- the start -----------------------------------------------------------------------------------


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


# -- the automatic rate --------------------------------------------------------------------------


def objective(x, y, l2=0.0):
    parameters = {"stride": 1, "padding": 0, "output_padding": 0, "groups": 1, "dilation": 1}
    return Objective(x, y, 3, parameters, as_loss("mse"), 0.0, l2, {"device": None, "algorithm": None})


def largest_curvature(x, y, w, b, l2=0.0):
    columns = [fd.conv_transpose2d(x, tap.reshape(w.shape)).ravel() for tap in np.eye(w.size)]
    if b is not None:
        columns += [fd.conv_transpose2d(x, w, tap).ravel() for tap in np.eye(b.size)]
    a = np.stack(columns, 1)
    return np.linalg.eigvalsh(2 / y.size * a.T @ a)[-1] + 2 * l2


@pytest.mark.quick
@pytest.mark.parametrize("shift", [0.0, 1.0, 10.0])
@pytest.mark.parametrize("bias", [False, True])
def test_the_curvature_is_the_hessians(bias, shift):
    rng = np.random.default_rng(2)
    x, y = shift + rng.standard_normal((2, 2, 6, 7)), np.zeros((2, 2, 8, 9))
    w, b = np.zeros((2, 2, 3, 3)), np.zeros(2) if bias else None
    true = largest_curvature(x, y, w, b, 0.25)
    assert 0.97 * true < objective(x, y, 0.25).curvature(w, b, None) <= true * (1 + 1e-9)


@pytest.mark.quick
def test_the_curvature_of_batches_is_that_of_the_strongest():
    rng = np.random.default_rng(2)
    x, y, w = rng.standard_normal((5, 1, 6, 7)), np.zeros((5, 1, 8, 9)), np.zeros((1, 1, 3, 3))
    x[[1, 4]] *= 10
    true = largest_curvature(x[[1, 4]], y[[1, 4]], w, None)
    assert 0.97 * true < objective(x, y).curvature(w, None, 2) <= true * (1 + 1e-9)


# -- what it refuses -----------------------------------------------------------------------------


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
