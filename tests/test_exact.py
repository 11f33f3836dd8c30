"""Every implementation, case and pass on small integers: any order of summation must give the oracle's bits."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from cases import (
    CASES,
    EDGE_CASES,
    FEWER,
    IMPLEMENTATIONS,
    assert_alone,
    call,
    declines,
    in_layouts_of,
    integers,
    oracle,
    poisoned,
    runs,
)

from fastdeconv.dispatch import geometry_of
from fastdeconv.kernels.cpu import frame
from fastdeconv.problem import PASSES

# Largest magnitude of an input, and what no sum may reach, so that each dtype is exact and a narrower one is not.
EXACT = {"float32": (4, 2**24), "float64": (2**18, 2**53), "int64": (2**18, 2**53)}


@cache
def exact_case(p, pass_):
    largest, limit = EXACT[p.dtype]
    a, b = integers(p, pass_, limit, largest=largest)
    return a, b, oracle(p, pass_, a, b)


def check(p, pass_, algorithm):
    a, b, want = exact_case(replace(p, channels_last=False), pass_)
    got = call(p, pass_, a, b, algorithm, out=poisoned(p, pass_))
    np.testing.assert_array_equal(got, want, f"{pass_} {algorithm} {p}")
    assert_alone(got)
    if pass_ == "forward":
        bias = np.arange(p.out_channels).astype(p.dtype) * 3 - 7
        got = call(p, pass_, a, b, algorithm, bias=bias, out=poisoned(p, pass_))
        want = want + bias.reshape(-1, *[1] * p.ndim)
        np.testing.assert_array_equal(got, want, f"{pass_} {algorithm} with bias {p}")
        assert_alone(got)


def in_dtype(dtype, cases=CASES):
    return runs({name: replace(p, dtype=dtype) for name, p in cases.items()})


@pytest.mark.quick
@pytest.mark.parametrize(("pass_", "algorithm", "p"), in_dtype("float32", EDGE_CASES))
def test_edges(pass_, algorithm, p):
    check(p, pass_, algorithm)


@pytest.mark.parametrize(
    ("pass_", "algorithm", "p"), in_dtype("float32", {n: p for n, p in CASES.items() if n not in EDGE_CASES})
)
def test_drawn(pass_, algorithm, p):
    check(p, pass_, algorithm)


@pytest.mark.parametrize(("pass_", "algorithm", "p"), in_dtype("float64", FEWER))
def test_float64(pass_, algorithm, p):
    check(p, pass_, algorithm)


@pytest.mark.parametrize(("pass_", "algorithm", "p"), in_dtype("int64", EDGE_CASES))
def test_int64(pass_, algorithm, p):
    check(p, pass_, algorithm)


@pytest.mark.quick
@pytest.mark.parametrize(("pass_", "implementation"), IMPLEMENTATIONS, ids=lambda value: getattr(value, "name", value))
def test_what_an_implementation_declines(pass_, implementation):
    """A decline is a sentence, forcing the implementation shows it, and it leaves enough cases to be proved on."""
    there = [p for case in CASES.values() for p in in_layouts_of(implementation, case)]
    declined = {p: reason for p in there if (reason := declines(implementation, pass_, p)) is not None}
    assert len(there) - len(declined) >= 24
    for p, reason in declined.items():
        assert len(reason.split()) > 2
        with pytest.raises(ValueError, match="cannot serve") as refusal:
            call(p, pass_, *exact_case(p, pass_)[:2], implementation.name)
        assert reason in str(refusal.value)
        assert str(p) in str(refusal.value)


@pytest.mark.quick
@pytest.mark.parametrize("pass_", PASSES)
def test_the_last_resort_declines_nothing(pass_):
    last = [implementation for of, implementation in IMPLEMENTATIONS if of == pass_][-1]
    assert last.name == "reference"
    assert not [str(p) for p in CASES.values() if declines(last, pass_, p)]


FIVE = {name: replace(p, batch=5, batched=True) for name, p in EDGE_CASES.items() if p.flops < 200_000}


@pytest.mark.parametrize(("pass_", "algorithm", "p"), [run for run in runs(FIVE) if not run.values[2].channels_last])
def test_batches_taken_in_parts(pass_, algorithm, p, monkeypatch):
    """Kernels take so many images at a time as a cache holds; here it holds two, and the last part has one."""
    implementation = next(i for of, i in IMPLEMENTATIONS if of == pass_ and i.name == algorithm)
    monkeypatch.setattr(frame, "images_at_once", lambda *_: 2)
    a, b = integers(p, pass_)
    got = poisoned(p, pass_)
    operands = (a.ravel(), b.ravel(), None) if pass_ == "forward" else (a.ravel(), b.ravel())
    implementation.bind(geometry_of(p))(*operands, got.reshape(-1))
    np.testing.assert_array_equal(got, oracle(p, pass_, a, b), f"{pass_} {algorithm} {p}")
    assert_alone(got)
