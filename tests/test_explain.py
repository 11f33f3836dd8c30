"""What explain and info tell."""

import doctest

import numpy as np
import pytest
from cases import problem

import fastdeconv as fd
from fastdeconv import explain as explain_module
from fastdeconv import info
from fastdeconv.dispatch import TABLES, plan
from fastdeconv.kernels import cache
from fastdeconv.problem import PASSES

TEXT = "mb1ic3ih32iw32oc3kh4kw4sh2sw2ph1pw1"


@pytest.mark.quick
def test_the_example_in_its_documentation():
    import sys

    module = sys.modules["fastdeconv.explain"]
    found = doctest.DocTestFinder().find(module.explain, "explain", globs={})
    results = [doctest.DocTestRunner().run(test) for test in found]
    assert sum(r.attempted for r in results) > 0
    assert sum(r.failed for r in results) == 0
    assert explain_module is fd.explain


@pytest.mark.quick
@pytest.mark.parametrize("pass_", PASSES)
def test_what_is_told_is_what_runs(pass_):
    for text in (TEXT, "mb1ic1ih5iw5oc1kh3kw3", "--dt=s64 mb2ic8ih40iw40oc8kh3kw3"):
        p = fd.Problem.parse(text)
        told = fd.explain(text, pass_=pass_)
        (chosen,) = told.plans
        assert chosen.implementation is plan(p, pass_).implementation
        assert chosen.declined == plan(p, pass_).declined
        assert f"{pass_} on cpu: {chosen.implementation.name}" in str(told)
        for name, reason in chosen.declined:
            assert f"not {name}: {reason}" in str(told)
        table = [i.name for i in TABLES["cpu", pass_]]
        assert [name for name, _ in chosen.declined] == table[: len(chosen.declined)]
        for figure in (p.flops, p.bytes):
            assert f"{figure:,}" in str(told)
        assert f"{p.intensity:.3g} flops a byte" in str(told)


@pytest.mark.quick
def test_all_ways_to_name_a_problem():
    p = fd.Problem.parse(TEXT)
    x, w = np.ones(p.input_shape, "float32"), np.ones(p.weight_shape, "float32")
    want = fd.explain(p)
    assert len(want.plans) == 3
    assert str(fd.explain(TEXT)) == str(want) == str(fd.explain(x, w, 2, 1))
    assert fd.explain(np.ones((5, 5)), np.ones((3, 3))).problem == problem((1, 5, 5), (1, 1, 3, 3), dtype="float64")
    assert fd.explain(np.ones((2, 5)), np.ones((2, 1, 3))).problem.ndim == 1


@pytest.mark.quick
def test_lowered_element_types_are_told():
    assert "float16 is computed in float32" in str(fd.explain("--dt=f16 " + TEXT))
    assert "twice the channels" in str(fd.explain("--dt=c64 " + TEXT))


@pytest.mark.quick
@pytest.mark.parametrize(
    ("arguments", "keywords", "error", "said"),
    [
        ((3,), {}, TypeError, "problem must be"),
        ((None,), {}, TypeError, "problem must be"),
        ((np.ones((5, 5)),), {}, TypeError, "weight"),
        (("mb1ic3",), {}, ValueError, "iw"),
        ((TEXT,), {"pass_": "backward"}, ValueError, "pass_ must be one of"),
        ((TEXT,), {"algorithm": "fft"}, ValueError, "algorithm must be one of"),
        ((TEXT,), {"device": "tpu"}, ValueError, "device"),
        ((np.ones((1, 2, 5, 5)), np.ones((3, 2, 3, 3))), {}, ValueError, "weight"),
    ],
)
def test_bad_input(arguments, keywords, error, said):
    with pytest.raises(error, match=said):
        fd.explain(*arguments, **keywords)


@pytest.mark.quick
def test_info(monkeypatch):
    report = info.report()
    for word in ("fastdeconv", "NumPy", "Numba", "CPU", "bits", "threads", "CUDA", "cache"):
        assert word in report
    assert fd.__version__ in report
    assert str(fd.get_num_threads()) in report
    assert "warm" not in report
    monkeypatch.setattr(cache, "directory", lambda: (None, "no cache: because"))
    assert "no cache: because" in info.report()


def test_compiling_ahead(monkeypatch):
    from fastdeconv.kernels.cpu import warm

    entries = []
    monkeypatch.setattr(
        "fastdeconv.kernels.cpu.jit.Kernel.entry", lambda kernel, *which: entries.append((kernel.name, *which))
    )
    assert warm.compile_all() == len(entries) == len(set(entries))
    names = {name for name, _ in entries}
    assert {"direct_tile.tile_units", "direct_dot.dot_units", "planes.fill", "planes.pack"} <= names
    assert {dtype for _, dtype in entries} == {"float32", "float64", "int64", "uint8", "uint16"}
    assert "ready after" in info.report(compile_ahead=True)
