"""Weight gradient: outer products of the input's pixels and the output's gradient, gathered for each tap.

``gw[ci, k] = Σ_q x[ci, q] · rows[k, q]`` with k over the pairs of an output channel and a tap, and the row k the
elements of the gradient that this tap connects with pixels q. Vectors of input channels, transposed for some pixels at
a time, are multiplied with one element of a row after the other, so sums are vectors of input channels, transposed at
the end. Tiles fetch what the next pixels read.

Memory: all arrays as they are · rows (vector of pixels, k, pixel) and columns of x (pixel, channel) of some pixels at a
time · sums (strip of input channels, k, channel) · sums of each range of pixels, where there are several. Parallel over
groups, output channels and ranges of images' pixels, as many for any number of threads. Sums run over pixels in blocks,
then over ranges, in their order. A NaN or Inf in x meets the zeros that stand for pixels outside the gradient.

Measured in docs/decisions/0023-outer-products.md.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.kernels.cpu import frame as frames
from fastdeconv.kernels.cpu import host, stretches, workspace
from fastdeconv.kernels.cpu.buffers import empty
from fastdeconv.kernels.cpu.columns import to_columns, to_rows
from fastdeconv.kernels.cpu.costs import weights_of
from fastdeconv.kernels.cpu.fetching import LINES, address_of, ask_bytes, spread
from fastdeconv.kernels.cpu.jit import device_function, kernel
from fastdeconv.kernels.cpu.product_tiles import BLOCK_SHAPES, block_terms, gathered_tile
from fastdeconv.kernels.cpu.range_sums import Cut, by_ranges, cut_ranges
from fastdeconv.kernels.cpu.rows import zero_row
from fastdeconv.kernels.cpu.stretches import FIELDS, gather_channel, list_lines, list_sources, list_stretches
from fastdeconv.kernels.cpu.vectors import LINE
from fastdeconv.kernels.geometry import Bound, Cost, Geometry, Implementation

Array = NDArray[Any]

LAYOUT = np.dtype(
    [
        ("groups", "i8"),
        ("units", "i8"),
        ("rows", "i8"),  # input channels of a group
        ("channels", "i8"),  # output channels of a group
        ("sets", "i8"),  # of output channels
        ("most_rows", "i8"),  # pairs of a channel of a set and a tap, with those that register tiles add
        ("blocks", "i8"),  # of an image's pixels
        ("vectors", "i8"),  # of an image's pixels, the last one filled up
        ("depth", "i8"),  # vectors of a block, at most
        ("terms", "i8"),  # pixels in a turn of a register tile
        ("all_blocks", "i8"),  # of all images
        ("ranges", "i8"),  # of those
        ("pixels", "i8"),  # of an image
        ("tiles", "i8"),  # of registers, of a block
        ("strips", "i8"),  # of input channels
        ("across", "i8"),  # vectors of those
        *FIELDS,
    ]
)

# Pixels of a block, and where the sums of a range exceed so many bytes.
_BLOCK, _LARGE_BLOCK, _LARGE = 256, 1024, 1 << 20
# Bytes of gathered rows, in the second-level cache.
_ROWS = 256 << 10 if host.REGISTERS == 32 else 128 << 10
# Rows of a register tile, at most.
_HEIGHT = max(height for height, _ in BLOCK_SHAPES)


@device_function
def _part_of(unit: int, p: Any) -> tuple[int, int, int, int]:
    """Return the group of a unit, its range of blocks, its first output channel and the end."""
    set_, left = unit % p.sets, unit // p.sets
    return left % p.groups, left // p.groups, p.channels * set_ // p.sets, p.channels * (set_ + 1) // p.sets


@device_function
def _pixels_of(block: int, p: Any) -> tuple[int, int, int]:
    """Return the image of a block, its first pixel there and the end."""
    n, part = block // p.blocks, block % p.blocks
    begin = p.vectors * part // p.blocks * p.lanes
    return n, begin, min(p.vectors * (part + 1) // p.blocks * p.lanes, p.pixels)


@device_function
def _add_products(
    sums: Any, gathered: Any, columns: Any, x: Any, at: int, pixels: int, many: int, strips: Any, p: Any, add: bool,
    gy: Any, gy_at: int, channels: int, channels_once: int, x_at: int, rows: int, rows_once: int, asked: Any,
) -> None:  # fmt: skip
    """Add the products of the rows that are gathered and some pixels of x from `at` on, or put them there.

    With each tile some of the next block's lines are fetched: those of its channels of the gradient, then of its rows.
    """
    lanes = p.lanes
    depth = (pixels + lanes - 1) // lanes * lanes
    plane = p.from_size[0] * p.from_size[1] * p.from_size[2]
    c, m = 0, 0
    for s in range(p.strips):
        shape, height, width, first = strips[4 * s], strips[4 * s + 1], strips[4 * s + 2], strips[4 * s + 3]
        for r in range(width):
            row = (first + r) * lanes
            to_columns(columns, r * lanes, width * lanes, x, at + row * p.pixels, p.pixels,
                       min(lanes, p.rows - row), pixels)  # fmt: skip
        for k in range(0, many, height):
            if c < channels:
                ahead, of = address_of(gy, gy_at + c * plane), 0
                c += channels_once
            else:
                ahead, of = address_of(x, x_at + min(m, p.rows - rows_once) * p.pixels), asked.size // 2
                m = min(m + rows_once, rows)
            gathered_tile(shape, depth, gathered, k * lanes, p.panel, columns, 0,
                          sums, (first * p.most_rows + k * width) * lanes, width * lanes, add,
                          ahead, asked, of)  # fmt: skip


@device_function
def _write(out: Any, at: int, sums: Any, many: int, strips: Any, p: Any, zeros: Any) -> None:
    """Write a range's sums to the result, whose first row is at `at`."""
    row_step = p.channels * p.taps
    for s in range(p.strips):
        width, first = strips[4 * s + 2], strips[4 * s + 3]
        for r in range(width):
            row = (first + r) * p.lanes
            to_rows(out, at + row * row_step, row_step, min(p.lanes, p.rows - row),
                    sums, (first * p.most_rows + r) * p.lanes, width * p.lanes, zeros, 0, many, False)  # fmt: skip


