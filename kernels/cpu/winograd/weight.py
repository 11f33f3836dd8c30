"""Weight gradient: ``gw = Gᵀ [(Aᵀ gy) (B x)ᵀ]``, summed over tiles; matrices as in `transforms`.

For each of the transforms' points, rows are (phase, output channel), columns are input channels, and the sum runs along
the tiles, which are the vector lanes of both operands.

Memory: panels (group, point, row, tile) of gy and of x, whole vectors of tiles.
Parallel over blocks of output and of input channels; no unit touches another's part of the weight. Parts of the tiles
are added in their order. A NaN or Inf reaches the whole kernel between the channels that hold it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.kernels.cpu import host, workspace
from fastdeconv.kernels.cpu.frame import merged
from fastdeconv.kernels.cpu.jit import kernel
from fastdeconv.kernels.cpu.rows import scatter
from fastdeconv.kernels.cpu.tiles import INNER_ROWS, inner_columns, inner_tile
from fastdeconv.kernels.cpu.winograd import transforms
from fastdeconv.kernels.cpu.winograd.axes import Group, declines, groups, multiplications, yields
from fastdeconv.kernels.cpu.winograd.panels import fill_panels, side, transform
from fastdeconv.kernels.cpu.winograd.products import PANELS, UNITS, tap_table
from fastdeconv.kernels.geometry import Geometry, Implementation, Run

Array = NDArray[Any]

LAYOUT = np.dtype(
    [
        ("group_in", "i8"),
        ("group_out", "i8"),
        ("phases", "i8"),
        ("taps", "i8", (3,)),
        ("points", "i8", (3,)),
        ("transform", "i8", (3,)),
        ("kernel_taps", "i8"),
        ("height", "i8"),  # rows of a register tile
        ("columns", "i8"),
        ("block", "i8"),  # output channels of a unit
        ("blocks", "i8"),
        ("wide", "i8"),  # input channels of a unit, whole register tiles and whole vectors
        ("wides", "i8"),
        ("lanes", "i8"),
        ("pitch", "i8"),  # elements of a row of panels
        ("x_point", "i8"),  # elements of a point's panels
        ("gy_point", "i8"),
    ]
)

# Tiles of a running total.
_RUN = 1024


@kernel("T[]", "T[]", "T[]", LAYOUT, "int[]", "int")
def weight_units(lo: int, hi: int, x: Any, gy: Any, out: Any, layout: Any, taps: Any, vectors: int) -> None:
    """Add the tiles of a part to the kernels between one block of output and one of input channels of one group."""
    p = layout[0]
    height, columns, wide = p.height, p.columns, p.wide
    points = p.points[0] * p.points[1] * p.points[2]
    elements = p.taps[0] * p.taps[1] * p.taps[2]
    rows = p.phases * p.block
    tall = (rows + height - 1) // height * height
    row_at, column_at = np.empty(height, np.int64), np.empty(columns, np.int64)
    tile = np.empty(height * columns, out.dtype)
    sums = np.empty(points * tall * wide, out.dtype)
    kernels = np.empty(elements * wide, out.dtype)
    scratch = np.empty(2 * points * wide, out.dtype)
    table = np.empty(p.phases * elements * wide, np.int64)
    for unit in range(lo, hi):
        w = unit % p.wides
        rest = unit // p.wides
        block, g = rest % p.blocks, rest // p.blocks
        first, first_in = block * p.block, w * wide
        present, present_in = min(p.block, p.group_out - first), min(wide, p.group_in - first_in)
        for point in range(points):
            x_at = (g * points + point) * p.x_point
            gy_at = (g * points + point) * p.gy_point
            for m in range(0, tall, height):
                # A tile with missing rows or columns reads its last one again.
                for i in range(height):
                    row = min(m + i, rows - 1)
                    channel = first + min(row % p.block, present - 1)
                    row_at[i] = gy_at + (row // p.block * p.group_out + channel) * p.pitch
                for j in range(0, present_in, columns):
                    for i in range(columns):
                        column_at[i] = x_at + (first_in + min(j + i, present_in - 1)) * p.pitch
                    inner_tile(height, vectors, gy, row_at, x, column_at, 0, tile)
                    at = (point * tall + m) * wide + j
                    for i in range(height):
                        for c in range(columns):
                            sums[at + i * wide + c] = tile[i * columns + c]
        for i in range(p.phases * elements):
            for lane in range(wide):
                table[i * wide + lane] = lane * p.group_out * p.kernel_taps + taps[i] if lane < present_in else -1
        for f in range(p.phases):
            for c in range(present):
                transform(p, p.points, p.taps, wide // p.lanes, wide, sums, (f * p.block + c) * wide, tall * wide,
                          kernels, 0, wide, scratch, points * wide)  # fmt: skip
                at = ((g * p.group_in + first_in) * p.group_out + first + c) * p.kernel_taps
                scatter(out, at, table, f * elements * wide, kernels, 0, out.dtype.type(0), True,
                        elements * wide)  # fmt: skip


def bind(g: Geometry) -> Run:
    """Return the function that runs the pass."""
    g = merged(g)
    parts = groups(g)
    assert not isinstance(parts, str)
    adds = [_group(g, group) for group in parts]

    def run(x: Array, gy: Array, gw: Array) -> None:
        gw[:] = 0
        for add in adds:
            add(x, gy, gw)

    return run


def _group(g: Geometry, group: Group) -> Run:
    phases = math.prod(len(s.phases) for s in group)
    points = math.prod(s.points for s in group)
    tiles = g.batch * math.prod(s.tiles for s in group)
    lanes, itemsize = host.lanes(g.dtype), np.dtype(g.dtype).itemsize
    x, x_offsets = side(g, group, False, transforms.INPUT, lanes, lanes)
    gy, gy_offsets = side(g, group, True, transforms.transposed(transforms.OUTPUT), lanes, lanes)
    rows = {"x": g.group_in, "gy": g.group_out * phases}

    panels = -(-tiles // lanes)
    far = points * sum(rows.values()) * g.groups * lanes * itemsize  # bytes of a vector of tiles
    most = max(1, min(panels, PANELS // far, _RUN // lanes))
    most = -(-panels // -(-panels // most))  # parts of equal size
    # An odd number of vectors keeps neighbouring rows out of the same cache set.
    pitch = (most + 1 - most % 2) * lanes
    for layout, count in ((x, g.group_in), (gy, g.group_out * phases)):
        layout["row_step"], layout["panel_step"] = pitch, lanes
        layout["point_step"] = count * pitch + lanes
        layout["group_step"] = points * layout["point_step"]
    x_elements, gy_elements = (int(g.groups * side["group_step"][0]) for side in (x, gy))

    height = min(INNER_ROWS, g.group_out * phases)
    columns = inner_columns(height)
    whole = math.lcm(columns, lanes)
    wide = min(whole, -(-g.group_in // lanes) * lanes)
    wide = -(-max(wide, -(-wide // columns) * columns) // lanes) * lanes
    wides = -(-g.group_in // wide)
    block = max(1, min(g.group_out, -(-g.group_out * g.groups * wides // UNITS), 64 // phases))
    blocks = -(-g.group_out // block)
    record = np.zeros(1, LAYOUT)
    for name, value in {
        "group_in": g.group_in, "group_out": g.group_out, "phases": phases, "taps": [s.taps for s in group],
        "points": [s.points for s in group],
        "transform": [transforms.transposed(transforms.WEIGHT)[s.taps] for s in group],
        "kernel_taps": g.taps, "height": height, "columns": columns, "block": block, "blocks": blocks,
        "wide": wide, "wides": wides, "lanes": lanes, "pitch": pitch, "x_point": x["point_step"][0],
        "gy_point": gy["point_step"][0],
    }.items():  # fmt: skip
        record[name] = value
    taps = tap_table(g, group)
    work = 2 * multiplications(group) * g.batch * g.in_channels * g.group_out
    multiply = weight_units.launcher(g.dtype, g.groups * blocks * wides, work)
    fills = {
        count: (fill_panels(g.dtype, x, x_offsets, count), fill_panels(g.dtype, gy, gy_offsets, count))
        for count in {most, panels % most}
        if count
    }

    def run(array: Array, gradient: Array, out: Array) -> None:
        x_panels = workspace.take("panels", x_elements, g.dtype)
        gy_panels = workspace.take("gradient_panels", gy_elements, g.dtype)
        for first in range(0, panels, most):
            count = min(most, panels - first)
            fill_x, fill_gy = fills[count]
            fill_x(array, x_panels, first)
            fill_gy(gradient, gy_panels, first)
            multiply(x_panels, gy_panels, out, record, taps, count)
        workspace.keep("panels", x_panels)
        workspace.keep("gradient_panels", gy_panels)

    return run


WINOGRAD = Implementation(
    "winograd",
    "minimal filtering: sums of products of transformed tiles, shared by all phases of a stride",
    lambda g: declines(g, True),
    bind,
    yields,
)
DIRECT = Implementation(
    "direct_product", "one matrix product for taps that do not overlap", lambda g: declines(g, False), bind, yields
)
