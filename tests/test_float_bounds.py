"""Random floats within the bound that their accumulation allows, NaN and Inf where they belong, reruns bit for bit."""

import importlib
from dataclasses import replace
from functools import cache

import numba
import numpy as np
import pytest
from cases import EDGE_CASES, IMPLEMENTATIONS, call, floats, in_memory, operand_shapes, oracle, poisoned, problem, runs

import fastdeconv as fd

# Long sums, on each axis that a pass can sum over.
LONG = {
    "many_channels": problem((1, 999, 3, 5), (999, 3, 3, 3), stride=2, padding=1),
    "many_channels_out": problem((1, 3, 3, 5), (3, 999, 3, 3), stride=2, padding=1),
    "many_channels_kernel_1": problem((1, 4099, 1, 3), (4099, 2, 1, 1)),
    "many_taps": problem((1, 1, 63), (1, 1, 2047), padding=1001),
    "many_pixels": problem((1, 1, 151, 149), (1, 1, 3, 3), stride=2, padding=1, output_padding=1),
    "many_images": problem((401, 2, 7, 3), (2, 1, 2, 2), stride=2),
}
# The bound in machine epsilons: what sums of partial sums keep at any of these lengths, and a running total does not.
UNITS = 16


@cache
def float_case(p, pass_, one_sign):
    """Return inputs, the result in twice their precision, and the bound on each element's error."""
    a, b = floats(p, pass_)
    if one_sign:
        a, b = abs(a), abs(b)
    precise = "float64" if p.dtype == "float32" else np.longdouble
    a_, b_ = a.astype(precise), b.astype(precise)
    return a, b, oracle(p, pass_, a_, b_), UNITS * np.finfo(p.dtype).eps * oracle(p, pass_, abs(a_), abs(b_))


def check(p, pass_, algorithm, one_sign=False):
    a, b, want, bound = float_case(replace(p, channels_last=False), pass_, one_sign)
    if algorithm == "winograd":
        # Outputs of a tile share sums and differences, and so each other's rounding: what bounds one bounds all of the
        # plane (of the kernel, in the weight gradient).
        bound = np.broadcast_to(bound.max(tuple(range(-p.ndim, 0)), keepdims=True), bound.shape)
    error = abs(call(p, pass_, a, b, algorithm, out=poisoned(p, pass_)) - want)
    worst = np.max(error / np.where(bound > 0, bound, np.finfo(p.dtype).tiny))
    assert worst <= 1, f"{worst:.2f} times the bound: {pass_} {algorithm} {p}"


@pytest.mark.parametrize(("pass_", "algorithm", "p"), runs(EDGE_CASES))
def test_float32(pass_, algorithm, p):
    check(p, pass_, algorithm)


SOME = {name: replace(p, dtype="float64") for name, p in EDGE_CASES.items() if p.flops < 50_000}


@pytest.mark.parametrize(("pass_", "algorithm", "p"), runs(SOME))
def test_float64(pass_, algorithm, p):
    check(p, pass_, algorithm)


@pytest.mark.parametrize(("pass_", "algorithm", "p"), runs(LONG))
def test_long_sums(pass_, algorithm, p):
    check(p, pass_, algorithm)


@pytest.mark.parametrize(("pass_", "algorithm", "p"), runs(LONG))
def test_long_sums_of_one_sign(pass_, algorithm, p):
    check(p, pass_, algorithm, one_sign=True)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64"])
def test_bias_gradient(dtype):
    rng = np.random.default_rng(0)
    gy = ((1 + rng.random((3, 2, 301, 307))) / 8).astype(dtype)
    got = fd.grad.conv_transpose2d_bias(gy)
    want = gy.astype("complex128" if dtype == "complex64" else "float64").sum((0, 2, 3))
    assert got.dtype == dtype
    if dtype == "float16":
        np.testing.assert_array_equal(got, want.astype(dtype))
    else:
        np.testing.assert_allclose(got, want, rtol=UNITS * np.finfo(dtype).eps)


FEW = {name: EDGE_CASES[name] for name in (
    "one_pixel_one_output", "stride_over_kernel_output_padding", "cyclegan", "each_axis_its_own", "dilated_strided",
    "padding_over_kernel", "padding_cuts_taps", "depthwise", "wide_row", "deblur", "1d_dilated", "3d", "far_taps",
    "wide_stride_cut_at_both_ends", "wide_stride_24", "rows_of_one_channel", "rows_early_phases",
)}  # fmt: skip


@cache
def touched(p, pass_, which):
    """Return inputs with one element of the first or the second marked, and what sums over it."""
    rng = np.random.default_rng(0)
    inputs = [np.ones(shape) for shape in operand_shapes(p, pass_)[:2]]
    at = tuple(rng.integers(n) for n in inputs[which].shape)
    mark = np.zeros_like(inputs[which])
    mark[at] = 1
    marked = oracle(p, pass_, *(mark if i == which else inputs[i] for i in range(2))) > 0
    return inputs, at, marked


@pytest.mark.quick
@pytest.mark.parametrize("value", [np.nan, np.inf], ids=str)
@pytest.mark.parametrize(("pass_", "algorithm", "p"), runs(FEW))
def test_what_is_not_finite_reaches_all_it_touches(pass_, algorithm, p, value):
    """Where an algorithm spreads a NaN further, the documentation of its file says so."""
    implementation = next(i for of, i in IMPLEMENTATIONS if of == pass_ and i.name == algorithm)
    documentation = importlib.import_module(implementation.bind.__module__).__doc__
    for which in range(2):
        inputs, at, marked = touched(replace(p, channels_last=False), pass_, which)
        inputs = [a.astype("float32") for a in inputs]
        inputs[which][at] = value
        broken = ~np.isfinite(call(p, pass_, *inputs, algorithm))
        assert broken[marked].all(), f"lost: {pass_} {algorithm} {p}"
        assert not broken[~marked].any() or "NaN" in documentation, f"spread: {pass_} {algorithm} {p}"


PARALLEL = {name: p for name, p in EDGE_CASES.items() if p.flops > 400_000} | {"many_pixels": LONG["many_pixels"]}


@pytest.mark.parametrize(("pass_", "algorithm", "p"), runs(PARALLEL))
def test_reruns_give_the_same_bits(pass_, algorithm, p):
    """Whatever the number of threads and wherever the arrays lie."""
    a, b = in_memory(p, pass_, *floats(p, pass_))
    want = call(p, pass_, a, b, algorithm)
    threads = numba.get_num_threads()
    try:
        for count in {1, threads}:
            numba.set_num_threads(count)
            for shift in range(3):
                moved = []
                for array in (a, b, want):
                    room = np.full(array.size + 32, np.nan, array.dtype)
                    moved.append(np.lib.stride_tricks.as_strided(room[shift:], array.shape, array.strides))
                moved[0][...], moved[1][...] = a, b
                got = call(p, pass_, *moved[:2], algorithm, out=moved[2])
                assert got.tobytes() == want.tobytes(), f"{count} threads, moved by {shift}: {pass_} {algorithm} {p}"
    finally:
        numba.set_num_threads(threads)
