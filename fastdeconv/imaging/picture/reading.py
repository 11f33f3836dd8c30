"""Opening a picture file and reading its pages."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Self

from PIL import Image, ImageFile, UnidentifiedImageError

from fastdeconv.imaging.errors import FileError, printable, reason
from fastdeconv.imaging.picture import exif, pixels, tiff
from fastdeconv.imaging.picture.page import Exif, Page, Pixels, upright

# Pillow's own limit: it refuses twice what it warns of.
MAX_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 89_478_485)

# Pillow's names of the formats that are read, with ours. Those are left out of which it would drop bits unseen.
_READ = {
    "PNG": "png", "JPEG": "jpeg", "MPO": "jpeg", "TIFF": "tiff", "WEBP": "webp", "BMP": "bmp", "DIB": "bmp",
    "GIF": "gif", "PPM": "ppm",
}  # fmt: skip
_ICC, _PLANAR, _BITS = 34675, 284, 258


class Reader:
    """An open picture file; use it in a ``with`` block.

    Parameters
    ----------
    source : Path or binary file
        A file must be able to seek.
    name : str, optional
        What messages call it; else the path.
    max_pixels : int
        The most that a page may have.

    Attributes
    ----------
    format : str
        "png", "jpeg", "tiff", "webp", "bmp", "gif" or "ppm": what the file is, whatever its name says.
    pages : int
        1 for animations, of which the first frame is read.
    notes : list of str
        What is lost or done differently, a line each; complete when the last page is read.

    Raises
    ------
    FileError
        It is missing, empty, damaged, of no known format, or has more pixels than are accepted; when it is opened or
        when a page is read.
    """

    def __init__(self, source: Path | BinaryIO, name: str | None = None, max_pixels: int = MAX_PIXELS) -> None:
        self.name = printable(source if name is None else name)
        self.notes: list[str] = []
        self._max_pixels = max_pixels
        self._owned: BinaryIO | None = None
        self._tiff: tiff.Reader | None = None
        self._unknown: set[int] = set()
        self._image: ImageFile.ImageFile | None = None
        try:
            with self._told():
                self._file = self._opened(source)
                self._identify()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, if it was opened here."""
        if self._owned is not None:
            self._owned.close()

    def __iter__(self) -> Iterator[Page]:
        return (self.page(i) for i in range(self.pages))

    def size(self, index: int = 0) -> tuple[int, int]:
        """Return a page's width and height as they are stored, found without decoding it."""
        with self._told():
            image = self._at(index)
            size = self._reads_tiff().size(index) if image is None else image.size
            if size[0] * size[1] > self._max_pixels:
                raise FileError(self._too_many(f"{size[0]}×{size[1]} pixels"))
            if not size[0] * size[1]:
                raise FileError(f"{self.name}: {size[0]}×{size[1]} pixels, there is nothing to see")
            return size

    def page(self, index: int = 0) -> Page:
        """Return a page, decoded."""
        self.size(index)
        with self._told():
            image = self._at(index)
            return self._reads_tiff().page(index) if image is None else self._decoded(image, index)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except FileError:
            raise
        except UnidentifiedImageError:
            raise FileError(f"{self.name}: {self._what_else()}") from None
        except Image.DecompressionBombError:
            raise FileError(self._too_many("its pixels")) from None
        except ModuleNotFoundError:
            raise
        except Exception as error:  # Decoders of damaged files raise whatever they run into.
            raise FileError(f"{self.name}: cannot be read as a picture: {reason(error)}") from error

    def _too_many(self, what: str) -> str:
        return f"{self.name}: {what}, more than the {self._max_pixels:,} accepted; --max-pixels raises that"

    def _what_else(self) -> str:
        self._file.seek(0)
        head = self._file.read(24)
        if not head:
            return "is empty"
        if head[:8] == b"\x89PNG\r\n\x1a\n" and len(head) == 24 and b"\0\0\0\0" in (head[16:20], head[20:24]):
            return "has no width or no height, there is nothing to see"
        return "not a picture in a format that is read (PNG, JPEG, TIFF, WebP, BMP, GIF, PPM), or cut off at its start"

    def _opened(self, source: Path | BinaryIO) -> BinaryIO:
        if not isinstance(source, Path):
            return source
        if not source.exists():
            raise FileError(f"{self.name}: no such file")
        if not source.is_file():
            raise FileError(f"{self.name}: not a regular file")
        try:
            self._owned = source.open("rb")
        except OSError as error:
            raise FileError(f"{self.name}: cannot be read ({reason(error)})") from error
        return self._owned

    def _identify(self) -> None:
        try:
            self._image = self._reopened()
        except UnidentifiedImageError:
            self._file.seek(0)
            if self._file.read(4) not in tiff.MAGIC:
                raise
            self.format, self.pages = "tiff", self._reads_tiff().pages
        else:
            self.format, self.pages = _READ[str(self._image.format)], 1
            if self.format == "tiff":
                self.pages = self._count(self._image)
            elif getattr(self._image, "is_animated", False):
                self.notes.append("only its first frame is read")
        self.size()

    def _count(self, image: Any) -> int:
        try:
            return int(image.n_frames)
        except SyntaxError:  # a page of a kind that Pillow does not know
            self._image = self._reopened()
            return self._reads_tiff().pages

    def _reopened(self) -> ImageFile.ImageFile:
        self._file.seek(0)
        return Image.open(self._file, formats=[name for name in _READ if name != "MPO"])  # a JPEG at first

    def _reads_tiff(self) -> tiff.Reader:
        if self._tiff is None:
            self._tiff = tiff.Reader(self._file, self._note)
        return self._tiff

    def _at(self, index: int) -> ImageFile.ImageFile | None:
        """Return Pillow's picture at a page; None if tifffile is to read it."""
        if self._image is None:
            return None
        if not self._image.tile:  # decoded already: what its channels are in the file is told no more
            self._image = self._reopened()
        image = self._image
        if self.format != "tiff":
            return image
        if index in self._unknown:
            return None
        try:
            image.seek(index)
        except SyntaxError:  # a page of a kind that Pillow does not know, at which it now believes to be
            self._unknown.add(index)
            self._image = self._reopened()
            return None
        tags = image.tag_v2  # type: ignore[attr-defined]
        return None if tags.get(_PLANAR) == 2 and max(tags.get(_BITS, (1,))) > 8 else image

    def _decoded(self, image: ImageFile.ImageFile, index: int) -> Page:
        tags = getattr(image, "tag_v2", None)
        icc = image.info.get("icc_profile") if tags is None else tags.get(_ICC)
        if image.mode in ("CMYK", "LAB"):
            found, icc = self._converted(image, icc)
        else:
            found = self._pixels(image, index)
        # Pillow turns a TIFF as it is to be shown when it decodes, and forgets the tag.
        carried, orientation, dpi = self._exif(image)
        if self.format != "tiff":
            dpi = _positive(image.info.get("dpi")) or dpi
        return Page(upright(found, orientation), icc or None, carried, dpi)

    def _pixels(self, image: ImageFile.ImageFile, index: int) -> Pixels:
        raw = pixels.halved_mode(image)
        if not raw:
            self._refuse_deep_ppm(image)
            pixels.decode(image)
            return pixels.of_image(image)
        if raw.startswith("LA"):
            return pixels.grey_alpha_16(image)
        high = pixels.decode_half(image, low=False)
        again = self._reopened()
        again.seek(index)
        found = pixels.joined(high, pixels.decode_half(again, low=True))
        if raw.startswith("RGBa"):
            return pixels.unmultiplied(found)
        return pixels.with_key(found, image.info.get("transparency"))

    def _converted(self, image: ImageFile.ImageFile, icc: bytes | None) -> tuple[Pixels, bytes | None]:
        if pixels.halved_mode(image):
            raise ValueError("CMYK of 16 bits a channel is not read; convert it to RGB first")
        image.load()
        converted, icc, note = pixels.to_srgb(image, icc)
        self._note(note)
        return pixels.of_image(converted), icc

    def _refuse_deep_ppm(self, image: ImageFile.ImageFile) -> None:
        """Refuse what Pillow would reduce to 8 bits."""
        if self.format == "ppm" and image.mode == "RGB":
            args: Any = image.tile[0].args
            if isinstance(args, tuple) and isinstance(args[-1], int) and args[-1] > 255:
                raise ValueError("PPM of more than 8 bits a channel is not read; convert it to PNG or TIFF first")

    def _exif(self, image: Image.Image) -> tuple[Exif | None, int, tuple[float, float] | None]:
        try:
            return exif.read(image.getexif())
        except Exception as error:  # Pillow raises whatever it runs into.
            self._note(f"its EXIF is damaged and not kept ({reason(error)})")
            return None, 1, None

    def _note(self, text: str) -> None:
        if text and text not in self.notes:
            self.notes.append(text)


def _positive(dpi: Any) -> tuple[float, float] | None:
    if not dpi or not all(float(n) > 0 for n in dpi):
        return None
    return float(dpi[0]), float(dpi[1])


@contextmanager
def allowing(max_pixels: int) -> Iterator[None]:
    """Let Pillow open pictures of so many pixels, and keep its warnings to itself; for the whole process."""
    before = Image.MAX_IMAGE_PIXELS
    quiet = logging.getLogger("tifffile")
    level = quiet.level
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\b")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        Image.MAX_IMAGE_PIXELS = min(max_pixels, sys.maxsize // 2)
        quiet.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before
            quiet.setLevel(level)
