"""Scratch memory: every kernel tells what it takes, none takes more, and a limit chooses another one."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from cases import (
    CASES,
    EDGE_CASES,
    FEWER,
    IMPLEMENTATIONS,
    call,
    declines,
    floats,
    in_layouts_of,
    integers,
    oracle,
    poisoned,
    runs,
)

import fastdeconv as fd
from fastdeconv.dispatch import TABLES, geometry_of, plan
from fastdeconv.kernels.cpu import workspace
from fastdeconv.problem import PASSES

LARGE = "mb2ic64ih20iw20oc64kh4kw4sh2sw2ph1pw1"


@pytest.fixture
def limit():
    """Set a limit for one test."""
    yield fd.set_workspace_limit
    fd.set_workspace_limit(None)


def implementation_of(pass_, name):
    return next(i for of, i in IMPLEMENTATIONS if of == pass_ and i.name == name)


def operands(p, pass_):
    a, b = floats(p, pass_)
    none = (None,) if pass_ == "forward" else ()
    return (a.ravel(), b.ravel(), *none, poisoned(p, pass_).reshape(-1))


@pytest.mark.quick
@pytest.mark.parametrize(
    ("pass_", "algorithm", "p"), [run for run in runs(FEWER) if run.values[1] not in ("reference", "direct_loops")]
)
def test_a_kernel_takes_what_it_tells(pass_, algorithm, p, monkeypatch):
    """Exactly so for what its threads share; the buffers of each are set to none."""
    monkeypatch.setattr("numba.config.NUMBA_NUM_THREADS", 0)
    monkeypatch.setattr("fastdeconv.kernels.cpu.threads.enter", lambda call: 1)  # what is bound for none holds one
    taken: dict[str, int] = {}
    take = workspace.take

    def counted(slot, elements, dtype):
        taken[slot] = max(taken.get(slot, 0), elements * np.dtype(dtype).itemsize)
        return take(slot, elements, dtype)

    monkeypatch.setattr(workspace, "take", counted)
    implementation = implementation_of(pass_, algorithm)
    implementation.bind(geometry_of(p))(*operands(p, pass_))
    assert implementation.workspace(geometry_of(p)) == sum(taken.values()), (algorithm, str(p))


@pytest.mark.quick
@pytest.mark.parametrize(("pass_", "implementation"), IMPLEMENTATIONS, ids=lambda value: getattr(value, "name", value))
def test_threads_add_their_own(pass_, implementation, monkeypatch):
    there = (p for case in CASES.values() for p in in_layouts_of(implementation, case))
    served = [p for p in there if declines(implementation, pass_, p) is None]
    grown = 0
    for p in served:
        needs = []
        for threads in (0, 1, 2, 1000):
            monkeypatch.setattr("numba.config.NUMBA_NUM_THREADS", threads)
            needs.append(implementation.workspace(geometry_of(p)))
        # Some cut what many threads share into smaller units, which take less memory.
        assert needs == sorted(needs) or implementation.name in ("winograd", "direct_product", "direct_images")
        grown += needs[0] < needs[1] < needs[2]
    without = {"reference", "direct_loops"}
    if pass_ != "weight_grad":
        without.add("direct_pointwise")
    assert (grown > 0) == (implementation.name not in without)


@pytest.mark.quick
@pytest.mark.parametrize("pass_", PASSES)
def test_plain_loops_take_none_and_the_reference_what_numpy_takes(pass_):
    loops, reference = (implementation_of(pass_, name) for name in ("direct_loops", "reference"))
    for name in ("large", "dcgan", "deblur", "groups", "1d_hifigan", "3d", "padding_over_kernel", "many_channels"):
        p = EDGE_CASES.get(name) or fd.Problem.parse(LARGE)
        for implementation in (loops, reference):
            run, arrays = implementation.bind(geometry_of(p)), operands(p, pass_)
            run(*arrays)
            tracemalloc.start()
            try:
                run(*arrays)
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            assert peak <= implementation.workspace(geometry_of(p)) + 10_000, (implementation.name, str(p))
        assert loops.workspace(geometry_of(p)) == 0


@pytest.mark.quick
@pytest.mark.parametrize("pass_", PASSES)
def test_every_call_works_without_any(pass_, limit):
    limit(0)
    for p in EDGE_CASES.values():
        if p.flops > 200_000:
            continue
        a, b = integers(p, pass_)
        chosen = plan(p, pass_)
        assert chosen.workspace == 0 or (
            chosen.implementation.name == "reference" and p.accumulation_length(pass_) > 4096
        )
        np.testing.assert_array_equal(call(p, pass_, a, b), oracle(p, pass_, a, b), f"{pass_} {p}")


@pytest.mark.quick
@pytest.mark.parametrize("pass_", PASSES)
def test_a_smaller_limit_chooses_a_smaller_kernel(pass_, limit):
    """Step by step, each choice is refused by the next limit with both numbers, until plain loops are left."""
    p = fd.Problem.parse(LARGE)
    a, b = integers(p, pass_)
    want = call(p, pass_, a, b)
    names = []
    most = last = None
    while not names or names[-1] != "direct_loops":
        limit(most)
        told = fd.explain(p, pass_=pass_)
        (chosen,) = told.plans
        name, needed = chosen.implementation.name, chosen.workspace
        assert name not in names
        assert most is None or needed <= most
        assert f"takes {needed:,} bytes of scratch memory" in str(told)
        if names:
            reason = f"would need {last} bytes of scratch memory, the limit is {most}"
            assert f"  not {names[-1]}: {reason}" in str(told)
            with pytest.raises(ValueError, match="cannot serve") as refusal:
                call(p, pass_, a, b, names[-1])
            assert reason in str(refusal.value)
        np.testing.assert_array_equal(call(p, pass_, a, b), want)
        names.append(name)
        most, last = max(0, needed - 1), needed
    assert len(names) > 1
    assert call(p, pass_, a, b, "reference").shape == want.shape


@pytest.mark.quick
def test_what_yields_comes_before_the_reference(limit):
    """A kernel that is expected to be slower is still a better last resort."""
    limit(0)
    for pass_ in PASSES:
        (chosen,) = fd.explain(LARGE, pass_=pass_).plans
        assert chosen.implementation.name == "direct_loops"
        assert dict(chosen.declined).keys() == {i.name for i in TABLES["cpu", pass_]} - {"direct_loops", "reference"}


@pytest.mark.quick
@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_the_initial_limit(dtype, limit):
    """Twice the arrays, or 64 MiB: a plane of many zeros is refused where the arrays are smaller by far."""
    assert fd.get_workspace_limit() is None
    p = replace(fd.Problem.parse("mb1ic4ih2048iw1024oc4kh3kw3"), dtype=dtype)
    for most, name in ((2 * p.bytes, "the default"), (1000, "ours")):
        (chosen,) = fd.explain(p, pass_="forward").plans
        refused = [reason for _, reason in chosen.declined if "scratch" in reason]
        assert all(reason.endswith(f"the limit is {most}") for reason in refused), name
        assert chosen.workspace <= most
        limit(1000)


@pytest.mark.quick
def test_set_and_get(limit):
    for value in (0, 1, 10**30, None, np.int64(7)):
        limit(value)
        assert fd.get_workspace_limit() == value
        assert type(fd.get_workspace_limit()) in (int, type(None))
