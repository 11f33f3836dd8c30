"""From Pillow's modes to the arrays of a `Page`.

========================  ==============================  ==================================================
mode                      array                           remarks
========================  ==============================  ==================================================
1, L                      grey, uint8                     1-bit pictures get levels: enlarged edges need them
I;16 (16-bit grey)        grey, uint16
I (32-bit integers)       grey, uint16                    refused beyond 0 to 65535
F                         grey, float32                   refused beyond 0 to 1
LA, La                    grey and alpha
RGB, RGBX, YCbCr, HSV     RGB, uint8
RGBA, RGBa                RGBA, uint8                     premultiplied alpha is divided out
P, PA                     RGB, or RGBA if transparent     the palette is looked up
CMYK, LAB                 RGB, uint8, sRGB                through the picture's profile where it has one
RGB, RGBA, LA of 16 bits  uint16                          Pillow keeps 8 of the 16: decoded twice, once for each
========================  ==============================  ==================================================

One colour that a PNG declares transparent becomes an alpha channel.
"""

from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageFile

from fastdeconv.imaging.picture.page import Pixels, full_scale

_PHOTOMETRIC = 262  # TIFF's tag: 0 is white at zero


def of_image(image: Image.Image) -> Pixels:
    """Return the pixels of a decoded picture of at most 8 bits a channel, or of grey of more.

    Raises
    ------
    ValueError
        Integers beyond 16 bits, or floats that are not from 0 to 1.
    """
    mode = image.mode
    key = image.info.get("transparency")
    if mode.startswith("I"):
        return with_key(_integers(image), key)
    if mode == "F":
        values = np.asarray(image, np.float32)
        check_unit(values)
        return values
    if mode in ("P", "PA"):
        return np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))
    if mode in ("1", "L"):
        return with_key(np.asarray(image.convert("L")), key)
    if mode in ("LA", "La", "RGBA", "RGBa"):
        return np.asarray(image.convert(mode.upper()))
    return with_key(np.asarray(image.convert("RGB")), key)


def _integers(image: Image.Image) -> Pixels:
    values = np.asarray(image)
    if image.mode == "I" and (values.min() < 0 or values.max() > 65535):
        raise ValueError("integer values must lie between 0 and 65535")
    values = values.astype(np.uint16)
    inverted = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC, 1) == 0  # Pillow inverts 8 bits, but not 16
    return 65535 - values if inverted else values


def check_unit(values: Pixels) -> None:
    """Refuse floats beyond 0 to 1: what white is would be a guess."""
    if not (values.min() >= 0 and values.max() <= 1):
        raise ValueError(f"float values must lie between 0 and 1; got {values.min():g} to {values.max():g}")


def with_key(pixels: Pixels, key: Any) -> Pixels:
    """Return the pixels with an alpha channel that is zero where they have the one transparent value or colour."""
    if key is None or isinstance(key, bytes):
        return pixels
    colours = pixels.reshape(*pixels.shape[:2], -1)
    alpha = (colours != np.asarray(key)).any(axis=2, keepdims=True) * np.array(full_scale(pixels.dtype), pixels.dtype)
    return np.concatenate([colours, alpha], axis=2)


def to_srgb(image: Image.Image, icc: bytes | None) -> tuple[Image.Image, bytes | None, str]:
    """Convert CMYK or LAB to RGB; return it with its profile, and a note if the picture's own was of no use.

    CMYK without a usable profile is converted by the plain formula, and then has none.
    """
    srgb = ImageCms.createProfile("sRGB")
    profile: Any = None
    note = ""
    if image.mode == "LAB":
        profile = ImageCms.createProfile("LAB")
    elif icc is not None:
        profile = io.BytesIO(icc)
    if profile is not None:
        try:
            converted = ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, ValueError):
            note = f"its colour profile cannot be used for {image.mode}; converted without"
        else:
            assert converted is not None
            return converted, ImageCms.ImageCmsProfile(srgb).tobytes(), ""
    return image.convert("RGB"), None, note


def halved_mode(image: ImageFile.ImageFile) -> str:
    """Return how 16-bit channels lie in a file of which Pillow would keep 8 bits, as in ``RGB;16B``; else nothing."""
    if image.mode not in ("RGB", "RGBA", "CMYK") or not image.tile:
        return ""
    args = image.tile[0].args
    raw = args if isinstance(args, str) else str(args[0]) if args else ""
    return raw if ";16" in raw else ""


def decode_half(image: ImageFile.ImageFile, low: bool) -> Pixels:
    """Decode the high or the low byte of 16-bit channels of a picture that is not decoded yet.

    Pillow's unpackers of 16-bit channels take the byte that comes first for one byte order and second for the other,
    so the order of the file gives the high bytes and the opposite order the low ones.
    """
    channels, _, order = halved_mode(image).partition(";16")
    if order == "N":  # as libtiff decodes: the machine's
        order = "L" if sys.byteorder == "little" else "B"
    if low:
        order = "B" if order == "L" else "L"
    # The unpacker of premultiplied alpha would divide single bytes.
    return _decode_as(image, f"{channels.upper()};16{order}")


def _decode_as(image: ImageFile.ImageFile, raw: str) -> Pixels:
    image.tile = [
        tile._replace(args=raw if isinstance(tile.args, str) else (raw, *(tile.args or ())[1:])) for tile in image.tile
    ]
    image.load()
    return np.asarray(image)


def decode(image: ImageFile.ImageFile) -> None:
    """Decode a picture of which Pillow keeps every bit."""
    if image.tile and image.tile[0].codec_name == "libtiff":
        # libtiff gives the machine's byte order, but Pillow would read these in the file's.
        raw = str(image.tile[0].args[0]) if image.tile[0].args else ""
        if raw in ("F;32BF", "I;32BS", "I;16BS"):
            _decode_as(image, raw.replace("B", "N"))
    image.load()


def grey_alpha_16(image: ImageFile.ImageFile) -> Pixels:
    """Decode grey and alpha of 16 bits from a PNG: read as four bytes a pixel, for which there is an unpacker."""
    return _decode_as(image, "RGBA").view(">u2").astype(np.uint16)


def joined(high: Pixels, low: Pixels) -> Pixels:
    """Return 16-bit pixels from their high and low bytes."""
    pixels = high.astype(np.uint16)
    pixels <<= 8
    pixels |= low
    return pixels


def unmultiplied(pixels: Pixels) -> Pixels:
    """Return pixels whose colours had alpha multiplied in without it."""
    colours, alpha = pixels[..., :-1], pixels[..., -1:]
    white = full_scale(pixels.dtype)
    divided = colours.astype(np.float64) * white / np.maximum(alpha, np.finfo(np.float32).tiny)
    result = pixels.copy()
    result[..., :-1] = np.clip(np.rint(divided) if pixels.dtype.kind == "u" else divided, 0, white)
    return result
