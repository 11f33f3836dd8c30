"""Training data: planes spoiled beforehand, and random crops of them at each step.

Everything that takes time is done once: each plane is brought to several sizes, spoiled by the very function that
evaluation uses, and what bicubic enlargement leaves to be learned is computed. A step copies crops.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastdeconv.imaging.degrade import degrade
from fastdeconv.imaging.network import Description
from fastdeconv.imaging.resize import resize

Image = NDArray[np.float32]

# Sizes in which a plane is used, best first: smaller versions show more detail a pixel, and their noise is averaged.
FACTORS = (1.0, 0.7, 0.5, 0.85, 0.6)
# Pixels of all versions together; with inputs and residuals they take at most 8 bytes each.
MAX_PIXELS = 64_000_000


@dataclass(frozen=True)
class Pair:
    """What a network is given, and what it is to add to bicubic enlargement of that (at scale 1 to that itself).

    Attributes
    ----------
    input : ndarray of float32, shape (H, W)
    residual : ndarray of float32, shape (scale·H, scale·W)
    """

    input: Image
    residual: Image


def pair(plane: Image, truth: Image) -> Pair:
    """Return the pair for a plane and what is to become of it, whose shape is a multiple of the plane's."""
    start = plane if plane.shape == truth.shape else resize(plane, truth.shape)
    return Pair(np.ascontiguousarray(plane, np.float32), np.subtract(truth, start, dtype=np.float32))


def trimmed(plane: Image, factor: int) -> Image:
    """Cut rows and columns off the end until the factor divides both sides."""
    height, width = plane.shape
    return plane[: height - height % factor, : width - width % factor]


def spoiled(planes: Sequence[Image], description: Description, seed: int, min_side: int) -> list[Pair]:
    """Return pairs made from photographs in several sizes, as many as `MAX_PIXELS` allow.

    Parameters
    ----------
    planes : sequence of ndarray, shape (H, W)
        Luminance from 0 to 1.
    description : Description
        For its scale and degradation.
    seed : int
        For what degradation draws.
    min_side : int
        The least width and height of a truth.
    """
    rng = np.random.default_rng([seed, 1])
    pairs, left = [], MAX_PIXELS
    for factor in FACTORS:
        for plane in planes:
            height, width = (int(size * factor) for size in plane.shape)
            if min(height, width) < min_side or height * width > left:
                continue
            left -= height * width
            version = plane if factor == 1 else np.clip(resize(plane, (height, width)), 0, 1)
            truth = trimmed(version, description.scale)
            pairs.append(pair(degrade(truth, description.scale, description.degradation, rng), truth))
    return pairs


class Crops:
    """Random crops of pairs, turned and mirrored: the training data of a network's body.

    Parameters
    ----------
    pairs : iterable of Pair
        Each at least as large as a crop.
    description : Description
        For the scale, and the radius by which an input crop is larger on each side.
    side : int
        Of a crop's residual, in pixels of the input.
    batch : int
        Crops a step.
    """

    def __init__(self, pairs: Iterable[Pair], description: Description, side: int, batch: int) -> None:
        self.side, self.batch = side, batch
        self.radius, self.scale = description.radius, description.scale
        self.window = side + 2 * self.radius
        self.pairs = list(pairs)
        # Every place for a crop is as likely as any other.
        places = [np.prod([size - self.window + 1 for size in p.input.shape], dtype=np.float64) for p in self.pairs]
        self._share = np.cumsum(places) / np.sum(places)

    def __call__(self, step: int, rng: np.random.Generator) -> tuple[Image, Image]:
        """Return a batch; the generator alone decides which.

        Returns
        -------
        x : ndarray of float32, shape (batch, 1, side + 2·radius, side + 2·radius)
        y_true : ndarray of float32, shape (batch, 1, scale·side, scale·side)
        """
        x = np.empty((self.batch, 1, self.window, self.window), np.float32)
        y_true = np.empty((self.batch, 1, self.scale * self.side, self.scale * self.side), np.float32)
        draws = rng.random((self.batch, 3))
        symmetries = rng.integers(0, 8, self.batch)
        for k, (chosen, down, across) in enumerate(draws):
            p = self.pairs[int(np.searchsorted(self._share, chosen, side="right"))]
            height, width = p.input.shape
            i, j = int(down * (height - self.window + 1)), int(across * (width - self.window + 1))
            crop = p.input[i : i + self.window, j : j + self.window]
            rows, columns = (
                slice(self.scale * n, self.scale * (n + self.side)) for n in (i + self.radius, j + self.radius)
            )
            x[k, 0] = _turned(crop, int(symmetries[k]))
            y_true[k, 0] = _turned(p.residual[rows, columns], int(symmetries[k]))
        return x, y_true


def _turned(crop: Image, symmetry: int) -> Image:
    """Return a view of a square crop under one of the square's eight symmetries."""
    if symmetry & 1:
        crop = crop[::-1]
    if symmetry & 2:
        crop = crop[:, ::-1]
    return crop.T if symmetry & 4 else crop
