"""Pages come back as they were from every format that holds them, to Pillow's and tifffile's eyes as to ours."""

from __future__ import annotations

import io
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
import tifffile
from pictures import SRGB, pixels
from PIL import Image, ImageCms

from fastdeconv.imaging.errors import FileError
from fastdeconv.imaging.picture import FORMATS, Encoding, Exif, Page, Reader, tiff, write
from fastdeconv.imaging.picture.formats import alternatives, fitted

pytestmark = pytest.mark.quick

DTYPES, CHANNELS = ("uint8", "uint16", "float32"), (1, 2, 3, 4)
PHOTOGRAPH = Exif(
    {271: "maker", 272: "model", 306: "2020:01:02 03:04:05", 33432: "© whoever", 18246: 4, 40091: b"x\0y\0\0\0"},
    {0x829A: 0.004, 0x829D: 2.8, 0x9003: "2020:01:02 03:04:05", 0xA002: 5, 0xA003: 6, 0x927C: b"maker's own"},
    {1: "N", 2: (48.0, 12.0, 30.5), 5: b"\0"},
)


def written(key: str, *pages: Page, **options: object) -> tuple[io.BytesIO, list[str]]:
    file = io.BytesIO()
    notes: list[str] = []
    write(file, key, iter(pages), Encoding(lossless=True), count=len(pages), note=notes.append, **options)
    return file, notes


def back(file: io.BytesIO) -> list[Page]:
    with Reader(file, "it") as reader:
        pages = list(reader)
        assert reader.notes == []
        return pages


HELD = [
    (key, dtype, channels)
    for key, dtype, channels in product(FORMATS, DTYPES, CHANNELS)
    if not FORMATS[key].declines(pixels(dtype, channels))
]


def test_formats_hold_what_they_are_said_to():
    kinds = {key: {(dtype, channels) for k, dtype, channels in HELD if k == key} for key in FORMATS}
    assert kinds["tiff"] == set(product(DTYPES, CHANNELS))
    assert kinds["png"] == set(product(("uint8", "uint16"), CHANNELS))
    assert kinds["webp"] == set(product(("uint8",), CHANNELS))
    assert kinds["jpeg"] == kinds["bmp"] == set(product(("uint8",), (1, 3)))


@pytest.mark.parametrize(("key", "dtype", "channels"), [held for held in HELD if held[0] != "jpeg"])
@pytest.mark.parametrize("size", [(11, 7), (1, 1), (200, 100)], ids=str)
def test_pixels_come_back(key, dtype, channels, size):
    array = pixels(dtype, channels, size)
    file, notes = written(key, Page(array))
    assert notes == []
    (page,) = back(file)
    if key == "webp" and channels < 3:  # it has no grey
        colours = array.reshape(*array.shape[:2], channels)
        array = np.concatenate([colours[..., :1]] * 3 + [colours[..., 1:]], axis=2)
    assert page.pixels.dtype == array.dtype
    np.testing.assert_array_equal(page.pixels, array)
    file.seek(0)
    if key == "tiff":
        np.testing.assert_array_equal(tifffile.imread(file), array)
    elif dtype == "uint8":
        with Image.open(file) as image:
            np.testing.assert_array_equal(np.asarray(image), array)


def test_sixteen_bit_png_is_what_pillow_reads_the_high_bytes_of():
    for channels in CHANNELS:
        array = pixels("uint16", channels)
        file, _ = written("png", Page(array))
        with Image.open(file) as image:
            found = np.asarray(image)
        if channels == 1:
            np.testing.assert_array_equal(found, array)
        elif channels == 2:
            np.testing.assert_array_equal(found[..., [0, 3]], array >> 8)
        else:
            np.testing.assert_array_equal(found, array >> 8)


def test_sixteen_bit_png_of_smooth_pixels_is_compressed():
    i, j = np.mgrid[:256, :256]
    array = np.stack([100 * i + 50 * j, 200 * j, 30 * (i + j)], axis=2).astype(np.uint16)
    file, _ = written("png", Page(array))
    assert len(file.getvalue()) < array.nbytes / 20


def test_jpeg_keeps_colours_at_full_resolution():
    array = np.zeros((16, 16, 3), np.uint8)
    array[:, ::2, 0] = 255  # would be one mean colour where colours are stored at half the resolution
    file, _ = written("jpeg", Page(array))
    (page,) = back(file)
    assert np.abs(page.pixels.astype(int) - array).max() < 30


