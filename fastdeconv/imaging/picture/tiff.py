"""TIFF: pages of any depth written, and those read that Pillow cannot.

Pillow writes neither 16-bit colour nor colour in floats; tifffile, which reads them, writes no EXIF. TIFF Revision 6.0
(1992), and BigTIFF where a file may pass 4 GB.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from fastdeconv.imaging.picture import exif
from fastdeconv.imaging.picture.page import Page, Pixels, full_scale, upright
from fastdeconv.imaging.picture.pixels import check_unit, unmultiplied

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _STRIPS = 256, 257, 258, 259, 262, 273
_SAMPLES, _ROWS, _SIZES, _PREDICTOR, _ALPHA, _SAMPLE_FORMAT, _ICC = 277, 278, 279, 317, 338, 339, 34675
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2
_DEFLATE, _DIFFERENCES, _LONG8 = 8, 2, 16
_STRIP = 1 << 18  # bytes
_CLASSIC_LIMIT = 2**32 - 2**26  # bytes, with room for tags and for strips that compression made longer


class Writer:
    """Writes pages, one after the other, with deflate, which loses nothing.

    Parameters
    ----------
    file : binary file
        Empty, and able to seek.
    big : bool
        Whether to write BigTIFF, whose offsets have 64 bits.
    """

    def __init__(self, file: BinaryIO, big: bool) -> None:
        self._file = file
        self._big = big
        self._head = b"II+\0\x08\0\0\0" + bytes(8) if big else b"II*\0" + bytes(4)
        file.write(self._head)
        self._link = len(self._head) - (8 if big else 4)  # where the place of the next page's directory goes

    def add(self, page: Page, tags: dict[int, Any]) -> None:
        """Write a page and its further tags."""
        pixels = page.pixels.reshape(*page.pixels.shape[:2], -1)
        height, width, samples = pixels.shape
        rows = max(1, _STRIP // (width * samples * pixels.itemsize))
        strips = -(-height // rows)
        directory = ImageFileDirectory_v2(self._head)
        for tag, value in tags.items():
            directory[tag] = value
        directory[_WIDTH], directory[_HEIGHT] = width, height
        directory[_BITS] = (8 * pixels.itemsize,) * samples
        directory[_COMPRESSION], directory[_PREDICTOR] = _DEFLATE, _DIFFERENCES if pixels.dtype.kind == "u" else 1
        directory[_PHOTOMETRIC] = _RGB if samples >= 3 else _BLACK_IS_ZERO
        directory[_SAMPLES], directory[_ROWS] = samples, rows
        directory[_SAMPLE_FORMAT] = (1 if pixels.dtype.kind == "u" else 3,) * samples
        if page.has_alpha:
            directory[_ALPHA] = 2  # not multiplied into the colours
        if page.icc is not None:
            directory[_ICC] = page.icc
        directory.tagtype[_STRIPS] = directory.tagtype[_SIZES] = _LONG8 if self._big else 4
        directory[_STRIPS] = directory[_SIZES] = (0,) * strips
        start = self._file.seek(0, 2)
        start += start % 2
        # The directory's length does not depend on what is in it: the strips are written behind its place first.
        behind = start + len(directory.tobytes(start))
        self._file.seek(behind)
        sizes = tuple(self._file.write(_strip(pixels[i : i + rows])) for i in range(0, height, rows))
        directory[_STRIPS] = tuple(int(n) for n in np.cumsum((0, *sizes[:-1])))  # counted from the directory's end
        directory[_SIZES] = sizes
        self._file.seek(start)
        self._file.write(directory.tobytes(start))
        self._file.seek(self._link)
        self._file.write(struct.pack("<Q" if self._big else "<I", start))
        self._link = start + (8 + 20 * len(directory) if self._big else 2 + 12 * len(directory))


def needs_big(nbytes: int) -> bool:
    """Return whether so many bytes of pixels may not fit into a classic TIFF."""
    return nbytes > _CLASSIC_LIMIT


def _strip(rows: NDArray[Any]) -> bytes:
    if rows.dtype.kind == "u":
        rows = np.diff(rows, axis=1, prepend=np.zeros_like(rows[:, :1]))
    return zlib.compress(rows.astype(rows.dtype.newbyteorder("<"), copy=False).tobytes())


class Reader:
    """Reads the pages of a TIFF through tifffile: colour in floats, planes of 16 bits, grey of 16 bits with alpha.

    Compressions other than deflate, PackBits and LZMA need the package imagecodecs.

    Parameters
    ----------
    file : binary file
    note : callable
        Called with a line on what is not kept.
    """

    def __init__(self, file: BinaryIO, note: Callable[[str], None]) -> None:
        from tifffile import TiffFile

        file.seek(0)
        self._note = note
        self._file = file
        self._tiff = TiffFile(file)

    @property
    def pages(self) -> int:
        """The number of pages."""
        return len(self._tiff.pages)

    def size(self, index: int) -> tuple[int, int]:
        """Return a page's width and height as they are stored."""
        page = self._tiff.pages[index].aspage()
        return page.imagewidth, page.imagelength

    def page(self, index: int) -> Page:
        """Return a page.

        Raises
        ------
        ValueError
            It is of a kind that is not read; other errors are tifffile's.
        """
        page = self._tiff.pages[index].aspage()
        tags = Image.Exif()
        tags.endian, tags.bigtiff = self._tiff.byteorder, self._tiff.is_bigtiff
        tags.load_from_fp(self._file, page.offset)
        found, orientation, dpi = exif.read(tags)
        if page.dtype == np.float64:
            self._note("its floats of 64 bits become floats of 32 bits")
        pixels = upright(_pixels(page), orientation)
        return Page(pixels, page.iccprofile, found, dpi)


def _pixels(page: Any) -> Pixels:
    from tifffile import COMPRESSION

    kind, samples = page.photometric, page.samplesperpixel
    if kind not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB) or page.imagedepth > 1:
        raise ValueError(f"TIFF of {getattr(kind, 'name', kind)} with {page.bitspersample} bits a channel is not read")
    if page.dtype is None or page.dtype.name not in ("uint8", "uint16", "float16", "float32", "float64"):
        raise ValueError(f"TIFF of {page.dtype or f'{page.bitspersample} bits'} is not read")
    try:
        pixels = page.asarray()
    except (ValueError, ImportError) as error:
        if isinstance(error, ImportError) or "imagecodecs" in str(error):
            name = COMPRESSION(page.compression).name
            raise ValueError(f"{name} compression of such a TIFF needs the package imagecodecs") from error
        raise
    pixels = pixels.reshape(samples, *pixels.shape[-2:]).transpose(1, 2, 0) if _in_planes(page) else pixels
    pixels = pixels.reshape(page.imagelength, page.imagewidth, samples)
    if pixels.dtype.kind == "f":
        pixels = pixels.astype(np.float32)
        check_unit(pixels)
    colours = 3 if kind == _RGB else 1
    alpha = {1: "premultiplied", 2: "straight"}.get(next(iter(page.extrasamples), 0)) if samples > colours else None
    pixels = pixels[..., : colours + (alpha is not None)]
    if kind == _WHITE_IS_ZERO:
        pixels[..., 0] = full_scale(pixels.dtype) - pixels[..., 0]
    if alpha == "premultiplied":
        pixels = unmultiplied(pixels)
    return pixels[..., 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels)


def _in_planes(page: Any) -> bool:
    return bool(page.samplesperpixel > 1 and page.planarconfig == 2)
