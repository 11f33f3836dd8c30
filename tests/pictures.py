"""Picture files to read, and a stand-in for networks: each pixel becomes a square, so that results are known."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from fastdeconv.cli import main
from fastdeconv.imaging.picture import Reader

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LEVELS = {"uint8": 255, "uint16": 65535, "float32": 1}


class Repeater:
    """Enlarges by repetition; has what commands call of `Upscaler` and `Restorer`."""

    def __init__(self, scale: int = 2, each: Callable[[np.ndarray], None] = lambda image: None) -> None:
        self.scale = scale
        self.each = each

    def transform(
        self, image: np.ndarray, *, channel_axis: int | None = None, tile: Any = "auto", device: str | None = None
    ) -> np.ndarray:
        assert image.ndim == (2 if channel_axis is None else 3)
        assert channel_axis in (None, 2)
        self.each(image)
        return repeated(image, self.scale)


def repeated(image: np.ndarray, scale: int = 2) -> np.ndarray:
    return image.repeat(scale, axis=0).repeat(scale, axis=1)


def pixels(dtype: str = "uint8", channels: int = 1, size: tuple[int, int] = (11, 7), seed: int = 0) -> np.ndarray:
    """Return pixels of `size` (width, height) whose bytes are all busy."""
    shape = (size[1], size[0]) if channels == 1 else (size[1], size[0], channels)
    values = np.random.default_rng(seed).random(shape)
    return values.astype(dtype) if dtype == "float32" else (values * LEVELS[dtype]).astype(dtype)


def save(path: Path, array: np.ndarray | None = None, mode: str | None = None, **options: Any) -> Path:
    """Write a picture of 8 bits a channel, or of grey of more, through Pillow."""
    image = Image.fromarray(pixels() if array is None else array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(array: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG written here, without filters: of 8 or 16 bits, with further chunks before the pixels."""
    array = array[..., None] if array.ndim == 2 else array
    height, width, channels = array.shape
    header = struct.pack(">IIBBBBB", width, height, 8 * array.itemsize, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = array.astype(array.dtype.newbyteorder(">")).reshape(height, -1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    more = b"".join(chunk(*c) for c in chunks)
    body = chunk(b"IHDR", header) + more + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def png_claiming(width: int, height: int) -> bytes:
    """Return a PNG that says it has so many pixels, and has none."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def upscale(*arguments: object) -> int:
    return main(["upscale", *map(str, arguments)])


def read(path: Path) -> np.ndarray:
    with Reader(path) as reader:
        return reader.page().pixels


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def folder_of_pictures(folder: Path) -> dict[str, np.ndarray]:
    """Make a tree of pictures with other things in between; return the pictures."""
    arrays = {}
    for i, name in enumerate(["a.png", "b.JPG", "one/c.png", "one/two/d.tif"]):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays[name] = pixels(seed=i)
        save(path, arrays[name], **({"quality": 100} if name.endswith("JPG") else {}))
    for name in ("notes.txt", "one/.hidden.png", ".cache/e.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("no picture")
    return arrays
