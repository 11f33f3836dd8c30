"""Inputs of one pixel, whose taps fill the output: a linear layer in each group.

``y[n, j] = b[co(j)] + Σ_k x[n, k] · w[k, j]`` over input channels k, where j counts the pairs of an output channel and
a tap as w and y have them; ``gx[n, k] = Σ_j gy[n, j] · w[k, j]`` and ``gw[k, j] = Σ_n x[n, k] · gy[n, j]``.

Memory: all arrays as they are, but for panels of w, or of gy in the weight gradient (see `panels`), and in the input
gradient copies of some columns j of gy and w: their rows are apart by a power of two as often as not, and would take
one set of a cache.

Parallel over groups and pieces of j. The input gradient's pieces have sums of their own, which are added in their
order; how it is cut depends on the lengths of rows alone. NaN and Inf reach what they touch and no more.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.kernels.cpu import host, workspace
from fastdeconv.kernels.cpu.buffers import empty
from fastdeconv.kernels.cpu.costs import weights_of
from fastdeconv.kernels.cpu.direct_dot import collect
from fastdeconv.kernels.cpu.frame import merged
from fastdeconv.kernels.cpu.jit import kernel
from fastdeconv.kernels.cpu.panels import COLUMNS, DEPTH, HEIGHT, NEAR, copy_to_panels, multiply_panels, pieces_of
from fastdeconv.kernels.cpu.rows import copy_padded, fill_row
from fastdeconv.kernels.cpu.sweep import part_of
from fastdeconv.kernels.cpu.tiles import INNER_ROWS, inner_columns, inner_tile
from fastdeconv.kernels.geometry import Bound, Cost, Geometry, Implementation

Array = NDArray[Any]

# Vectors of a row that are summed between reductions, and pieces of a row with sums of their own, at most.
_BLOCK, _SPLITS = 128, 16


PRODUCTS = np.dtype(
    [
        ("rows", "i8"),
        ("depth", "i8"),
        ("columns", "i8"),
        ("taps", "i8"),  # columns of one output channel
        ("groups", "i8"),
        ("group_out", "i8"),
        ("tiles", "i8"),  # of all columns of a group
        ("pieces", "i8"),  # of those
        ("most", "i8"),  # tiles of a piece, at most
        ("near", "i8"),  # tiles whose panels fit the first cache together
        ("width", "i8"),  # columns of a tile
        ("block", "i8"),  # rows of a panel
        ("panel", "i8"),  # elements of one
        ("left_row", "i8"),  # elements from one row to the next, and so on
        ("left_step", "i8"),
        ("left_group", "i8"),
        ("right_row", "i8"),
        ("right_group", "i8"),
        ("out_row", "i8"),
        ("out_group", "i8"),
    ]
)


@kernel("T[]", "T[]", "T[]", "T[]", PRODUCTS)
def product_units(lo: int, hi: int, left: Any, right: Any, bias: Any, out: Any, layout: Any) -> None:
    """Compute ``out[m, j] = bias[j] + Σ_k left[m, k] · right[k, j]`` for one piece of the columns of one group."""
    p = layout[0]
    width = p.width
    panels = empty(p.most * p.panel + width, left.dtype)
    edge = empty(HEIGHT * width, left.dtype)
    for unit in range(lo, hi):
        g, first, stop = part_of(unit, p.pieces, p.tiles)
        begin, end = first * width, min(stop * width, p.columns)
        at = g * p.out_group + begin
        if bias.size > 0:
            for channel in range(begin // p.taps, (end - 1) // p.taps + 1):
                start, last = max(begin, channel * p.taps), min(end, (channel + 1) * p.taps)
                for m in range(p.rows):
                    fill_row(out, at + m * p.out_row + start - begin, bias[g * p.group_out + channel], last - start)
        for k in range(0, p.depth, p.block):
            some = min(p.block, p.depth - k)
            for i in range(some):
                row = g * p.right_group + (k + i) * p.right_row
                copy_to_panels(panels, p.panel, i * width, right, row + begin, end - begin, width)
            multiply_panels(
                left, g * p.left_group + k * p.left_step, p.left_row, p.left_row, p.left_step,
                panels, p.panel, some, p.near,
                out, at, p.out_row, p.rows, end - begin, width, edge, k > 0 or bias.size > 0, True,
            )  # fmt: skip


SUMS = np.dtype(
    [
        ("batch", "i8"),
        ("channels", "i8"),  # input channels of a group
        ("groups", "i8"),
        ("length", "i8"),  # of a row of one group
        ("splits", "i8"),  # ranges of a row with sums of their own
        ("height", "i8"),  # of a register tile
        ("width", "i8"),
        ("lanes", "i8"),
        ("block", "i8"),  # elements of a row that are copied at a time
    ]
)


@kernel("T[]", "T[]", "T[]", SUMS)
def dot_units(lo: int, hi: int, gy: Any, weight: Any, sums: Any, layout: Any) -> None:
    """Sum one range of the rows' products in one group."""
    p = layout[0]
    height, width, length = p.height, p.width, p.length
    pitch = p.block + 2 * p.lanes  # apart by no power of two
    local = empty((p.batch + p.channels) * pitch, gy.dtype)
    tile = empty(height * width, gy.dtype)
    row_offset, column_offset = empty(height, np.int64), empty(width, np.int64)
    for unit in range(lo, hi):
        g, split = unit % p.groups, unit // p.groups
        at = (split * p.batch * p.groups + g) * p.channels
        step = p.groups * p.channels
        for n in range(p.batch):
            for c in range(p.channels):
                sums[at + n * step + c] = 0
        for begin in range(length * split // p.splits, length * (split + 1) // p.splits, p.block):
            count = min(p.block, length * (split + 1) // p.splits - begin)
            vectors = (count + p.lanes - 1) // p.lanes
            for n in range(p.batch):
                copy_padded(local, n * pitch, gy, (n * p.groups + g) * length + begin, count, vectors * p.lanes)
            for c in range(p.channels):
                copy_padded(local, (p.batch + c) * pitch, weight, (g * p.channels + c) * length + begin, count,
                            vectors * p.lanes)  # fmt: skip
            for column in range(0, p.channels, width):
                # A tile with missing rows or columns reads its last one again.
                present = min(width, p.channels - column)
                for j in range(width):
                    column_offset[j] = (p.batch + column + min(j, present - 1)) * pitch
                for row in range(0, p.batch, height):
                    some = min(height, p.batch - row)
                    for m in range(height):
                        row_offset[m] = (row + min(m, some - 1)) * pitch
                    inner_tile(height, vectors, local, row_offset, local, column_offset, 0, tile)
                    for m in range(some):
                        for j in range(present):
                            sums[at + (row + m) * step + column + j] += tile[m * width + j]


def _declines(g: Geometry) -> str | None:
    if g.dtype not in ("float32", "float64"):
        return f"vector code is for float32 and float64, not {g.dtype}"
    g = merged(g)
    if g.input != (1, 1, 1) or g.output != g.kernel or any(g.padding) or g.kernel[:2] != (1, 1):
        return "serves inputs of one pixel whose taps fill the output"
    return None


def _declines_products(g: Geometry, forward: bool) -> str | None:
    if (reason := _declines(g)) is not None:
        return reason
    rows, what = (g.batch, "images") if forward else (g.group_in, "input channels a group")
    if rows < HEIGHT:
        return f"{rows} {what} are fewer than the {HEIGHT} rows of a register tile"
    return None


def _product_counts(g: Geometry, forward: bool) -> dict[str, float]:
    width, columns = COLUMNS * host.lanes(g.dtype), g.group_out * g.taps
    rows, depth = (g.batch, g.group_in) if forward else (g.group_in, g.batch)
    blocks, tiles = -(-rows // HEIGHT), g.groups * -(-columns // width)
    return {
        "product": float(tiles * width * blocks * HEIGHT * depth),
        "piece": tiles * depth,
        "tile": tiles * blocks * -(-depth // DEPTH),
        "call": 1,
    }


def _sum_counts(g: Geometry) -> dict[str, float]:
    height = min(INNER_ROWS, max(1, g.batch))
    width = inner_columns(height)
    length = g.group_out * g.taps
    tiles = g.groups * -(-g.batch // height) * -(-g.group_in // width)
    return {
        "product": float(tiles * height * width * length),
        "tile": tiles * -(-length // (_BLOCK * host.lanes(g.dtype))),
        "copy": g.groups * (g.batch + g.group_in) * length,
        "call": 1,
    }


def _bind_products(g: Geometry, forward: bool) -> Bound:
    lanes, itemsize = host.lanes(g.dtype), np.dtype(g.dtype).itemsize
    width, columns = COLUMNS * lanes, g.group_out * g.taps
    rows, depth = (g.batch, g.group_in) if forward else (g.group_in, g.batch)
    block = min(depth, DEPTH)
    panel = block * width + lanes
    tiles = -(-columns // width)
    pieces, most = pieces_of(tiles, g.groups, panel * itemsize)
    layout = np.zeros(1, PRODUCTS)
    for name, value in {
        "rows": rows, "depth": depth, "columns": columns, "taps": g.taps, "groups": g.groups,
        "group_out": g.group_out, "tiles": tiles, "pieces": pieces, "most": most,
        "near": max(1, NEAR // (panel * itemsize)), "width": width, "block": block, "panel": panel,
        "left_row": g.in_channels if forward else 1, "left_step": 1 if forward else g.in_channels,
        "left_group": g.group_in, "right_row": columns if forward else g.groups * columns,
        "right_group": g.group_in * columns if forward else columns,
        "out_row": g.groups * columns if forward else columns,
        "out_group": columns if forward else g.group_in * columns,
    }.items():  # fmt: skip
        layout[name] = value
    units = g.groups * pieces
    launch = product_units.launcher(g.dtype, units, 2 * g.multiplications + 8 * g.elements)
    no_bias = np.empty(0, g.dtype)
    private = (most * panel + (1 + HEIGHT) * width) * itemsize

    def run(x: Array, w: Array, bias: Array | None, y: Array) -> None:
        launch(x, w, no_bias if bias is None else bias, y, layout)

    scratch = workspace.total(0, private, units)
    return Bound(run if forward else lambda x, gy, gw: run(x, gy, None, gw), scratch)


def _bind_sums(g: Geometry) -> Bound:
    lanes, itemsize = host.lanes(g.dtype), np.dtype(g.dtype).itemsize
    height = min(INNER_ROWS, max(1, g.batch))
    width, length, block = inner_columns(height), g.group_out * g.taps, _BLOCK * lanes
    splits = min(_SPLITS, -(-length // block))
    elements = g.batch * g.in_channels
    layout = np.zeros(1, SUMS)
    for name, value in {
        "batch": g.batch, "channels": g.group_in, "groups": g.groups, "length": length, "splits": splits,
        "height": height, "width": width, "lanes": lanes, "block": block,
    }.items():  # fmt: skip
        layout[name] = value
    units = g.groups * splits
    launch = dot_units.launcher(g.dtype, units, 2 * g.multiplications + 8 * g.elements)
    gather = collect.launcher(g.dtype, g.batch, 4 * splits * elements)
    every_channel = np.arange(g.in_channels)

    def run(gy: Array, w: Array, gx: Array) -> None:
        sums = workspace.take("sums", splits * elements, g.dtype)
        launch(gy, w, sums, layout)
        gather(sums, gx, splits, g.in_channels, elements, every_channel)
        workspace.keep("sums", sums)

    rows = (g.batch + g.group_in) * (block + 2 * lanes) + height * width
    private = rows * itemsize + 8 * (height + width)
    return Bound(run, workspace.total(splits * elements * itemsize, private, units))


_IDEA = "matrix products, where the input is one pixel and its taps fill the output"
FORWARD = Implementation(
    "direct_linear", _IDEA, lambda g: _declines_products(g, True), lambda g: _bind_products(g, True),
    cost=Cost(lambda g: _product_counts(g, True), weights_of("direct_linear", "forward")),
)  # fmt: skip
INPUT_GRAD = Implementation(
    "direct_linear", _IDEA, _declines, _bind_sums, cost=Cost(_sum_counts, weights_of("direct_linear", "input_grad"))
)
WEIGHT_GRAD = Implementation(
    "direct_linear", _IDEA, lambda g: _declines_products(g, False), lambda g: _bind_products(g, False),
    cost=Cost(lambda g: _product_counts(g, False), weights_of("direct_linear", "weight_grad")),
)  # fmt: skip
