"""``bench gpu``: its host code on a fake CuPy, where kernels run on the machine for PTX, and its dry run."""

import inspect
import json
import re
import sys
from functools import partial

import fake_cupy
import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda compiles the kernels")

import fastdeconv as fd
from fastdeconv.bench.gpu import checks, contenders, device, limits, overlap, simulator
from fastdeconv.bench.gpu.precisions import PRECISIONS
from fastdeconv.bench.layers import select
from fastdeconv.bench.results import Results
from fastdeconv.cli import main
from fastdeconv.cuda import plan, runtime
from fastdeconv.problem import PASSES

TINY = "mb1ic2ih2iw3oc3kh2kw2sh1sw2"


@pytest.fixture
def gpu(monkeypatch):
    """A GPU, and a run that is short on it: one case, small matrices, contenders that need no other library."""
    monkeypatch.setattr(checks, "CASES", {"two_phases": checks.CASES["two_phases"]})
    for pass_, table in plan.TABLES.items():
        # Those that serve the case and the layer.
        kept = tuple(each for each in table if each.name in ("gather_gemm", "weight_gemm", "direct_gather"))
        monkeypatch.setitem(plan.TABLES, pass_, kept)
    monkeypatch.setattr(checks, "planned", partial(checks.planned, memory=checks.MEMORY[1:3]))
    monkeypatch.setattr(device, "CUDA", ("float32",))
    monkeypatch.setattr(overlap, "_SOURCE", 1)
    monkeypatch.setattr(overlap, "_PART", 1)
    monkeypatch.setattr(limits, "_SIZE", 8)
    monkeypatch.setattr(limits, "_COPIED", 64)
    monkeypatch.setattr("fastdeconv.bench.gpu.sections._CALLS", 1)
    monkeypatch.setattr("fastdeconv.bench.timing._SHORTEST", 0.0)
    monkeypatch.setattr("fastdeconv.bench.timing._LONG", 0.0)
    return fake_cupy.install(monkeypatch)


def bench(*arguments):
    return main(["bench", "gpu", "--layers", TINY, "--rounds", "1", *arguments])


def spoiled(implementation):
    """Return the implementation without the last block of its last kernel."""

    def steps(g, layout, target):
        found = implementation.steps(g, layout, target)
        *first, last = found.launches
        x, *rest = last.grid
        return found._replace(launches=(*first, last._replace(grid=(x - 1, *rest))))

    return implementation._replace(steps=steps)


def test_a_run(gpu, capsys, tmp_path):
    figures = tmp_path / "gpu.json"
    assert bench("--precision", "float32", "--json", str(figures)) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "Kernels on cuda:0 Fake GPU, compute capability 8.0, 108 multiprocessors, 16 GiB, exact on small" in out
    for pass_ in PASSES:
        for each in plan.TABLES[pass_]:
            assert f"{pass_:12}{each.name:20}" in out
    assert "copy" in out
    results = Results.read(figures)
    assert {row.pass_ for row in results.rows} == set(PASSES)
    for row in results.rows:
        assert row.error is None
        assert {"fastdeconv", "fastdeconv_cl"} <= row.times.keys()
        assert results.limits.share(row) > 0
    assert all("cupy" in row.times for row in results.rows if row.dtype == "float32")
    sections = json.loads(figures.read_text())["sections"]
    assert all(row["right"] and not row["wrong"] for row in sections["checks"])
    assert [row["pass"] for row in sections["host"]] == list(PASSES)
    assert fd.get_float32_precision() == "highest"


def test_a_wrong_kernel_is_not_timed(gpu, capsys, monkeypatch):
    monkeypatch.setitem(plan.TABLES, "weight_grad", tuple(map(spoiled, plan.TABLES["weight_grad"])))
    assert bench("--precision", "float32", "--pass", "weight_grad") == 1
    out = capsys.readouterr().out
    name = plan.TABLES["weight_grad"][0].name
    assert f"weight_grad {name:20}WRONG in 2 of 2 checks" in out
    assert f"WRONG, not timed: {name} failed its checks; weight_grad mb1ic2" in out
    assert "weight_grad " + name + " two_phases, channels last: mb2ic3" in out  # what reproduces it


def test_a_budget_that_is_over(gpu, capsys):
    assert bench("--precision", "float32", "--pass", "forward", "--budget", "1e-9") == 0
    out = capsys.readouterr().out
    assert "0 checks right, ; no time for 2 more" in out
    assert "not run, as 0 s are over (--budget): float32 forward given" in out
    assert gpu.launches == []


def test_what_no_kernel_serves_is_told(gpu, capsys, monkeypatch):
    table = tuple(each._replace(declines=lambda *_: "planted") for each in plan.TABLES["forward"])
    monkeypatch.setitem(plan.TABLES, "forward", table)
    assert bench("--precision", "float32", "--pass", "forward") == 0
    assert "given                no kernel: planted" in capsys.readouterr().out


def test_a_lost_device_ends_the_run(gpu, capsys, monkeypatch):
    def lost(*_):
        raise fake_cupy.CUDARuntimeError("cudaErrorIllegalAddress")

    monkeypatch.setattr(fake_cupy.Function, "__call__", lost)
    monkeypatch.setattr(fake_cupy.Stream, "synchronize", lost)
    monkeypatch.setattr(runtime, "upload", fake_cupy.asarray)
    assert bench("--precision", "float32", "--pass", "forward") == 1
    out = capsys.readouterr().out
    assert "the device is lost for this process: cudaErrorIllegalAddress; no more is measured" in out


