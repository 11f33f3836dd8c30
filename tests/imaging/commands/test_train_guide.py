"""The shell lines of docs/train-your-own.md run in the order in which they stand, on little data and few steps."""

from __future__ import annotations

import re
import shlex
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import pixels, save

from fastdeconv.cli import main
from fastdeconv.imaging import network
from fastdeconv.imaging.training import settings, trainer
from fastdeconv.imaging.training.crops import Crops

GUIDE = Path(__file__).parents[3] / "docs" / "train-your-own.md"
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
LINES = [line for block in BLOCKS for line in block.splitlines()]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with the files that the guide names; training in it takes two small steps."""
    monkeypatch.chdir(tmp_path)
    for seed in range(3):
        for place in ("photos", "scans", "retouched"):
            (tmp_path / place).mkdir(exist_ok=True)
            save(tmp_path / place / f"{seed}.png", pixels(size=(72, 64), seed=seed))
    save(tmp_path / "holiday.jpg", pixels(channels=3))
    small = partial(settings.Recipe, features=4, shrunk=2, maps=1, crop=8, batch=2)
    monkeypatch.setattr(settings, "Recipe", small)
    monkeypatch.setattr(trainer, "steps_in", lambda *of_a_run: 2)
    few = {"coins": "skimage/data/coins.png"}
    for name, pictures in {"TRAINING": few, "MORE_TRAINING": {}, "HELD_OUT": few, "MORE_HELD_OUT": {}}.items():
        monkeypatch.setattr(f"fastdeconv.imaging.photographs.{name}", pictures)
    return tmp_path


def interrupted(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave what a run is resumed from: the first line of the guide, stopped at its second step."""
    usual = Crops.__call__

    def stopping(self: Crops, step: int, rng: np.random.Generator) -> Any:
        if step == 1:
            raise KeyboardInterrupt
        return usual(self, step, rng)

    with monkeypatch.context() as patch:
        patch.setattr(Crops, "__call__", stopping)
        assert main([*shlex.split(line)[1:], "--quiet"]) == 130


def test_the_guide_has_every_way_to_train() -> None:
    assert all(line.startswith("fastdeconv ") for line in LINES)
    for option in ("--task restore", "--inputs", "--resume", "--model"):
        assert any(option in line for line in LINES), option


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_the_guide(line: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(line)[1:]
    output = folder / words[words.index("-o") + 1]
    if "--model" in words:
        scale = {"upscale": 3, "restore": 1}[words[0]]
        made = network.Network(network.Description(scale, features=4, shrunk=2, maps=1))
        network.save(made, words[words.index("--model") + 1])
        assert main(words) == 0
        assert output.is_file() or len(list(output.iterdir())) == 3
        return
    if "--resume" in words:
        interrupted(LINES[0], monkeypatch)
    assert main([*words, "--quiet"]) == 0
    assert network.load(output).description.features == 4
    assert output.with_suffix(".html").is_file()
    assert not output.with_suffix(".checkpoint").exists()
