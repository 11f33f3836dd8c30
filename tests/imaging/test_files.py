"""Pictures of every kind are read alike, damaged ones are refused in one line, and nothing is overwritten unasked."""

import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastdeconv.imaging.files import MAX_PIXELS, FileError, check_output, new_file, read_image, write_file

pytestmark = pytest.mark.quick

RAMP = np.arange(12 * 20, dtype=np.uint8).reshape(12, 20)
COLOUR = np.stack([RAMP, RAMP[::-1], RAMP // 2], axis=2)


def save(path: Path, array, mode=None, **options) -> Path:
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


@pytest.mark.parametrize("extension", ["png", "bmp", "tiff", "webp", "pgm", "gif"])
def test_grey_levels_survive_every_lossless_format(tmp_path, extension):
    options = {"lossless": True} if extension == "webp" else {}
    read = read_image(save(tmp_path / f"a.{extension}", RAMP, **options))
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, RAMP.astype(np.float32) / np.float32(255))


def test_colour_keeps_its_channels(tmp_path):
    np.testing.assert_allclose(read_image(save(tmp_path / "a.png", COLOUR)) * 255, COLOUR, atol=1e-4)


def test_palette_is_looked_up(tmp_path):
    levels = np.array([[0, 1], [1, 0]], np.uint8)
    image = Image.fromarray(levels, "P")
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[0], [[1, 0, 0], [0, 0, 1]])


def test_alpha_is_laid_over_white(tmp_path):
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = (255, 0, 0, 255)
    rgba[0, 1] = (255, 0, 0, 0)
    read = read_image(save(tmp_path / "a.png", rgba))
    np.testing.assert_array_equal(read[0], [[1, 0, 0], [1, 1, 1]])


def test_alpha_of_a_grey_picture_is_laid_over_white(tmp_path):
    grey = np.stack([RAMP, np.zeros_like(RAMP)], axis=2)
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", grey)), np.ones(RAMP.shape))


@pytest.mark.parametrize("extension", ["png", "tiff"])
def test_sixteen_bits_are_scaled_by_65535(tmp_path, extension):
    deep = RAMP.astype(np.uint16) * 257
    read = read_image(save(tmp_path / f"a.{extension}", deep))
    np.testing.assert_allclose(read, RAMP / 255, atol=1e-6)


def test_equal_channels_are_grey(tmp_path):
    assert read_image(save(tmp_path / "a.png", RAMP, "RGB")).shape == RAMP.shape


def test_one_bit_and_cmyk(tmp_path):
    assert set(np.unique(read_image(save(tmp_path / "a.png", RAMP, "1")))) == {0, 1}
    assert read_image(save(tmp_path / "a.tiff", COLOUR, "CMYK")).shape == COLOUR.shape


def test_float_pictures_are_taken_from_zero_to_one(tmp_path):
    unit = RAMP.astype(np.float32) / 255
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.tiff", unit)), unit)
    with pytest.raises(FileError, match="between 0 and 1; got 0 to 2"):
        read_image(save(tmp_path / "b.tiff", unit / unit.max() * 2))
    with pytest.raises(FileError, match="between 0 and 1; got nan"):
        read_image(save(tmp_path / "c.tiff", np.full_like(unit, np.nan)))


def test_integers_beyond_sixteen_bits_are_refused(tmp_path):
    with pytest.raises(FileError, match="between 0 and 65535"):
        read_image(save(tmp_path / "a.tiff", np.full((4, 4), 70_000, np.int32)))