def test_no_gpu(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert bench() == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "bench gpu needs a GPU" in err
    assert "CuPy, which cannot be imported" in err
    assert "--dry-run runs without" in err


def test_torch(gpu, monkeypatch, tmp_path):
    """The same calls on PyTorch's CPU device."""
    pytest.importorskip("torch")
    monkeypatch.setattr(contenders.CuDnn, "place", "cpu")
    monkeypatch.setattr(limits, "flops_per_second", lambda *_: 1e12)
    figures = tmp_path / "gpu.json"
    try:
        assert bench("--precision", "tf32", "--pass", "weight_grad", "--json", str(figures)) == 0
    finally:
        contenders.CuDnn(PRECISIONS["float32"])  # as other tests expect PyTorch
    results = Results.read(figures)
    assert results.peers == ["cudnn", "cudnn_cl"]
    assert all({"cudnn", "cudnn_cl"} <= row.times.keys() for row in results.rows)
    assert [(row["layout"], row["target"]) for row in results.sections["targets"]] == [
        ("channels first", "missed"), ("channels last", "missed"),
    ]  # fmt: skip


DRY_RUN = "Kernels in Numba's simulator, exact on small integers:"


def test_dry_run(capfd, monkeypatch):
    """Every kernel that the simulator can take computes the right result, and what a device would measure is told."""
    assert main(["bench", "gpu", "--dry-run", "--layers", TINY]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert out.startswith(DRY_RUN)
    for pass_ in PASSES:
        for each in plan.TABLES[pass_]:
            (line,) = (line for line in out.splitlines() if line.startswith(f"{pass_:12}{each.name:20}"))
            assert "checks right" in line or "not simulated: its kernels hold inline PTX" in line
    assert "12 rows follow" in out
    assert "none is predicted" in out


PLANT = """\
from fastdeconv.cuda import plan
plan.TABLES.update(forward=tuple(map(spoiled, plan.TABLES["forward"][-1:])), input_grad=(), weight_grad=())
"""


def test_a_planted_fault_fails_the_dry_run(capfd, monkeypatch):
    monkeypatch.setattr(simulator, "_PROGRAM", inspect.getsource(spoiled) + PLANT + simulator._PROGRAM)
    name = plan.TABLES["forward"][-1].name
    assert main(["bench", "gpu", "--dry-run", "--layers", TINY]) == 1
    out, _ = capfd.readouterr()
    assert re.search(f"forward     {name} +WRONG in .*\n  .* wrong: .* must be .*; forward {name} two_phases", out)
    assert "Not every kernel is right: see above." in out


def test_a_kernel_that_hangs_is_stopped(monkeypatch, capfd):
    monkeypatch.setattr(simulator, "_PROGRAM", "import time\ntime.sleep(60)\n")
    monkeypatch.setattr(simulator, "_TIMEOUT", 0.1)
    assert main(["bench", "gpu", "--dry-run"]) == 1
    assert "the simulator did not end within 0 s: a kernel hangs" in capfd.readouterr().err


def test_every_kernel_has_checks():
    """On a device, and in the simulator if it can be there."""
    entries = {(pass_, each.name): each for pass_ in PASSES for each in plan.TABLES[pass_]}
    target = runtime.Target((9, 0), 132)
    assert {(check.pass_, check.implementation.name) for check in checks.planned(target)} == entries.keys()
    simulated = {(check.pass_, check.implementation.name) for check in simulator.few()}
    assert simulated >= {key for key, each in entries.items() if not getattr(each, "inline_ptx", False)}


def test_a_row_that_fails_does_not_end_the_run(gpu, capsys, monkeypatch):
    def full(*_):
        raise MemoryError("out of memory: 16 GiB")

    monkeypatch.setattr("fastdeconv.bench.gate.against_definition", full)
    assert bench("--precision", "float32", "--pass", "weight_grad") == 1
    out = capsys.readouterr().out
    assert "WRONG, not timed: MemoryError: out of memory: 16 GiB; weight_grad mb1ic2" in out
    assert "What a call costs the host" in out


def test_a_section_that_fails_is_told(gpu, capsys, monkeypatch):
    monkeypatch.setattr("fastdeconv.bench.gpu.sections._launching", lambda *_: 1 / 0)
    assert bench("--precision", "float32", "--pass", "weight_grad") == 1
    assert "ZeroDivisionError: division by zero" in capsys.readouterr().out


@pytest.mark.parametrize("fault", [0, 1])
def test_overlap(gpu, monkeypatch, fault):
    """Through the fake GPU, and then with results that are wrong."""
    whole = fd.batch.map

    def spoiled(function, source, **keywords):
        return whole(lambda stack: function(stack) + fake_cupy.asarray(np.float32([fault])), source, **keywords)

    monkeypatch.setattr(fd.batch, "map", spoiled)
    if fault:
        with pytest.raises(RuntimeError, match=r"fd\.batch\.map is wrong in item 0: forward differs by up to 1"):
            overlap.share(select(TINY))
        return
    (row,) = overlap.share(select(TINY))
    assert (row["items"], row["of"]) == (1, "compute")
    assert 0 < row["share"] < 1.5
    assert {"upload s", "compute s", "download s", "all s"} <= row.keys()
