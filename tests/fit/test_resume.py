"""Runs that were ended at any moment and go on to the same bits."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from training import Line, columns, points

from fastdeconv import nn, optim, tensor_file
from fastdeconv.fit import CheckpointError, fit

# -- killed -----------------------------------------------------------------------------------------

# What a killed process does: it tells each step, and may kill itself within a writing of the file, after a part of it.
RUN = """
import os, pathlib, signal, stat, sys
import numpy as np
from fastdeconv import nn, optim, tensor_file
from fastdeconv.fit import fit

path, result, steps, cut = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
writings = 0
def cut_off(handle):
    global writings
    writings += stat.S_ISREG(os.fstat(handle).st_mode)
    if writings == cut:
        os.truncate(handle, 1000)
        os.kill(os.getpid(), signal.SIGKILL)
os.fsync = cut_off

rng = np.random.default_rng(0)
x = rng.random((23, 1, 6, 5), dtype=np.float32)
y = x.repeat(2, axis=2).repeat(2, axis=3)
model = nn.Sequential(
    nn.Conv2d(1, 3, 3, padding=1, rng=1), nn.BatchNorm2d(3), nn.PReLU(3),
    nn.ConvTranspose2d(3, 1, 4, stride=2, padding=1, rng=2),
)
history = fit(
    model, (x, y), validation=(x[:5], y[:5]), batch_size=4, seed=3, max_steps=steps, learning_rate=0.02,
    optimizer="adamw", schedule=optim.Plateau(0.5, patience=0, threshold=0.2), ema=0.7, clip_norm=0.5, l1=1e-4,
    checkpoint=path, checkpoint_seconds=0, callbacks=lambda state: print(state.step, flush=True),
)
texts = {name: str(getattr(history, name).tolist()) for name in
         ("epoch", "step", "loss", "validation_loss", "metric", "learning_rate")}
