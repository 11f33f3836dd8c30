"""The file formats that are written, and what each can hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fastdeconv.imaging.picture.page import Page, Pixels, full_scale

_DEPTHS = {"uint8": "8 bits a channel", "uint16": "16 bits a channel", "float32": "floats"}


@dataclass(frozen=True)
class Format:
    """A format that is written.

    Parameters
    ----------
    name : str
        As users know it.
    suffixes : tuple of str
        Of its files' names, the usual one first.
    dtypes : tuple of str
    alpha, pages, profile : bool
        Whether it holds transparency, several images, and colour profiles and EXIF.
    most : int
        Pixels of the longest side that can be stored.
    """

    name: str
    suffixes: tuple[str, ...]
    dtypes: tuple[str, ...]
    alpha: bool = True
    pages: bool = False
    profile: bool = True
    most: int = 2**31 - 1

    def declines(self, pixels: Pixels, pages: int = 1) -> str:
        """Return why it cannot hold such pixels, in a clause; nothing if it can."""
        if pages > 1 and not self.pages:
            return f"{self.name} holds one image, not {pages} pages"
        if pixels.dtype.name not in self.dtypes:
            return f"{self.name} does not hold {_DEPTHS[pixels.dtype.name]}"
        if not self.alpha and pixels.ndim == 3 and pixels.shape[2] in (2, 4):
            return f"{self.name} does not hold transparency"
        return ""

    def declines_size(self, size: tuple[int, int]) -> str:
        """Return why it cannot hold so many columns and rows, in a clause; nothing if it can."""
        if max(size) > self.most:
            return f"{self.name} holds at most {self.most} pixels a side, not {size[0]}×{size[1]}"
        return ""


FORMATS = {
    "png": Format("PNG", (".png",), ("uint8", "uint16")),
    "jpeg": Format("JPEG", (".jpg", ".jpeg", ".jpe", ".jfif"), ("uint8",), alpha=False, most=65535),
    "tiff": Format("TIFF", (".tif", ".tiff"), ("uint8", "uint16", "float32"), pages=True),
    "webp": Format("WebP", (".webp",), ("uint8",), most=16383),
    "bmp": Format("BMP", (".bmp", ".dib"), ("uint8",), alpha=False, profile=False),
}
# What is read besides, and so is written as PNG if nothing else is asked for.
ALSO_READ = {"gif": (".gif",), "ppm": (".ppm", ".pgm", ".pbm", ".pnm")}
SUFFIXES = {suffix: name for name, format_ in FORMATS.items() for suffix in format_.suffixes}
READ_SUFFIXES = frozenset(SUFFIXES).union(*ALSO_READ.values())


def alternatives(accepts: Callable[[Format], bool]) -> str:
    """Return the names of the formats that would do, for the end of an error message."""
    names = [format_.name for format_ in FORMATS.values() if accepts(format_)]
    return "; choose " + " or ".join(names) if names else ""


def of_name(path: Path) -> str | None:
    """Return the key of the format that a file's name stands for, if it is one that is written."""
    return SUFFIXES.get(path.suffix.lower())


def fitted(page: Page, format_: Format) -> Page:
    """Return the page without an alpha channel that hides nothing, where the format holds none."""
    if format_.alpha or not page.has_alpha:
        return page
    colours, alpha = page.pixels[..., :-1], page.pixels[..., -1]
    if (alpha != full_scale(alpha.dtype)).any():
        return page
    return Page(colours[..., 0] if colours.shape[2] == 1 else colours, page.icc, page.exif, page.dpi)
