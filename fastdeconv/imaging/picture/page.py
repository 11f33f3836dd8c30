"""One image of a file, as an array, with what travels beside the pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[Any]

# How the EXIF tag Orientation (1 to 8) says that stored rows and columns are to be shown.
_UPRIGHT = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}


@dataclass(frozen=True)
class Exif:
    """The EXIF tags that are carried over: of the image, of the photograph, and of its place.

    Values are Pillow's. Resolution and orientation are not among them.
    """

    image: dict[int, Any]
    photograph: dict[int, Any]
    place: dict[int, Any]


@dataclass(frozen=True)
class Page:
    """One image of a file.

    Parameters
    ----------
    pixels : ndarray, shape (H, W) or (H, W, C)
        Grey; or grey and alpha, RGB, RGBA for C of 2, 3, 4. uint8, uint16, or float32 from 0 to 1. Upright, and alpha
        not multiplied into the colours.
    icc : bytes, optional
        The ICC colour profile of the pixels.
    exif : Exif, optional
    dpi : (float, float), optional
        Horizontal and vertical dots an inch.
    """

    pixels: Pixels
    icc: bytes | None = None
    exif: Exif | None = None
    dpi: tuple[float, float] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.pixels.shape[1], self.pixels.shape[0]

    @property
    def has_alpha(self) -> bool:
        """Whether the last channel is alpha."""
        return self.pixels.ndim == 3 and self.pixels.shape[2] in (2, 4)


def upright(pixels: Pixels, orientation: Any) -> Pixels:
    """Return the pixels turned and mirrored as the EXIF tag Orientation says; unknown values are ignored."""
    turn = _UPRIGHT.get(orientation)
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


def full_scale(dtype: Any) -> int:
    """Return the value of white: 255, 65535, or 1 for floats."""
    return int(np.iinfo(dtype).max) if np.dtype(dtype).kind == "u" else 1
