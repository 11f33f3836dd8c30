"""Problems that hypothesis draws: any legal one is served exactly, and its descriptor reads back."""

import numpy as np
import pytest
from cases import IMPLEMENTATIONS, call, declines, integers, oracle, poisoned
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import fastdeconv as fd


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
