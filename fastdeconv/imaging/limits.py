"""Against halos and ringing: what a network adds is kept within the range of the pixels around.

An enlarged pixel stays between the darkest and the brightest input pixel near it, or between those and bicubic
enlargement where that goes beyond. So no edge overshoots more than bicubic enlargement, or than the input itself.
docs/decisions/0014 has what that costs and gains.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.arrays import namespace
from fastdeconv.imaging.resize import REACH as BICUBIC_REACH
from fastdeconv.imaging.resize import enlarge_inside
from fastdeconv.kernels.cpu.limits import limit_units

Array = NDArray[Any]
Image = NDArray[np.float32]

# Input pixels on each side whose range counts: of a smaller square, textures lose contrast.
REACH = 3
# Operations that an enlarged pixel counts as.
_WORK = 8


def limit(added: Image, plane: Image, radius: int, scale: int) -> None:
    """Limit what is added to the bicubic enlargement of a plane, in place.

    Parameters
    ----------
    added : ndarray of float32, shape (scale·H, scale·W)
        Contiguous.
    plane : ndarray of float32, shape (H + 2·radius, W + 2·radius)
        Contiguous; the range is of `REACH` pixels on each side, or of as many as there are.
    """
    rows, columns = (n - 2 * radius for n in plane.shape)
    inner = _inside(plane, radius - BICUBIC_REACH)
    base = enlarge_inside(np.ascontiguousarray(inner), scale)
    launch = limit_units.launcher("float32", rows, _WORK * added.size)
    launch(
        added.ravel(), base.ravel(), plane.ravel(), radius, plane.shape[1], columns, scale, min(REACH, radius)
    )  # fmt: skip


def limited(added: Array, base: Array, plane: Array, radius: int, scale: int) -> Array:
    """Return the same of arrays of any device, `base` being the enlargement: array operations instead of the kernel."""
    xp = namespace(added)
    reach = min(REACH, radius)
    low = high = _inside(plane, radius - reach)
    for axis in (0, 1):
        low, high = _extremes(low, axis, reach, xp.minimum), _extremes(high, axis, reach, xp.maximum)
    low, high = (xp.repeat(xp.repeat(each, scale, axis=0), scale, axis=1) - base for each in (low, high))
    result: Array = xp.clip(added, xp.minimum(low, 0), xp.maximum(high, 0))
    return result


def _inside(plane: Array, margin: int) -> Array:
    return plane[margin : plane.shape[0] - margin, margin : plane.shape[1] - margin]


def _extremes(plane: Array, axis: int, reach: int, of_two: Any) -> Array:
    """Return the extreme of `reach` elements on each side along an axis, without those that have fewer."""
    count = plane.shape[axis] - 2 * reach
    windows = [plane[(slice(None),) * axis + (slice(t, t + count),)] for t in range(2 * reach + 1)]
    result = windows[0]
    for window in windows[1:]:
        result = of_two(result, window)
    return result
