"""``fastdeconv bench training``: a whole run on a tiny model."""

import json

import pytest

from fastdeconv.cli import main

pytest.importorskip("torch")


def test_a_run(tmp_path, capsys):
    figures, page = tmp_path / "training.json", tmp_path / "training.md"
    arguments = ["training", "--models", "tiny", "--rounds", "1", "--json", str(figures), "-o", str(page)]
    assert main(["bench", *arguments]) == 0
    out = capsys.readouterr().out
    assert "tiny: FSRCNN (4, 2, 1)" in out
    data = json.loads(figures.read_text())
    assert data["command"].startswith("fastdeconv bench training --models tiny")
    (model,) = data["models"]
    assert set(model["steps"]) == set(model["memory"]) == {"fastdeconv", "torch", "torch_cl"}
    assert [part["name"] for part in model["parts"]] == [
        "Conv2d + PReLU 1→4 k5", "Conv2d + PReLU 4→2 k1", "Conv2d + PReLU 2→2 k3", "Conv2d + PReLU 2→4 k1",
        "ConvTranspose2d 4→1 k9",
    ]  # fmt: skip
    for losses in model["losses"].values():
        assert losses == pytest.approx(model["losses"]["torch"], rel=1e-4)
        assert losses[2] < losses[0]
    for memory in model["memory"].values():
        assert 0 < memory["before"] <= memory["peak"]
    text = page.read_text()
    assert "## tiny" in text
    assert "| torch_cl |" in text
    assert "geometric mean over models" in text


def test_models_are_those_that_the_command_names():
    from fastdeconv.bench import command, training

    assert tuple(training.MODELS) == command.MODELS


def test_contenders_that_disagree_are_not_timed(monkeypatch):
    from fastdeconv.bench import training

    monkeypatch.setattr(training._TorchChannelsLast, "load", lambda self, state: None)
    with pytest.raises(ValueError, match="torch_cl has the losses"):
        training.measure(training.MODELS["tiny"], 1, 1)


@pytest.mark.quick
def test_bad_usage(capsys):
    with pytest.raises(SystemExit):
        main(["bench", "training", "--models", "vgg"])
    assert "'vgg' is not one of fsrcnn, dcgan, tiny" in capsys.readouterr().err
