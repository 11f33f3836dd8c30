"""Channels-last views in and out: the same values as of contiguous arrays, no slow copy in between."""

import numpy as np
import pytest

import fastdeconv as fd
from fastdeconv.layouts import channel_axis, from_vector, to_vector


def last(a, axis=1):
    """Return the same array with its channels side by side in memory."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, axis, -1)), -1, axis)


def numbers(shape, dtype):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


SHAPES = [
    (2, 17, 33, 31),
    (1, 3, 70, 65),
    (3, 64, 1, 80),
    (1, 100, 7, 7),
    (2, 5, 9, 11, 13),
    (40, 130, 3),
]


@pytest.mark.quick
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "int32"])
@pytest.mark.parametrize("shape", SHAPES)
def test_there_and_back(shape, dtype):
    a = numbers(shape, dtype)
    for axis in (0, 1):
        view = last(a, axis)
        assert channel_axis(view) == (axis if shape[axis] > 1 else None)
        before = view.copy()
        np.testing.assert_array_equal(to_vector(view), a.ravel())
        np.testing.assert_array_equal(view, before)
        out = last(np.full(shape, -1, dtype), axis)
        from_vector(a.ravel(), out)
        np.testing.assert_array_equal(out, a)
    assert np.shares_memory(to_vector(a), a)


@pytest.mark.quick
def test_other_strides_are_left_to_numpy():
    a = numbers((4, 6, 40, 50), "float32")
    for view in (a[:, ::2], a[..., ::-1], a.transpose(0, 1, 3, 2), a[:, :, 1:, 1:], np.broadcast_to(a[:, :1], a.shape)):
        assert channel_axis(view) is None
        np.testing.assert_array_equal(to_vector(view), np.ascontiguousarray(view).ravel())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("ndim", "x_shape", "w_shape"),
    [(1, (2, 9, 300), (9, 8, 4)), (2, (2, 9, 30, 31), (9, 8, 4, 4)), (3, (2, 5, 9, 10, 11), (5, 8, 2, 2, 2))],
)
def test_every_pass_takes_and_gives_channels_last(ndim, x_shape, w_shape, dtype):
    rng = np.random.default_rng(0)
    x, w = (rng.integers(-3, 4, shape).astype(dtype) for shape in (x_shape, w_shape))
    forward, vjp = getattr(fd, f"conv_transpose{ndim}d"), getattr(fd, f"conv_transpose{ndim}d_vjp")
    input_grad = getattr(fd.grad, f"conv_transpose{ndim}d_input")
    want = forward(x, w, stride=2)
    out = last(np.full(want.shape, np.nan, dtype))
    assert forward(last(x), w, stride=2, out=out) is out
    np.testing.assert_array_equal(out, want)
    unbatched = last(np.full(want.shape[1:], np.nan, dtype), axis=0)
    np.testing.assert_array_equal(forward(last(x[0], axis=0), w, stride=2, out=unbatched), want[0])
    np.testing.assert_array_equal(fd.prepare(w, stride=2)(last(x)), want)
    gy = rng.integers(-3, 4, want.shape).astype(dtype)
    for got, expected in zip(vjp(last(gy), last(x), w, stride=2), vjp(gy, x, w, stride=2)):
        np.testing.assert_array_equal(got, expected)
    gx = last(np.full(x.shape, np.nan, dtype))
    input_grad(x.shape, w, last(gy), stride=2, out=gx)
    np.testing.assert_array_equal(gx, input_grad(x.shape, w, gy, stride=2))


def test_a_read_only_view():
    x, w = last(np.ones((1, 8, 40, 40), "float32")), np.ones((8, 8, 3, 3), "float32")
    x.flags.writeable = False
    np.testing.assert_array_equal(fd.conv_transpose2d(x, w), fd.conv_transpose2d(np.ascontiguousarray(x), w))
