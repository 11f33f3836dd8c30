"""EXIF: what is carried from the picture read to the picture written."""

from __future__ import annotations

from typing import Any

from PIL import ExifTags, Image, TiffTags

from fastdeconv.imaging.picture.page import Exif, Page

ORIENTATION = 0x0112
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 0x011A, 0x011B, 0x0128
PHOTOGRAPH, PLACE = int(ExifTags.IFD.Exif), int(ExifTags.IFD.GPSInfo)
DESCRIPTION = 0x010E
_WIDTH, _HEIGHT = 0xA002, 0xA003  # of the image, repeated among the tags of the photograph
_INTEROPERABILITY = 0xA005  # the place of more tags in the old file
_PER_UNIT = {2: 1.0, 3: 2.54}  # inches, centimetres

# Tags of the image that tell how and where its pixels lie, or that Page has a field for: true of the old file only.
_LAYOUT = frozenset(
    [
        *(0x00FE, 0x00FF, 0x0100, 0x0101, 0x0102, 0x0103, 0x0106, 0x0107, 0x0108, 0x0109, 0x010A, 0x0111),
        *(ORIENTATION, 0x0115, 0x0116, 0x0117, 0x0118, 0x0119, X_RESOLUTION, Y_RESOLUTION, 0x011C, 0x0120, 0x0121),
        *(RESOLUTION_UNIT, 0x0122, 0x0123, 0x0129, 0x012D, 0x013D, 0x0140, 0x0141, 0x0142, 0x0143, 0x0144, 0x0145),
        *(0x014A, 0x014C, 0x014D, 0x0150, 0x0151, 0x0152, 0x0153, 0x0154, 0x0155, 0x0156, 0x015B),
        *range(0x0200, 0x020A),  # JPEG inside TIFF
        *range(0x0211, 0x0215),  # YCbCr
        0x02BC, 0x83BB, 0x8649,  # XMP, IPTC and Photoshop's copies of all this
        0x830E, 0x8480, 0x8482, 0x85D8, 0x87AF, 0x87B0, 0x87B1,  # GeoTIFF: pixels to places on the map
        0x8773,  # the ICC profile
        0xC4A5,  # settings of a printer
        0xC696, 0xC697,  # ImageJ's own
        PHOTOGRAPH, PLACE,
    ]
)  # fmt: skip


def read(tags: Image.Exif) -> tuple[Exif | None, int, tuple[float, float] | None]:
    """Return what is carried over of a picture's EXIF, its orientation (1: as stored), and dots an inch.

    Damaged EXIF raises whatever Pillow runs into.
    """
    main = {tag: tags[tag] for tag in tags}
    photograph, place = (dict(tags.get_ifd(ifd)) for ifd in (PHOTOGRAPH, PLACE))
    orientation = main.get(ORIENTATION, 1)
    dpi = _dpi(main)
    main = {tag: value for tag, value in main.items() if tag not in _LAYOUT}
    if _describes_arrays(main.get(DESCRIPTION)):
        del main[DESCRIPTION]
    photograph.pop(_INTEROPERABILITY, None)
    found = Exif(main, photograph, place) if main or photograph or place else None
    return found, orientation if isinstance(orientation, int) else 1, dpi


def _dpi(main: dict[int, Any]) -> tuple[float, float] | None:
    per_unit = _PER_UNIT.get(main.get(RESOLUTION_UNIT, 2))
    if per_unit is None or X_RESOLUTION not in main:
        return None
    x = float(main[X_RESOLUTION])
    y = float(main.get(Y_RESOLUTION, x))
    return (x * per_unit, y * per_unit) if x > 0 and y > 0 else None


def _describes_arrays(description: Any) -> bool:
    """Whether a description is for programs: the sizes in it are no longer true."""
    text = description.decode(errors="replace") if isinstance(description, bytes) else str(description or "")
    return text.startswith(("ImageJ=", '{"shape"')) or "<OME" in text


def tags(page: Page) -> dict[int, Any]:
    """Return the tags of a written page: for its size, and upright. Nothing if it carries no EXIF and no resolution."""
    exif = page.exif or Exif({}, {}, {})
    result = {tag: _bytes(tag, value) for tag, value in exif.image.items()}
    if page.exif is not None:
        result[ORIENTATION] = 1
    if page.dpi is not None:
        result |= {X_RESOLUTION: page.dpi[0], Y_RESOLUTION: page.dpi[1], RESOLUTION_UNIT: 2}
    if exif.photograph:
        size = {tag: n for tag, n in zip((_WIDTH, _HEIGHT), page.size) if tag in exif.photograph}
        result[PHOTOGRAPH] = exif.photograph | size
    if exif.place:
        result[PLACE] = exif.place
    return result


def _bytes(tag: int, value: Any) -> Any:
    """Return a text as the bytes it was read from: Pillow reads Latin-1, but writes ASCII."""
    if isinstance(value, str) and not value.isascii() and TiffTags.lookup(tag).type == TiffTags.ASCII:
        return value.encode("latin-1", "replace")
    return value


def to_bytes(page: Page) -> bytes:
    """Return the EXIF of a written page as PNG, JPEG and WebP hold it; nothing if there is nothing to tell."""
    found = Image.Exif()
    found.update(tags(page))
    return found.tobytes() if found else b""
