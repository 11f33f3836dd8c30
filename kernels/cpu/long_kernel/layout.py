"""What both gradients for long kernels share: which problems they suit, and how they are described.

Vectors run along the last axis of the kernel, where both w and gy are contiguous, whatever the stride. Nothing is
copied to planes: all arrays are read as they are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastdeconv.kernels.cpu import host
from fastdeconv.kernels.geometry import Geometry

NAME, IDEA = "direct_long_kernel", "vectors along the last axis of a long kernel, read where it lies"

LAYOUT = np.dtype(
    [
        ("batch", "i8"),
        ("groups", "i8"),
        ("group_in", "i8"),
        ("group_out", "i8"),
        ("input", "i8", (3,)),
        ("output", "i8", (3,)),
        ("kernel", "i8", (3,)),
        ("stride", "i8", (3,)),
        ("padding", "i8", (3,)),
        ("dilation", "i8", (3,)),
        ("lanes", "i8"),
        ("begin", "i8"),  # inputs of the last axis whose whole row of the kernel lies in the output
        ("end", "i8"),
        ("splits", "i8"),  # ranges whose sums are added up
        ("bands", "i8"),  # of rows of the input
        ("blocks", "i8"),  # of input channels
        ("chunk", "i8"),  # rows of the kernel that are summed before lanes are added up
        ("vectors", "i8"),  # of a row of the kernel
        ("width", "i8"),  # columns of a tile
        ("elements", "i8"),  # of the weight gradient
    ]
)

# A sum longer than this is one of partial sums: a plain running total would lose more than rounding must.
RUN = 2048
# Enough units to share among threads.
UNITS = 16
# With more input channels than this, tiles over planes do more work for each number they read.
_MANY = 64


def declines(g: Geometry) -> str | None:
    """Return why these kernels cannot serve a problem, or None."""
    if g.dtype not in ("float32", "float64"):
        return f"vector code is for float32 and float64, not {g.dtype}"
    if g.dilation[2] > 1 and g.kernel[2] > 1:
        return "the taps of the last axis are dilated, so they are not side by side"
    lanes = host.lanes(g.dtype)
    if g.kernel[2] < max(8, lanes):
        return f"a kernel of {g.kernel[2]} along the last axis is too short for vectors along it"
    if g.stride[2] < max(4, lanes // 2):
        return f"a stride of {g.stride[2]} along the last axis reads each gradient once a tap, faster from planes"
    if g.group_in > _MANY and g.stride[2] < 2 * lanes:
        return f"{g.group_in} input channels of a group, where strides under two vectors leave this kernel behind"
    if g.kernel[2] > RUN * lanes:
        return f"a kernel of {g.kernel[2]} along the last axis needs sums longer than {RUN} in a lane"
    return None


def yields(g: Geometry) -> str | None:
    """Return why another kernel should be faster, or None."""
    if host.REGISTERS == 16 and g.stride[2] < host.lanes(g.dtype):
        return f"a stride of {g.stride[2]} along the last axis reads each gradient many times"
    return None


def describe(g: Geometry, **more: int) -> NDArray[np.void]:
    """Describe a problem for a kernel."""
    stride, padding, size = g.stride[2], g.padding[2], g.output[2]
    begin = min(g.input[2], -(-padding // stride))
    end = max(begin, min(g.input[2], (size + padding - g.kernel[2]) // stride + 1))
    lanes = host.lanes(g.dtype)
    layout = np.zeros(1, LAYOUT)
    for name, value in {
        "batch": g.batch, "groups": g.groups, "group_in": g.group_in, "group_out": g.group_out, "input": g.input,
        "output": g.output, "kernel": g.kernel, "stride": g.stride, "padding": g.padding, "dilation": g.dilation,
        "lanes": lanes, "begin": begin, "end": end, "vectors": -(-g.kernel[2] // lanes), **more,
    }.items():  # fmt: skip
        layout[name] = value
    return layout