def test_the_cameras_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise
    read = read_image(save(tmp_path / "a.png", RAMP, exif=exif))
    np.testing.assert_array_equal(read, np.rot90(RAMP, -1).astype(np.float32) / np.float32(255))


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)

    header = width.to_bytes(4) + height.to_bytes(4) + bytes([8, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def bad_files(folder: Path) -> dict[str, Path]:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200), np.uint8)
    png = save(folder / "whole.png", noise).read_bytes()
    jpeg = save(folder / "whole.jpg", noise).read_bytes()
    files = {
        "cut.png": png[: len(png) // 2],
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "header.png": png[:20],
        "empty.png": b"",
        "text.png": b"not a picture",
        "jpeg.jpg": b"\xff\xd8\xff\xe0\x00\x10JFIF",
        "big.png": png_claiming(MAX_PIXELS, 2),
        "bomb.png": png_claiming(100_000, 100_000),
        "nothing.png": png_claiming(0, 0),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    os.mkfifo(folder / "pipe.png")
    return {name: folder / name for name in (*files, "pipe.png", "missing.png", ".")}


def test_bad_files_give_one_line_with_their_name(tmp_path):
    for name, path in bad_files(tmp_path).items():
        with pytest.raises(FileError) as caught:
            read_image(path)
        message = str(caught.value)
        assert str(path) in message, name
        assert "\n" not in message, name
        assert len(message) < len(str(path)) + 120, message


@pytest.mark.parametrize("name", ["cut.png", "cut.jpg"])
def test_truncated_pictures_are_called_so(tmp_path, name):
    with pytest.raises(FileError, match="truncated"):
        read_image(bad_files(tmp_path)[name])


@pytest.mark.parametrize("name", ["big.png", "bomb.png"])
def test_huge_pictures_are_refused_before_they_are_decoded(tmp_path, name):
    with pytest.raises(FileError, match="pixels"):
        read_image(bad_files(tmp_path)[name])


def test_small_pictures_are_refused_where_that_matters(tmp_path):
    path = save(tmp_path / "a.png", RAMP)
    assert read_image(path, min_side=12).shape == (12, 20)
    with pytest.raises(FileError, match="20×12 pixels, at least 13×13 needed"):
        read_image(path, min_side=13)


def test_output_folder_is_made_and_existing_files_are_respected(tmp_path):
    folder = tmp_path / "a" / "b"
    check_output(folder, ("one", "two"), overwrite=False)
    assert list(folder.iterdir()) == []
    (folder / "two").write_text("mine")
    with pytest.raises(FileError, match=r"two: exists already; --overwrite"):
        check_output(folder, ("one", "two"), overwrite=False)
    check_output(folder, ("one", "two"), overwrite=True)
    assert (folder / "two").read_text() == "mine"


def test_a_dangling_link_counts_as_existing(tmp_path):
    (tmp_path / "one").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileError, match="exists already"):
        check_output(tmp_path, ("one",), overwrite=False)


@pytest.mark.parametrize("overwrite", [False, True])
def test_output_that_cannot_be(tmp_path, overwrite):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder" / "one").mkdir(parents=True)
    with pytest.raises(FileError, match="is a file, not a folder"):
        check_output(tmp_path / "file", ("one",), overwrite)
    with pytest.raises(FileError, match="cannot be written to"):
        check_output(tmp_path / "file" / "below", ("one",), overwrite)
    with pytest.raises(FileError, match="is a folder, where a file"):
        check_output(tmp_path / "folder", ("one",), overwrite)


def test_files_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "one"
    write_file(path, b"first", overwrite=False)
    with pytest.raises(FileError, match="exists already"):
        write_file(path, b"second", overwrite=False)

    def full_disk(*names):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(FileError, match=r"cannot be written \(the disk is full: No space left on device\)"):
        write_file(path, b"third", overwrite=True)
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), RuntimeError()])
def test_what_was_begun_is_gone_if_it_is_not_finished(tmp_path, error):
    def begin():
        with new_file(tmp_path / "a", overwrite=False) as file:
            file.write(b"half")
            assert len(list(tmp_path.iterdir())) == 1
            raise error

    with pytest.raises(FileError if isinstance(error, OSError) else type(error)):
        begin()
    assert list(tmp_path.iterdir()) == []


def test_what_appears_meanwhile_is_kept(tmp_path):
    path = tmp_path / "a"
    with pytest.raises(FileError, match="exists already"), new_file(path, overwrite=False):
        path.write_bytes(b"theirs")
    assert path.read_bytes() == b"theirs"
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_as_long_as_names_may_be(tmp_path):
    path = tmp_path / ("a" * 255)
    write_file(path, b"content", overwrite=False)
    assert path.read_bytes() == b"content"