tensor_file.write(pathlib.Path(result), model.state_dict(), texts | {"best": str(history.best_step)})
"""
STEPS = 40


def start(path, result, cut=0):
    command = [sys.executable, "-c", RUN, str(path), str(result), str(STEPS), str(cut)]
    environment = os.environ | {"NUMBA_NUM_THREADS": "2"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(path, result):
    process = start(path, result)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return [int(line) for line in out.split()]


def test_a_run_killed_at_any_moment_goes_on_to_the_same_bits(tmp_path):
    assert finish(tmp_path / "whole", tmp_path / "expected") == list(range(1, STEPS + 1))
    arrays, texts = tensor_file.read(tmp_path / "expected")
    rng = random.Random(int.from_bytes(os.urandom(4), "little"))
    path, moments = tmp_path / "killed", []
    # Within the first writing, within later ones, and at random moments between two steps.
    for cut in (1, 3, 0, 0, 0):
        process = start(path, tmp_path / "found", cut)
        if not cut:
            for _ in range(rng.randint(1, 8)):
                process.stdout.readline()
            time.sleep(0.005 * rng.random())
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        process.communicate(timeout=120)
        moments.append((cut, process.returncode))
        if cut:
            assert process.returncode == -signal.SIGKILL
        if path.exists():
            assert tensor_file.read(path)
    steps = finish(path, tmp_path / "found")
    assert -signal.SIGKILL in [code for cut, code in moments if not cut]
    found, found_texts = tensor_file.read(tmp_path / "found")
    assert found_texts == texts, moments
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].tobytes() == array.tobytes(), (name, moments)
    assert steps != list(range(1, STEPS + 1))
    # What the killed ones had begun to write is gone too.
    assert sorted(os.listdir(tmp_path)) == ["expected", "found", "killed", "whole"]


# -- stopped ----------------------------------------------------------------------------------------


def settings(**changes):
    x, y = points(11, noise=0.4)
    return {
        "data": (x, y), "validation": (x[:4], y[:4]), "batch_size": 2, "learning_rate": 0.05, "optimizer": "momentum",
        "epochs": 5, "checkpoint_seconds": 1e9,
    } | changes  # fmt: skip


# What gets worse with each pass.
WORSE = {"validation": (points(50)[0], -points(50)[1]), "optimizer": "adam"}


def interrupted_at(step, act):
    def callback(state):
        if state.step == step:
            act()

    return callback


def raise_interrupt():
    raise KeyboardInterrupt


def press_ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.quick
@pytest.mark.parametrize("act", [press_ctrl_c, raise_interrupt])
@pytest.mark.parametrize("changes", [
    {}, {"ema": 0.5}, {"schedule": "cosine"}, {"optimizer": "rmsprop"}, {"validation": None, "validate_every": 3},
    {"shuffle": False}, {"schedule": optim.Plateau(0.5, patience=1), **WORSE}, {"patience": 3, **WORSE},
], ids=str)  # fmt: skip
def test_ctrl_c_keeps_the_checkpoint_and_goes_on(tmp_path, act, changes):
    expected = Line()
    whole = fit(expected, **settings(**changes))
    path = tmp_path / "run.safetensors"
    for step in (1, 6, 14):
        with pytest.raises(KeyboardInterrupt):
            fit(Line(), **settings(**changes), checkpoint=path, callbacks=interrupted_at(step, act))
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    model = Line()
    resumed = fit(model, **settings(**changes), checkpoint=path)
    assert columns(resumed) == columns(whole)
    assert model.values() == expected.values()
    assert ("no lower" in whole.message) == ("patience" in changes)
    assert resumed.message == whole.message.replace(";", " (resumed at step 14);", 1)
    assert (np.diff(resumed.seconds) > 0).all()


@pytest.mark.quick
def test_ctrl_c_waits_for_a_whole_step(tmp_path):
    class Impatient(Line):
        def backward(self, grad_output):
            super().backward(grad_output)
            press_ctrl_c()

    model = Impatient()
    x, y = points(4)
    with pytest.raises(KeyboardInterrupt):
        fit(model, (x, y), epochs=3, learning_rate=0.1, optimizer="sgd", checkpoint=tmp_path / "c")
    assert 0 not in model.values()[:2]


@pytest.mark.quick
def test_iterables_and_callables_go_on_where_they_were(tmp_path):
    batches = [points(3, seed=seed) for seed in range(4)]

    def data(step, rng):
        x = rng.standard_normal((3, 1))
        return x, 3 * x

    for n, given in enumerate((batches, data)):
        ends = {"max_steps": 10, "learning_rate": 0.1, "checkpoint": tmp_path / str(n), "checkpoint_seconds": 1e9}
        whole = fit(expected := Line(), given, **ends | {"checkpoint": None})
        for step in (3, 6):
            with pytest.raises(KeyboardInterrupt):
                fit(Line(), given, callbacks=interrupted_at(step, raise_interrupt), **ends)
        resumed = fit(model := Line(), given, **ends)
        assert columns(resumed) == columns(whole)
        assert model.values() == expected.values()


@pytest.mark.quick
def test_a_finished_run_is_not_run_again_but_can_be_made_longer(tmp_path):
    path = tmp_path / "run"
    first = Line()
    history = fit(first, **settings(checkpoint=path))
    content = path.read_bytes()
    called = []
    again = fit(model := Line(), **settings(checkpoint=path), callbacks=called.append)
    assert (called, columns(again), path.read_bytes()) == ([], columns(history), content)
    assert model.values() == first.values()
    longer = fit(model := Line(), **settings(checkpoint=path, epochs=8))
    expected = fit(straight := Line(), **settings(epochs=8))
    assert columns(longer) == columns(expected)
    assert model.values() == straight.values()
    anew = fit(Line(), **settings(checkpoint=path, epochs=2), resume=False)
    assert anew.step.tolist() == [6, 12]


# -- other runs -------------------------------------------------------------------------------------


def layers(**changes):
    return nn.Sequential(nn.ConvTranspose1d(1, 1, 3, **{"stride": 2, "rng": 0} | changes))


@pytest.mark.quick
@pytest.mark.parametrize(("changes", "told"), [
    ({"model": layers(padding=1)}, r"model.0 was ConvTranspose1d(1, 1, kernel_size=(3,), stride=(2,)) and is ConvTr"),
    ({"model": nn.Sequential(nn.ConvTranspose1d(1, 1, 3, stride=2), nn.ReLU())}, "model.1 was absent and is ReLU()"),
    ({"optimizer": optim.Adam(0.01, betas=(0.5, 0.9))}, "optimizer was Adam(learning_rate=0.01,"),
    ({"learning_rate": 0.5}, "optimizer was Adam(learning_rate=0.01,"),
    ({"loss": "l1"}, "loss was MSE() and is L1()"),
    ({"batch_size": 3}, "batch_size of data was 2 and is 3"),
    ({"seed": 1}, "seed was 0 and is 1"),
    ({"shuffle": False}, "shuffle was True and is False"),
    ({"data": (np.zeros((5, 1, 4)), np.zeros((5, 1, 9)))}, "data was x float64 (6, 1, 4), y_true (6, 1, 9) and is x"),
    ({"data": [(np.zeros((5, 1, 4)), np.zeros((5, 1, 9)))]}, "and is 1 batches"),
    ({"validation": (np.zeros((5, 1, 4)), np.zeros((5, 1, 9)))}, "validation was absent and is x float64 (5, 1, 4)"),
    ({"clip_norm": 1.0}, "clip_norm was None and is 1.0"),
    ({"l1": 1.0}, "l1 was 0.0 and is 1.0"),
    ({"ema": 0.5}, "ema was None and is EMA(decay=0.5, warmup=False)"),
    ({"schedule": "cosine"}, "schedule was fastdeconv.optim.schedules.constant and is Cosine(steps=6"),
    ({"peak": 255}, "peak was None and is 255.0"),
    ({"validate_every": 2}, "validate_every was None and is 2"),
], ids=lambda each: next(iter(each)) if isinstance(each, dict) else None)  # fmt: skip
def test_a_checkpoint_of_another_run_is_refused(tmp_path, changes, told):
    path = tmp_path / "run"
    given = {"model": layers(dtype="float64"), "data": (np.ones((6, 1, 4)), np.ones((6, 1, 9))), "batch_size": 2}
    given |= {"learning_rate": 0.01, "epochs": 2, "checkpoint": path}
    fit(**given)
    content = path.read_bytes()
    if "optimizer" in changes:
        given["learning_rate"] = None
    if "model" in changes:
        changes = {"model": changes["model"].to("float64")}
    with pytest.raises(CheckpointError) as caught:
        fit(**given | changes)
    message = str(caught.value)
    assert message.startswith(f"{path}: is of a run with other arguments: ")
    assert told in message
    assert message.endswith("Use them again, or resume=False to begin anew, or another name for the checkpoint")
    assert path.read_bytes() == content


@pytest.mark.quick
def test_a_callable_that_gives_other_shapes_is_refused(tmp_path):
    path = tmp_path / "run"
    fit(Line(), lambda step, rng: points(3), max_steps=2, checkpoint=path)
    with pytest.raises(
        CheckpointError, match=r"the first batch of data was x float64 \(3, 1\), y_true \(3, 1\) and is"
    ):
        fit(Line(), lambda step, rng: points(4), max_steps=4, checkpoint=path)


@pytest.mark.quick
def test_the_checkpoint_is_json_and_arrays(tmp_path):
    path = tmp_path / "run"
    model = Line()
    history = fit(model, **settings(checkpoint=path, ema=0.5))
    arrays, texts = tensor_file.read(path)
    about = json.loads(texts["fastdeconv"])
    assert (about["kind"], about["version"], about["numbers"]["step"]) == ("run", 1, history.step[-1])
    assert {name.partition(".")[0] for name in arrays} == {"model", "best", "optimizer", "average", "history"}
    assert Path(path).stat().st_size < 10_000
