"""Arrays with channels last, in and out: the same values as of contiguous arrays, no slow copy in between."""

from dataclasses import replace

import numpy as np
import pytest
from cases import EDGE_CASES, IMPLEMENTATIONS, assert_alone, call, declines, integers, oracle, poisoned, problem

import fastdeconv as fd
from fastdeconv.dispatch import geometry_of, plan, table_of
from fastdeconv.kernels.cpu.channels_last import places
from fastdeconv.layouts import channel_axis, channels_last, from_vector, to_vector
from fastdeconv.problem import PASSES, Problem
from fastdeconv.tuning import batch_invariance


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


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
@pytest.mark.parametrize("shape", [(5, 70, 17), (3, 3, 33, 40), (4, 4, 1, 300), (2, 3, 4, 20, 21)])
def test_filters_as_tensorflow_has_them(shape, dtype):
    filters = numbers(shape, dtype)
    weight = filters.transpose(filters.ndim - 1, filters.ndim - 2, *range(filters.ndim - 2))
    np.testing.assert_array_equal(to_vector(weight), np.ascontiguousarray(weight).ravel())


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


COPIED = ("dcgan", "fsrcnn", "3d", "1d_dilated", "depthwise", "each_axis_its_own", "kernel_1", "one_pixel_many_taps")


@pytest.mark.parametrize("name", COPIED)
def test_kernels_for_channels_first_serve_copies(name):
    p = EDGE_CASES[name]
    for pass_, implementation in IMPLEMENTATIONS:
        if True in implementation.channels_last or declines(implementation, pass_, p):
            continue
        last_p = replace(p, channels_last=True)
        a, b = integers(p, pass_)
        got = call(last_p, pass_, a, b, implementation.name, out=poisoned(last_p, pass_))
        np.testing.assert_array_equal(got, oracle(p, pass_, a, b), f"{pass_} {implementation.name} {p}")
        assert_alone(got)


BOTH_WAYS = problem((2, 9, 7, 6), (9, 17, 3, 3), stride=2)


def in_order(a, ndim):
    """Tell whether an array has its channels first, last, or both."""
    return a.flags.c_contiguous, np.moveaxis(a, -ndim - 1, -1).flags.c_contiguous


@pytest.mark.quick
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "complex64", "int32", "uint8"])
@pytest.mark.parametrize("algorithm", [None, "reference"])
def test_a_result_lies_as_the_input_does(dtype, algorithm):
    p = replace(BOTH_WAYS, dtype=dtype)
    forward, input_grad = fd.conv_transpose2d, fd.grad.conv_transpose2d_input
    rng = np.random.default_rng(0)
    x, w, gy = (rng.integers(0, 3, s).astype(dtype) for s in (p.input_shape, p.weight_shape, p.output_shape))
    want, want_gx = forward(x, w, stride=2), input_grad(x.shape, w, gy, stride=2)
    assert in_order(want, 2) == in_order(want_gx, 2) == (True, False)
    for shape in (slice(None), 0):
        a, ga = x[shape], gy[shape]
        axis = a.ndim - 3
        y = forward(last(a, axis), w, stride=2, algorithm=algorithm)
        gx = input_grad(a.shape, w, last(ga, axis), stride=2, algorithm=algorithm)
        assert in_order(y, 2) == in_order(gx, 2) == (False, True)
        np.testing.assert_array_equal(y, want[shape])
        np.testing.assert_array_equal(gx, want_gx[shape])
        np.testing.assert_array_equal(fd.prepare(w, stride=2, algorithm=algorithm)(last(a, axis)), want[shape])


@pytest.mark.quick
def test_arrays_that_lie_both_ways():
    x, w, gy = (np.ones(s, "float32") for s in (BOTH_WAYS.input_shape, BOTH_WAYS.weight_shape, BOTH_WAYS.output_shape))
    want = fd.conv_transpose2d(x, w, stride=2)
    for a, out in ((last(x), np.empty_like(want)), (x, last(np.empty_like(want)))):
        assert fd.conv_transpose2d(a, w, stride=2, out=out) is out
        np.testing.assert_array_equal(out, want)
    want = fd.grad.conv_transpose2d_weight(x, w.shape, gy, stride=2)
    for a, b in ((last(x), gy), (x, last(gy)), (last(x), last(gy))):
        np.testing.assert_array_equal(fd.grad.conv_transpose2d_weight(a, w.shape, b, stride=2), want)
    # One channel, or one pixel, is first as well as last: the other array tells.
    for shape, w_shape in (((2, 1, 7, 6), (1, 17, 3, 3)), ((2, 9, 1, 1), (9, 17, 3, 3))):
        x, w = np.ones(shape, "float32"), np.ones(w_shape, "float32")
        want = fd.conv_transpose2d(x, w)
        assert in_order(want, 2) == (True, False)
        for algorithm in (None, "direct_nhwc"):
            got = fd.conv_transpose2d(x, w, out=last(np.empty_like(want)), algorithm=algorithm)
            np.testing.assert_array_equal(got, want)


@pytest.mark.quick
def test_what_has_channels_last():
    a = np.zeros((2, 5, 3, 4), "float32")
    assert channels_last(2, last(a))
    assert channels_last(2, last(a), None)
    assert channels_last(2, last(a), last(a))
    assert channels_last(2, np.zeros((2, 1, 3, 4)), last(a))
    assert channels_last(1, last(a[0], 0).reshape(5, 12))
    for others in (
        [a],
        [a, None],
        [a, last(a)],
        [last(a), a],
        [last(a)[:, :4]],
        [a.transpose(0, 1, 3, 2)],
        [last(a)[1:1]],
    ):
        assert not channels_last(2, *others) or others[0].size == 0
    assert not channels_last(2, last(a), [1])
    assert not channels_last(4, last(a))


