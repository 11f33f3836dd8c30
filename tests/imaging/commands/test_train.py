"""The command end to end, on little data and few steps: what it leaves, how it resumes, what it says goes wrong."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from fastdeconv.cli import main
from fastdeconv.imaging import network
from fastdeconv.imaging.degrade import degrade
from fastdeconv.imaging.training.crops import Crops

SMALL = ["--channels", "4,2,1", "--taps", "3", "--crop", "8", "--batch", "2", "--quiet"]
NETWORK = [*SMALL, "--steps", "12"]


def picture(path, height=64, width=72, seed=0):
    """Write smooth noise, which is neither learned at once nor out of reach."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    plane = np.cumsum(np.cumsum(rng.normal(size=(height, width)), axis=0), axis=1)
    plane = 255 * (plane - plane.min()) / np.ptp(plane)
    Image.fromarray(plane.astype(np.uint8)).save(path)
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a folder with three pictures in ``photos``; it is the working directory."""
    monkeypatch.chdir(tmp_path)
    for seed in range(3):
        picture(tmp_path / "photos" / f"p{seed}.png", seed=seed)
    return tmp_path


def train(*arguments):
    return main(["train", *map(str, arguments)])


def test_a_folder_becomes_a_model_and_a_page(folder, capsys):
    (folder / "photos" / "broken.png").write_bytes(b"no picture")
    assert train(folder / "photos", "--scale", 3, *NETWORK, "-o", "./model.safetensors") == 0
    out = capsys.readouterr().out
    assert f"left out: {folder / 'photos' / 'broken.png'}: " in out
    assert "Learning from 2 pictures in" in out
    made = network.load("model.safetensors")
    assert (made.description.scale, made.description.features, made.description.taps) == (3, 4, 3)
    assert made.notes["command"].startswith("fastdeconv train photos --scale 3 --channels 4,2,1")  # no one's folders
    assert made.notes["command"].endswith("--steps 12 -o model.safetensors")
    page = (folder / "model.html").read_text()
    assert "broken.png" in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    for png in re.findall(r"data:image/png;base64,([^\"]+)", page):
        with Image.open(io.BytesIO(base64.b64decode(png))) as image:
            assert min(image.size) > 200
    # The page's table is what the model does to the picture that was held out.
    name, before, after = re.search(r"^(p\d)\.png +([\d.]+) +([\d.]+)", out, re.MULTILINE).groups()
    assert f"<td>{name}.png</td><td>{before}</td><td>{after}</td>" in page
    assert sorted(p.name for p in folder.iterdir()) == ["model.html", "model.safetensors", "photos"]


def test_training_lowers_the_error(folder, capsys):
    assert train("photos", "--task", "restore", "--noise", 30, *SMALL, "--steps", 300, "--learning-rate", 0.01) == 0
    mean = re.search(r"^mean +([\d.]+) +([\d.]+)", capsys.readouterr().out, re.MULTILINE)
    before, after = map(float, mean.groups())
    assert after > before + 3


def test_restoration_of_a_range_and_a_picture_for_a_report(folder):
    arguments = ("--task", "restore", "--blur", "1:2", "--noise", 2, "--jpeg", "30:60", "--report", "r/seen.png")
    assert train("photos", *arguments, "-o", "r/m.safetensors", *NETWORK) == 0
    undone = network.load("r/m.safetensors").description.degradation
    assert undone == network.Degradation(blur=(1, 2), noise=(2 / 255, 2 / 255), jpeg=(30, 60))
    with Image.open("r/seen.png") as seen:
        assert seen.format == "PNG"


def test_own_pairs_at_their_scale(folder, capsys):
    for seed in range(4):
        picture(folder / "low" / f"p{seed}.png", 32, 36, seed)
        picture(folder / "high" / f"p{seed}.jpg", 64, 72, seed)
    picture(folder / "high" / "p3.jpg", 65, 72)
    assert train("--inputs", "low", "--targets", "high", *NETWORK) == 0
    assert "p3.jpg: 72×65 pixels are not 1, 2, 3 or 4 times the 36×32 of" in capsys.readouterr().out
    made = network.load("model.safetensors").description
    assert (made.scale, made.degradation) == (2, None)


def test_the_photographs_of_packages_are_the_default(folder, monkeypatch, capsys):
    few = {"coins": "skimage/data/coins.png"}
    for name in ("TRAINING", "MORE_TRAINING"):
        monkeypatch.setattr(f"fastdeconv.imaging.photographs.{name}", few if name == "TRAINING" else {})
    monkeypatch.setattr("fastdeconv.imaging.photographs.HELD_OUT", {"camera": "skimage/data/camera.png"})
    monkeypatch.setattr("fastdeconv.imaging.photographs.MORE_HELD_OUT", {})
    assert train(*SMALL, "--steps", 2) == 0
    out = capsys.readouterr().out
    assert "Learning from 1 pictures" in out
    assert "Measuring on camera." in out
    # Published practice: bicubic enlargement of the photograph, border of the scale.
    assert re.search(r"^camera +29\.90 ", out, re.MULTILINE)


def test_an_interrupted_run_resumes_to_the_same_bytes(folder, monkeypatch, capsys):
    assert train("photos", *NETWORK, "--seed", 5) == 0
    whole = (folder / "model.safetensors").read_bytes()
    usual = Crops.__call__

    def interrupted(self, step, rng):
        if step == 7:
            raise KeyboardInterrupt
        return usual(self, step, rng)

    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(Crops, "__call__", interrupted)
        assert train("photos", *NETWORK, "--seed", 5, "-o", "second.safetensors") == 130
    assert "To go on: fastdeconv train --resume -o second.safetensors" in capsys.readouterr().out
    assert not (folder / "second.safetensors").exists()
    assert train("photos", *NETWORK, "--seed", 5, "-o", "second.safetensors") == 1
    assert "--resume goes on, --overwrite begins anew" in capsys.readouterr().err
    assert train("--resume", "-o", "second.safetensors", "--quiet") == 0
    assert network.load("second.safetensors").notes["command"].startswith("fastdeconv train photos --channels")
    weights = [network.load(name).body.state_dict() for name in ("model.safetensors", "second.safetensors")]
    assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert train("photos", *NETWORK, "--seed", 5, "-o", "third.safetensors") == 0
    assert (folder / "third.safetensors").read_bytes() != whole  # its command names another file
    assert network.load("third.safetensors").notes["steps"] == network.load("model.safetensors").notes["steps"]


@pytest.mark.parametrize(("device", "message"), [("auto", "single calls"), ("tpu", "device must be"), ("cuda", "CUDA")])
def test_a_device_that_is_not_there_is_refused_before_anything_is_read(folder, capsys, device, message):
    assert train("photos", *NETWORK, "--device", device) == 1
    printed = capsys.readouterr()
    assert not printed.out
    assert printed.err.count("\n") == 1
    assert message in printed.err
    assert sorted(path.name for path in folder.iterdir()) == ["photos"]


def test_a_resumed_run_must_find_the_same_pictures(folder, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(Crops, "__call__", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert train("photos", *NETWORK) == 130
    picture(folder / "photos" / "p9.png", seed=9)
    assert train("--resume") == 1
    assert "the pictures have changed since the run began" in capsys.readouterr().err
    (folder / "model.settings.json").write_text("{}")
    assert train("--resume") == 1
    assert "cannot be read as a run's settings" in capsys.readouterr().err


def test_nothing_is_overwritten_unasked(folder, capsys):
    (folder / "model.html").write_text("mine")
    assert train("photos", *NETWORK) == 1
    assert "model.html: exists already; --overwrite" in capsys.readouterr().err
    assert (folder / "model.html").read_text() == "mine"
    assert train("photos", *NETWORK, "--overwrite") == 0
    assert (folder / "model.html").read_text() != "mine"


def test_minutes_become_steps_that_are_written_down(folder, capsys):
    assert train("photos", *SMALL, "--minutes", "0.002") == 0
    steps = int(re.search(r", (\d+) steps of 2 crops", capsys.readouterr().out).group(1))
    assert steps >= 1
    command = network.load("model.safetensors").notes["command"]
    assert command.endswith(f"--steps {steps}")
    assert "--minutes" not in command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["empty"], "nothing to learn from: no picture in a format that Pillow reads"),
        (["missing"], "missing: no such file or folder"),
        (["tiny"], r"no picture .* of at least 32×32 pixels; .*a\.png: 10×10 pixels, at least 32×32 needed"),
        (["photos/p0.png"], "at least 2 pictures are needed, one to learn from and one to measure on; got 1"),
        (["photos", "--validate", "empty"], "--validate: no picture"),
        (["photos", "--task", "restore"], "--task restore needs what is to be undone: --blur, --noise or --jpeg"),
        (["photos", "--task", "restore", "--scale", "2"], "--scale is for --task upscale"),
        (["photos", "--task", "restore", "--jpeg", "0"], "jpeg must be a range .* from 1 to 100; got"),
        (["photos", "--blur", "3:1"], "blur must be a range"),
        (["--inputs", "photos"], "--inputs and --targets belong together"),
        (["--inputs", "photos", "--targets", "empty"], "no picture in photos has the name of one in empty"),
        (["--inputs", "photos", "--targets", "photos", "--jpeg", "9"], "pairs of your own decide .* leave --jpeg out"),
        (["--inputs", "photos", "--targets", "photos", "--validate", "photos"], "leave --validate out"),
        (["photos", "--taps", "4"], "taps must be odd"),
        (["photos", "--report", "a.pdf"], "a.pdf: --report must end in .html or .png"),
        (["photos", "-o", "photos/p0.png/m"], "photos/p0.png: is a file, not a folder"),
        (["--resume"], "there is no run to resume; leave --resume out"),
    ],
)
def test_what_goes_wrong_is_one_line(folder, capsys, arguments, message):
    (folder / "empty").mkdir()
    picture(folder / "tiny" / "a.png", 10, 10)
    options = NETWORK if "--taps" not in arguments else [*NETWORK[:2], *NETWORK[4:]]
    assert train(*arguments, *options) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error), error
    assert not list(folder.glob("*.safetensors"))


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--scale", "5", "invalid choice"),
        ("--minutes", "0", "must be a number above 0"),
        ("--steps", "0", "whole number of at least 1"),
        ("--channels", "4,2", "three whole numbers"),
        ("--blur", "wide", "must be a number, or two as LOW:HIGH"),
    ],
)
def test_bad_options_are_told_by_the_parser(capsys, option, value, message):
    with pytest.raises(SystemExit) as end:
        train(option, value)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_evaluation_spoils_as_training_does(folder, monkeypatch):
    """One function makes both inputs."""
    calls = []

    def counted(*arguments):
        calls.append(arguments[0].shape)
        return degrade(*arguments)

    for module in ("crops", "trainer"):
        monkeypatch.setattr(f"fastdeconv.imaging.training.{module}.degrade", counted)
    assert train("photos", *SMALL, "--steps", 1) == 0
    assert len(calls) > 3
