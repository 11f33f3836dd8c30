"""What ``fastdeconv upscale`` refuses: a line each, with a status that says so, and nothing written."""

from __future__ import annotations

import os
import sys

import pytest
import tifffile
from pictures import Repeater, folder_of_pictures, pixels, png_claiming, save, tree, upscale
from PIL import Image

pytestmark = [pytest.mark.quick, pytest.mark.usefixtures("repeating")]


def test_bad_files_stop_no_other(tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    good = pixels(channels=3)
    for name in ("a.png", "m.png", "z.png"):
        save(folder / name, good)
    (folder / "bomb.png").write_bytes(png_claiming(100_000, 100_000))
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:-40])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "nothing.png").write_bytes(png_claiming(0, 0))
    (folder / "text.png").write_text("hello")
    with tifffile.TiffWriter(folder / "second.tif") as writer:
        writer.write(pixels(), metadata=None)
        writer.write(pixels("float32") * 9, metadata=None)
    assert upscale(folder, "-o", tmp_path / "out") == 1
    out, err = capsys.readouterr()
    assert out.startswith("3 done, 0 skipped, 6 failed")
    assert tree(tmp_path / "out") == ["a.png", "m.png", "z.png"]
    lines = err.splitlines()
    assert len(lines) == 6
    for name in ("bomb.png", "cut.png", "empty.jpg", "nothing.png", "text.png", "second.tif"):
        assert sum(f"/{name}: " in line for line in lines) == 1, name


def test_missing_files_are_told_and_the_others_done(tmp_path, capsys):
    save(tmp_path / "a.png")
    assert upscale(tmp_path / "missing.png", tmp_path / "a.png", "-o", tmp_path / "out") == 1
    out, err = capsys.readouterr()
    assert out.startswith("1 done, 0 skipped, 1 failed")
    assert err == f"fastdeconv: {tmp_path / 'missing.png'}: no such file\n"


def test_an_empty_folder_is_a_failure(tmp_path, capsys):
    (tmp_path / "in/below").mkdir(parents=True)
    save(tmp_path / "in/below/a.png")
    assert upscale(tmp_path / "in", "-o", tmp_path / "out") == 1
    assert "in: holds no pictures; -r looks into folders inside it" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("array", "output", "message"),
    [
        (pixels("uint16"), "b.jpg", "a.tif: JPEG does not hold 16 bits a channel; choose PNG or TIFF"),
        (pixels("uint16", 3), "b.webp", "a.tif: WebP does not hold 16 bits a channel; choose PNG or TIFF"),
        (pixels("float32"), "b.png", "a.tif: PNG does not hold floats; choose TIFF"),
        (pixels(channels=4), "b.jpg", "a.tif: JPEG does not hold transparency; choose PNG or TIFF or WebP"),
        (pixels(size=(8200, 2)), "b.webp", "at most 16383 pixels a side, not 16400×4; choose PNG or JPEG"),
    ],
)  # fmt: skip
def test_formats_that_cannot_hold_the_result(tmp_path, capsys, array, output, message):
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb" if array.ndim == 3 else "minisblack")
    assert upscale(tmp_path / "a.tif", "-o", tmp_path / output) == 1
    assert message in capsys.readouterr().err
    assert tree(tmp_path) == ["a.tif"]


def test_pages_need_a_format_that_has_them(tmp_path, capsys):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for i in range(3):
            writer.write(pixels(seed=i), metadata=None)
    assert upscale(tmp_path / "a.tif", "-o", tmp_path / "b.png") == 1
    assert "a.tif: PNG holds one image, not 3 pages; choose TIFF" in capsys.readouterr().err


def test_the_result_counts_towards_the_limit(tmp_path, capsys):
    save(tmp_path / "a.png", pixels(size=(10, 10)))
    assert upscale(tmp_path / "a.png", "-o", tmp_path / "b.png", "--max-pixels", 399) == 1
    assert "a.png: its result has 20×20 pixels, more than the 399 accepted; --max-pixels" in capsys.readouterr().err
    assert upscale(tmp_path / "a.png", "-o", tmp_path / "b.png", "--max-pixels", 99) == 1
    assert "a.png: 10×10 pixels, more than the 99 accepted" in capsys.readouterr().err
    assert upscale(tmp_path / "a.png", "-o", tmp_path / "b.png", "--max-pixels", 400) == 0


