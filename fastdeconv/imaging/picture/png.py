"""PNG of 16 bits a channel: Pillow writes it for grey only, and keeps 8 bits of colours.

Portable Network Graphics Specification, third edition, https://www.w3.org/TR/png-3/.
"""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from fastdeconv.imaging.picture.page import Page

_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # by channels: grey, grey and alpha, RGB, RGBA
_PAETH = 4
# zlib's level: of an enlarged photograph 3 % more bytes than 6, its default, in half the time.
LEVEL = 4
_BAND = 1 << 22  # bytes filtered at a time
_PER_METRE = 1 / 0.0254  # inches


def write_16(file: BinaryIO, page: Page, exif: bytes) -> None:
    """Write a page of uint16 pixels; `exif` may begin with the marker that JPEG needs."""
    height, width = page.pixels.shape[:2]
    pixels = page.pixels.reshape(height, width, -1)
    file.write(b"\x89PNG\r\n\x1a\n")
    _chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, 16, _COLOUR_TYPES[pixels.shape[2]], 0, 0, 0))
    if page.icc is not None:
        _chunk(file, b"iCCP", b"ICC Profile\0\0" + zlib.compress(page.icc))
    if page.dpi is not None:
        _chunk(file, b"pHYs", struct.pack(">IIB", *(round(n * _PER_METRE) for n in page.dpi), 1))
    if exif:
        _chunk(file, b"eXIf", exif.removeprefix(b"Exif\0\0"))
    stream = zlib.compressobj(LEVEL)
    step = 2 * pixels.shape[2]
    above = np.zeros((1, (width + 1) * step), np.uint8)
    rows = max(1, _BAND // above.shape[1])
    for start in range(0, height, rows):
        # The bytes of a row, after a pixel of zeros: what filters take to lie left of it.
        band = pixels[start : start + rows].astype(">u2").view(np.uint8).reshape(-1, width * step)
        band = np.concatenate([above, np.pad(band, ((0, 0), (step, 0)))])
        _chunk(file, b"IDAT", stream.compress(_filtered(band, step).tobytes()))
        above = band[-1:]
    _chunk(file, b"IDAT", stream.flush())
    _chunk(file, b"IEND", b"")


def _filtered(band: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """Return each row but the first less what Paeth's filter predicts of it, after the filter's number."""
    left, up, corner = (a.astype(np.int16) for a in (band[1:, :-step], band[:-1, step:], band[:-1, :-step]))
    to_left, to_up = np.abs(up - corner), np.abs(left - corner)
    to_corner = np.abs(left + up - 2 * corner)
    predicted = np.where(to_up <= to_corner, up, corner)
    predicted = np.where((to_left <= to_up) & (to_left <= to_corner), left, predicted)
    result = np.empty((len(band) - 1, predicted.shape[1] + 1), np.uint8)
    result[:, 0] = _PAETH
    np.subtract(band[1:, step:], predicted.astype(np.uint8), out=result[:, 1:])
    return result


def _chunk(file: BinaryIO, kind: bytes, data: bytes) -> None:
    if data or kind == b"IEND":
        file.write(struct.pack(">I", len(data)) + kind)
        file.write(data)
        file.write(struct.pack(">I", zlib.crc32(data, zlib.crc32(kind))))
