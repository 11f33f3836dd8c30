"""``fastdeconv bench``: its lines about what is wrong, and a whole run on tiny layers."""

import json
import subprocess
import sys

import pytest

from fastdeconv.bench import contenders, fresh, peak, sections
from fastdeconv.bench.layers import select
from fastdeconv.bench.operands import TIMED
from fastdeconv.bench.results import Results
from fastdeconv.cli import main

TINY = "mb1ic2ih5iw5oc3kh3kw3"


@pytest.fixture
def no_limits(monkeypatch):
    """Spare the tests the seconds that the machine's limits take."""
    monkeypatch.setattr(peak, "flops_per_second", lambda dtype: 1e11)
    monkeypatch.setattr(peak, "bytes_per_second", lambda: 1e10)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pass", "sideways"], "'sideways' is not one of forward, input_grad, weight_grad, step"),
        (["--dtype", "float16"], "'float16' is not one of float32, float64"),
        (["--peers", "torch,caffe"], "'caffe' is not one of all, none, torch"),
        (["--sections", "colour"], "'colour' is not one of all, none, startup"),
        (["--rounds", "0"], "must be a whole number of at least 1; got '0'"),
        (["--batch", "1,x"], "must be a whole number of at least 1; got 'x'"),
        (["--budget", "-1"], "must be a number of seconds of at least 0; got '-1'"),
        (["--budget", "nan"], "must be a number of seconds of at least 0; got 'nan'"),
        (["--colour"], "unrecognized arguments: --colour"),
        (["report"], "FILE"),
    ],
)
def test_bad_usage(capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        main(["bench", *arguments])
    assert message in capsys.readouterr().err


@pytest.mark.quick
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layers", "nothing"], "'nothing' is neither a layer, a set of layers nor a descriptor"),
        (["--layers", "--dt=f16 " + TINY], "layers must be of float32 or float64; got float16"),
        (["--layers", TINY, "--threads", "100000"], "NUMBA_NUM_THREADS"),
        (["--layers", TINY, "--json", "no/such/folder/file.json"], "there is no such folder"),
        (["report", "no.json"], "No such file"),
    ],
)
def test_refusals_are_one_line(capsys, arguments, message):
    arguments = ["=".join(arguments[:2]), *arguments[2:]] if arguments[0] == "--layers" else arguments
    assert main(["bench", *arguments]) == 1
    err = capsys.readouterr().err
    assert err.startswith("fastdeconv: error: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.quick
@pytest.mark.parametrize(("package", "more"), [("tqdm", ["--layers", TINY]), ("matplotlib", ["report", "{}"])])
def test_a_missing_extra_is_named(package, more, tmp_path):
    (tmp_path / "results.json").write_text("{}")
    arguments = ["bench", *(part.format(tmp_path / "results.json") for part in more)]
    code = f"import sys; sys.modules[{package!r}] = None\nfrom fastdeconv.cli import main\nsys.exit(main({arguments}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == f'fastdeconv: error: bench needs {package}: pip install "fastdeconv[bench]"\n'


@pytest.mark.quick
def test_a_missing_peer_is_a_line(monkeypatch):
    torch = next(peer for peer in contenders.PEERS if peer.name == "torch")
    monkeypatch.setattr(torch, "modules", ("no_such_module",))
    started, left_out = contenders.start(["torch"], 1)
    assert [contender.name for contender in started] == ["fastdeconv", "fastdeconv_cl", "fastdeconv_prepared"]
    assert left_out == {"torch": "no_such_module is not installed (pip install torch==2.13.0)"}


@pytest.mark.quick
def test_a_peer_that_does_not_start_is_a_line(monkeypatch):
    def fail(self, threads):
        raise ImportError("libbroken.so:\nno such file")

    torch = next(peer for peer in contenders.PEERS if peer.name == "torch")
    monkeypatch.setattr(torch, "modules", ())
    monkeypatch.setattr(torch, "__init__", fail)
    assert contenders.start(["torch"], 1)[1] == {"torch": "does not start: libbroken.so: no such file"}


def test_from_the_command_to_the_page(capsys, tmp_path, no_limits):
    figures, page = tmp_path / "results.json", tmp_path / "docs" / "page.md"
    arguments = ["bench", "--layers", f"textbook_5x5_k3,{TINY}", "--dtype", "float32,float64", "--peers", "none"]
    arguments += ["--rounds", "2", "--pass", "forward,step", "--sections", "scaling", "--json", str(figures)]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "torch       left out: not asked for" in out
    assert "step, float64" in out
    assert "Threads: our forward pass" in out
    data = json.loads(figures.read_text())
    assert len(data["rows"]) == 8
    assert all(row["times"]["fastdeconv"]["rounds"] == 2 for row in data["rows"])
    assert main(["bench", "report", str(figures), "-o", str(page)]) == 0
    assert "### step, float64" in page.read_text()
    assert len(list((page.parent / "images").glob("*.png"))) == 4


def test_a_budget_that_is_over(capsys, no_limits):
    assert main(["bench", "--layers", TINY, "--peers", "none", "--budget", "1e-9"]) == 0
    assert "not run, as 0 s are over (--budget): float32 forward given, float32 input_grad given" in (
        capsys.readouterr().out
    )


def test_a_wrong_result_has_a_status(capsys, no_limits, monkeypatch):
    monkeypatch.setattr("fastdeconv.bench.gate.against_definition", lambda *arguments: "planted")
    assert main(["bench", "--layers", TINY, "--peers", "none", "--pass", "forward"]) == 1
    assert "WRONG, not timed: planted; forward mb1ic2" in capsys.readouterr().out


def test_fresh_processes():
    layers = select(TINY)
    cold, warm = sections.startup(layers, ["fastdeconv"], 1, 1)
    assert (cold["contender"], warm["contender"]) == ("fastdeconv, empty cache", "fastdeconv, filled cache")
    assert cold["note"] == warm["note"] == ""
    for row in sections.memory(layers, ["fastdeconv"], 1, 1):
        assert row["note"] == ""
        assert row["result MB"] > 0


def test_kernels_of_a_model():
    forward, step = sections.compilation(select(TINY), [], 1, 1)
    assert (forward["pass"], step["pass"]) == ("forward", "step")
    assert 0 < forward["kernels"] <= step["kernels"]
    assert forward["note"] == step["note"] == ""


def test_a_model_that_takes_too_long_is_told(monkeypatch):
    """And does not lose the figures of the run."""
    monkeypatch.setattr(fresh, "_TIMEOUT", 0.01)
    rows = sections.compilation(select(TINY), [], 1, 1)
    assert [row["kernels"] for row in rows] == [None, None]
    assert all("no answer after" in row["note"] for row in rows)


@pytest.mark.parametrize("peer", contenders.PEERS, ids=lambda peer: peer.name)
def test_peers_agree(peer, tmp_path):
    """Each peer that is installed, in a process of its own, computes what we compute for the kinds of layer it has."""
    if missing := peer.missing():
        pytest.skip(f"{missing} is not installed")
    layers = (
        "mb2ic6ih7iw9oc4oh14ow18kh3kw4sh2sw2ph1pw1",
        "g2mb1ic4ih5oc6kh3",
        "g3mb1ic3ih5oc3kh3sh2ph1",
        "mb1ic2ih5oc3kh3dh1",
        "mb1ic2iw9oc3kw5sw2",
        "mb1ic2id4oc3kd2sd2",
    )
    figures = tmp_path / "results.json"
    arguments = ["--layers", ",".join(layers), "--pass", ",".join(TIMED), "--rounds", "1", "--threads", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "fastdeconv", "bench", *arguments, "--peers", peer.name, "--json", str(figures)],
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    results = Results.read(figures)
    assert results.peers == [peer.name]
    timed = [row for row in results.rows if peer.name in row.times]
    assert {row.pass_ for row in timed} == set(peer.passes)
    assert len(timed) >= len(layers) // 2 * len(peer.passes)
