"""``fastdeconv restore``: what it asks the networks for, and that the rest is as of ``upscale``."""

from __future__ import annotations

import numpy as np
import pytest
from pictures import Repeater, pixels, save
from PIL import Image

from fastdeconv.cli import main
from fastdeconv.imaging import enhance
from fastdeconv.imaging.network import NetworkError

pytestmark = pytest.mark.quick


class Inverter(Repeater):
    """Restores to the negative, and says why."""

    choice = "taken for the test"

    def transform(self, image, *, channel_axis=None, tile="auto", device=None):
        return 255 - image


@pytest.fixture
def wanted(monkeypatch) -> list[tuple[object, ...]]:
    """Collect what is asked for."""
    asked: list[tuple[object, ...]] = []

    def pretrained(*arguments):
        asked.append(arguments)
        return Inverter(1)

    monkeypatch.setattr(enhance.Restorer, "pretrained", pretrained)
    return asked


def restore(*arguments: object) -> int:
    return main(["restore", *map(str, arguments)])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ("auto", "auto", "auto")),
        (["--blur", "1.6", "--noise", "2", "--jpeg", "40"], (1.6, 2 / 255, 40)),
        (["--blur", "auto", "--noise", "none", "--jpeg", "none"], ("auto", None, None)),
        (["--blur", "0", "--noise", "0"], (0, 0, "auto")),
    ],
)
def test_what_is_asked_for(tmp_path, capsys, wanted, options, expected):
    array = pixels(channels=3)
    save(tmp_path / "a.png", array)
    assert restore(tmp_path / "a.png", "-o", tmp_path / "b.png", *options) == 0
    assert wanted == [expected]
    with Image.open(tmp_path / "b.png") as image:
        np.testing.assert_array_equal(np.asarray(image), 255 - array)
    out, err = capsys.readouterr()
    assert out.startswith("1 done")
    assert err == f"fastdeconv: {tmp_path / 'a.png'}: taken for the test\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--blur", "-1"], "must be a number from 0 to 20, auto or none; got '-1'"),
        (["--blur", "nan"], "got 'nan'"),
        (["--noise", "256"], "from 0 to 255"),
        (["--jpeg", "0"], "from 1 to 100"),
        (["--jpeg", "high"], "got 'high'"),
    ],
)
def test_bad_options(capsys, options, message):
    with pytest.raises(SystemExit, match="2"):
        restore("a.png", "-o", "b.png", *options)
    assert message in capsys.readouterr().err


def test_a_model_of_ones_own(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(enhance.Restorer, "load", lambda path: Inverter(1))
    save(tmp_path / "a.png")
    arguments = (tmp_path / "a.png", "-o", tmp_path / "b.png", "--model", "m.safetensors")
    assert restore(*arguments) == 0
    capsys.readouterr()
    assert restore(*arguments, "--jpeg", "40") == 2
    assert "--jpeg chooses among the models that come along; --model names another" in capsys.readouterr().err


def test_no_model_is_a_failure_of_one_line(tmp_path, capsys, monkeypatch):
    def none(*wanted):
        raise NetworkError("this installation has no network")

    monkeypatch.setattr(enhance.Restorer, "pretrained", none)
    save(tmp_path / "a.png")
    assert restore(tmp_path / "a.png", "-o", tmp_path / "b.png") == 1
    assert capsys.readouterr().err == "fastdeconv: error: this installation has no network\n"
