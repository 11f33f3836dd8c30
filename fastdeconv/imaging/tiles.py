"""Planes and pages of any size, a region at a time: with a margin as wide as the network sees, no seam can show."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastdeconv import memory, nn
from fastdeconv.arrays import namespace
from fastdeconv.imaging.inference import body
from fastdeconv.imaging.limits import limited
from fastdeconv.imaging.network import Network
from fastdeconv.imaging.pixels import Page, Region
from fastdeconv.imaging.resize import REACH, enlarge_inside
from fastdeconv.problem import as_int

Array = NDArray[Any]
Image = NDArray[np.float32]
Tile = int | Literal["auto"] | None

# Bytes of the planes of one region; more rows at a time are no faster.
BUDGET = 128 << 20
# Planes of the result's size, and of the input's, that a region has at a time.
_LARGE, _SMALL = 2, 3


def apply(network: Network, plane: Array, tile: Tile = "auto", *, limits: bool = True) -> Array:
    """Enlarge or restore one plane, mirrored at its borders.

    Parameters
    ----------
    network : Network
    plane : ndarray of float32, shape (H, W)
        Luminance from 0 to 1: NumPy's, or CuPy's for a network on that GPU. Nothing is clipped to black and white.
    tile : int, "auto" or None
        Side of the square regions that are computed one after the other, in input pixels; "auto" takes as many whole
        rows as `BUDGET` has memory for, None all at once. The result is the same: on a GPU to rounding, on the CPU to
        the last bit.
    limits : bool
        Whether enlarged pixels are kept from going beyond the input pixels around and bicubic enlargement, against
        halos; see `fastdeconv.imaging.limits`.

    Returns
    -------
    ndarray of float32, shape (scale·H, scale·W)

    Raises
    ------
    TypeError, ValueError
        The message names the argument, what came and what would do.
    """
    if not (hasattr(plane, "dtype") and hasattr(plane, "ndim")) or plane.dtype != np.float32:
        raise TypeError(f"plane must be an array of float32; got {getattr(plane, 'dtype', type(plane).__name__)}")
    if plane.ndim != 2 or not plane.size:
        raise ValueError(f"plane must have two axes, neither empty; got shape {plane.shape}")
    scale = network.description.scale
    regions_ = list(regions(plane.shape[0], plane.shape[1], scale, tile))
    if not isinstance(plane, np.ndarray):
        return _apply_on_device(network, plane, regions_, limits)
    adding = body(network, "cpu", plane.shape, limits)
    plane = np.ascontiguousarray(plane)
    result: Image = memory.empty((scale * plane.shape[0], scale * plane.shape[1]), np.dtype(np.float32))
    source, target = Page.of(plane, plane[None]), Page.of(result, result[None])
    for region in regions_:
        extra = adding.add(source.load(region.grown(adding.radius)))
        target.store(region.scaled(scale), 0, enlarged(source, region, 0, scale), extra)
    return result


def enlarged(page: Page, region: Region, channel: int, scale: int) -> Image:
    """Return a channel of a region, enlarged by bicubic interpolation; at scale 1 as it is."""
    if scale == 1:
        return page.load(region, channel)
    return enlarge_inside(page.load(region.grown(REACH), channel), scale)


def regions(height: int, width: int, scale: int, tile: Tile) -> Iterator[Region]:
    """Cut a page into regions of equal size, to a pixel.

    Raises
    ------
    TypeError, ValueError
        `tile` is not what `apply` takes.
    """
    rows, columns = _tile_shape(height, width, scale, tile)
    down, across = -(-height // rows), -(-width // columns)
    for i in range(down):
        for j in range(across):
            yield Region(height * i // down, height * (i + 1) // down, width * j // across, width * (j + 1) // across)


def _tile_shape(height: int, width: int, scale: int, tile: Tile) -> tuple[int, int]:
    if tile is None:
        return height, width
    if isinstance(tile, str):
        if tile != "auto":
            raise ValueError(f'tile must be a number of pixels, "auto" or None; got {tile!r}')
        pixels = BUDGET // (4 * (_LARGE * scale * scale + _SMALL))
        # Rows are whole, as long as there is room for some of them.
        columns = min(width, pixels // 64)
        return min(height, pixels // columns), columns
    side = as_int("tile", tile)
    if side < 1:
        raise ValueError(f"tile must be at least 1 pixel; got {side}")
    return side, side


def _apply_on_device(network: Network, plane: Array, cut: list[Region], limits: bool) -> Array:
    scale, radius = network.description.scale, network.description.radius
    xp = namespace(plane)
    result: Array = xp.empty((scale * plane.shape[0], scale * plane.shape[1]), plane.dtype)
    with nn.no_grad():
        for region in cut:
            # Indices of rows and columns beyond the borders, mirrored.
            wide = region.grown(radius)
            rows, columns = (
                xp.asarray(np.minimum(i, 2 * n - 1 - i))
                for n, i in (
                    (plane.shape[0], np.arange(wide.top, wide.bottom) % (2 * plane.shape[0])),
                    (plane.shape[1], np.arange(wide.left, wide.right) % (2 * plane.shape[1])),
                )
            )
            x = plane[rows[:, None], columns[None, :]]
            added, base = (part(x[None, None])[0, 0] for part in (network.body, network.skip))
            if limits and scale > 1:
                added = limited(added, base, x, radius, scale)
            top, bottom, left, right = region.scaled(scale)
            result[top:bottom, left:right] = base + added
    return result
