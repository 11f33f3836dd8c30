"""Weight gradient: dot products of the input as it lies and rows of the output's gradient, gathered for each tap.

``gw[ci, k] = Σ_q x[ci, q] · panel[k, q]`` with k over the pairs of an output channel and a tap, and the panel's row k
the elements of the gradient that this tap connects with pixels q (``im2row`` in the literature). A panel has the rows
of some output channels for some pixels of an image, and is used for all input channels while it is in the core's cache.

Memory: all arrays as they are · panels (k, pixel) of some channels at a time · the pixels of x behind the last whole
vector of an image (ci, pixel) · sums of each range of pixels, where there are several. Parallel over groups, output
channels and ranges of images' pixels, as many for any number of threads. Each lane sums its own pixels, lanes are added
at the end of a block of pixels; blocks, then ranges, in their order. A NaN or Inf in x meets the zeros that stand for
pixels outside the gradient.

Measured in docs/decisions/0020-im2row.md.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.kernels.cpu import host, stretches, workspace
from fastdeconv.kernels.cpu.buffers import empty
from fastdeconv.kernels.cpu.costs import weights_of
from fastdeconv.kernels.cpu.direct_dot import tile_height
from fastdeconv.kernels.cpu.jit import device_function, kernel
from fastdeconv.kernels.cpu.range_sums import Cut, by_ranges, cut_ranges
from fastdeconv.kernels.cpu.rows import copy_padded, zero_row
from fastdeconv.kernels.cpu.stretches import FIELDS, gather_channel, list_sources, list_stretches
from fastdeconv.kernels.cpu.tiles import inner_columns, inner_tile
from fastdeconv.kernels.geometry import Bound, Cost, Geometry, Implementation

Array = NDArray[Any]

LAYOUT = np.dtype(
    [
        ("groups", "i8"),
        ("rows", "i8"),  # input channels of a group
        ("channels", "i8"),  # output channels of a group
        ("sets", "i8"),  # of output channels
        ("largest", "i8"),  # channels of a set, at most
        ("blocks", "i8"),  # of an image's pixels
        ("vectors", "i8"),  # of an image's pixels, the last one filled up
        ("all_blocks", "i8"),  # of all images
        ("ranges", "i8"),  # of those
        ("pixels", "i8"),  # of an image
        ("beside", "i8"),  # rows of x that the second cache has room for
        ("height", "i8"),  # rows of a register tile
        ("columns", "i8"),  # and its columns
        *FIELDS,
    ]
)

# Pixels of a block, so that a register tile's rows and columns stay in the first-level cache.
_BLOCK = 1024
# Bytes of a panel, and of the rows of x that are multiplied with it together, in the second-level cache.
_PANEL, _ROWS = (256 << 10 if host.REGISTERS == 32 else 128 << 10), 128 << 10


@device_function
def _add_tiles(
    left: Any, left_at: int, left_row: int, panel: Any, panel_at: int, vectors: int, p: Any,
    first: int, stop: int, columns: int, row_offset: Any, column_offset: Any, tile: Any,
    out: Any, out_at: int, add: bool,
) -> None:  # fmt: skip
    """Add the products of some rows on the left and all of a panel, or put them there."""
    height, width, out_row = p.height, p.columns, p.channels * p.taps
    for column in range(0, columns, width):
        # A tile with missing rows or columns reads its last one again.
        there = min(width, columns - column)
        for j in range(width):
            column_offset[j] = panel_at + (column + min(j, there - 1)) * p.width
        for row in range(first, stop, height):
            some = min(height, stop - row)
            for m in range(height):
                row_offset[m] = left_at + (row + min(m, some - 1)) * left_row
            inner_tile(height, vectors, left, row_offset, panel, column_offset, 0, tile)
            for m in range(some):
                to = out_at + (row + m) * out_row + column
                for j in range(there):
                    out[to + j] = out[to + j] + tile[m * width + j] if add else tile[m * width + j]


@kernel("T[]", "T[]", "T[]", LAYOUT)
def row_units(lo: int, hi: int, x: Any, gy: Any, sums: Any, layout: Any) -> None:
    """Sum one range of pixels for one set of output channels of one group."""
    p = layout[0]
    lanes, weights = p.lanes, p.rows * p.channels * p.taps
    panel = empty(p.largest * p.taps * p.width + lanes, x.dtype)
    rest = empty(p.rows * lanes, x.dtype)
    tile = empty(p.height * p.columns, x.dtype)
    row_offset, column_offset = empty(p.height, np.int64), empty(p.columns, np.int64)
    table = np.empty((6, p.most), np.int64)
    taps = np.empty((p.taps, 2), np.int64)
    places, masks = np.empty((p.taps + 1, p.most), np.int64), np.empty((p.taps + 1, p.most), np.int64)
    plane = p.from_size[0] * p.from_size[1] * p.from_size[2]
    for unit in range(lo, hi):
        set_, left = unit % p.sets, unit // p.sets
        g, range_ = left % p.groups, left // p.groups
        channel, end_channel = p.channels * set_ // p.sets, p.channels * (set_ + 1) // p.sets
        columns = (end_channel - channel) * p.taps
        to = (range_ * p.groups + g) * weights + channel * p.taps
        start = p.all_blocks * range_ // p.ranges
        for block in range(start, p.all_blocks * (range_ + 1) // p.ranges):
            n, part = block // p.blocks, block % p.blocks
            begin = p.vectors * part // p.blocks * lanes
            end = min(p.vectors * (part + 1) // p.blocks * lanes, p.pixels)
            count = list_stretches(table, p, begin, end)
            list_sources(taps, places, masks, table, count, p)
            for c in range(channel, end_channel):
                of, ahead = ((n * p.groups + g) * p.channels + c) * plane, plane if c + 1 < end_channel else 0
                gather_channel(panel, (c - channel) * p.taps * p.width, gy, of, ahead, p,
                               taps, table, places, masks, count)  # fmt: skip
            whole = (end - begin) // lanes
            at = (n * p.groups + g) * p.rows * p.pixels + begin
            for row in range(0, p.rows, p.beside):
                if whole > 0:
                    _add_tiles(x, at, p.pixels, panel, 0, whole, p, row, min(row + p.beside, p.rows), columns,
                               row_offset, column_offset, tile, sums, to, block > start)  # fmt: skip
            behind = end - begin - whole * lanes
            if behind > 0:
                for m in range(p.rows):
                    copy_padded(rest, m * lanes, x, at + m * p.pixels + whole * lanes, behind, lanes)
                for k in range(columns):
                    zero_row(panel, k * p.width + end - begin, lanes - behind)
                _add_tiles(rest, 0, lanes, panel, whole * lanes, 1, p, 0, p.rows, columns,
                           row_offset, column_offset, tile, sums, to, block > start or whole > 0)  # fmt: skip


def _cut(g: Geometry) -> Cut:
    return cut_ranges(g, _BLOCK, _PANEL, beside=1)


def _counts(g: Geometry) -> dict[str, float]:
    cut, lanes, pixels = _cut(g), host.lanes(g.dtype), math.prod(g.input)
    columns = g.group_out * g.taps
    height = tile_height(g.group_in, columns)
    width = inner_columns(height)
    tiles = -(-g.group_in // height) * -(-columns // width)
    images = g.batch * g.groups
    return {
        "product": float(images * tiles * height * width * -(-pixels // lanes) * lanes),
        **stretches.gathering(g, stretches.most_stretches(g.input[2], 1, cut.depth, lanes) * cut.blocks),
        "list": images * cut.blocks * cut.sets * g.taps,
        "tile": images * tiles * cut.blocks * (1 + (pixels % lanes > 0) / cut.blocks),
        "weight": math.prod(g.weight_shape) * (1 if cut.ranges == 1 else 1 + cut.ranges),
        "call": 1,
    }


def _bind(g: Geometry) -> Bound:
    cut, lanes, itemsize = _cut(g), host.lanes(g.dtype), np.dtype(g.dtype).itemsize
    height = tile_height(g.group_in, g.group_out * g.taps)
    pitch, most = cut.depth + lanes, stretches.most_stretches(g.input[2], 1, cut.depth, lanes)
    layout = np.zeros(1, LAYOUT)
    for name, value in {
        "groups": g.groups, "rows": g.group_in, "channels": g.group_out, "sets": cut.sets, "largest": cut.largest,
        "blocks": cut.blocks, "vectors": -(-math.prod(g.input) // lanes), "all_blocks": g.batch * cut.blocks,
        "ranges": cut.ranges, "pixels": math.prod(g.input),
        "beside": max(height, _ROWS // (cut.depth * itemsize) // height * height), "height": height,
        "columns": inner_columns(height), "width": pitch, "most": most, **stretches.fields(g),
    }.items():  # fmt: skip
        layout[name] = value
    units = g.groups * cut.sets * cut.ranges
    compute = row_units.launcher(g.dtype, units, 2 * g.multiplications)
    run, shared = by_ranges(g, cut.ranges, compute, layout)
    private = (cut.largest * g.taps * pitch + (2 + g.group_in) * lanes) * itemsize + stretches.list_bytes(g.taps, most)
    return Bound(run, workspace.total(shared, private, units))


WEIGHT_GRAD = Implementation(
    "direct_im2row", "dot products of the input as it lies and rows gathered from the gradient, in a core's cache",
    stretches.declines, _bind, cost=Cost(_counts, weights_of("direct_im2row", "weight_grad")),
)  # fmt: skip
