"""Weights and checkpoints in files: what is read back, and every way a file can be bad."""

from __future__ import annotations

import json
import os
import resource
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
from training import Line, points

from fastdeconv import nn, tensor_file
from fastdeconv.fit import CheckpointError, checkpoint, fit, load, save

pytestmark = pytest.mark.quick


@contextmanager
def no_room(size):
    """Let this process write no file longer than `size` bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def layers(seed=0):
    return nn.Sequential(nn.Conv2d(2, 3, 3, rng=seed), nn.PReLU(3), nn.ConvTranspose2d(3, 2, 4, rng=seed))


# -- weights ----------------------------------------------------------------------------------------


def test_weights_come_back(tmp_path):
    model, other = layers(0), layers(1)
    save(model, tmp_path / "a.safetensors", metadata={"task": "upscale ×2"})
    state, metadata = load(str(tmp_path / "a.safetensors"))
    assert metadata == {"task": "upscale ×2"}
    other.load_state_dict(state)
    for name, array in model.state_dict().items():
        assert state[name].tobytes() == other.state_dict()[name].tobytes() == array.tobytes()


def test_an_existing_file_is_replaced_only_if_asked(tmp_path):
    path = tmp_path / "w"
    save(Line(1.0), path)
    with pytest.raises(CheckpointError, match="w: exists already; overwrite=True replaces it"):
        save(Line(2.0), path)
    assert load(path).state["weight"] == 1
    save(Line(2.0), path, overwrite=True)
    assert load(path).state["weight"] == 2
    link = tmp_path / "link"
    link.symlink_to(path)
    save(Line(3.0), link, overwrite=True)
    assert link.is_symlink()
    assert load(path).state["weight"] == 3


def test_the_weights_of_a_run_are_its_best(tmp_path):
    x, y = points(6)
    path = tmp_path / "run"
    fit(model := Line(), (x, y), epochs=9, batch_size=6, optimizer="momentum", learning_rate=0.5, checkpoint=path)
    state, metadata = load(path)
    assert metadata == {}
    assert (float(state["weight"][0, 0]), float(state["bias"][0]), float(state["mean"][0])) == model.values()


@pytest.mark.parametrize(("arguments", "error", "told"), [
    ({"model": 3}, TypeError, "model must be a module of fastdeconv.nn; got 3"),
    ({"metadata": {"steps": 3}}, TypeError, "metadata must map strings to strings; got 'steps': 3; json.dumps"),
    ({"metadata": {"fastdeconv": "x"}}, ValueError, "metadata must not use the name 'fastdeconv'"),
    ({"overwrite": 1}, TypeError, "overwrite must be True or False; got 1"),
])  # fmt: skip
def test_bad_arguments(tmp_path, arguments, error, told):
    with pytest.raises(error, match=told):
        save(**{"model": Line(), "path": tmp_path / "w"} | arguments)
    assert os.listdir(tmp_path) == []


def test_places_that_cannot_be_written(tmp_path):
    with pytest.raises(CheckpointError, match=r"none/w: cannot be written \(No such file or directory\)"):
        save(Line(), tmp_path / "none" / "w")
    with pytest.raises(CheckpointError, match=r"cannot be written \(.*folder|Is a directory"):
        save(Line(), tmp_path, overwrite=True)
    save(Line(1.0), tmp_path / "w")
    with no_room(100), pytest.raises(CheckpointError, match=r"w: cannot be written \(File too large\); free the place"):
        save(Line(2.0), tmp_path / "w", overwrite=True)
    assert load(tmp_path / "w").state["weight"] == 1
    assert os.listdir(tmp_path) == ["w"]


# -- bad files --------------------------------------------------------------------------------------


def header(text, data=b""):
    return len(text).to_bytes(8, "little") + text + data


def rewritten(content, change):
    """Return a file of ours with what it says about itself changed."""
    length = int.from_bytes(content[:8], "little")
    head = json.loads(content[8 : 8 + length])
    about = json.loads(head["__metadata__"]["fastdeconv"])
    change(about)
    head["__metadata__"]["fastdeconv"] = json.dumps(about)
    return header(json.dumps(head).encode(), content[8 + length :])


def flipped(content, at):
    return content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :]


DAMAGED = "it is damaged or cut off, or no safetensors file"
BAD = {
    "empty": (lambda c: b"", "it is empty"),
    "three bytes": (lambda c: c[:3], DAMAGED),
    "cut off in its header": (lambda c: c[:100], DAMAGED),
    "cut off in its data": (lambda c: c[:-1], DAMAGED),
    "a bit flipped in its data": (lambda c: flipped(c, -9), "is damaged: its checksum is wrong"),
    "a bit flipped in its header": (lambda c: flipped(c, 9), DAMAGED),
    "more bytes": (lambda c: c + b"x", DAMAGED),
    "a picture": (lambda c: b"\x89PNG\r\n\x1a\n" + bytes(500), DAMAGED),
    "a pickle": (lambda c: b"\x80\x04\x95" + bytes(500), DAMAGED),
    "no JSON": (lambda c: header(b"{]"), DAMAGED),
    "a list": (lambda c: header(b"[]"), DAMAGED),
    "another version": (lambda c: rewritten(c, lambda a: a.update(version=2)), "in version 2 of its format, and this"),
    "another kind": (lambda c: rewritten(c, lambda a: a.update(kind="model")), "is 'model' in version 1 of its format"),
    "another step": (lambda c: rewritten(c, lambda a: a["numbers"].update(step=1)), "its checksum is wrong"),
    "no checksum": (lambda c: rewritten(c, lambda a: a.pop("crc32")), "what it says about itself is damaged"),
}  # fmt: skip


@pytest.fixture(scope="module")
def run_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "run"
    fit(Line(), points(6), epochs=2, checkpoint=path)
    return path.read_bytes()


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_file_is_one_error_that_names_it(tmp_path, run_file, fault):
    path = tmp_path / "run"
    change, told = BAD[fault]
    path.write_bytes(change(run_file))
    content = path.read_bytes()
    for read in (lambda: fit(Line(), points(6), epochs=3, checkpoint=path), lambda: load(path)):
        with pytest.raises(CheckpointError) as caught:
            read()
        message = str(caught.value)
        assert message.startswith(f"{path}: ")
        assert told in message
        assert "\n" not in message
        assert any(
            remedy in message for remedy in ("use a copy of it, or begin anew", "use the fastdeconv that wrote it")
        )
    assert path.read_bytes() == content
    fit(Line(), points(6), epochs=3, checkpoint=path, resume=False)
    assert load(path)


def test_files_of_something_else(tmp_path):
    path = tmp_path / "other"
    save(Line(), path)
    with pytest.raises(CheckpointError, match="holds weights, and is no checkpoint of a run; choose another name for"):
        fit(Line(), points(6), epochs=1, checkpoint=path)
    tensor_file.write(path, {"weight": np.zeros(3)}, {"format": "pt"})
    with pytest.raises(CheckpointError, match="holds arrays from elsewhere, and is no checkpoint of a run"):
        fit(Line(), points(6), epochs=1, checkpoint=path)
    with pytest.raises(ValueError, match="bias is missing"):
        Line().load_state_dict(load(path).state)
    with pytest.raises(CheckpointError, match="is a folder, where a file in the safetensors format is wanted"):
        load(tmp_path)
    with pytest.raises(CheckpointError, match="it is a folder"):
        fit(Line(), points(6), epochs=1, checkpoint=tmp_path)
    with pytest.raises(CheckpointError, match=r"gone: no such file"):
        load(tmp_path / "gone")


def test_a_run_that_lacks_a_part_is_refused(tmp_path, run_file):
    path = tmp_path / "run"
    path.write_bytes(run_file)
    for part in ("model.weight", "best.bias", "optimizer.weight.exp_avg", "history"):
        arrays, about, _ = checkpoint.read(path)
        arrays.pop(part)
        broken = tmp_path / "broken"
        checkpoint.write(broken, "run", arrays, about, {})
        with pytest.raises(CheckpointError, match="broken: does not hold all of a run"):
            fit(Line(), points(6), epochs=3, checkpoint=broken)


# -- a disk that fills up -----------------------------------------------------------------------------


def test_no_place_for_the_checkpoint_is_told_before_training(tmp_path):
    steps = []
    for path in (tmp_path / "none" / "run", tmp_path):
        with pytest.raises(CheckpointError, match="cannot be written"):
            fit(Line(), points(6), epochs=1, checkpoint=path, callbacks=steps.append)
    with no_room(100), pytest.raises(CheckpointError, match="File too large"):
        fit(Line(), points(6), epochs=1, checkpoint=tmp_path / "run", callbacks=steps.append)
    assert steps == []


def test_a_disk_that_fills_up_is_one_warning_and_training_goes_on(tmp_path):
    path = tmp_path / "run"
    x, y = points(6)
    settings = {"batch_size": 2, "learning_rate": 0.1, "checkpoint_seconds": 0}
    expected = fit(straight := Line(), (x, y), epochs=4, batch_size=2, learning_rate=0.1)
    room = None

    def fill(state):
        nonlocal room
        if state.step == 5:
            room = no_room(100)
            room.__enter__()

    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            history = fit(model := Line(), (x, y), epochs=4, checkpoint=path, callbacks=fill, **settings)
    finally:
        room.__exit__(None, None, None)
    assert [each.category for each in caught] == [RuntimeWarning]
    assert "run: cannot be written (File too large); free the place or choose another; training goes on" in str(
        caught[0].message
    )
    assert history.loss.tolist() == expected.loss.tolist()
    assert model.values() == straight.values()
    assert "The last checkpoint is missing: " in history.message
    resumed = fit(model := Line(), (x, y), epochs=4, checkpoint=path, **settings)
    assert "(resumed at step 4)" in resumed.message
    assert model.values() == straight.values()