@kernel("T[]", "T[]", "T[]", LAYOUT, "int[]")
def outer_units(lo: int, hi: int, x: Any, gy: Any, out: Any, layout: Any, strips: Any) -> None:
    """Sum one range of pixels for one set of output channels of one group.

    A strip of input channels has a register tile, its rows, its vectors, and how many vectors lie before it.
    """
    p = layout[0]
    lanes = p.lanes
    gathered = empty(p.depth * p.panel + _HEIGHT * lanes, x.dtype)
    # Rows behind the last of a tile are multiplied, too: what is there by chance may be slow to multiply.
    zero_row(gathered, 0, gathered.size)
    columns = empty((p.depth + 1) * lanes * strips[2] * lanes, x.dtype)
    sums = empty((p.across * p.most_rows + lanes) * lanes, x.dtype)
    zeros = empty(lanes, x.dtype)
    zero_row(zeros, 0, lanes)
    table, coming = np.empty((6, p.most), np.int64), np.empty((6, p.most), np.int64)
    taps = np.empty((p.taps, 2), np.int64)
    places, masks = np.empty((p.taps + 1, p.most), np.int64), np.empty((p.taps + 1, p.most), np.int64)
    plane = p.from_size[0] * p.from_size[1] * p.from_size[2]
    # What the next block reads: for some rows of x, and for some channels of the gradient, the lines of one tile.
    slots, line = p.depth * lanes // p.terms * LINES, LINE // x.itemsize
    lines, asked = np.empty(slots, np.int64), np.zeros(2 * slots, np.int64)
    row_lines = min(slots, (p.depth * lanes + line - 1) // line)
    rows_once, count = 0, -1
    for unit in range(lo, hi):
        g, range_, channel, end_channel = _part_of(unit, p)
        many = (end_channel - channel) * p.taps
        start, stop = p.all_blocks * range_ // p.ranges, p.all_blocks * (range_ + 1) // p.ranges
        for block in range(start, stop):
            n, begin, end = _pixels_of(block, p)
            if count < 0:
                count = list_stretches(table, p, begin, end)
            list_sources(taps, places, masks, table, count, p)
            for c in range(channel, end_channel):
                of, ahead = ((n * p.groups + g) * p.channels + c) * plane, plane if c + 1 < end_channel else 0
                gather_channel(gathered, (c - channel) * p.taps * lanes, gy, of, ahead, p,
                               taps, table, places, masks, count)  # fmt: skip
            # The channels and rows that the next block begins with.
            channels, rows, gy_at, x_at, channels_once = 0, 0, 0, 0, 1
            if block + 1 < stop or unit + 1 < p.units:
                next_g, next_channel, next_end, next_block = g, channel, end_channel, block + 1
                if block + 1 == stop:
                    next_g, next_range, next_channel, next_end = _part_of(unit + 1, p)
                    next_block = p.all_blocks * next_range // p.ranges
                next_n, next_begin, next_stop = _pixels_of(next_block, p)
                count = list_stretches(coming, p, next_begin, next_stop)
                table, coming = coming, table
                found = list_lines(lines, table, count, p, line)
                channels, rows = next_end - next_channel, p.rows
                share = (channels * found + rows * row_lines) // p.tiles + 1
                channels_once = spread(asked, 0, slots, lines, found, channels, plane, share, x.itemsize)
                if rows_once == 0:
                    for i in range(row_lines):
                        lines[i] = i * line
                    rows_once = spread(asked, slots, slots, lines, row_lines, rows, p.pixels, share, x.itemsize)
                gy_at = ((next_n * p.groups + next_g) * p.channels + next_channel) * plane
                x_at = (next_n * p.groups + next_g) * p.rows * p.pixels + next_begin
            _add_products(sums, gathered, columns, x, (n * p.groups + g) * p.rows * p.pixels + begin, end - begin,
                          many, strips, p, block > start,
                          gy, gy_at, channels, channels_once, x_at, rows, rows_once, asked)  # fmt: skip
        _write(out, (range_ * p.groups + g) * p.rows * p.channels * p.taps + channel * p.taps, sums, many, strips, p,
               zeros)  # fmt: skip


def _cut(g: Geometry) -> Cut:
    large = math.prod(g.weight_shape) // g.groups * np.dtype(g.dtype).itemsize > _LARGE
    return cut_ranges(g, _LARGE_BLOCK if large else _BLOCK, _ROWS)


def _strips(vectors: int) -> frames.Ints:
    """Return for each strip of so many vectors: a shape of `block_tile`, its rows and vectors, vectors before."""
    widest = BLOCK_SHAPES[0][1]
    widths = [widest] * (vectors // widest)
    left = vectors % widest
    if left == 1 and widths and widest > 2:  # two narrower ones are better than a very narrow one
        widths[-1:] = [2, 2]
    elif left:
        widths.append(left)
    shapes = {columns: (shape, height) for shape, (height, columns) in reversed(list(enumerate(BLOCK_SHAPES)))}
    firsts = np.cumsum([0, *widths])
    return frames.ints([v for w, first in zip(widths, firsts) for v in (*shapes[w], w, int(first))])


def _counts(g: Geometry) -> dict[str, float]:
    cut, lanes, pixels = _cut(g), host.lanes(g.dtype), math.prod(g.input)
    columns, vectors = g.group_out * g.taps, -(-g.group_in // lanes)
    images = g.batch * g.groups
    return {
        "product": float(images * columns * vectors * lanes * -(-pixels // lanes) * lanes),
        **stretches.gathering(g, stretches.most_stretches(g.input[2], cut.blocks * cut.depth // lanes, lanes, lanes)),
        "list": images * cut.blocks * cut.sets * g.taps,
        "column": images * cut.sets * vectors * lanes * pixels,
        "weight": math.prod(g.weight_shape) * (1 if cut.ranges == 1 else 1 + cut.ranges),
        "call": 1,
    }


def _bind(g: Geometry) -> Bound:
    cut, lanes, itemsize = _cut(g), host.lanes(g.dtype), np.dtype(g.dtype).itemsize
    vectors = -(-g.group_in // lanes)
    strips, panel, rows = _strips(vectors), (cut.largest * g.taps + 1) * lanes, cut.largest * g.taps + _HEIGHT
    most = stretches.most_stretches(g.input[2], cut.depth // lanes, lanes, lanes)
    units = g.groups * cut.sets * cut.ranges
    layout = np.zeros(1, LAYOUT)
    for name, value in {
        "groups": g.groups, "units": units, "rows": g.group_in, "channels": g.group_out, "sets": cut.sets,
        "most_rows": rows,
        "blocks": cut.blocks, "vectors": -(-math.prod(g.input) // lanes), "depth": cut.depth // lanes,
        "terms": block_terms(lanes), "all_blocks": g.batch * cut.blocks, "ranges": cut.ranges,
        "pixels": math.prod(g.input), "tiles": sum(-(-cut.largest * g.taps // int(height)) for height in strips[1::4]),
        "strips": strips.size // 4, "across": vectors, "width": lanes, "panel": panel, "most": most,
        **stretches.fields(g),
    }.items():  # fmt: skip
        layout[name] = value
    compute = outer_units.launcher(g.dtype, units, 2 * g.multiplications)
    run, shared = by_ranges(g, cut.ranges, compute, layout, strips)
    private = cut.depth // lanes * panel + ((cut.depth + lanes) * int(strips[2]) + vectors * rows + 2 * lanes) * lanes
    lists = stretches.list_bytes(g.taps, most) + ask_bytes(cut.depth // block_terms(lanes), 2, most)
    return Bound(run, workspace.total(shared, private * itemsize + lists, units))


WEIGHT_GRAD = Implementation(
    "direct_outer", "outer products of the input's pixels and rows gathered from the gradient, in a core's cache",
    stretches.declines, _bind, cost=Cost(_counts, weights_of("direct_outer", "weight_grad")),
)  # fmt: skip
