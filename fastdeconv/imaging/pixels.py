"""One page of an image, wherever its channels lie: planes of float32 out of it and into it, a region at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdeconv import memory
from fastdeconv.kernels.cpu.pixels import IMAGE, load_units, store_levels_units, store_values_units

Array = NDArray[Any]
Image = NDArray[np.float32]

DTYPES = ("uint8", "uint16", "float32", "float64")

# What a kernel is told to do without a second plane.
_NONE: Image = np.empty(0, np.float32)
# Operations that loading or storing an element counts as.
_WORK = 4


class Region(NamedTuple):
    """Rows and columns of a page, which may lie beyond its borders."""

    top: int
    bottom: int
    left: int
    right: int

    def grown(self, margin: int) -> Region:
        """Return the region with a margin on each side."""
        return Region(self.top - margin, self.bottom + margin, self.left - margin, self.right + margin)

    def scaled(self, scale: int) -> Region:
        """Return the region of the enlarged page."""
        return Region(*(scale * edge for edge in self))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.bottom - self.top, self.right - self.left


@dataclass(frozen=True)
class Page:
    """An image of shape (C, H, W) in a contiguous array, by the steps of its axes.

    Attributes
    ----------
    vector : ndarray
        All elements of the array.
    start : int
        Where the page begins.
    steps : (int, int, int)
        Elements between channels, rows and columns.
    shape : (int, int, int)
        Channels, rows and columns.
    """

    vector: Array
    start: int
    steps: tuple[int, int, int]
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, array: Array, view: Array) -> Page:
        """Return a view of shape (C, H, W) of a contiguous array as a page."""
        size = array.itemsize
        start = (view.__array_interface__["data"][0] - array.__array_interface__["data"][0]) // size
        steps = tuple(step // size for step in view.strides)
        return cls(array.reshape(-1), start, steps, view.shape)  # type: ignore[arg-type]

    @property
    def full(self) -> float:
        """What is white: 1 for floating-point values."""
        return float(np.iinfo(self.vector.dtype).max) if self.vector.dtype.kind == "u" else 1.0

    def _layout(self, channel: int) -> Array:
        layout = np.zeros(1, IMAGE)
        layout[0] = (self.start + channel * self.steps[0], *self.steps, *self.shape[1:])
        return layout

    def load(self, region: Region, channel: int = 0, weights: Sequence[float] = (1.0,), offset: float = 0.0) -> Image:
        """Return the weighted sum of some channels over a region, mirrored at the borders.

        Parameters
        ----------
        channel : int
            The first of them; there are as many as weights.
        weights, offset
            For values from 0 to 1, whatever the element type.

        Returns
        -------
        ndarray of float32, shape region.shape
        """
        rows, columns = region.shape
        plane: Image = memory.empty((rows, columns), np.dtype(np.float32))
        mix = np.array([offset, *(w / self.full for w in weights)], np.float32)
        launch = load_units.launcher(self.vector.dtype.name, rows, _WORK * plane.size)
        launch(self.vector, plane.reshape(-1), self._layout(channel), mix, region.top, region.left, columns)
        return plane

    def store(self, region: Region, channel: int, plane: Image, extra: Image | None = None, gain: float = 1.0) -> None:
        """Write ``plane + gain·extra`` to a region; integers are rounded, and clipped to what their type holds."""
        kernel = store_levels_units if self.vector.dtype.kind == "u" else store_values_units
        launch = kernel.launcher(self.vector.dtype.name, len(plane), _WORK * plane.size)
        mix = np.array([self.full, gain], np.float32)
        more = _NONE if extra is None else extra.reshape(-1)
        launch(
            self.vector, plane.reshape(-1), more, self._layout(channel), mix, region.top, region.left, plane.shape[1]
        )
