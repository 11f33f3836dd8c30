"""The command line: what it prints, and how it fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastdeconv as fd
from fastdeconv.cli import main

DESCRIPTOR = "mb8ic256ih16iw12oc256oh32ow24kh4kw4sh2sw2ph1pw1"


@pytest.mark.quick
def test_explain_prints_the_report(capsys):
    assert main(["explain", DESCRIPTOR]) == 0
    assert capsys.readouterr().out == f"{fd.explain(DESCRIPTOR, pass_='forward')}\n"
    assert main(["explain", DESCRIPTOR, "--pass", "weight_grad", "--algorithm", "direct_dot"]) == 0
    assert "direct_dot" in capsys.readouterr().out


@pytest.mark.quick
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["explain", "mb1ic3"], "iw"),
        (["explain", "nonsense"], "nonsense"),
        (["explain", DESCRIPTOR, "--algorithm", "magic"], "magic"),
        (["explain", "mb1ic3iw5oc2kw3", "--algorithm", "direct_tile_"], "direct_tile_"),
        (["demo", "--image", "no-such-file.png"], "no such file"),
    ],
)
def test_a_failure_is_one_line(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("fastdeconv: error: ")
    assert said in captured.err
    assert len(captured.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.quick
@pytest.mark.parametrize(
    "arguments", [[], ["dance"], ["explain"], ["demo", "--seed", "-1"], ["explain", DESCRIPTOR, "--pass", "up"]]
)
def test_bad_usage_has_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: fastdeconv" in capsys.readouterr().err


@pytest.mark.quick
def test_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"fastdeconv {fd.__version__}\n"


def test_the_installed_command_and_the_module_are_one():
    command = Path(sys.executable).with_name("fastdeconv")
    for start in ([str(command)], [sys.executable, "-m", "fastdeconv"]):
        run = subprocess.run([*start, "explain", DESCRIPTOR], capture_output=True, text=True, timeout=60)
        assert run.returncode == 0, run.stderr
        assert run.stdout.startswith(DESCRIPTOR)


def test_a_reader_that_leaves_is_no_error():
    read, write = os.pipe()
    os.close(read)
    run = subprocess.run(
        [sys.executable, "-m", "fastdeconv", "explain", DESCRIPTOR], stdout=write, stderr=subprocess.PIPE, timeout=60
    )
    os.close(write)
    assert run.stderr == b""


def test_a_missing_extra_names_what_to_install(tmp_path):
    # A module of that name that cannot be imported stands for one that is not installed.
    (tmp_path / "matplotlib.py").write_text("raise ModuleNotFoundError(\"No module\", name='matplotlib')\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-m", "fastdeconv", "demo", "--output", str(tmp_path / "out")],
        capture_output=True, text=True, timeout=60, env=environment,
    )  # fmt: skip
    assert run.returncode == 1
    assert run.stderr == 'fastdeconv: error: demo needs matplotlib: pip install "fastdeconv[images]"\n'


@pytest.mark.parametrize("home", ["missing", "unset"])
def test_no_home_no_display_no_config_folder(home, tmp_path):
    picture = tmp_path / "broken.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n")
    environment = {
        k: v for k, v in os.environ.items() if k not in ("HOME", "DISPLAY", "MPLCONFIGDIR", "XDG_CACHE_HOME")
    }
    if home == "missing":
        environment["HOME"] = "/nonexistent"
    arguments = ["--image", str(picture), "--output", str(tmp_path / "out")]
    run = subprocess.run(
        [sys.executable, "-m", "fastdeconv", "demo", *arguments],
        capture_output=True, text=True, timeout=60, env=environment,
    )  # fmt: skip
    assert run.returncode == 1
    assert "broken.png" in run.stderr
    assert len(run.stderr.splitlines()) == 1