@pytest.mark.quick
@pytest.mark.parametrize("pass_", PASSES)
def test_scratch_memory_is_that_of_the_kernel(pass_):
    """Copies around a kernel do not count, as for any array that has other strides."""
    p = Problem.parse("--tag=nhwc mb8ic128ih32iw32oc64kh3kw3ph1pw1")
    first = replace(p, channels_last=False)
    copying = {"forward": "direct_windows", "input_grad": "direct_panels", "weight_grad": "direct_im2col"}[pass_]
    for algorithm in (copying, "winograd"):
        assert plan(p, pass_, algorithm=algorithm).workspace == plan(first, pass_, algorithm=algorithm).workspace
    told = str(fd.explain(p, pass_=pass_))
    assert str(p) in told
    for implementation in table_of("cpu", pass_, 2, channels_last=True):
        assert implementation.name in told
    with pytest.raises(ValueError, match="direct_nhwc: serves arrays with channels last"):
        plan(first, pass_, algorithm="direct_nhwc")
    limit = fd.get_workspace_limit()
    try:
        fd.set_workspace_limit(0)
        assert plan(p, pass_).implementation.name == plan(first, pass_).implementation.name == "direct_loops"
    finally:
        fd.set_workspace_limit(limit)


@pytest.mark.parametrize("algorithm", [None, "direct_nhwc", "winograd"])
def test_images_have_the_bits_they_get_alone(algorithm):
    rng = np.random.default_rng(0)
    x, w = last(rng.standard_normal((5, 16, 9, 11), "float32")), rng.standard_normal((16, 24, 4, 4), "float32")
    with batch_invariance():
        y = fd.conv_transpose2d(x, w, stride=2, padding=1, algorithm=algorithm)
        for i in range(5):
            alone = fd.conv_transpose2d(last(x[i : i + 1]), w, stride=2, padding=1, algorithm=algorithm)
            np.testing.assert_array_equal(y[i : i + 1], alone)


@pytest.mark.parametrize("prepared", [True, False])
def test_items_of_a_batch_have_the_bits_they_get_alone(prepared):
    rng = np.random.default_rng(0)
    w = rng.standard_normal((32, 48, 3, 3), "float32")
    call_ = fd.prepare(w, stride=2) if prepared else lambda x: fd.conv_transpose2d(x, w, stride=2)
    items = [rng.standard_normal((32, 20, 20), "float32") for _ in range(7)]
    items = [last(item, 0) if i % 3 else item for i, item in enumerate(items)]
    for item, got in zip(items, fd.batch.map(call_, items, device="cpu"), strict=True):
        np.testing.assert_array_equal(got, call_(item))


@pytest.mark.quick
def test_what_is_told_has_the_layout_of_the_array():
    x, w = np.ones((1, 64, 20, 20), "float32"), np.ones((64, 64, 3, 3), "float32")
    for a, tag in ((x, ""), (last(x), "--tag=nhwc ")):
        assert str(fd.explain(a, w).problem) == f"{tag}mb1ic64ih20iw20oc64oh22ow22kh3kw3sh1sw1ph0pw0"


@pytest.mark.quick
def test_gradient_of_the_bias():
    gy = np.full((1, 4, 1500, 1500), 0.1, "float32")
    np.testing.assert_array_equal(fd.grad.conv_transpose2d_bias(last(gy)), fd.grad.conv_transpose2d_bias(gy))


@pytest.mark.quick
def test_no_images():
    for pass_ in PASSES:
        for problem_ in ("g4mb0ic4ih5iw5oc4kh3kw3", "mb0ic4ih5iw5oc4kh3kw3"):
            fd.explain(f"--tag=nhwc {problem_}", pass_=pass_)
    x, w = np.ones((0, 5, 5, 4), "float32").transpose(0, 3, 1, 2), np.ones((4, 6, 3, 3), "float32")
    assert fd.conv_transpose2d(x, w).shape == (0, 6, 7, 7)


@pytest.mark.quick
def test_odd_problems_are_planned_soon():
    """Phases and taps are matched once, not each with all others: that took a second for what is 0.1 s."""
    lists = places.phase_lists(geometry_of(Problem.parse("--tag=nwc mb1ic2iw8oc2kw4096sw4096")), True, False)
    assert sum(len(each.phases) for each in lists) == 4096
    assert max(len(each.runs) for each in lists) == 1


def test_a_read_only_view():
    x, w = last(np.ones((1, 8, 40, 40), "float32")), np.ones((8, 8, 3, 3), "float32")
    x.flags.writeable = False
    np.testing.assert_array_equal(fd.conv_transpose2d(x, w), fd.conv_transpose2d(np.ascontiguousarray(x), w))


@pytest.mark.quick
def test_gradients_have_one_phase():
    """However many phases the stride has forward, which are more than their tables are made for."""
    p = Problem.parse("--tag=nhwc mb1ic8ih3iw2oc9kh4kw3sh70sw70")
    for pass_ in ("input_grad", "weight_grad"):
        a, b = integers(p, pass_)
        got = call(p, pass_, a, b, "direct_nhwc", out=poisoned(p, pass_))
        np.testing.assert_array_equal(got, oracle(p, pass_, a, b))
    with pytest.raises(ValueError, match="4096 phases"):
        plan(p, "forward", algorithm="direct_nhwc")
