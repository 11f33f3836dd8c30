"""The main job, as a user runs it: in a process of its own, on the installed photographs."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FILES = {"demo.png", "scores.csv", "upscale_kernel.npy", "deblur_kernel.npy"}


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fastdeconv", "demo", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("demo")
    picture = folder / "own.png"
    ramp = np.add.outer(np.arange(120), np.arange(130)) % 256
    Image.fromarray(np.stack([ramp, ramp[::-1], ramp.T[:120, :1] + 0 * ramp], axis=-1).astype(np.uint8)).save(picture)
    output = folder / "out"
    return output, demo("--output", str(output), "--image", str(picture))


def means(output: Path, task: str) -> dict[str, tuple[float, float]]:
    """Return mean PSNR and SSIM over the held-out photographs, a method each."""
    with (output / "scores.csv").open(encoding="utf-8", newline="") as file:
        rows = [
            row for row in csv.DictReader(file) if row["task"] == task and not row["photograph"].startswith("yours")
        ]
    methods = {row["method"] for row in rows}
    assert len({row["photograph"] for row in rows}) >= 4
    return {
        m: tuple(float(np.mean([float(row[key]) for row in rows if row["method"] == m])) for key in ("psnr", "ssim"))
        for m in methods
    }


def test_it_succeeds_and_says_where_the_files_are(result):
    output, run = result
    assert run.returncode == 0, run.stderr
    assert {path.name for path in output.iterdir()} == FILES
    assert str(output.resolve()) in run.stdout
    assert "own.png" in run.stdout
    assert "dB" in run.stdout


def test_training_never_sees_what_is_measured(result):
    from fastdeconv.imaging.photographs import HELD_OUT, TRAINING

    assert not set(HELD_OUT) & set(TRAINING)
    assert not set(HELD_OUT.values()) & set(TRAINING.values())
    assert len(HELD_OUT) >= 4


@pytest.mark.parametrize(("task", "standard", "gain"), [("upscale", "bicubic", 0.8), ("deblur", "blurred", 2.0)])
def test_it_beats_the_standard_method(result, task, standard, gain):
    scores = means(result[0], task)
    assert scores["learned"][0] >= scores[standard][0] + gain
    assert scores["learned"][1] > scores[standard][1]


@pytest.mark.parametrize("task", ["upscale", "deblur"])
def test_gradient_descent_ends_where_least_squares_does(result, task):
    scores = means(result[0], task)
    assert abs(scores["learned"][0] - scores["least squares"][0]) <= 0.15


def test_the_picture_and_the_kernels_can_be_read(result):
    with Image.open(result[0] / "demo.png") as picture:
        picture.load()
        assert picture.format == "PNG"
        assert min(picture.size) > 300
    for task, side in (("upscale", 18), ("deblur", 15)):
        kernel = np.load(result[0] / f"{task}_kernel.npy")
        assert kernel.shape == (side, side)
        assert np.isfinite(kernel).all()


def test_it_overwrites_nothing_unasked(result):
    output, _ = result
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    run = demo("--output", str(output))
    assert run.returncode == 1
    assert len(run.stderr.splitlines()) == 1
    assert "--overwrite" in run.stderr
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
