"""Products of a matrix and panels: what kernels share that are one matrix product in a core's cache.

A panel holds the columns of one register tile of the right matrix, row after row, so that the tile reads it line after
line; it is used for all rows of the left matrix while it is in a core's cache.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

from numpy.typing import NDArray

from fastdeconv.kernels.cpu import frame, host, planes
from fastdeconv.kernels.cpu.fetching import address_of
from fastdeconv.kernels.cpu.gather import copy_tile
from fastdeconv.kernels.cpu.jit import device_function
from fastdeconv.kernels.cpu.product_tiles import (
    AHEAD,
    BLOCK_SHAPES,
    PRODUCT_SHAPES,
    block_tile,
    channel_step,
    packed_tile,
    panel_tile,
    product_tile,
)
from fastdeconv.kernels.cpu.rows import expect_row
from fastdeconv.kernels.cpu.vectors import LINE
from fastdeconv.kernels.geometry import Geometry

HEIGHT, COLUMNS = PRODUCT_SHAPES[0]  # rows, and vectors in a row, of a register tile

# Rows of a panel.
DEPTH = 256
# Bytes of panels that the first cache and the second have room for, with what else is read.
NEAR, FAR = 24 << 10, 128 << 10

# Enough units to share among threads.
UNITS = 16


class BlockShape(NamedTuple):
    """The tiles of a product: those of registers, in `BLOCK_SHAPES`, their rows and columns; vectors of a unit."""

    register: int
    height: int
    width: int
    block: int


def block_shape(blocks: int, phases: int, rows: int, most: int, dtype: str) -> BlockShape:
    """Return the shape with the least work for products of `block_tile`, with so many rows at a time.

    Columns are vectors of channels with their phases, `blocks` in all, of which a unit has at most so many.
    """
    lanes, most = host.lanes(dtype), max(1, min(blocks, most))

    def work(shape: int, block: int) -> float:
        height, vectors = BLOCK_SHAPES[shape]
        columns = -(-block * phases // vectors) * vectors * lanes
        products = -(-blocks // block) * columns * -(-rows // height) * height
        # A multiply-add that reads more than some 0.8 operands waits for them. Beside it, columns of weights come from
        # the second cache for each tile of registers, and tiles from a far one once a unit.
        operands = (height + vectors) / (height * vectors)
        return products * (max(1, 1.2 * operands) + (vectors + 1) / (height * vectors) + 4 / columns)

    shape, block = min(itertools.product(range(len(BLOCK_SHAPES)), range(max(1, most // 2), most + 1)),
                       key=lambda s: work(*s))  # fmt: skip
    height, vectors = BLOCK_SHAPES[shape]
    return BlockShape(shape, height, vectors * lanes, block)


def pieces_of(tiles: int, images: int, tile_bytes: int, units: int = UNITS) -> tuple[int, int]:
    """Return into how many pieces the tiles of an image are cut, and how many the largest has: what a cache holds."""
    most = max(1, min(tiles, FAR // tile_bytes, tiles * images // units))
    pieces = -(-tiles // most)
    return pieces, -(-tiles // pieces)


def row_packing(g: Geometry, blocks: int) -> tuple[Callable[[NDArray[Any], NDArray[Any]], None], int]:
    """Return ``pack(w, packed)`` for the left matrix of a forward pass, and the elements that it fills.

    Its rows are the pairs of an output channel and a tap, which lie as `multiply_packed` reads them, with zeros for
    those that `blocks` of `HEIGHT` have beyond the weights of a group.
    """
    step = channel_step(host.lanes(g.dtype))
    rows, blocks = g.group_out * g.taps, -(-blocks * HEIGHT // step)
    elements = g.groups * blocks * step * g.group_in
    chunks = min(blocks, -(-UNITS // g.groups))
    launch = planes.pack.launcher(g.dtype, g.groups * chunks, 4 * elements)
    one_tap = frame.ints([0, 1]), frame.ints([0])

    def pack(w: NDArray[Any], packed: NDArray[Any]) -> None:
        launch(w, packed, chunks, blocks, rows, step, g.group_in, g.group_in * rows, rows, 1, 1, *one_tap)

    return pack, elements


@device_function
def copy_to_panels(panels: Any, panel: int, at: int, row: Any, row_at: int, columns: int, width: int) -> None:
    """Copy some columns of a row to the row of all panels that starts at `at` in each, zeros behind the last."""
    for tile in range((columns + width - 1) // width):
        first = tile * width
        copy_tile(panels, tile * panel + at, row, row_at + first, min(width, columns - first))


@device_function
def _multiply_tile(
    left: Any, left_at: int, left_row: int, left_step: int, panel: Any, panel_at: int, depth: int,
    out: Any, out_at: int, out_row: int, width: int, add: bool,
) -> None:  # fmt: skip
    if left_step == 1:
        panel_tile(depth, left, left_at, left_row, panel, panel_at, out, out_at, out_row, add)
    else:
        product_tile(0, depth, left, left_at, left_row, left_step, panel, panel_at, width,
                     out, out_at, out_row, add)  # fmt: skip


@device_function
def _move_edge(
    edge: Any, width: int, first: int, last: int, columns: int, out: Any, out_at: int, out_row: int, add: bool
) -> None:
    """Put some rows and columns of a register tile at the edge of the result there, or add them."""
    for m in range(first, last):
        for j in range(columns):
            to = out_at + m * out_row + j
            out[to] = out[to] + edge[m * width + j] if add else edge[m * width + j]


@device_function
def multiply_panels(
    left: Any, left_at: int, left_top: int, left_row: int, left_step: int,
    panels: Any, panel: int, depth: int, near: int,
    out: Any, out_at: int, out_row: int, rows: int, columns: int, width: int, edge: Any, add: bool, far: bool,
) -> None:  # fmt: skip
    """Compute ``out[m, q] = Σ_k left[m, k] · right[k, q]`` over `depth` k, or add it to what is there.

    The left matrix has at least `HEIGHT` rows m; within a register tile they are `left_row` elements apart, and tiles
    begin at `left_top` elements a row. The right matrix is in `panels`, each of `panel` elements, its rows `width`
    apart; `near` of them fit the first cache. `edge` is a buffer for a register tile. Lines of a result that is `far`
    are fetched while they are computed.
    """
    tiles = (columns + width - 1) // width
    for first in range(0, tiles, near):
        for row in range(0, rows, HEIGHT):
            # The last tile of rows repeats some of the one before it.
            top = min(row, rows - HEIGHT)
            at = left_at + top * left_top
            for tile in range(first, min(first + near, tiles)):
                target = out_at + top * out_row + tile * width
                there = min(width, columns - tile * width)
                if top == row and there == width:
                    for m in range(HEIGHT if far and not add else 0):
                        expect_row(out, target + m * out_row, width)
                    _multiply_tile(left, at, left_row, left_step, panels, tile * panel, depth,
                                   out, target, out_row, width, add)  # fmt: skip
                else:
                    _multiply_tile(left, at, left_row, left_step, panels, tile * panel, depth,
                                   edge, 0, width, width, False)  # fmt: skip
                    _move_edge(edge, width, row - top, HEIGHT, there, out, target, out_row, add)


@device_function
def multiply_packed(
    left: Any, left_at: int, top: int, pitch: int, panels: Any, panel: int, depth: int, near: int,
    out: Any, out_at: int, out_row: int, rows: int, columns: int, width: int, edge: Any, add: bool, far: bool,
    source: Any, source_at: int, plane: int, planes_: int, once: int, asked: Any,
) -> None:  # fmt: skip
    """Compute what `multiply_panels` does from rows of a packed left matrix, from the row `top` on, of any number.

    It has blocks of as many rows as a vector has lanes or a tile rows, whichever is more, element after element, with
    room for `pitch` of each. Tiles fetch the lines of a source that `asked` names (see `fetching`), each those of
    `once` planes, `planes_` in all from `source_at` on.
    """
    step = max(width // COLUMNS, HEIGHT)
    tiles = (columns + width - 1) // width
    number = 0
    for first in range(0, tiles, near):
        for row in range(0, rows, HEIGHT):
            at = left_at + (top + row) // step * step * pitch + (top + row) % step
            for tile in range(first, min(first + near, tiles)):
                ahead = address_of(source, source_at + min(number, max(0, planes_ - once)) * plane)
                number += once
                target = out_at + row * out_row + tile * width
                there = min(width, columns - tile * width)
                if row + HEIGHT <= rows and there == width:
                    for m in range(HEIGHT if far and not add else 0):
                        expect_row(out, target + m * out_row, width)
                    packed_tile(depth, left, at, panels, tile * panel, out, target, out_row, add, ahead, asked)
                else:
                    packed_tile(depth, left, at, panels, tile * panel, edge, 0, width, False, ahead, asked)
                    _move_edge(edge, width, 0, min(HEIGHT, rows - row), there, out, target, out_row, add)


@device_function
def share_of(number: int, turns: int, elements: int, panels: Any) -> int:
    """Return how far from the first of so many elements to come the tile of that number fetches its share of them."""
    share = turns * (AHEAD * LINE // panels.itemsize)
    first: int = min(number * share, elements - share)
    return max(0, first)


@device_function
def multiply_blocks(
    p: Any, lanes: int, left: Any, left_at: int, left_step: int, rows: int, panels: Any, panels_at: int,
    out: Any, out_at: int, add: bool, begin: int, end: int, first: int, last: int, next_at: int,
) -> None:  # fmt: skip
    """Multiply rows that lie in blocks of a vector with panels, tile by tile; see `block_tile`.

    The record p tells a tile's shape, height and width, and the depth, run of a partial sum and columns of the panels.
    Only the panels of columns ``begin .. end - 1`` and the terms ``first .. last - 1`` count. Meanwhile what is
    multiplied next is fetched from a far cache; after the last panel, that is at `next_at`.
    """
    for c in range(begin, end, p.width):
        for k in range(first, last, p.run):
            run = min(p.run, last - k)
            at = panels_at + c * p.depth + k * p.width
            ahead = at + run * p.width
            if k + run == last:
                ahead = panels_at + (c + p.width) * p.depth + first * p.width if c + p.width < end else next_at
            for m in range(0, rows, p.height):
                block_tile(p.shape, run, left, left_at + k // lanes * left_step + m * lanes, left_step, panels, at,
                           out, out_at + m * p.columns + c, p.columns, add or k > first,
                           ahead + share_of(m // p.height, run // lanes, run * p.width, panels))  # fmt: skip
