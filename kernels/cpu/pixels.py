"""Between images as people store them and planes of float32: element types, channels, mirrored borders, rounding.

An image is a vector with a step for each axis, so that channels may be its first axis or its last. Parallel over rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdeconv.kernels.cpu.jit import device_function, kernel

PLANE = np.dtype("float32")
IMAGE = np.dtype(
    [
        ("start", "i8"),  # of the first channel that is meant
        ("channel_step", "i8"),
        ("row_step", "i8"),
        ("column_step", "i8"),
        ("height", "i8"),
        ("width", "i8"),
    ]
)


@device_function
def _mirrored(i: int, size: int) -> int:
    """Return where an index beyond the borders lies inside, which repeat the outermost element."""
    i %= 2 * size
    return min(i, 2 * size - 1 - i)


@device_function
def _mix(image: Any, at: int, step: int, mix: Any) -> Any:
    value = mix[0]
    for c in range(1, mix.size):
        value += mix[c] * np.float32(image[at + (c - 1) * step])
    return value


@kernel("T[]", PLANE, IMAGE, PLANE, "int", "int", "int")
def load_units(
    lo: int, hi: int, image: Any, plane: Any, layout: Any, mix: Any, top: int, left: int, columns: int
) -> None:
    """Do ``plane[i, j] = mix[0] + Σ mix[1 + c] · image[c, top + i, left + j]``; a unit is a row."""
    p = layout[0]
    first = min(columns, max(0, -left))
    end = max(first, min(columns, p.width - left))
    for i in range(lo, hi):
        row = p.start + _mirrored(top + i, p.height) * p.row_step
        to = i * columns
        for j in range(first):
            plane[to + j] = _mix(image, row + _mirrored(left + j, p.width) * p.column_step, p.channel_step, mix)
        for j in range(first, end):
            plane[to + j] = _mix(image, row + (left + j) * p.column_step, p.channel_step, mix)
        for j in range(end, columns):
            plane[to + j] = _mix(image, row + _mirrored(left + j, p.width) * p.column_step, p.channel_step, mix)


@kernel("T[]", PLANE, PLANE, IMAGE, PLANE, "int", "int", "int")
def store_values_units(
    lo: int, hi: int, image: Any, plane: Any, extra: Any, layout: Any, mix: Any, top: int, left: int, columns: int
) -> None:
    """Do ``image[top + i, left + j] = mix[0] · (plane[i, j] + mix[1] · extra[i, j])``, without `extra` if it is empty.

    A unit is a row.
    """
    p = layout[0]
    for i in range(lo, hi):
        row = p.start + (top + i) * p.row_step + left * p.column_step
        of = i * columns
        if extra.size:
            for j in range(columns):
                image[row + j * p.column_step] = mix[0] * (plane[of + j] + mix[1] * extra[of + j])
        else:
            for j in range(columns):
                image[row + j * p.column_step] = mix[0] * plane[of + j]


@kernel("T[]", PLANE, PLANE, IMAGE, PLANE, "int", "int", "int")
def store_levels_units(
    lo: int, hi: int, image: Any, plane: Any, extra: Any, layout: Any, mix: Any, top: int, left: int, columns: int
) -> None:
    """Do the same, rounded to whole numbers from 0 to ``mix[0]``, which is the highest level."""
    p = layout[0]
    limit, half = mix[0], np.float32(0.5)
    for i in range(lo, hi):
        row = p.start + (top + i) * p.row_step + left * p.column_step
        of = i * columns
        for j in range(columns):
            value = plane[of + j]
            if extra.size:
                value += mix[1] * extra[of + j]
            value = min(max(value * limit, np.float32(0)), limit)
            image[row + j * p.column_step] = np.int32(value + half)
