"""The shell lines of docs/upscale.md run, on files of the names that stand there."""

from __future__ import annotations

import io
import re
import shlex
import sys
from pathlib import Path

import pytest
from pictures import Repeater, pixels, save

from fastdeconv.cli import main
from fastdeconv.imaging import enhance
from fastdeconv.imaging.commands import common
from fastdeconv.imaging.picture import FORMATS

GUIDE = Path(__file__).parents[3] / "docs" / "upscale.md"
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
LINES = [line for block in BLOCKS for line in block.splitlines()]

pytestmark = [pytest.mark.quick, pytest.mark.usefixtures("repeating")]


def test_there_are_lines_and_all_call_the_command():
    assert len(LINES) > 8
    assert all(line.startswith("fastdeconv ") for line in LINES)


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_the_guide(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(enhance.Restorer, "pretrained", lambda *wanted: Repeater(1))
    for name in ("holiday.jpg", "beach.png", "scan.tif", "panorama.tif", "photos/IMG_1.jpg", "photos/b/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save(tmp_path / name, pixels(channels=3))
    words = shlex.split(line)[1:]
    files = {}
    for sign in "<>":
        if sign in words:
            at = words.index(sign)
            files[sign] = words[at + 1]
            del words[at : at + 2]
    if "<" in files:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path(files["<"]).read_bytes())))
    written = io.TextIOWrapper(io.BytesIO())
    if ">" in files:
        monkeypatch.setattr(sys, "stdout", written)
    assert main(words) == 0
    if ">" in files:
        (tmp_path / files[">"]).write_bytes(written.buffer.getvalue())
        output = Path(files[">"])
    else:
        output = Path(words[words.index("-o") + 1])
    assert output.is_file() or any(output.rglob("*.jpg"))


def test_the_guide_names_every_format_and_its_ending():
    text = GUIDE.read_text(encoding="utf-8")
    for format_ in FORMATS.values():
        assert format_.name in text
        assert f"`{format_.suffixes[0]}`" in text
    assert tuple(FORMATS) == common.FORMATS