def test_quality_decides_the_size():
    array = pixels(channels=3, size=(64, 64))
    for key in ("jpeg", "webp"):
        sizes = []
        for quality in (10, 50, 95):
            file = io.BytesIO()
            write(file, key, [Page(array)], Encoding(quality))
            sizes.append(len(file.getvalue()))
        assert sizes == sorted(set(sizes)), key


@pytest.mark.parametrize(
    ("key", "dtype"), [(key, dtype) for key, dtype, channels in HELD if channels == 3 and key != "bmp"]
)
def test_profile_resolution_and_exif_come_back(key, dtype):
    array = pixels(dtype, 1 if dtype == "float32" else 3)  # Pillow reads floats of one channel alone
    file, notes = written(key, Page(array, SRGB, PHOTOGRAPH, (300.0, 150.0)))
    assert notes == []
    (page,) = back(file)
    assert page.icc == SRGB
    assert page.dpi == pytest.approx((300, 150), abs=0.02)
    assert page.exif.image == PHOTOGRAPH.image
    assert page.exif.place == PHOTOGRAPH.place
    # The size in it is that of the file.
    expected = PHOTOGRAPH.photograph | {0xA002: 11, 0xA003: 7}
    assert page.exif.photograph.pop(0x927C) == expected.pop(0x927C)
    assert page.exif.photograph.pop(0x9003) == expected.pop(0x9003)
    assert {tag: float(value) for tag, value in page.exif.photograph.items()} == pytest.approx(expected)
    with Image.open(file) as image:
        assert image.getexif()[274] == 1
        assert ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"])).profile.xcolor_space.strip() == "RGB"


def test_resolution_alone_comes_back_from_every_format():
    for key in FORMATS:
        (page,) = back(written(key, Page(pixels(), dpi=(300.0, 150.0)))[0])
        assert page.dpi == pytest.approx((300, 150), abs=0.02), key


def test_what_bmp_loses_is_told():
    file, notes = written("bmp", Page(pixels(), SRGB, PHOTOGRAPH, (300.0, 300.0)))
    assert notes == ["BMP holds no colour profile and no EXIF"]
    assert back(file)[0].dpi == pytest.approx((300, 300), abs=0.02)


def test_a_grey_profile_does_not_go_into_webp():
    grey = SRGB[:16] + b"GRAY" + SRGB[20:]
    file, notes = written("webp", Page(pixels(), grey))
    assert notes == ["WebP stores grey as colours, for which its grey profile does not serve"]
    assert back(file)[0].icc is None
    assert back(written("png", Page(pixels(), grey))[0])[0].icc == grey


def test_exif_too_long_for_jpeg_is_told():
    file, notes = written("jpeg", Page(pixels(), exif=Exif({271: "maker"}, {0x927C: bytes(70_000)}, {})))
    assert notes == ["its EXIF is longer than JPEG can hold, and is not kept"]
    assert back(file)[0].exif is None


@pytest.mark.parametrize("key", ["png", "tiff"])
def test_exif_that_cannot_be_written_is_told(key):
    file, notes = written(key, Page(pixels(), exif=Exif({271: object()}, {}, {})))
    assert notes == ["its EXIF has values that cannot be written, and is not kept"]
    assert back(file)[0].exif is None


def test_tags_that_were_true_of_the_old_file_alone_are_left(tmp_path):
    tags = [
        (33550, "d", 3, (1.0, 1.0, 0.0)),  # metres a pixel
        (330, "I", 1, 0),
        (700, "B", 4, b"<x/>"),
        (315, "s", 0, "artist"),
    ]
    tifffile.imwrite(tmp_path / "a.tiff", pixels(), extratags=tags, description="ImageJ=1.53\nimages=1")
    with Reader(tmp_path / "a.tiff") as reader:
        page = reader.page()
    file, _ = written("tiff", page)
    file.seek(0)
    with tifffile.TiffFile(file) as found:
        codes = {tag.code for tag in found.pages[0].tags}
    assert 315 in codes
    assert not codes & {33550, 330, 700, 270}


def test_a_description_for_people_is_kept(tmp_path):
    tifffile.imwrite(tmp_path / "a.tiff", pixels(), description="our garden", metadata=None)
    with Reader(tmp_path / "a.tiff") as reader:
        page = reader.page()
    assert back(written("tiff", page)[0])[0].exif.image[270] == "our garden"


