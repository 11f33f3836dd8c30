"""Pictures in, results out: reading any picture Pillow reads, and writing files whole or not at all."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 64_000_000


class FileError(Exception):
    """A file that cannot be read or written; its text is one line for the user."""


def read_image(path: str | Path, *, min_side: int = 1) -> NDArray[np.float32]:
    """Read a picture in any format Pillow reads.

    Alpha is laid over white, palettes are looked up, the camera's orientation is applied, of several frames the first
    is taken, and a colour picture whose channels are all equal is grey.

    Parameters
    ----------
    min_side : int
        The least width and height accepted, in pixels.

    Returns
    -------
    ndarray of float32, shape (H, W) or (H, W, 3)
        From 0 to 1; one plane for grey pictures, else red, green, blue.

    Raises
    ------
    FileError
        The file is missing, damaged, of no known format, too small, or of more than `MAX_PIXELS` pixels.
    """
    path = Path(path)
    if not path.exists():
        raise FileError(f"{path}: no such file")
    if not path.is_file():
        raise FileError(f"{path}: not a regular file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as picture:
                width, height = picture.size
                _check_size(path, width, height, min_side)
                return _pixels(ImageOps.exif_transpose(picture))
    except FileError:
        raise
    except UnidentifiedImageError:
        raise FileError(f"{path}: not a picture in a format that Pillow reads") from None
    except Image.DecompressionBombError:
        raise FileError(f"{path}: has more than {MAX_PIXELS:,} pixels, the most accepted") from None
    except Exception as error:  # Decoders of damaged files raise whatever they run into.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FileError(f"{path}: cannot be read as a picture: {reason}") from error


def _check_size(path: Path, width: int, height: int, min_side: int) -> None:
    if width * height > MAX_PIXELS:
        raise FileError(f"{path}: {width}×{height} pixels, more than the {MAX_PIXELS:,} accepted")
    if min(width, height) < min_side:
        raise FileError(f"{path}: {width}×{height} pixels, at least {min_side}×{min_side} needed")


def _pixels(picture: Image.Image) -> NDArray[np.float32]:
    mode = picture.mode
    if mode.startswith("I"):
        values = np.asarray(picture)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("integer values must lie between 0 and 65535")
        return values.astype(np.float32) / np.float32(65535)
    if mode == "F":
        values = np.asarray(picture)
        if not (values.min() >= 0 and values.max() <= 1):
            raise ValueError(f"float values must lie between 0 and 1; got {values.min():g} to {values.max():g}")
        return values.astype(np.float32)
    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")
    elif mode in ("1", "L"):
        picture = picture.convert("L")
    else:
        picture = picture.convert("RGB")
    levels = np.asarray(picture)
    if levels.ndim == 3 and (levels == levels[..., :1]).all():
        levels = levels[..., 0]
    return levels.astype(np.float32) / np.float32(255)


def check_output(folder: Path, names: Iterable[str], overwrite: bool) -> None:
    """Make the folder and see, before any long work, that the files can be written there.

    Raises
    ------
    FileError
        The folder cannot be made or written to, or holds one of the files and `overwrite` is False.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except FileExistsError:
        raise FileError(f"{folder}: is a file, not a folder; choose another with --output") from None
    except OSError as error:
        raise FileError(f"{folder}: cannot be written to ({error.strerror}); choose another with --output") from None
    for name in names:
        _check_target(folder / name, overwrite)


def _check_target(path: Path, overwrite: bool) -> None:
    if path.is_dir():
        raise FileError(f"{path}: is a folder, where a file is to be written")
    if os.path.lexists(path) and not overwrite:
        raise FileError(f"{path}: exists already; --overwrite replaces it, --output names another folder")


def write_file(path: Path, content: bytes, overwrite: bool) -> None:
    """Write a file through a temporary one beside it, so that it is there whole or not at all.

    Raises
    ------
    FileError
        It exists and `overwrite` is False, or cannot be written (a full disk, say).
    """
    _check_target(path, overwrite)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        raise FileError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)