def test_the_limit_reaches_pillow(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    save(tmp_path / "a.png", pixels(size=(10, 10)))
    assert upscale(tmp_path / "a.png", "-o", tmp_path / "b.png") == 0
    assert Image.MAX_IMAGE_PIXELS == 10


def test_names_that_are_no_utf8(tmp_path, capsys):
    folder = os.fsencode(tmp_path)
    save(tmp_path / "a.png")
    os.rename(folder + b"/a.png", folder + b"/\xff.png")
    with open(folder + b"/\xfe.png", "wb"):
        pass
    assert upscale(tmp_path, "-o", tmp_path / "out") == 1
    assert os.listdir(folder + b"/out") == [b"\xff.png"]
    assert capsys.readouterr().err == f"fastdeconv: {tmp_path}/\\udcfe.png: is empty\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.png"], "required: -o/--output"),
        (["-o", "b.png"], "IN"),
        (["a.png", "-o", "b.png", "--scale", "5"], "invalid choice: 5"),
        (["a.png", "-o", "b.png", "--quality", "101"], "must be a whole number from 1 to 100; got '101'"),
        (["a.png", "-o", "b.png", "--max-pixels", "many"], "got 'many'"),
        (["a.png", "-o", "b.png", "--format", "gif"], "must be one of png, jpeg, tiff, webp, bmp; got 'gif'"),
        (["a.png", "-o", "b.png", "--tile", "0"], "got '0'"),
        (["a.png", "-o", "b.png", "--colour"], "unrecognized arguments: --colour"),
    ],
)
def test_bad_options(capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        upscale(*arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.png", "b.png", "-o", "c.png"], "-o c.png names one file; several pictures need a folder"),
        (["in", "-o", "c.png"], "-o c.png names one file; several pictures need a folder"),
        (["a.png", "b.png", "-o", "file.xyz"], "-o file.xyz names one file; several pictures need a folder"),
        (["a.png", "b.png", "-o", "-"], "-o - takes the result of one picture; IN names 2"),
        (["in", "-o", "-"], "-o - takes the result of one picture; IN names a folder"),
        (["a.png", "-o", "c.gif"], ".gif is not the ending of a format that is written (.png, .jpg, .tif,"),
        (["a.png", "-o", "c.jpg", "--format", "png"], "-o c.jpg and --format png name two formats"),
        (["-", "-o", "out"], "-o out is a folder; the result of standard input needs a file's name, or -"),
    ],
)  # fmt: skip
def test_bad_usage(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "file.xyz").write_text("")
    for name in ("a.png", "b.png", "in/c.png"):
        save(tmp_path / name)
    before = tree(tmp_path)
    assert upscale(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("fastdeconv: error: ")
    assert message in err
    assert tree(tmp_path) == before


def test_an_output_that_cannot_be_is_told_before_the_work(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Repeater, "transform", None)
    save(tmp_path / "a.png")
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    assert upscale(tmp_path / "a.png", "-o", tmp_path / "file") == 1
    assert "file: is a file, not a folder" in capsys.readouterr().err
    assert upscale(tmp_path / "a.png", "-o", "/dev/null/b.png") == 1
    assert "/dev/null: is a file, not a folder" in capsys.readouterr().err
    assert upscale(tmp_path / "a.png", "-o", tmp_path / "a.png") == 1
    assert "exists already" in capsys.readouterr().err


def test_a_folder_without_permission(tmp_path, capsys, monkeypatch):
    save(tmp_path / "a.png")

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    assert upscale(tmp_path / "a.png", "-o", tmp_path / "out") == 1
    assert "out: cannot be written to (Permission denied)" in capsys.readouterr().err


def test_a_folder_that_cannot_be_read(tmp_path, capsys, monkeypatch):
    folder_of_pictures(tmp_path / "in")
    real = os.scandir

    def scandir(path):
        if str(path).endswith("one"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert upscale("-r", tmp_path / "in", "-o", tmp_path / "out") == 1
    assert f"fastdeconv: {tmp_path / 'in/one'}: cannot be read (Permission denied)\n" in capsys.readouterr().err
    assert tree(tmp_path / "out") == ["a.png", "b.JPG"]


def test_a_model_that_is_none(tmp_path, capsys):
    save(tmp_path / "a.png")
    (tmp_path / "m.safetensors").write_text("no model")
    assert upscale(tmp_path / "a.png", "-o", tmp_path / "b.png", "--model", tmp_path / "m.safetensors") == 1
    assert "m.safetensors" in capsys.readouterr().err
    assert upscale(tmp_path / "a.png", "-o", tmp_path / "b.png", "--model", tmp_path / "missing") == 1
    assert "missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("device", "status", "message"),
    [
        ("gpu", 2, 'error: --device: device must be "cpu", "cuda", "cuda:N", "auto" or None; got \'gpu\''),
        ("cuda", 1, 'error: device "cuda" needs CuPy'),
    ],
)
def test_devices_that_are_not_there(monkeypatch, tmp_path, capsys, device, status, message):
    monkeypatch.setitem(sys.modules, "cupy", None)
    save(tmp_path / "a.png")
    assert upscale(tmp_path / "a.png", "-o", tmp_path / "b.png", "--device", device) == status
    assert message in capsys.readouterr().err
    assert tree(tmp_path) == ["a.png"]
