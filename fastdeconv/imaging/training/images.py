"""The user's pictures to train on: found in folders, read, and said which could not be used."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fastdeconv.imaging.colour import luminance
from fastdeconv.imaging.files import FileError, read_image
from fastdeconv.imaging.network import SCALES
from fastdeconv.imaging.resize import resize

Image = NDArray[np.float32]
Item = TypeVar("Item")


class TrainingError(ValueError):
    """Pictures or settings that no network can be trained with; its text is one line for the user."""


@dataclass
class Pictures:
    """Planes by file, and a line for each file that could not be used."""

    planes: dict[Path, Image] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)


@dataclass
class PairsOfPictures:
    """Inputs and targets by name, the scale between them, and a line for each file that could not be used."""

    pairs: dict[str, tuple[Image, Image]] = field(default_factory=dict)
    scale: int = 1
    skipped: list[str] = field(default_factory=list)


def found(places: Iterable[Path]) -> list[Path]:
    """Return the pictures among files and in folders, by name; of folders those within, too.

    Raises
    ------
    TrainingError
        A place does not exist.
    """
    files: list[Path] = []
    for place in places:
        if place.is_dir():
            files += sorted(path for path in place.rglob("*") if _is_picture(path))
        elif place.exists():
            files.append(place)
        else:
            raise TrainingError(f"{place}: no such file or folder")
    return list(dict.fromkeys(files))


def _is_picture(path: Path) -> bool:
    from PIL import Image as Pillow

    known = Pillow.registered_extensions()
    return path.suffix.lower() in known and not path.name.startswith(".") and path.is_file()


def read(files: Sequence[Path], min_side: int, max_side: int | None, max_pixels: int, seed: int) -> Pictures:
    """Read the luminance of pictures.

    Parameters
    ----------
    min_side : int
        The least width and height, in pixels; smaller pictures are skipped.
    max_side : int, optional
        Larger pictures are reduced to this length of their longer side: what cameras store in many pixels is soft and
        noisy, and compressed, until it is reduced.
    max_pixels : int
        Of all planes together: where files are many, of each only a part is kept, and of very many not all are read.
    seed : int
        Decides which parts, and which files.
    """
    result = Pictures()
    files = _affordable(files, min_side, max_pixels, seed)

    def one(number: int) -> Image | str:
        try:
            plane = luminance(read_image(files[number], min_side=min_side))
        except FileError as error:
            return str(error)
        plane = _reduced(plane, min_side, max_side)
        return plane[_window(plane, min_side, max_pixels // len(files), (seed, number))].copy()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for path, plane in zip(files, pool.map(one, range(len(files)))):
            if isinstance(plane, str):
                result.skipped.append(plane)
            else:
                result.planes[path] = plane
    return result


def _affordable(files: Sequence[Item], min_side: int, max_pixels: int, seed: int) -> list[Item]:
    """Return as many files as there can be parts of at least four times the smallest area."""
    count = max(1, max_pixels // (4 * min_side**2))
    if len(files) <= count:
        return list(files)
    return [files[i] for i in sorted(np.random.default_rng([seed, 4]).permutation(len(files))[:count])]


def _window(plane: Image, min_side: int, pixels: int, seed: tuple[int, int]) -> tuple[slice, slice]:
    """Return a random part of a plane that has about so many pixels; all of it where it has fewer."""
    share = min(1.0, (pixels / plane.size) ** 0.5)
    rng = np.random.default_rng(seed)
    sides = [max(min_side, int(size * share)) for size in plane.shape]
    starts = [int(rng.integers(size - side + 1)) for size, side in zip(plane.shape, sides)]
    return slice(starts[0], starts[0] + sides[0]), slice(starts[1], starts[1] + sides[1])


def _reduced(plane: Image, min_side: int, max_side: int | None) -> Image:
    longer = max(plane.shape)
    if max_side is None or longer <= max_side:
        return plane
    height, width = (max(min_side, round(size * max_side / longer)) for size in plane.shape)
    return np.clip(resize(plane, (height, width)), 0, 1)


def read_pairs(inputs: Path, targets: Path, min_side: int, max_pixels: int, seed: int) -> PairsOfPictures:
    """Read the user's own pairs: files of the same name, but for its ending, in two folders.

    The scale is that of most pairs.

    Parameters
    ----------
    min_side : int
        The least width and height of an input, in pixels.
    max_pixels, seed : int
        As of `read`; the pixels are those of inputs.

    Raises
    ------
    TrainingError
        A folder does not exist, or no names agree.
    """
    for option, folder in (("--inputs", inputs), ("--targets", targets)):
        if not folder.is_dir():
            raise TrainingError(f"{option} {folder}: {'is not a folder' if folder.exists() else 'no such folder'}")
    xs, ys = ({path.relative_to(f).with_suffix(""): path for path in found([f])} for f in (inputs, targets))
    common = sorted(xs.keys() & ys.keys())
    if not common:
        raise TrainingError(
            f"no picture in {inputs} has the name of one in {targets}: pairs are found by their names without endings"
        )
    result = PairsOfPictures()
    for files, others, folder in ((xs, ys, targets), (ys, xs, inputs)):
        result.skipped += [f"{path}: has no partner in {folder}" for name, path in files.items() if name not in others]
    common = _affordable(common, min_side, max_pixels, seed)

    def one(number: int) -> tuple[int, Image, Image] | str:
        name = common[number]
        try:
            x, y = luminance(read_image(xs[name], min_side=min_side)), luminance(read_image(ys[name]))
        except FileError as error:
            return str(error)
        scale = y.shape[0] // x.shape[0]
        if scale not in SCALES or y.shape != (scale * x.shape[0], scale * x.shape[1]):
            return f"{ys[name]}: {_size(y)} pixels are not 1, 2, 3 or 4 times the {_size(x)} of {xs[name]}"
        rows, columns = _window(x, min_side, max_pixels // len(common), (seed, number))
        large = tuple(slice(scale * part.start, scale * part.stop) for part in (rows, columns))
        return scale, x[rows, columns].copy(), y[large].copy()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        read = list(zip(common, pool.map(one, range(len(common)))))
    scales = Counter(pair[0] for _, pair in read if not isinstance(pair, str))
    result.scale = scales.most_common(1)[0][0] if scales else 1
    for name, pair in read:
        if isinstance(pair, str):
            result.skipped.append(pair)
        elif pair[0] != result.scale:
            result.skipped.append(f"{ys[name]}: is {pair[0]} times its input, and most are {result.scale} times")
        else:
            result.pairs[str(name)] = pair[1:]
    return result


def _size(plane: Image) -> str:
    return f"{plane.shape[1]}×{plane.shape[0]}"