@pytest.mark.parametrize("big", [False, True])
def test_pages_of_all_kinds_in_one_tiff(big, monkeypatch):
    monkeypatch.setattr(tiff, "needs_big", lambda nbytes: big)
    arrays = [pixels(d, c, (9 + i, 5)) for i, (d, c) in enumerate((d, c) for d in DTYPES for c in CHANNELS)]
    pages = [Page(a, SRGB if i % 2 else None, PHOTOGRAPH if i % 3 else None) for i, a in enumerate(arrays)]
    file, notes = written("tiff", *pages)
    assert notes == []
    assert file.getvalue()[2] == (43 if big else 42)
    found = back(file)
    assert len(found) == len(pages)
    for page, other in zip(pages, found):
        np.testing.assert_array_equal(page.pixels, other.pixels)
        assert page.icc == other.icc
        assert (page.exif is None) == (other.exif is None)
        assert page.exif is None or other.exif.place == PHOTOGRAPH.place
    file.seek(0)
    with tifffile.TiffFile(file) as other:
        for page, array in zip(other.pages, arrays, strict=True):
            np.testing.assert_array_equal(page.asarray(), array)


def test_big_tiff_is_for_what_may_not_fit_otherwise():
    assert not tiff.needs_big(2**31)
    assert tiff.needs_big(2**32)


def test_pages_are_written_as_they_come():
    left = []

    def pages():
        for i in range(4):
            left.append(len(file.getvalue()))
            yield Page(pixels(size=(64, 64), seed=i))

    file = io.BytesIO()
    write(file, "tiff", pages(), count=4)
    assert left[0] == 0
    assert all(b - a > 3000 for a, b in pairwise(left))


@pytest.mark.parametrize(
    ("key", "array", "pages", "message"),
    [
        ("jpeg", pixels("uint16"), 1, "JPEG does not hold 16 bits a channel; choose PNG or TIFF"),
        ("webp", pixels("uint16", 3), 1, "WebP does not hold 16 bits a channel; choose PNG or TIFF"),
        ("png", pixels("float32"), 1, "PNG does not hold floats; choose TIFF"),
        ("bmp", pixels(channels=2), 1, "BMP does not hold transparency; choose PNG or TIFF or WebP"),
        ("jpeg", pixels(channels=4), 1, "JPEG does not hold transparency; choose PNG or TIFF or WebP"),
        ("png", pixels(), 3, "PNG holds one image, not 3 pages; choose TIFF"),
    ],
)
def test_a_format_says_what_it_cannot_hold(key, array, pages, message):
    declined = FORMATS[key].declines(array, pages)
    assert declined + alternatives(lambda f: not f.declines(array, pages)) == message


def test_sides_too_long_are_declined():
    assert FORMATS["webp"].declines_size((16384, 1)) == "WebP holds at most 16383 pixels a side, not 16384×1"
    assert not FORMATS["webp"].declines_size((16383, 16383))
    assert FORMATS["jpeg"].declines_size((1, 65536))
    assert not FORMATS["png"].declines_size((100_000, 100_000))


def test_alpha_that_hides_nothing_is_dropped_where_there_is_no_room_for_it():
    for channels in (2, 4):
        opaque = pixels(channels=channels)
        opaque[..., -1] = 255
        page = fitted(Page(opaque, SRGB, PHOTOGRAPH, (1.0, 2.0)), FORMATS["jpeg"])
        np.testing.assert_array_equal(page.pixels, opaque[..., 0] if channels == 2 else opaque[..., :3])
        assert (page.icc, page.exif, page.dpi) == (SRGB, PHOTOGRAPH, (1.0, 2.0))
        assert fitted(Page(opaque), FORMATS["png"]).has_alpha
        opaque[0, 0, -1] = 254
        assert fitted(Page(opaque), FORMATS["jpeg"]).has_alpha


def test_a_written_file_can_be_cut_and_is_then_refused(tmp_path: Path):
    for key in ("png", "tiff"):
        file, _ = written(key, Page(pixels("uint16", 3, (64, 64))))
        (tmp_path / key).write_bytes(file.getvalue()[:-200])
        with pytest.raises(FileError), Reader(tmp_path / key) as reader:
            reader.page()
