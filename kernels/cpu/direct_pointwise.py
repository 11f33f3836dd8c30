"""Layers that mix channels pixel by pixel, kernel 1 without stride or padding: products of matrices as they lie.

``y[n, m, q] = bias[m] + Σ_k w[k, m] · x[n, k, q]`` over the channels k of a group, for pixels q; in the input gradient
with w turned. ``gw[k, m] = Σ x[n, k, q] · gy[n, m, q]`` over images and pixels.

Memory: all arrays are read and written where they are. Such layers are as fast as memory, and the planes and packed
weights of `direct_tile` are copies of everything. A tile at the end of a row of pixels or channels overlaps the one
before it, and writes the same values again.

Parallel over images, groups and pieces of planes; in the weight gradient over groups and ranges of images, whose sums
are added in their order.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.kernels.cpu import host, workspace
from fastdeconv.kernels.cpu.buffers import empty
from fastdeconv.kernels.cpu.costs import weights_of
from fastdeconv.kernels.cpu.direct_dot import collect
from fastdeconv.kernels.cpu.jit import kernel
from fastdeconv.kernels.cpu.product_tiles import PRODUCT_SHAPES, product_tile
from fastdeconv.kernels.cpu.rows import fill_row
from fastdeconv.kernels.cpu.sweep import part_of
from fastdeconv.kernels.cpu.tiles import INNER_ROWS, inner_columns, inner_tile
from fastdeconv.kernels.geometry import Bound, Cost, Geometry, Implementation

Array = NDArray[Any]

# The two register tiles, by their place in the table: one of many rows, one of half as many.
_TALL, _FLAT = 0, 3
_ROWS, _FEW_ROWS = PRODUCT_SHAPES[_TALL][0], PRODUCT_SHAPES[_FLAT][0]
# Vectors of pixels that both fill.
_VECTORS = math.lcm(PRODUCT_SHAPES[_TALL][1], PRODUCT_SHAPES[_FLAT][1])
# Vectors of pixels of one unit.
_PIECE = 48
# Products of a running total.
_RUN = 2048
# Enough units to share among threads.
_UNITS = 16


@kernel("T[]", "T[]", "T[]", "T[]", "int[]", "int", "int", "int", "int", "int", "int", "int", "int", "int")
def product_units(
    lo: int, hi: int, source: Any, weight: Any, bias: Any, out: Any, blocks: Any, groups: int, rows: int,
    channels: int, pixels: int, pieces: int, width: int, group_step: int, row_step: int, channel_step: int,
) -> None:  # fmt: skip
    """Compute one piece of the planes of one group in one image."""
    for unit in range(lo, hi):
        image, begin, end = part_of(unit, pieces, pixels)
        g = image % groups
        for first in range(begin, end, width):
            q = min(first, end - width)
            for b in range(0, blocks.size, 4):
                row, height, shape, columns = blocks[b], blocks[b + 1], blocks[b + 2], blocks[b + 3]
                at = (image * rows + row) * pixels
                for to in range(q, q + width, columns):
                    for m in range(height if bias.size else 0):
                        fill_row(out, at + m * pixels + to, bias[g * rows + row + m], columns)
                    product_tile(shape, channels, weight, g * group_step + row * row_step, row_step, channel_step,
                                 source, image * channels * pixels + to, pixels, out, at + to, pixels,
                                 bias.size > 0)  # fmt: skip


@kernel("T[]", "T[]", "T[]", "int", "int", "int", "int", "int", "int", "int", "int", "int")
def dot_units(
    lo: int, hi: int, x: Any, gy: Any, sums: Any, batch: int, splits: int, groups: int, rows: int, columns: int,
    pixels: int, lanes: int, height: int, width: int,
) -> None:  # fmt: skip
    """Sum the products of one group in one range of images."""
    tile = empty(height * width, x.dtype)
    row_offset, column_offset = empty(height, np.int64), empty(width, np.int64)
    vectors = pixels // lanes
    for unit in range(lo, hi):
        g, split = unit % groups, unit // groups
        at = (split * groups + g) * rows * columns
        for k in range(at, at + rows * columns):
            sums[k] = 0
        for n in range(batch * split // splits, batch * (split + 1) // splits):
            left, right = (n * groups + g) * rows * pixels, (n * groups + g) * columns * pixels
            for begin in range(0, vectors, _PIECE):
                count = min(_PIECE, vectors - begin)
                for first in range(0, rows, height):
                    # A tile with missing rows or columns reads its last one again.
                    some = min(height, rows - first)
                    for m in range(height):
                        row_offset[m] = left + (first + min(m, some - 1)) * pixels
                    for column in range(0, columns, width):
                        present = min(width, columns - column)
                        for j in range(width):
                            column_offset[j] = right + (column + min(j, present - 1)) * pixels
                        inner_tile(height, count, x, row_offset, gy, column_offset, begin * lanes, tile)
                        for m in range(some):
                            for j in range(present):
                                sums[at + (first + m) * columns + column + j] += tile[m * width + j]
            for q in range(vectors * lanes, pixels):
                for m in range(rows):
                    value = x[left + m * pixels + q]
                    for j in range(columns):
                        sums[at + m * columns + j] += value * gy[right + j * pixels + q]


def _mixes_channels(g: Geometry) -> str | None:
    if g.dtype not in ("float32", "float64"):
        return f"serves float32 and float64, not {g.dtype}"
    if g.taps > 1 or any(s > 1 for s in g.stride) or any(g.padding) or g.output != g.input:
        return "serves kernel 1 without stride, padding and output_padding only"
    return None


def _declines(g: Geometry, rows: int, channels: int) -> str | None:
    if (reason := _mixes_channels(g)) is not None:
        return reason
    if rows < _FEW_ROWS:
        return f"{rows} channels a group are fewer than the {_FEW_ROWS} of a register tile"
    if math.prod(g.input) < _VECTORS * host.lanes(g.dtype):
        return f"planes of {math.prod(g.input)} pixels are smaller than a tile of {_VECTORS * host.lanes(g.dtype)}"
    if channels > _RUN:
        return f"a sum of {channels} products is longer than the {_RUN} of a running total"
    return None


def _declines_weight(g: Geometry) -> str | None:
    if (reason := _mixes_channels(g)) is not None:
        return reason
    vectors, tail = divmod(math.prod(g.input), host.lanes(g.dtype))
    sums = -(-g.batch // _splits(g)) * (-(-vectors // _PIECE) + tail)
    if sums > _RUN:
        return f"would add {sums} sums one after the other, more than the {_RUN} of a running total"
    return None


def _splits(g: Geometry) -> int:
    """Return into how many ranges of images the weight gradient is cut."""
    return max(1, min(g.batch, -(-_UNITS // g.groups)))


def _counts(g: Geometry, forward: bool) -> dict[str, float]:
    rows, channels = (g.group_out, g.group_in) if forward else (g.group_in, g.group_out)
    height = sum(PRODUCT_SHAPES[shape][0] for _, shape in _blocks(rows))
    images, pixels = g.batch * g.groups, math.prod(g.input)
    return {
        "product": float(images * height * channels * pixels),
        # Read a column at a time, they may not stay in the first cache.
        "weight": images * max(1, pixels // (_PIECE * host.lanes(g.dtype))) * rows * channels,
        "result": images * rows * pixels,
        "call": 1,
    }


def _weight_counts(g: Geometry) -> dict[str, float]:
    height = min(INNER_ROWS, g.group_in)
    width = inner_columns(height)
    images, vectors = g.batch * g.groups, math.prod(g.input) // host.lanes(g.dtype)
    tiles = images * -(-g.group_in // height) * -(-g.group_out // width)
    return {
        "product": float(tiles * height * width * vectors * host.lanes(g.dtype)),
        "tile": tiles * -(-vectors // _PIECE),
        "gradient": images * (g.group_in + g.group_out) * math.prod(g.input),
        "call": 1,
    }


def _blocks(rows: int) -> list[tuple[int, int]]:
    """Return (first row, tile) of the tiles that cover the rows; the last two may overlap."""
    found = [(row, _TALL) for row in range(0, rows - _ROWS + 1, _ROWS)]
    done = len(found) * _ROWS
    while done < rows:
        short = rows - done <= _FEW_ROWS or rows < _ROWS
        height = _FEW_ROWS if short else _ROWS
        row = min(done, rows - height)
        found.append((row, _FLAT if short else _TALL))
        done = row + height
    return found


def _bind(g: Geometry, forward: bool) -> Bound:
    rows, channels = (g.group_out, g.group_in) if forward else (g.group_in, g.group_out)
    lanes, pixels = host.lanes(g.dtype), math.prod(g.input)
    blocks = np.array(
        [(row, PRODUCT_SHAPES[s][0], s, PRODUCT_SHAPES[s][1] * lanes) for row, s in _blocks(rows)], np.int64
    ).reshape(-1)
    pieces = max(1, pixels // (_PIECE * lanes))
    units = g.batch * g.groups * pieces
    launch = product_units.launcher(g.dtype, units, 2 * g.multiplications + 8 * g.elements)
    steps = (1, g.group_out) if forward else (g.group_out, 1)
    sizes = (g.groups, rows, channels, pixels, pieces, _VECTORS * lanes, g.group_in * g.group_out, *steps)
    no_bias = np.empty(0, g.dtype)

    def run(source: Array, w: Array, bias: Array | None, out: Array) -> None:
        launch(source, w, no_bias if bias is None else bias, out, blocks, *sizes)

    return Bound(run if forward else lambda gy, w, gx: run(gy, w, None, gx), 0)


def _bind_weight(g: Geometry) -> Bound:
    lanes, itemsize = host.lanes(g.dtype), np.dtype(g.dtype).itemsize
    height = min(INNER_ROWS, g.group_in)
    width = inner_columns(height)
    splits = _splits(g)
    elements, units = g.in_channels * g.group_out, g.groups * splits
    launch = dot_units.launcher(g.dtype, units, 2 * g.multiplications + 8 * g.elements)
    sizes = (g.batch, splits, g.groups, g.group_in, g.group_out, math.prod(g.input), lanes, height, width)
    gather = collect.launcher(g.dtype, g.in_channels, 4 * splits * elements)
    column_index = np.arange(g.group_out)

    def run(x: Array, gy: Array, gw: Array) -> None:
        sums = workspace.take("sums", splits * elements, g.dtype)
        launch(x, gy, sums, *sizes)
        gather(sums, gw, splits, g.group_out, elements, column_index)
        workspace.keep("sums", sums)

    private = height * width * itemsize + 8 * (height + width)
    return Bound(run, workspace.total(splits * elements * itemsize, private, units))


_IDEA = "matrix products of the arrays where they lie, for layers that mix channels pixel by pixel"
FORWARD = Implementation(
    "direct_pointwise", _IDEA, lambda g: _declines(g, g.group_out, g.group_in), lambda g: _bind(g, True),
    cost=Cost(lambda g: _counts(g, True), weights_of("direct_pointwise", "forward")),
)  # fmt: skip
INPUT_GRAD = Implementation(
    "direct_pointwise", _IDEA, lambda g: _declines(g, g.group_in, g.group_out), lambda g: _bind(g, False),
    cost=Cost(lambda g: _counts(g, False), weights_of("direct_pointwise", "input_grad")),
)  # fmt: skip
WEIGHT_GRAD = Implementation(
    "direct_pointwise", _IDEA, _declines_weight, _bind_weight,
    cost=Cost(_weight_counts, weights_of("direct_pointwise", "weight_grad")),
)  # fmt: skip
