"""``fastdeconv upscale`` as a process: standard input and output, and Ctrl-C."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from pictures import pixels, png, read, repeated, save, upscale

from fastdeconv.imaging.commands import inputs

pytestmark = [pytest.mark.quick, pytest.mark.usefixtures("repeating")]


COMMAND = """
import sys
sys.path.insert(0, {tests!r})
from pictures import Repeater
from fastdeconv.imaging import enhance
enhance.Upscaler.pretrained = Repeater
from fastdeconv.cli import main
{more}
sys.exit(main(["upscale", *sys.argv[1:]]))
"""


def process(*arguments: object, more: str = "") -> list[str]:
    code = COMMAND.format(tests=str(Path(__file__).parents[2]), more=more)
    return [sys.executable, "-c", code, *map(str, arguments)]


def test_standard_input_and_output(tmp_path):
    array = pixels("uint16", 3)
    done = subprocess.run(process("-", "-o", "-"), input=png(array), capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(b"1 done, 0 skipped, 0 failed")
    (tmp_path / "a.png").write_bytes(done.stdout)
    np.testing.assert_array_equal(read(tmp_path / "a.png"), repeated(array))

    done = subprocess.run(
        process("-", "-o", "-", "--format", "tiff"), input=png(array), capture_output=True, timeout=60
    )
    (tmp_path / "a.tif").write_bytes(done.stdout)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), repeated(array))


def test_standard_input_to_a_file_and_a_file_to_standard_output(tmp_path):
    array = pixels()
    path = tmp_path / "a.png"
    done = subprocess.run(process("-", "-o", path), input=png(array), capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"1 done")
    done = subprocess.run(process(path, "-o", "-"), capture_output=True, timeout=60)
    (tmp_path / "b.png").write_bytes(done.stdout)
    np.testing.assert_array_equal(read(tmp_path / "b.png"), repeated(array, 4))


def test_a_reader_that_leaves_is_no_error(tmp_path):
    path = save(tmp_path / "a.png", pixels(channels=3, size=(100, 100)))
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "wb") as closed:
        done = subprocess.run(process(path, "-o", "-"), stdout=closed, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 1
    assert done.stderr == b""


def test_a_missing_extra_is_named(tmp_path):
    path = save(tmp_path / "a.png")
    code = (
        "import sys; sys.modules['PIL'] = None\n"
        "from fastdeconv.cli import main\n"
        f"sys.exit(main(['upscale', {str(path)!r}, '-o', {str(tmp_path / 'b.png')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == 'fastdeconv: error: upscale needs PIL: pip install "fastdeconv[images]"\n'


def test_bad_standard_input(tmp_path):
    done = subprocess.run(process("-", "-o", "-"), input=b"", capture_output=True, timeout=60)
    assert done.returncode == 1
    assert done.stdout == b""
    assert done.stderr.splitlines()[0] == b"fastdeconv: standard input: is empty"


def test_a_terminal_gets_no_picture(tmp_path, monkeypatch, capsys):
    save(tmp_path / "a.png")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert upscale(tmp_path / "a.png", "-o", inputs.STANDARD) == 2
    assert "standard output, which is a terminal" in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["decoding", "computing", "encoding"])
def test_interrupted(tmp_path, stage):
    """Ctrl-C ends every thread at once, whichever is at work, and leaves nothing half written."""
    for name in "abcde":
        save(tmp_path / f"{name}.png", pixels(channels=3, size=(40, 30)))
    more = f"""
import os, signal, threading, time
from fastdeconv.imaging.commands import pipeline
from fastdeconv.imaging.picture import Reader
count = 0
def interrupt(*_):
    global count
    count += 1
    if count == 3:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
def before(owner, name):
    real = getattr(owner, name)
    def both(*arguments, **options):
        interrupt()
        return real(*arguments, **options)
    setattr(owner, name, both)
before(*{{"decoding": (Reader, "page"), "computing": (Repeater, "transform"),
         "encoding": (pipeline.Stoppable, "write")}}[{stage!r}])
"""
    done = subprocess.run(
        process(tmp_path, "-o", tmp_path / "out", more=more), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 130, done.stderr
    assert done.stderr == "fastdeconv: error: interrupted\n"
    assert done.stdout == ""
    for path in (tmp_path / "out").iterdir():
        assert path.suffix == ".png"
        assert read(path).shape == (60, 80, 3)
