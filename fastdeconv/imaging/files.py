"""Pictures in, results out: reading a picture for measurement, and writing files whole or not at all."""

from __future__ import annotations

import itertools
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from fastdeconv.atomic import replacing
from fastdeconv.imaging.errors import FileError, TargetExists, printable, writing
from fastdeconv.imaging.picture import Page, Reader
from fastdeconv.imaging.picture.page import full_scale

__all__ = ["MAX_PIXELS", "FileError", "check_output", "new_file", "read_image", "write_file"]

MAX_PIXELS = 64_000_000

_numbers = itertools.count()


def read_image(path: str | Path, *, min_side: int = 1) -> NDArray[np.float32]:
    """Read a picture as values from 0 to 1.

    As `fastdeconv.imaging.picture.Reader` reads it, of several pages the first; alpha is laid over white, and a colour
    picture whose channels are all equal is grey.

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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Reader(path, max_pixels=MAX_PIXELS) as reader:
            width, height = reader.size()
            if min(width, height) < min_side:
                raise FileError(f"{printable(path)}: {width}×{height} pixels, at least {min_side}×{min_side} needed")
            return _over_white(reader.page())


def _over_white(page: Page) -> NDArray[np.float32]:
    white = np.float32(full_scale(page.pixels.dtype))
    levels = page.pixels.astype(np.float32) / white
    if page.has_alpha:
        alpha = levels[..., -1:]
        levels = levels[..., :-1] * alpha + (1 - alpha)
    if levels.ndim == 3 and (levels == levels[..., :1]).all():
        levels = levels[..., 0]
    return levels


def check_output(folder: Path, names: Iterable[str], overwrite: bool) -> None:
    """Make the folder and see, before any long work, that the files can be written there.

    Raises
    ------
    FileError
        The folder cannot be made or written to, or holds one of the files and `overwrite` is False.
    """
    shown = printable(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except FileExistsError:
        raise FileError(f"{shown}: is a file, not a folder; choose another with --output") from None
    except OSError as error:
        raise FileError(f"{shown}: cannot be written to ({error.strerror}); choose another with --output") from None
    for name in names:
        check_target(folder / name, overwrite)


def check_target(path: Path, overwrite: bool) -> None:
    """See that a file may be written.

    Raises
    ------
    FileError
        It is a folder; as `TargetExists`, it is there already and `overwrite` is False.
    """
    if path.is_dir():
        raise FileError(f"{printable(path)}: is a folder, where a file is to be written")
    if os.path.lexists(path) and not overwrite:
        raise TargetExists(f"{printable(path)}: exists already; --overwrite replaces it, --output names another place")


@contextmanager
def new_file(path: Path, overwrite: bool) -> Iterator[BinaryIO]:
    """Give a file to write, which takes its name when the block ends, and is gone if the block fails.

    Raises
    ------
    FileError
        It exists and `overwrite` is False, or cannot be written (a full disk, say).
    """
    check_target(path, overwrite)
    # Its own short name: with anything added, the target's could be longer than a file system takes.
    temporary = path.with_name(f".fastdeconv-{os.getpid()}-{next(_numbers)}")
    with writing(path), replacing(path, temporary) as file:
        yield file
        check_target(path, overwrite)


def write_file(path: Path, content: bytes, overwrite: bool) -> None:
    """Write a file whole or not at all; see `new_file`."""
    with new_file(path, overwrite) as file:
        file.write(content)
