"""``fastdeconv upscale`` from end to end: what it reads, and what it writes where."""

from __future__ import annotations

import os

import numpy as np
import pytest
import tifffile
from pictures import SRGB, Repeater, folder_of_pictures, pixels, png, read, repeated, save, tree, upscale
from PIL import Image

from fastdeconv.imaging.picture import Reader

pytestmark = [pytest.mark.quick, pytest.mark.usefixtures("repeating")]


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_one_picture(tmp_path, capsys, scale):
    array = pixels(channels=3)
    save(tmp_path / "a.png", array, dpi=(300, 300), icc_profile=SRGB)
    assert upscale(tmp_path / "a.png", "-o", tmp_path / "b.png", "--scale", scale) == 0
    np.testing.assert_array_equal(read(tmp_path / "b.png"), repeated(array, scale))
    with Image.open(tmp_path / "b.png") as image:
        assert image.info["icc_profile"] == SRGB
    out, err = capsys.readouterr()
    assert out.startswith("1 done, 0 skipped, 0 failed in ")
    assert err == ""
    assert tree(tmp_path) == ["a.png", "b.png"]


def test_the_scale_is_two_if_not_said(tmp_path):
    save(tmp_path / "a.png", pixels(size=(4, 3)))
    assert upscale(tmp_path / "a.png", "-o", tmp_path / "b.png") == 0
    assert read(tmp_path / "b.png").shape == (6, 8)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_every_kind_of_pixels_goes_through_as_it_is(tmp_path, dtype, channels):
    array = pixels(dtype, channels)
    options = {
        "photometric": "rgb" if channels >= 3 else "minisblack", "planarconfig": "contig" if channels > 1 else None,
        "extrasamples": ["unassalpha"] if channels in (2, 4) else None,
    }  # fmt: skip
    tifffile.imwrite(tmp_path / "a.tif", array, **options)
    assert upscale(tmp_path / "a.tif", "-o", tmp_path / "b.tif") == 0
    found = read(tmp_path / "b.tif")
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, repeated(array))


def test_the_ending_of_the_output_chooses_the_format(tmp_path):
    save(tmp_path / "a.png", pixels(channels=3))
    for ending, name in {"jpg": "JPEG", "JPEG": "JPEG", "tif": "TIFF", "webp": "WEBP", "bmp": "BMP"}.items():
        assert upscale(tmp_path / "a.png", "-o", tmp_path / f"b.{ending}") == 0
        with Image.open(tmp_path / f"b.{ending}") as image:
            assert image.format == name


def test_options_of_formats_arrive(tmp_path):
    save(tmp_path / "a.png", pixels(channels=3, size=(64, 64)))
    sizes = []
    for quality in ("5", "95"):
        assert upscale(tmp_path / "a.png", "-o", tmp_path / f"{quality}.jpg", "--quality", quality) == 0
        sizes.append((tmp_path / f"{quality}.jpg").stat().st_size)
    assert sizes[0] < sizes[1] / 3
    assert upscale(tmp_path / "a.png", "-o", tmp_path / "b.webp", "--lossless") == 0
    np.testing.assert_array_equal(read(tmp_path / "b.webp"), repeated(pixels(channels=3, size=(64, 64))))


def test_every_page_of_a_tiff(tmp_path):
    pages = [pixels("uint16", 1, (9, 5)), pixels("uint8", 3, (4, 6)), pixels("float32", 1, (3, 3))]
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for page in pages:
            writer.write(page, metadata=None, photometric="rgb" if page.ndim == 3 else "minisblack")
    assert upscale(tmp_path / "a.tif", "-o", tmp_path / "b.tif") == 0
    with Reader(tmp_path / "b.tif") as reader:
        for found, page in zip(reader, pages, strict=True):
            np.testing.assert_array_equal(found.pixels, repeated(page))


def test_a_folder(tmp_path, capsys):
    folder_of_pictures(tmp_path / "in")
    assert upscale(tmp_path / "in", "-o", tmp_path / "out") == 0
    assert tree(tmp_path / "out") == ["a.png", "b.JPG"]
    out, err = capsys.readouterr()
    assert out.startswith("2 done, 1 skipped, 0 failed")
    assert err == f"fastdeconv: {tmp_path / 'in'}: 1 file of other kinds\n"
    (tmp_path / "in/more.txt").write_text("")
    assert upscale(tmp_path / "in", "-o", tmp_path / "out", "--overwrite") == 0
    out, err = capsys.readouterr()
    assert out.startswith("2 done, 2 skipped, 0 failed")
    assert err == f"fastdeconv: {tmp_path / 'in'}: 2 files of other kinds\n"


