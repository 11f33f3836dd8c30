"""Writing pages as a picture file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from PIL import Image

from fastdeconv.imaging.picture import exif, png, tiff
from fastdeconv.imaging.picture.formats import FORMATS
from fastdeconv.imaging.picture.page import Page

_MOST_EXIF = 65533  # bytes in a JPEG


@dataclass(frozen=True)
class Encoding:
    """How lossy formats are written.

    Parameters
    ----------
    quality : int
        Of JPEG and WebP, 1 to 100. JPEG's colours are not subsampled.
    lossless : bool
        Whether WebP keeps every pixel as it is.
    """

    quality: int = 95
    lossless: bool = False


def write(
    file: BinaryIO,
    key: str,
    pages: Iterable[Page],
    encoding: Encoding = Encoding(),
    *,
    count: int = 1,
    note: Callable[[str], None] = lambda text: None,
) -> None:
    """Write pages, one after the other as they come, so that only one needs to be in memory.

    Parameters
    ----------
    file : binary file
        Empty; it must be able to seek for TIFF.
    key : str
        Of `FORMATS`, which holds the pages: see `Format.declines`.
    pages : iterable of Page
        Only TIFF takes more than one.
    encoding : Encoding
    count : int
        How many pages there will be.
    note : callable
        Called with what cannot be kept beside the pixels, a line each.
    """
    pages = (_writable(page, key, note) for page in pages)
    if key == "tiff":
        writer = None
        for page in pages:
            if writer is None:
                writer = tiff.Writer(file, big=tiff.needs_big(count * page.pixels.nbytes))
            writer.add(page, exif.tags(page))
        return
    (page,) = pages
    if page.pixels.dtype.name == "uint16":
        png.write_16(file, page, exif.to_bytes(page))
    else:
        image = Image.fromarray(page.pixels)
        image.save(file, FORMATS[key].name, **_options(page, key, encoding))


def _options(page: Page, key: str, encoding: Encoding) -> dict[str, Any]:
    options: dict[str, Any] = {} if page.dpi is None else {"dpi": page.dpi}
    if key == "bmp":
        return options
    options |= {"icc_profile": page.icc, "exif": exif.to_bytes(page)}
    if key == "png":
        options |= {"compress_level": png.LEVEL}
    elif key == "jpeg":
        options |= {"quality": encoding.quality, "subsampling": "4:4:4"}
    elif key == "webp":
        options |= {"quality": encoding.quality, "lossless": encoding.lossless, "exact": encoding.lossless}
    return options


def _writable(page: Page, key: str, note: Callable[[str], None]) -> Page:
    """Return the page without what the format cannot hold beside the pixels."""
    format_ = FORMATS[key]
    if not format_.profile and (page.icc or page.exif):
        note(f"{format_.name} holds no colour profile and no EXIF")
        return replace(page, icc=None, exif=None)
    if key == "webp" and page.icc is not None and page.icc[16:20] == b"GRAY":
        note("WebP stores grey as colours, for which its grey profile does not serve")
        page = replace(page, icc=None)
    if page.exif is None:
        return page
    try:
        length = len(exif.to_bytes(page))
    except Exception:  # Pillow raises whatever it runs into with values that only a damaged file holds.
        note("its EXIF has values that cannot be written, and is not kept")
        return replace(page, exif=None)
    if key == "jpeg" and length > _MOST_EXIF:
        note("its EXIF is longer than JPEG can hold, and is not kept")
        return replace(page, exif=None)
    return page
