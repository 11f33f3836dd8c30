"""The main job, run as a user runs it: a fresh process, no display, no home, nothing compiled before."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastdeconv.imaging.learning import restore
from fastdeconv.imaging.metrics import psnr
from fastdeconv.imaging.photographs import HELD_OUT, MORE_TRAINING, TRAINING, photograph
from fastdeconv.imaging.tasks import KERNEL_TASKS, TASKS


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Return the folder that the demo wrote, what it printed, and the seconds of processors that it took."""
    folder = tmp_path_factory.mktemp("demo")
    mine = np.random.default_rng(0).integers(0, 256, (40, 50), np.uint8).repeat(5, axis=0).repeat(3, axis=1)
    Image.fromarray(mine).convert("P").save(folder / "$my picture$.png")
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "MPLCONFIGDIR")}
    environment |= {
        "HOME": "/dev/null/none",
        "XDG_CACHE_HOME": "/dev/null/none",
        "XDG_CONFIG_HOME": "/dev/null/none",
        "NUMBA_CACHE_DIR": str(folder / "cache"),
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    }
    start = os.times()
    done = subprocess.run(
        [sys.executable, "-m", "fastdeconv.cli", "demo", "--output", "out", "--image", "$my picture$.png"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    end = os.times()
    seconds = end.children_user + end.children_system - start.children_user - start.children_system
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return folder / "out", done.stdout, seconds


def scores(folder: Path) -> dict[tuple[str, str], dict[str, tuple[float, float]]]:
    """Return PSNR and SSIM by task and method, then by photograph."""
    table: dict[tuple[str, str], dict[str, tuple[float, float]]] = {}
    with open(folder / "scores.csv") as file:
        for row in csv.DictReader(file):
            key = row["task"], row["method"]
            table.setdefault(key, {})[row["photograph"]] = float(row["psnr"]), float(row["ssim"])
    return table


def mean(of_method: dict[str, tuple[float, float]]) -> np.ndarray:
    return np.mean([of_method[name] for name in HELD_OUT], axis=0)


def test_it_takes_less_than_a_minute_of_two_processors_with_nothing_compiled(demo):
    """Not by the clock: other tests may run beside it."""
    assert demo[2] < 2 * 60


@pytest.mark.parametrize(
    ("task", "method", "baseline", "gain"),
    [
        ("upscale", "kernel", "bicubic", 0.8),
        ("deblur", "kernel", "blurred", 2.0),
        ("upscale", "network", "bicubic", 1.8),
        ("upscale4", "network", "bicubic", 0.9),
        ("deblur", "network", "blurred", 2.0),
        ("deblur", "network", "Wiener", 0.1),
        ("jpeg", "network", "JPEG", 0.5),
    ],
)
def test_what_is_learned_gains_on_photographs_that_training_never_saw(demo, task, method, baseline, gain):
    table = scores(demo[0])
    after, before = mean(table[task, method]), mean(table[task, baseline])
    assert len(HELD_OUT) >= 4
    assert not set(HELD_OUT.values()) & {*TRAINING.values(), *MORE_TRAINING.values()}
    assert after[0] >= before[0] + gain
    assert after[1] > before[1]


@pytest.mark.parametrize("task", KERNEL_TASKS)
def test_descent_comes_within_015_db_of_least_squares(demo, task):
    table = scores(demo[0])
    gap = mean(table[task, "least squares"])[0] - mean(table[task, "kernel"])[0]
    assert abs(gap) < 0.15
    assert f"{gap:+.3f} dB from the learned kernel" in demo[1]


@pytest.mark.parametrize("task", KERNEL_TASKS)
def test_saved_kernels_do_what_the_table_says(demo, task):
    """Computed anew from the file, without the demo's own evaluation."""
    kernel = np.load(demo[0] / f"{task}_kernel.npy", allow_pickle=False)
    truth = photograph(HELD_OUT["astronaut"])
    degraded = TASKS[task].degrade(truth, np.random.default_rng(99))
    restored = restore(KERNEL_TASKS[task], kernel, degraded)
    assert psnr(truth, restored, TASKS[task].border) == pytest.approx(
        scores(demo[0])[task, "kernel"]["astronaut"][0], abs=0.05
    )


def test_it_prints_and_writes_what_it_says(demo):
    folder, out, _ = demo
    assert {path.name for path in folder.iterdir()} == {
        "demo.png", "scores.csv", "upscale_kernel.npy", "deblur_kernel.npy"
    }  # fmt: skip
    assert str(folder) in out
    for name in HELD_OUT:
        assert len(re.findall(rf"^{name} +\d+\.\d\d ", out, re.MULTILINE)) == len(TASKS)
    assert len(re.findall(r"^mean ", out, re.MULTILINE)) == len(TASKS)
    picture = Image.open(folder / "demo.png")
    picture.load()
    assert picture.width >= 1000
    assert (folder / "demo.png").stat().st_size < 500_000


def test_the_users_picture_is_measured_and_left_out_of_the_mean(demo):
    table = scores(demo[0])
    assert set(table["upscale", "network"]) == {*HELD_OUT, "yours: $my picture$.png"}
    assert demo[1].count("yours: $my picture$.png (150×200)") == 1
    kernel = f"{mean(table['upscale', 'kernel'])[0]:.2f}"
    assert re.search(rf"^mean +\d+\.\d\d +{kernel} ", demo[1], re.MULTILINE)
