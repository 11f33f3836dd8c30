"""Files of every format and mode become arrays as the table in `picture.pixels` says, with what travels beside them."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from pictures import SRGB, chunk, pixels, png, png_claiming, save
from PIL import Image, ImageCms, ImageOps

from fastdeconv.imaging.errors import FileError
from fastdeconv.imaging.picture import MAX_PIXELS, Page, Reader
from fastdeconv.imaging.picture.reading import allowing

pytestmark = pytest.mark.quick

GREY, GREY_ALPHA, RGB, RGBA = (pixels(channels=n) for n in (1, 2, 3, 4))
DEEP = {n: pixels("uint16", n) for n in (1, 2, 3, 4)}


def read(path: Path) -> Page:
    with Reader(path) as reader:
        assert reader.pages == 1
        assert reader.notes == []
        assert reader.size() == reader.page().size
        return reader.page()


def tiff_options(array: np.ndarray) -> dict[str, Any]:
    """Return what tifffile must be told, lest it guess what channels are."""
    channels = 1 if array.ndim == 2 else array.shape[2]
    return {
        "photometric": "rgb" if channels >= 3 else "minisblack",
        "planarconfig": "contig" if channels > 1 else None,
        "extrasamples": ["unassalpha"] if channels in (2, 4) else None,
    }


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("extension", ["png", "tiff", "webp", "bmp", "gif", "ppm"])
@pytest.mark.parametrize("array", [GREY, RGB], ids=["grey", "rgb"])
def test_lossless_formats_keep_every_level(tmp_path, extension, array):
    if extension == "gif":
        array = array // 64 * 64
    path = save(tmp_path / f"a.{extension}", array, **({"lossless": True} if extension == "webp" else {}))
    found = read(path).pixels
    if found.ndim > array.ndim:  # WebP and GIF have no grey
        array = array[..., None].repeat(3, axis=2)
    assert_same(found, array)


@pytest.mark.parametrize("extension", ["png", "tiff"])
@pytest.mark.parametrize("array", [GREY_ALPHA, RGBA], ids=["grey", "rgb"])
def test_alpha_is_the_last_channel(tmp_path, extension, array):
    page = read(save(tmp_path / f"a.{extension}", array))
    assert page.has_alpha
    assert_same(page.pixels, array)


def test_one_bit_becomes_grey(tmp_path):
    path = save(tmp_path / "a.png", (GREY > 127).astype(np.uint8) * 255, "1")
    with Image.open(path) as image:
        assert image.mode == "1"
    assert_same(read(path).pixels, np.where(GREY > 127, 255, 0).astype(np.uint8))


@pytest.mark.parametrize("extension", ["png", "tiff", "gif", "bmp"])
def test_palettes_are_looked_up(tmp_path, extension):
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 0, 255, 9, 9, 9])
    image.save(tmp_path / f"a.{extension}")
    assert_same(read(tmp_path / f"a.{extension}").pixels, np.array([[[255, 0, 0], [0, 0, 255], [9, 9, 9]]], np.uint8))


@pytest.mark.parametrize("transparency", [1, bytes([255, 0, 128])], ids=["one entry", "alpha for each"])
def test_transparent_palettes_get_alpha(tmp_path, transparency):
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 0, 255, 9, 9, 9])
    image.save(tmp_path / "a.png", transparency=transparency)
    found = read(tmp_path / "a.png").pixels
    last = 255 if transparency == 1 else 128
    assert_same(found, np.array([[[255, 0, 0, 255], [0, 0, 255, 0], [9, 9, 9, last]]], np.uint8))


@pytest.mark.parametrize(("dtype", "channels"), [("uint8", 1), ("uint8", 3), ("uint16", 1), ("uint16", 3)])
def test_one_transparent_colour_gets_alpha(tmp_path, dtype, channels):
    array = pixels(dtype, channels)
    key = np.atleast_1d(array[2, 3])
    (tmp_path / "a.png").write_bytes(png(array, (b"tRNS", key.astype(">u2").tobytes())))
    found = read(tmp_path / "a.png").pixels
    colours = array.reshape(*array.shape[:2], -1)
    white = np.iinfo(dtype).max
    alpha = np.where((colours == key).all(axis=2, keepdims=True), 0, white).astype(dtype)
    assert alpha.min() == 0
    assert_same(found, np.concatenate([colours, alpha], axis=2))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_keeps_sixteen_bits(tmp_path, channels):
    (tmp_path / "a.png").write_bytes(png(DEEP[channels]))
    assert_same(read(tmp_path / "a.png").pixels, DEEP[channels])


def test_interlaced_png_keeps_sixteen_bits(tmp_path):
    array = DEEP[3]
    header = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], 16, 2, 0, 0, 1)
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    parts = (array[top::down, left::right] for top, left, down, right in passes)
    data = b"".join(b"\0" + row.astype(">u2").tobytes() for part in parts for row in part if row.size)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    assert_same(read(tmp_path / "a.png").pixels, array)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize(
    ("channels", "planes"), [(1, False), (2, False), (3, False), (4, False), (2, True), (3, True), (4, True)]
)
def test_tiff_keeps_sixteen_bits(tmp_path, channels, byteorder, compression, planes):
    array = DEEP[channels]
    options = tiff_options(array) | {"byteorder": byteorder, "compression": compression}
    if planes:
        array, options = array.transpose(2, 0, 1), options | {"planarconfig": "separate"}
    tifffile.imwrite(tmp_path / "a.tiff", array, **options)
    array = array.transpose(1, 2, 0) if planes else array
    assert_same(read(tmp_path / "a.tiff").pixels, array)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_premultiplied_alpha_is_divided_out(tmp_path, dtype):
    white = 1 if dtype == "float32" else np.iinfo(dtype).max
    straight = pixels("float32", 4)
    straight[0, 0, 3] = 0
    array = np.concatenate([straight[..., :3] * straight[..., 3:], straight[..., 3:]], axis=2) * white
    array = array.astype(dtype)
    tifffile.imwrite(tmp_path / "a.tiff", array, photometric="rgb", extrasamples=["assocalpha"])
    found = read(tmp_path / "a.tiff").pixels
    assert found.dtype == dtype
    np.testing.assert_array_equal(found[..., 3], array[..., 3])
    visible = straight[..., 3] > 0.2
    # Levels of alpha and colour are rounded, and dividing by an alpha of a fifth makes that five times as much.
    np.testing.assert_allclose(found[visible] / white, straight[visible], atol=1e-6 if white == 1 else 8 / white)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_white_may_be_zero(tmp_path, dtype):
    array = pixels(dtype)
    tifffile.imwrite(tmp_path / "a.tiff", array, photometric="miniswhite")
    assert_same(read(tmp_path / "a.tiff").pixels, np.iinfo(dtype).max - array)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_floats_are_kept(tmp_path, channels):
    array = pixels("float32", channels)
    tifffile.imwrite(tmp_path / "a.tiff", array, **tiff_options(array))
    assert_same(read(tmp_path / "a.tiff").pixels, array)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("array", [pixels("float32"), DEEP[1].astype(np.int32), (DEEP[1] // 2).astype(np.int16)])
def test_bytes_of_compressed_numbers_are_in_order(tmp_path, array, byteorder, compression):
    tifffile.imwrite(tmp_path / "a.tiff", array, byteorder=byteorder, compression=compression)
    assert_same(read(tmp_path / "a.tiff").pixels, array if array.dtype.kind == "f" else array.astype(np.uint16))


@pytest.mark.parametrize(
    "error", [ValueError("requires the 'imagecodecs' package"), ModuleNotFoundError("No module named 'compression'")]
)
def test_a_compression_that_needs_more_is_told(tmp_path, monkeypatch, error):
    tifffile.imwrite(tmp_path / "a.tiff", pixels("float32", 3), photometric="rgb", compression="zlib")

    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(tifffile.TiffPage, "asarray", fail)
    with pytest.raises(FileError, match="ADOBE_DEFLATE compression of such a TIFF needs the package imagecodecs"):
        read(tmp_path / "a.tiff")


def test_half_floats_are_exact_in_float32(tmp_path):
    array = pixels("float32", 3).astype(np.float16)
    tifffile.imwrite(tmp_path / "a.tiff", array, photometric="rgb")
    assert_same(read(tmp_path / "a.tiff").pixels, array.astype(np.float32))


def test_what_double_precision_loses_is_told(tmp_path):
    array = pixels("float32", 3).astype(np.float64) / 3
    tifffile.imwrite(tmp_path / "a.tiff", array, photometric="rgb")
    with Reader(tmp_path / "a.tiff") as reader:
        assert_same(reader.page().pixels, array.astype(np.float32))
        assert reader.notes == ["its floats of 64 bits become floats of 32 bits"]


def test_cmyk_without_a_profile_is_converted_by_the_formula(tmp_path):
    path = save(tmp_path / "a.tiff", RGB, "CMYK")
    page = read(path)
    with Image.open(path) as image:
        assert_same(page.pixels, np.asarray(image.convert("RGB")))
    assert page.icc is None


def test_cmyk_with_a_profile_of_no_use_says_so(tmp_path):
    path = save(tmp_path / "a.jpg", RGB, "CMYK", icc_profile=SRGB)
    with Reader(path) as reader:
        page = reader.page()
        assert page.pixels.shape == RGB.shape
        assert page.icc is None
        assert reader.notes == ["its colour profile cannot be used for CMYK; converted without"]


def test_a_usable_profile_is_applied_and_srgb_named_instead(tmp_path, monkeypatch):
    # No profile for CMYK comes with Pillow: what is called with it stands in.
    called = []

    def convert(image, source, target, **options):
        called.append((image.mode, source.read(), options))
        return image.convert("RGB")

    monkeypatch.setattr(ImageCms, "profileToProfile", convert)
    page = read(save(tmp_path / "a.jpg", RGB, "CMYK", icc_profile=b"profile"))
    assert called[0] == ("CMYK", b"profile", {"outputMode": "RGB"})
    assert ImageCms.ImageCmsProfile(io.BytesIO(page.icc)).profile.profile_description.startswith("sRGB")


def test_lab_becomes_srgb(tmp_path):
    lab = ImageCms.profileToProfile(
        Image.fromarray(RGB), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    lab.save(tmp_path / "a.tiff")
    page = read(tmp_path / "a.tiff")
    assert page.icc is not None
    assert np.abs(page.pixels.astype(int) - RGB).mean() < 4  # of what 8 bits of LAB can tell


def test_ycbcr_becomes_rgb(tmp_path):
    path = save(tmp_path / "a.tiff", RGB, "YCbCr")
    assert np.abs(read(path).pixels.astype(int) - RGB).max() <= 3


ORIENTED = {
    "png": lambda path, exif: path.write_bytes(png(RGB, (b"eXIf", exif.tobytes()[6:]))),
    "deep png": lambda path, exif: path.write_bytes(png(DEEP[3], (b"eXIf", exif.tobytes()[6:]))),
    "tiff": lambda path, exif: Image.fromarray(RGB).save(path, "TIFF", exif=exif),
    "deep tiff": lambda path, exif: tifffile.imwrite(
        path, DEEP[3], photometric="rgb", extratags=[(274, 3, 1, exif[274])]
    ),
    "float tiff": lambda path, exif: tifffile.imwrite(
        path, pixels("float32", 3), photometric="rgb", extratags=[(274, 3, 1, exif[274])]
    ),
}


@pytest.mark.parametrize("kind", ORIENTED)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    ORIENTED[kind](tmp_path / "a", exif)
    stored = DEEP[3] if "deep" in kind else pixels("float32", 3) if "float" in kind else RGB
    numbers = Image.fromarray(np.arange(77, dtype=np.uint8).reshape(7, 11))
    numbers.getexif()[274] = orientation
    order = np.asarray(ImageOps.exif_transpose(numbers))
    with Reader(tmp_path / "a") as reader:
        assert_same(reader.page().pixels, stored.reshape(77, -1)[order])


@pytest.mark.parametrize("extension", ["png", "jpg", "tiff", "webp"])
def test_profile_resolution_and_exif_are_read(tmp_path, extension):
    exif = Image.Exif()
    exif[271], exif[282], exif[283], exif[296] = "maker", 200.0, 100.0, 2
    exif[0x8769] = {0x9003: "2020:01:02 03:04:05"}
    exif[0x8825] = {1: "N"}
    options = {} if extension == "webp" else {"dpi": (200, 100)}
    page = read(save(tmp_path / f"a.{extension}", RGB, exif=exif.tobytes(), icc_profile=SRGB, **options))
    assert page.icc == SRGB
    assert page.dpi == pytest.approx((200, 100), abs=0.02)
    assert page.exif.image == {271: "maker"}
    assert page.exif.photograph[0x9003] == "2020:01:02 03:04:05"
    assert page.exif.place == {1: "N"}


def test_what_a_file_does_not_say_is_none(tmp_path):
    for extension in ("png", "jpg", "tiff", "webp", "bmp"):
        page = read(save(tmp_path / f"a.{extension}", RGB))
        assert (page.icc, page.exif) == (None, None), extension
        assert page.dpi is None or extension == "bmp"


def test_resolution_in_centimetres(tmp_path):
    image = Image.fromarray(RGB)
    image.save(tmp_path / "a.tiff", resolution=100, resolution_unit="cm")
    assert read(tmp_path / "a.tiff").dpi == pytest.approx((254, 254))


def test_damaged_exif_is_told_and_left(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", RGB)

    def damaged(image):
        raise struct.error("bad tag")

    monkeypatch.setattr(Image.Image, "getexif", damaged)
    with Reader(path) as reader:
        assert_same(reader.page().pixels, RGB)
        assert reader.notes == ["its EXIF is damaged and not kept (bad tag)"]


def test_every_page_of_a_tiff_is_read_by_itself(tmp_path):
    pages = [GREY, DEEP[3], pixels("float32", 3, (5, 4)), RGBA, DEEP[2], pixels(size=(30, 2))]
    with tifffile.TiffWriter(tmp_path / "a.tiff") as writer:
        for i, page in enumerate(pages):
            writer.write(page, metadata=None, iccprofile=SRGB if i == 1 else None, **tiff_options(page))
    with Reader(tmp_path / "a.tiff") as reader:
        assert reader.pages == len(pages)
        for i, (found, page) in enumerate(zip(reader, pages, strict=True)):
            assert_same(found.pixels, page)
            assert found.icc == (SRGB if i == 1 else None)
            assert reader.size(i) == (page.shape[1], page.shape[0])
        assert_same(reader.page(1).pixels, pages[1])  # in any order


@pytest.mark.parametrize("extension", ["gif", "webp", "png"])
def test_of_an_animation_the_first_frame_is_read(tmp_path, extension):
    frames = [Image.fromarray(np.full((4, 4, 3), level, np.uint8)) for level in (0, 255, 128)]
    options = {"lossless": True} if extension == "webp" else {}
    frames[0].save(tmp_path / f"a.{extension}", save_all=True, append_images=frames[1:], **options)
    with Reader(tmp_path / f"a.{extension}") as reader:
        assert reader.pages == 1
        assert reader.page().pixels.max() == 0
        assert reader.notes == ["only its first frame is read"]


def test_the_second_picture_of_a_phone_is_left(tmp_path):
    first, second = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second], quality=100)
    with Reader(tmp_path / "a.jpg") as reader:
        assert reader.format == "jpeg"
        assert np.abs(reader.page().pixels - np.array([255.0, 0, 0])).max() < 3
        assert reader.notes == ["only its first frame is read"]


def test_streams_are_read_and_left_open():
    stream = io.BytesIO(png(DEEP[3]))
    with Reader(stream, "standard input") as reader:
        assert_same(reader.page().pixels, DEEP[3])
    assert not stream.closed


def bad(folder: Path) -> dict[str, tuple[bytes, str]]:
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
    whole = {n: save(folder / f"whole.{n}", noise).read_bytes() for n in ("png", "jpg", "tiff", "bmp", "webp")}
    tiffs = {}
    for name, (array, options) in {
        "deep": (pixels("uint16", 3, (60, 60)), {}),
        "floats": (pixels("float32", 3, (60, 60)), {}),
        "signed": (pixels("uint16", 3).astype(np.int16), {}),
        "over": (pixels("float32", 3) * 2, {}),
        "long": (np.full((4, 4), 70_000, np.int32), {"photometric": "minisblack"}),
    }.items():
        tifffile.imwrite(folder / "t", array, **({"photometric": "rgb"} | options))
        tiffs[name] = (folder / "t").read_bytes()
    tifffile.imwrite(folder / "t", pixels("uint16", 4), photometric="separated")
    unread = "not a picture in a format that is read"
    return {
        **{f"cut.{n}": (content[: len(content) * 2 // 3], "") for n, content in whole.items()},
        "cut deep.png": (png(pixels("uint16", 3, (60, 60)))[:-300], "truncated"),
        "cut deep.tiff": (tiffs["deep"][:-3000], ""),
        "cut floats.tiff": (tiffs["floats"][:-3000], ""),
        "header.png": (whole["png"][:20], "Truncated File Read"),
        "jpeg.jpg": (b"\xff\xd8\xff\xe0\x00\x10JFIF", "Truncated File Read"),
        "empty.png": (b"", "is empty"),
        "text.png": (b"not a picture", unread),
        "nothing.png": (png_claiming(0, 5), "there is nothing to see"),
        "nothing.bmp": (b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 0, 0, 1, 24, 0, 0, 0, 0, 0, 0), ""),
        "large.png": (png_claiming(20_000, 10_000), "20000×10000 pixels, more than the 178,956,970 accepted; --max"),
        "bomb.png": (png_claiming(2**31 - 1, 2**31 - 1), "more than the 178,956,970 accepted"),
        "signed.tiff": (tiffs["signed"], "TIFF of int16 is not read"),
        "over.tiff": (tiffs["over"], "float values must lie between 0 and 1; got 0"),
        "long.tiff": (tiffs["long"], "integer values must lie between 0 and 65535"),
        "cmyk.tiff": ((folder / "t").read_bytes(), "CMYK of 16 bits a channel is not read"),
        "deep.ppm": (b"P6 2 1 65535\n" + bytes(12), "PPM of more than 8 bits"),
    }  # fmt: skip


def test_bad_files_give_one_line_with_their_name(tmp_path):
    cases = bad(tmp_path)
    with allowing(MAX_PIXELS):
        for name, (content, message) in cases.items():
            path = tmp_path / name
            path.write_bytes(content)
            with pytest.raises(FileError) as caught, Reader(path) as reader:
                reader.page()
            text = str(caught.value)
            assert text.startswith(f"{path}: "), name
            assert message in text, text
            assert "\n" not in text
            assert len(text) < len(str(path)) + 140, text


def test_missing_files_folders_and_pipes(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, message in {"missing": "no such file", "pipe": "not a regular file", ".": "not a regular file"}.items():
        with pytest.raises(FileError, match=message):
            Reader(tmp_path / name)


def test_a_file_without_permission(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png")

    def refuse(self, *arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(FileError, match=r"a\.png: cannot be read \(Permission denied\)"):
        Reader(path)


def test_a_name_with_control_characters_stays_on_one_line(tmp_path):
    with pytest.raises(FileError) as caught:
        Reader(tmp_path / "a\n\x1b[31m\udcff.png")
    assert str(caught.value).endswith("a\\n\\x1b[31m\\udcff.png: no such file")


def test_the_limit_of_pixels_can_be_raised(tmp_path):
    path = save(tmp_path / "a.png", RGB)
    with pytest.raises(FileError, match="11×7 pixels, more than the 76 accepted"):
        Reader(path, max_pixels=76)
    with Reader(path, max_pixels=77) as reader:
        assert reader.size() == (11, 7)


def test_pillows_limit_is_raised_for_a_while_only():
    before = Image.MAX_IMAGE_PIXELS
    with allowing(10**12):
        assert Image.MAX_IMAGE_PIXELS == 10**12
    assert before == Image.MAX_IMAGE_PIXELS
