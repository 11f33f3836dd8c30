"""Problems that hypothesis draws: any legal one is served exactly, and its descriptor reads back."""

from dataclasses import replace

import numpy as np
import pytest
from cases import IMPLEMENTATIONS, assert_alone, call, declines, integers, oracle, poisoned
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import fastdeconv as fd
from fastdeconv.problem import PASSES


@st.composite
def problems(draw, dtypes=("float32", "float64")):
    ndim = draw(st.integers(1, 3))
    most = {1: 60, 2: 12, 3: 5}[ndim]

    def axes(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(ndim))

    groups = draw(st.sampled_from([1, 1, 2, 3]))
    batched = draw(st.booleans())
    stride, dilation = axes(1, 5), axes(1, 4)
    arguments = {
        "batch": draw(st.integers(1, 3)) if batched else 1,
        "in_channels": groups * draw(st.integers(1, 10)),
        "out_channels": groups * draw(st.integers(1, 10)),
        "input_size": axes(1, most),
        "kernel_size": axes(1, {1: 12, 2: 6, 3: 3}[ndim]),
        "stride": stride,
        "padding": axes(0, 6),
        "output_padding": tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation)),
        "dilation": dilation,
        "groups": groups,
        "dtype": draw(st.sampled_from(dtypes)),
        "batched": batched,
    }
    try:
        p = fd.Problem(**arguments)
    except ValueError:  # padding left no output
        assume(False)
    assume(p.flops < 2_000_000)
    return p


@settings(max_examples=150)
@given(p=problems(), seed=st.integers(0, 2**32 - 1), case=st.sampled_from(IMPLEMENTATIONS))
def test_every_implementation_is_exact(p, seed, case):
    pass_, implementation = case
    assume(declines(implementation, pass_, p) is None)
    a, b = integers(p, pass_, seed=seed)
    got = call(p, pass_, a, b, implementation.name, out=poisoned(p, pass_))
    np.testing.assert_array_equal(got, oracle(p, pass_, a, b), f"{pass_} {implementation.name} {p}")
    assert_alone(got)


@pytest.mark.quick
@given(p=problems(dtypes=("float16", "float32", "float64", "complex64", "complex128", "int8", "uint16", "int64")))
def test_the_descriptor_reads_back(p):
    assert fd.Problem.parse(str(p)) == p


@settings(max_examples=60)
@given(p=problems(dtypes=("float64",)), seed=st.integers(0, 2**32 - 1))
def test_linear_in_each_argument(p, seed):
    rng = np.random.default_rng(seed)
    x1, x2 = (rng.integers(-3, 4, p.input_shape).astype("float64") for _ in range(2))
    w1, w2 = (rng.integers(-3, 4, p.weight_shape).astype("float64") for _ in range(2))
    both = call(p, "forward", x1 + 2 * x2, w1 - w2)
    parts = (call(p, "forward", x, w) for x in (x1, x2) for w in (w1, w2))
    np.testing.assert_array_equal(both, sum(c * part for c, part in zip((1, -1, 2, -2), parts)), str(p))


@settings(max_examples=60)
@given(text=st.text(alphabet='mbicowdhksgnp0123456789"- =f', max_size=40))
def test_any_text_is_read_or_refused(text):
    try:
        p = fd.Problem.parse(text)
    except ValueError:
        return
    assert fd.Problem.parse(str(p)) == p


ODD = [None, 1.5, True, "1", 2**63, -(2**70), np.float64(2), np.array([1.0]), (None,), {}, [[1, 1]]]


@settings(max_examples=300)
@given(ndim=st.integers(1, 3), data=st.data())
def test_any_arguments_give_a_result_or_a_clear_refusal(ndim, data):
    """Whatever the shapes and parameters: an array, or a ValueError or TypeError that names an argument."""
    integer = st.integers(-2, 5)
    value = st.one_of(integer, integer, st.lists(integer, max_size=4), st.sampled_from(ODD))
    names = st.sampled_from(["stride", "padding", "output_padding", "dilation", "groups", "output_size"])
    arguments = data.draw(st.dictionaries(names, value, max_size=3))
    channels = data.draw(st.integers(1, 4))
    shape = st.lists(st.integers(0, 4), max_size=6)
    x = np.ones(data.draw(st.one_of(st.just((2, channels, *[3] * ndim)), shape)), "float32")
    w = np.ones(data.draw(st.one_of(st.just((channels, 2, *[2] * ndim)), shape)), "float32")
    try:
        y = getattr(fd, f"conv_transpose{ndim}d")(x, w, **arguments)
    except (ValueError, TypeError) as refusal:
        message = str(refusal)
        named = any(name in message for name in (*arguments, "input", "weight"))
        assert named, message
    else:
        assert np.isfinite(y).all()
        assert min(y.shape[-ndim:]) >= 1


@settings(max_examples=60)
@given(p=problems(dtypes=("float64",)), pass_=st.sampled_from(PASSES))
def test_each_group_is_a_problem_of_its_own(p, pass_):
    a, b = integers(p, pass_)
    one = replace(p, groups=1, in_channels=p.in_channels // p.groups, out_channels=p.out_channels // p.groups)
    channels = 1 if p.batched else 0
    # Groups lie along the channels of input and output, and along the first axis of the weight.
    axis_b = channels if pass_ == "weight_grad" else 0
    axis = 0 if pass_ == "weight_grad" else channels
    parts = [
        call(one, pass_, part_a, part_b)
        for part_a, part_b in zip(np.split(a, p.groups, channels), np.split(b, p.groups, axis_b))
    ]
    np.testing.assert_array_equal(call(p, pass_, a, b), np.concatenate(parts, axis), f"{pass_} {p}")


@settings(max_examples=60)
@given(p=problems(dtypes=("float64",)))
def test_images_of_a_batch_are_independent(p):
    assume(p.batched)
    x, w = integers(p, "forward")
    gy, _ = integers(p, "input_grad", seed=1)
    one = replace(p, batch=1, batched=False)
    y, gx, gw = call(p, "forward", x, w), call(p, "input_grad", gy, w), call(p, "weight_grad", x, gy)
    for n in range(p.batch):
        np.testing.assert_array_equal(call(one, "forward", x[n], w), y[n], str(p))
        np.testing.assert_array_equal(call(one, "input_grad", gy[n], w), gx[n], str(p))
    np.testing.assert_array_equal(sum(call(one, "weight_grad", x[n], gy[n]) for n in range(p.batch)), gw, str(p))


@settings(max_examples=60)
@given(p=problems(dtypes=("float64",)))
def test_padding_crops_both_ends_of_what_output_padding_extends(p):
    x, w = integers(p, "forward")
    plain = replace(p, padding=(0,) * p.ndim, output_padding=(0,) * p.ndim)
    whole = np.zeros((*p.output_shape[: -p.ndim], *(n + e for n, e in zip(plain.output_size, p.output_padding))))
    whole[(..., *(slice(n) for n in plain.output_size))] = call(plain, "forward", x, w)
    kept = (..., *(slice(pad, pad + n) for pad, n in zip(p.padding, p.output_size)))
    np.testing.assert_array_equal(call(p, "forward", x, w), whole[kept], str(p))
