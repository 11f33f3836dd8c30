"""``fastdeconv bench upscaling`` on a small image: all that is installed agrees, and is timed and written down."""

import json

import numpy as np
import pytest

from fastdeconv.bench import command, upscaling, upscaling_peers
from fastdeconv.cli import main
from fastdeconv.imaging import network as networks
from fastdeconv.imaging.network import Description, Network


@pytest.fixture(autouse=True)
def _no_time_is_spent_on_more_rounds(monkeypatch):
    monkeypatch.setattr(upscaling, "SECONDS", 0)


def test_a_run_beside_torch_and_others_that_are_there(tmp_path, capsys):
    model = Network(Description(3, features=5, shrunk=3, maps=1))
    model.body[-1].weight.data[...] *= 20
    networks.save(model, tmp_path / "x3.safetensors")
    files = ["--json", str(tmp_path / "figures.json"), "-o", str(tmp_path / "page.md")]
    status = main(
        ["bench", "upscaling", "--size", "40x32", "--rounds", "1", "--model", str(tmp_path / "x3.safetensors"), *files]
    )
    printed = capsys.readouterr().out
    assert status == 0, printed
    figures = json.loads((tmp_path / "figures.json").read_text())
    left = set(figures["left_out"])
    expected = {kind.name for kind in upscaling_peers.CONTENDERS} - left
    assert set(figures["rows"]) == {"network alone", "image", "command"}
    assert all(set(row) == expected for row in figures["rows"].values())
    assert set(figures["stages"]) == {
        "prepare",
        "luminance",
        "network",
        "limits",
        "bicubic colours",
        "sum and rounding",
    }
    assert (figures["size"], figures["threads"]) == ([32, 40], figures["threads"])
    assert (tmp_path / "page.md").read_text() in printed
    assert all(name in printed for name in expected)


def test_a_wrong_result_is_told(monkeypatch, capsys):
    class Wrong(upscaling_peers.Ours):
        name, modules, conditions = "torch", ("numpy",), "wrong on purpose"

        def body(self, padded):
            return lambda: super(Wrong, self).body(padded)() + np.float32(0.001)

    monkeypatch.setattr(upscaling, "CONTENDERS", (upscaling_peers.Ours, Wrong))
    monkeypatch.setattr(upscaling_peers, "CONTENDERS", (upscaling_peers.Ours, Wrong))
    assert main(["bench", "upscaling", "--size", "32x32", "--rounds", "1"]) == 1
    assert "**wrong**: network alone: torch differs from ours by 0.001, more than 0.0001" in capsys.readouterr().out


def test_the_options_know_every_peer(capsys):
    names = ",".join(kind.name for kind in upscaling_peers.CONTENDERS if kind is not upscaling_peers.Ours)
    assert command.several(("all", "none", *names.split(",")))(names) == names.split(",")
    with pytest.raises(SystemExit, match="2"):
        main(["bench", "upscaling", "--peers", "caffe"])
    assert f"all, none, {names.replace(',', ', ')}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--json", "no/such/folder/file.json"], "there is no such folder"),
        (["--model", "none.safetensors"], "none.safetensors: cannot be read"),
    ],
)
def test_refusals_are_one_line(capsys, arguments, message):
    assert main(["bench", "upscaling", *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("size", ["1080", "8x100", "axb", "100x"])
def test_bad_sizes(capsys, size):
    with pytest.raises(SystemExit, match="2"):
        main(["bench", "upscaling", "--size", size])
    assert "must be WIDTHxHEIGHT in pixels, 16 at least" in capsys.readouterr().err