def test_a_tree_is_mirrored(tmp_path):
    arrays = folder_of_pictures(tmp_path / "in")
    assert upscale("-r", tmp_path / "in", "-o", tmp_path / "out/below") == 0
    assert tree(tmp_path / "out/below") == sorted(arrays)
    for name in ("a.png", "one/c.png", "one/two/d.tif"):
        np.testing.assert_array_equal(read(tmp_path / "out/below" / name), repeated(arrays[name]))


def test_the_format_of_a_whole_folder(tmp_path):
    folder_of_pictures(tmp_path / "in")
    assert upscale("-r", tmp_path / "in", "-o", tmp_path / "out", "--format", "tif") == 0
    assert tree(tmp_path / "out") == ["a.tif", "b.tif", "one/c.tif", "one/two/d.tif"]


def test_a_folder_goes_on_where_it_was_left(tmp_path, capsys):
    arrays = folder_of_pictures(tmp_path / "in")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.png").write_text("mine")
    assert upscale("-r", tmp_path / "in", "-o", tmp_path / "out") == 0
    assert (tmp_path / "out/a.png").read_text() == "mine"
    out, err = capsys.readouterr()
    assert out.startswith("3 done, 2 skipped, 0 failed")
    assert "out/a.png: exists already; --overwrite replaces it" in err
    assert upscale("-r", tmp_path / "in", "-o", tmp_path / "out", "--overwrite") == 0
    np.testing.assert_array_equal(read(tmp_path / "out/a.png"), repeated(arrays["a.png"]))


def test_the_output_may_lie_inside_the_input(tmp_path):
    folder_of_pictures(tmp_path)
    for _ in range(2):  # the second time, what the first wrote is not taken for input
        assert upscale("-r", tmp_path, "-o", tmp_path / "big", "--overwrite") == 0
        assert tree(tmp_path / "big") == ["a.png", "b.JPG", "one/c.png", "one/two/d.tif"]


def test_a_folder_may_be_replaced_in_its_place(tmp_path, capsys):
    arrays = folder_of_pictures(tmp_path)
    before = tree(tmp_path)
    assert upscale("-r", tmp_path, "-o", tmp_path) == 0
    assert capsys.readouterr().out.startswith("0 done, 5 skipped, 0 failed")
    np.testing.assert_array_equal(read(tmp_path / "a.png"), arrays["a.png"])
    assert upscale("-r", tmp_path, "-o", tmp_path, "--overwrite") == 0
    assert tree(tmp_path) == before
    np.testing.assert_array_equal(read(tmp_path / "a.png"), repeated(arrays["a.png"]))


def test_a_picture_may_be_replaced_by_its_result(tmp_path, capsys):
    path = save(tmp_path / "a.tif", pixels())
    assert upscale(path, "-o", path) == 1
    assert "exists already" in capsys.readouterr().err
    assert upscale(path, "-o", path, "--overwrite") == 0
    np.testing.assert_array_equal(read(path), repeated(pixels()))


def test_two_pictures_do_not_share_a_result(tmp_path, capsys):
    for name in ("x/a.png", "y/a.png", "y/b.bmp", "y/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save(tmp_path / name, pixels(seed=len(name)))
    names = [tmp_path / name for name in ("x/a.png", "y/a.png", "y/b.bmp", "y/b.png", "y/b.png")]
    assert upscale(*names, "-o", tmp_path / "out", "--format", "png", "--overwrite") == 1
    out, err = capsys.readouterr()
    assert out.startswith("2 done, 0 skipped, 2 failed")
    assert f"y/a.png: {tmp_path / 'out/a.png'} is already the result of {tmp_path / 'x/a.png'}\n" in err
    assert f"y/b.png: {tmp_path / 'out/b.png'} is already the result of {tmp_path / 'y/b.bmp'}\n" in err


def test_patterns_that_the_shell_left(tmp_path, capsys):
    for name in ("a1.png", "a2.png", "b1.png", "a[1].png"):
        save(tmp_path / name)
    assert upscale(tmp_path / "a?.png", "-o", tmp_path / "out") == 0
    assert tree(tmp_path / "out") == ["a1.png", "a2.png"]
    assert upscale(tmp_path / "a[1].png", "-o", tmp_path / "brackets") == 0  # a file of that very name comes first
    assert tree(tmp_path / "brackets") == ["a[1].png"]
    assert upscale(tmp_path / "b*.png", "-o", tmp_path / "one.png") == 0
    assert upscale(tmp_path / "c*.png", "-o", tmp_path / "out") == 1
    assert "c*.png: no file matches" in capsys.readouterr().err


def test_a_wrong_ending_is_put_right(tmp_path, capsys):
    save(tmp_path / "a.jpg").rename(tmp_path / "a.png")
    save(tmp_path / "b.gif")
    save(tmp_path / "c.png").rename(tmp_path / "c.1")
    assert upscale(tmp_path / "a.png", tmp_path / "b.gif", tmp_path / "c.1", "-o", tmp_path / "out") == 0
    assert tree(tmp_path / "out") == ["a.jpg", "b.png", "c.1.png"]
    err = capsys.readouterr().err
    assert "a.png: it is JPEG, not what its name says\n" in err
    assert "b.gif: GIF is not written; its result is PNG\n" in err


def test_notes_of_reading_and_writing_are_told_once(tmp_path, capsys):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:], icc_profile=SRGB)
    assert upscale(tmp_path / "a.png", "-o", tmp_path / "b.bmp") == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f"fastdeconv: {tmp_path / 'a.png'}: only its first frame is read",
        f"fastdeconv: {tmp_path / 'a.png'}: BMP holds no colour profile and no EXIF",
    ]


