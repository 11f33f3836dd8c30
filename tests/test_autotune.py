"""Autotune: right before fast, the fastest from then on, and a file that can be wrong in every way."""

import json
import os
import re
import subprocess
import sys
import textwrap
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from cases import EDGE_CASES, IMPLEMENTATIONS, call, declines, floats

import fastdeconv as fd
from fastdeconv import autotune, dispatch, tuning
from fastdeconv.bench import timing
from fastdeconv.cli import main
from fastdeconv.dispatch import TABLES, plan
from fastdeconv.kernels.cpu import host
from fastdeconv.kernels.geometry import Bound
from fastdeconv.problem import PASSES

module = sys.modules["fastdeconv.autotune"]

TEXT = str(fd.Problem.parse("mb1ic9ih12iw13oc8kh4kw4sh2sw2ph1pw1"))
P = fd.Problem.parse(TEXT)


def fresh_process():
    """Forget what is in memory, as another process would not know it."""
    tuning._table, tuning._warned = None, False


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Give a test a folder of its own; return the file in it."""
    folder = tmp_path / "0123456789abcdef"
    folder.mkdir(mode=0o700)
    # Of the file alone: compiled kernels stay where they are.
    monkeypatch.setattr(
        tuning, "cache", SimpleNamespace(directory=lambda: (folder, "in a folder"), existing=lambda: folder)
    )
    fresh_process()
    yield folder / tuning.FILE
    tuning._table, tuning._warned = {}, False
    tuning._generation += 1


@pytest.fixture
def clock(monkeypatch):
    """Let implementations take the milliseconds that a test says, by their names; others take 50."""
    taken: dict[str, float] = {}
    names: list[str] = []

    def noted(forced, *rest):
        names.append(forced.implementation.name)
        return make(forced, *rest)

    def interleaved(calls, rounds, seconds):
        assert len(calls) <= len(names)
        order, names[:] = list(dict.fromkeys(names))[-len(calls) :], []
        return [timing.summary([1e-3 * taken.get(name, 50.0)] * rounds) for name in order]

    make = module._call
    monkeypatch.setattr(module, "_call", noted)
    monkeypatch.setattr(timing, "interleaved", interleaved)
    return taken


def serving(p, pass_):
    return {i.name for of, i in IMPLEMENTATIONS if of == pass_ and declines(i, pass_, p) is None} - {"reference"}


def chosen(text=TEXT, pass_="forward"):
    return plan(fd.Problem.parse(text), pass_).implementation.name


def test_the_real_thing(store):
    found = fd.autotune(TEXT, rounds=2)
    assert [tuned.pass_ for tuned in found.passes] == list(PASSES)
    for tuned in found.passes:
        assert tuned.seconds.keys() == serving(P, tuned.pass_)
        assert list(tuned.seconds.values()) == sorted(tuned.seconds.values())
        assert tuned.choice == next(iter(tuned.seconds)) == chosen(pass_=tuned.pass_)
        assert tuned.left_out == {}
        assert f"{tuned.pass_}: {tuned.choice}" in str(found)
        for name, seconds in tuned.seconds.items():
            assert f"{tuning.milliseconds(seconds)} ms" in next(x for x in str(tuned).splitlines() if f"  {name} " in x)
        (told,) = fd.explain(TEXT, pass_=tuned.pass_).plans
        assert f"chosen by autotune: {tuned.choice}" in str(fd.explain(TEXT))
        assert [name for name, _ in told.declined] == [i.name for i in TABLES["cpu", tuned.pass_]][: len(told.declined)]
    assert str(found).startswith(TEXT)
    assert f"kept in {store}" in str(found)
    assert found.wrong == {}
    x, w = floats(P, "forward")
    np.testing.assert_array_equal(call(P, "forward", x, w), call(P, "forward", x, w, found.passes[0].choice))


@pytest.mark.quick
def test_the_fastest_runs_from_then_on(store, clock):
    x, w = floats(P, "forward")
    ready = fd.prepare(w, stride=2, padding=1)
    for name in ("direct_loops", "winograd", "direct_tile"):
        clock[name] = 100 / (len(clock) + 10)
        found = fd.autotune(P, pass_="forward", rounds=1)
        assert found.passes[0].choice == chosen() == name
        np.testing.assert_array_equal(call(P, "forward", x, w), call(P, "forward", x, w, name))
        np.testing.assert_array_equal(ready(x), call(P, "forward", x, w, name))
        assert f"by {name} " in repr(ready)
        assert f"{tuning.milliseconds(clock[name] / 1e3)} ms" in str(found)
        fresh_process()
        assert chosen() == name
    assert plan(P, "forward", algorithm="direct_loops").tuned is None
    told = str(fd.explain(TEXT, pass_="forward"))
    assert "chosen by autotune: direct_tile 8.33 ms, winograd 9.09 ms, direct_loops 10 ms" in told
    assert "not winograd: took 9.09 ms when autotune timed it" in told
    assert "not direct_phases: 8 output channels" in told


@pytest.mark.quick
def test_what_it_is_for(store, clock):
    """Another problem, pass, number of threads or kind of CPU is another entry."""
    before = {each: chosen(pass_=each) for each in PASSES}
    clock["direct_loops"] = 1.0
    fd.autotune(TEXT, pass_="forward", rounds=1)
    assert chosen() == "direct_loops" != before["forward"]
    assert {each: chosen(pass_=each) for each in PASSES[1:]} == {each: before[each] for each in PASSES[1:]}
    for other in ("--dt=f64 " + TEXT, TEXT.replace("ic9", "ic10"), "--unbatched " + TEXT):
        assert plan(fd.Problem.parse(other), "forward").tuned is None
    threads = fd.get_num_threads()
    if threads > 1:
        fd.set_num_threads(1)
        try:
            assert chosen() == before["forward"]
        finally:
            fd.set_num_threads(threads)
        assert chosen() == "direct_loops"
    content = json.loads(store.read_text())
    assert content["format"] == tuning.FORMAT
    assert content["kernels"] == store.parent.name
    (entry,) = content["entries"]
    assert (entry["problem"], entry["pass"], entry["threads"], entry["cpu"]) == (TEXT, "forward", threads, host.NAME)
    entry["cpu"] = "another"
    store.write_text(json.dumps(content))
    fresh_process()
    assert chosen() == before["forward"]
    assert tuning.number_of_entries() == 0


@pytest.mark.quick
def test_the_limit_of_scratch_memory_holds(store, clock):
    clock |= {"winograd": 1.0, "direct_loops": 2.0}
    fd.autotune(TEXT, pass_="forward", rounds=1)
    assert chosen() == "winograd"
    try:
        fd.set_workspace_limit(0)
        told = fd.explain(TEXT, pass_="forward")
        assert told.plans[0].implementation.name == "direct_loops"
        fd.set_workspace_limit(plan(P, "forward", algorithm="direct_loops").workspace)
        found = fd.autotune(TEXT, pass_="forward", rounds=1)
        assert found.passes[0].seconds.keys() == {"direct_loops"}
    finally:
        fd.set_workspace_limit(None)


@pytest.mark.quick
@pytest.mark.parametrize("pass_", PASSES)
def test_right_results_are_never_called_wrong(pass_):
    """The sums of its operands are exact for every implementation, so that all agree with the reference."""
    for p in EDGE_CASES.values():
        operands = module._operands(p, pass_)
        assert all(np.abs(a).max() > 0 for a in operands if a is not None)
        want = module._result(plan(p, pass_, algorithm="reference"), operands)
        for name in serving(p, pass_):
            got = module._result(plan(p, pass_, algorithm=name), operands)
            np.testing.assert_array_equal(got, want, f"{pass_} {name} {p}")


@pytest.mark.quick
@pytest.mark.parametrize("dtype", ["float16", "complex64", "complex128", "int8", "uint16", "int64", "float64"])
def test_every_element_type(store, clock, dtype):
    p = replace(P, dtype=dtype)
    for tuned in fd.autotune(p, rounds=1).passes:
        assert tuned.seconds.keys() == serving(p, tuned.pass_)
        assert plan(p, tuned.pass_).tuned is not None


def spoiled(implementation):
    def bind(g):
        run = implementation.bind(g)

        def wrong(*arrays):
            run(*arrays)
            arrays[-1][-1] += 1

        return Bound(wrong, 0)

    return implementation._replace(bind=bind)


@pytest.mark.quick
def test_what_is_wrong_is_not_timed(store, clock, monkeypatch, capsys):
    table = TABLES["cpu", "forward"]
    clock["direct_tile"] = 0.001
    names = ["direct_tile"]
    monkeypatch.setitem(TABLES, ("cpu", "forward"), tuple(spoiled(i) if i.name in names else i for i in table))
    dispatch.choose.cache_clear()
    try:
        found = fd.autotune(TEXT, pass_="forward", rounds=1)
        (tuned,) = found.passes
        assert tuned.choice != "direct_tile"
        assert tuned.seconds.keys() == serving(P, "forward") - {"direct_tile"}
        assert found.wrong == {"forward direct_tile": f"WRONG: 1 of {np.prod(P.output_shape)} elements differ from the "
                               "reference"}  # fmt: skip
        assert re.search("direct_tile +not timed: WRONG", str(found))
        assert main(["autotune", TEXT, "--pass", "forward", "--rounds", "1"]) == 1
        assert "WRONG" in capsys.readouterr().out
        names[:] = [i.name for i in table if i.name != "reference"]
        monkeypatch.setitem(TABLES, ("cpu", "forward"), tuple(spoiled(i) if i.name in names else i for i in table))
        dispatch.choose.cache_clear()
        with pytest.raises(RuntimeError, match="no implementation of the forward pass is right"):
            fd.autotune(TEXT, pass_="forward", rounds=1)
    finally:
        dispatch.choose.cache_clear()


@pytest.mark.quick
def test_the_reference_alone_is_timed(store, clock, monkeypatch):
    monkeypatch.setitem(TABLES, ("cpu", "forward"), TABLES["cpu", "forward"][-1:])
    dispatch.choose.cache_clear()
    try:
        assert fd.autotune(TEXT, pass_="forward", rounds=1).passes[0].seconds.keys() == {"reference"}
    finally:
        dispatch.choose.cache_clear()


@pytest.mark.quick
def test_the_hopeless_are_left_out(store, clock, monkeypatch):
    large = "mb2ic32ih40iw40oc32kh4kw4sh2sw2ph1pw1"
    asked = []
    expected = module._expected

    def slow(problem, pass_, name):
        asked.append(name)
        assert 0 < expected(problem, pass_, name) < 60
        return 1000.0

    monkeypatch.setattr(module, "_expected", slow)
    found = fd.autotune(large, pass_="forward", rounds=1)
    (tuned,) = found.passes
    assert "direct_loops" in asked
    assert tuned.left_out.keys() == set(asked)
    assert tuned.left_out["direct_loops"] == "about 1000000 ms, judged by a piece of the problem"
    assert re.search("direct_loops +not timed: about", str(found))
    assert "direct_loops" in str(fd.explain(large, pass_="forward"))


@pytest.mark.quick
def test_a_small_problem_is_not_judged_by_a_piece():
    assert module._expected(P, "forward", "direct_loops") == 0


def entry(**changed):
    good = {"problem": TEXT, "pass": "forward", "threads": 2, "cpu": host.NAME, "seconds": {"direct_loops": 0.1}}
    return good | changed


def content(*entries, **changed):
    return json.dumps({"format": tuning.FORMAT, "kernels": "0123456789abcdef", "entries": list(entries)} | changed)


DAMAGED = {
    "truncated": content(entry())[:-20],
    "empty": "",
    "garbage": b"\x80\xff\x00" * 99,
    "nested": "[" * 100_000,
    "list": "[]",
    "number": "7",
    "old_format": content(entry(), format=0),
    "no_format": '{"entries": []}',
    "other_kernels": content(entry(), kernels="fedcba9876543210"),
    "no_entries": content(entries=None),
    "entries_by_name": content(entries={"a": 1}),
    "entry_of_nothing": content(entry(), None),
    "entry_lacks": content({k: v for k, v in entry().items() if k != "cpu"}),
    "threads": content(entry(threads="2")),
    "threads_bool": content(entry(threads=True)),
    "pass": content(entry(**{"pass": "backward"})),
    "no_times": content(entry(seconds={})),
    "nan": content(entry(seconds={"direct_loops": float("nan")})),
    "infinite": content(entry(seconds={"direct_loops": float("inf")})),
    "negative": content(entry(seconds={"direct_loops": -1})),
    "text": content(entry(seconds={"direct_loops": "fast"})),
    "null": content(entry(seconds={"direct_loops": None})),
}


@pytest.mark.quick
@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_file_costs_one_warning(store, clock, data):
    store.write_bytes(data if isinstance(data, bytes) else data.encode())
    x, w = floats(P, "forward")
    with pytest.warns(RuntimeWarning, match=r"autotune.json is ignored: .*the next autotune replaces it") as told:
        call(P, "forward", x, w)
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(P, "forward", x, w)
        assert plan(P, "forward").tuned is None
        fd.autotune(TEXT, pass_="forward", rounds=1)
        fresh_process()
        assert plan(P, "forward").tuned is not None


@pytest.mark.quick
def test_a_good_file_of_others_is_harmless(store):
    """Unknown kernels are passed over, and those that decline too."""
    threads = fd.get_num_threads()
    times = {"fft": 1e-9, "direct_product": 2e-9, "reference": 0.5, "direct_tile": 1.0}
    store.write_text(content(entry(threads=threads, seconds=times)))
    assert chosen() == "reference"
    store.write_text(content(entry(threads=threads, seconds={"fft": 1e-9})))
    before = chosen(TEXT.replace("ic9", "ic10"))
    fresh_process()
    assert chosen() == before


@pytest.mark.quick
def test_a_file_that_cannot_be_read(store):
    store.mkdir()
    with pytest.warns(RuntimeWarning, match="is ignored: Is a directory"):
        assert plan(P, "forward").tuned is None


@pytest.mark.quick
@pytest.mark.parametrize("how", ["nowhere", "full", "folder"])
def test_a_file_that_cannot_be_written(store, clock, monkeypatch, how):
    def full(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    if how == "nowhere":
        monkeypatch.setattr(tuning.cache, "directory", lambda: (None, "no cache: because"))
    elif how == "full":
        monkeypatch.setattr(tuning.tempfile, "mkstemp", full)
    else:
        monkeypatch.setattr(tuning.os, "replace", full)
    clock["direct_loops"] = 1.0
    with pytest.warns(RuntimeWarning, match="what autotune measured is kept in this process only: ") as told:
        found = fd.autotune(TEXT, pass_="forward", rounds=1)
    assert len(told) == 1
    assert "kept in this process only" in str(found)
    assert chosen() == "direct_loops"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fd.autotune(TEXT, pass_="input_grad", rounds=1)
    assert not list(store.parent.glob(".part-*"))
    assert not store.exists()


@pytest.mark.quick
def test_entries_of_other_processes_are_kept(store):
    def key(n):
        return tuning.Key(f"p{n}", "forward", 2, host.NAME)

    tuning.remember({key(1): {"a": 1.0}})
    fresh_process()
    tuning.remember({key(2): {"a": 2.0}})
    known = dict(tuning._table)
    tuning._table = {key(1): {"a": 1.0}}  # a process that read the file earlier
    tuning.remember({key(3): {"a": 3.0}, key(1): {"a": 4.0}})
    fresh_process()
    assert tuning.number_of_entries() == 3
    assert tuning._table == {**known, key(3): {"a": 3.0}, key(1): {"a": 4.0}}
    assert store.stat().st_mode & 0o777 == 0o600


@pytest.mark.quick
def test_the_file_does_not_grow_for_ever(store, monkeypatch):
    monkeypatch.setattr(tuning, "_MOST", 3)
    for n in range(5):
        tuning.remember({tuning.Key(f"p{n}", "forward", 2, host.NAME): {"a": 1.0}})
    fresh_process()
    tuning.number_of_entries()
    assert [key.problem for key in tuning._table] == ["p2", "p3", "p4"]


def run(code, root, *, fails=False, **environment):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import fastdeconv as fd\n" + textwrap.dedent(code)],
        env=os.environ | {"NUMBA_CACHE_DIR": str(root)} | environment,
        capture_output=True, text=True, timeout=100, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (done.returncode != 0) == fails, done.stderr[-3000:]
    return done.stderr if fails else done.stdout


REMEMBER = """
    import sys
    from fastdeconv import tuning
    from fastdeconv.kernels.cpu import host, threads
    for n in range(20):
        tuning.remember({tuning.Key(f"{sys.argv[1]} {n}", "forward", 2, host.NAME): {"direct_loops": 1.0}})
    """
TUNE = f"""
    from fastdeconv import tuning
    from fastdeconv.kernels.cpu import host, threads
    tuning.remember({{tuning.Key({TEXT!r}, "forward", threads.expected(), host.NAME): {{"direct_loops": 0.001}}}})
    """


def test_processes_that_write_at_once(tmp_path):
    run(TUNE, tmp_path)
    code = "import fastdeconv as fd\n" + textwrap.dedent(REMEMBER)
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(n)], env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)})
        for n in range(4)
    ]
    assert [process.wait(timeout=100) for process in processes] == [0] * 4
    out = run("from fastdeconv import tuning\nprint(tuning.number_of_entries())", tmp_path)
    assert out.split() == ["81"]
    assert not list(tmp_path.rglob(".part-*"))


def test_another_process_uses_it_and_reads_the_file_once(tmp_path):
    told = f"print(fd.explain({TEXT!r}, pass_='forward'))"
    assert "autotune" not in run(told, tmp_path)
    assert list(tmp_path.rglob("*")) == []  # explain makes no folder
    run(TUNE, tmp_path)
    assert "chosen by autotune: direct_loops 1 ms" in run(told, tmp_path)
    out = run(
        f"""
        import os, sys
        opened = []
        sys.addaudithook(lambda event, a: opened.append(a[0]) if event == "open" and "autotune" in str(a[0]) else None)
        from fastdeconv import tuning
        assert tuning._table is None
        import numpy as np
        fd.explain({TEXT!r})
        assert opened
        for n in range(3, 6):
            fd.conv_transpose2d(np.ones((n, n)), np.ones((3, 3)))
        print(len(opened), len(os.listdir("/proc/self/task")) == 1)
        """,
        tmp_path,
        OPENBLAS_NUM_THREADS="1",
    )
    assert out.split() == ["1", "True"]
    assert "chosen by autotune" not in run(told, tmp_path, FASTDECONV_SIMD_BITS="128")
    assert "chosen by autotune" not in run(told, tmp_path, NUMBA_NUM_THREADS=str((os.cpu_count() or 1) + 1))


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="permissions are POSIX's")
def test_a_folder_that_others_can_write_to_is_not_read(tmp_path):
    told = f"print(fd.explain({TEXT!r}, pass_='forward'))"
    run(TUNE, tmp_path)
    for folder in (tmp_path / "fastdeconv", next((tmp_path / "fastdeconv").iterdir())):
        folder.chmod(0o777)
        assert "chosen by autotune" not in run(told, tmp_path)
        assert "kept in this process only" in run(TUNE, tmp_path, fails=True)  # as warnings are errors
        folder.chmod(0o700)
    assert "chosen by autotune" in run(told, tmp_path)


@pytest.mark.quick
def test_the_command(store, clock, capsys):
    assert main(["autotune", TEXT, "--rounds", "1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(TEXT + "\n")
    assert all(f"\n{pass_}: " in out for pass_ in PASSES)
    assert main(["autotune", "--dt=f64", TEXT, "--rounds", "1", "--pass", "weight_grad"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"--dt=f64 {TEXT}\n")
    assert "forward" not in out
    assert main(["info"]) == 0
    assert "times for 4 problems, passes and numbers of threads" in capsys.readouterr().out


@pytest.mark.quick
def test_arrays_name_a_problem_too(store, clock):
    x, w = np.ones(P.input_shape, "float32"), np.ones(P.weight_shape, "float32")
    assert fd.autotune(x, w, 2, 1, pass_="forward", rounds=1).problem == P
    assert plan(P, "forward").tuned is not None
    assert autotune is fd.autotune