def test_a_format_for_a_file_without_a_known_ending(tmp_path):
    save(tmp_path / "a.png")
    assert upscale(tmp_path / "a.png", "-o", tmp_path / "b.picture", "--format", "tiff") == 0
    with Image.open(tmp_path / "b.picture") as image:
        assert image.format == "TIFF"
    assert upscale(tmp_path / "a.png", "-o", f"{tmp_path / 'folder.1'}{os.sep}") == 0
    assert upscale(tmp_path / "a.png", "-o", tmp_path / "folder") == 0
    assert tree(tmp_path / "folder.1") == tree(tmp_path / "folder") == ["a.png"]


def test_a_model_of_ones_own(tmp_path, capsys, monkeypatch):
    from fastdeconv.imaging import enhance

    loaded = []
    monkeypatch.setattr(enhance.Upscaler, "load", lambda path: loaded.append(path) or Repeater(3))
    save(tmp_path / "a.png", pixels(size=(4, 3)))
    model = tmp_path / "m.safetensors"
    assert upscale(tmp_path / "a.png", "-o", tmp_path / "b.png", "--model", model) == 0
    assert loaded == [model]
    assert read(tmp_path / "b.png").shape == (9, 12)
    assert upscale(tmp_path / "a.png", "-o", tmp_path / "c.png", "--model", model, "--scale", 2) == 2
    assert f"--scale is 2, and {model} enlarges 3 times" in capsys.readouterr().err


@pytest.mark.parametrize("shape", [(1, 1), (7, 11, 4), (3, 40, 2)])
def test_a_network_from_a_file(tmp_path, shape):
    """No stand-in: as the network does from Python."""
    from fastdeconv.imaging.enhance import Upscaler
    from fastdeconv.imaging.network import Description, Network
    from fastdeconv.imaging.network import save as save_network

    save_network(Network(Description(3, features=4, shrunk=2, maps=1)), tmp_path / "m.safetensors")
    array = pixels("uint16", 1 if len(shape) == 2 else shape[2], (shape[1], shape[0]))
    (tmp_path / "a.png").write_bytes(png(array))
    assert upscale(tmp_path / "a.png", "-o", tmp_path / "b.png", "--model", tmp_path / "m.safetensors") == 0
    expected = Upscaler.load(tmp_path / "m.safetensors").transform(array, channel_axis=2 if array.ndim == 3 else None)
    np.testing.assert_array_equal(read(tmp_path / "b.png"), expected)


def test_tile_and_device_arrive(tmp_path, monkeypatch):
    seen = []
    real = Repeater.transform

    def transform(self, image, *, channel_axis=None, tile="auto", device=None):
        seen.append((tile, device))
        return real(self, image, channel_axis=channel_axis)

    monkeypatch.setattr(Repeater, "transform", transform)
    save(tmp_path / "a.png")
    assert upscale(tmp_path / "a.png", "-o", tmp_path / "b.png", "--tile", 64, "--device", "auto") == 0
    assert upscale(tmp_path / "a.png", "-o", tmp_path / "c.png") == 0
    assert seen == [(64, "auto"), ("auto", "cpu")]


def test_a_bar_where_it_is_asked_for(tmp_path, capsys):
    save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    assert upscale(tmp_path, "-o", tmp_path / "out", "--progress") == 1
    err = capsys.readouterr().err
    assert "2/2" in err
    assert f"fastdeconv: {tmp_path / 'b.png'}: is empty\n" in err
