"""The compiled units of the forward pass and the input gradient: products between transforms.

`product_units` read tiles that all threads have transformed together (`tiles.tile_units`), one unit for each block of
channels of the result. A unit of `chunk_units` transforms the tiles of a chunk itself and computes all channels from
them, so that neither they nor their products leave a core's caches; weights are transformed beforehand, by
`store_units`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdeconv.kernels.cpu.buffers import empty
from fastdeconv.kernels.cpu.jit import device_function, kernel
from fastdeconv.kernels.cpu.panels import multiply_blocks
from fastdeconv.kernels.cpu.rows import zero_row
from fastdeconv.kernels.cpu.winograd.results import mark, transform_back, zero_pixels
from fastdeconv.kernels.cpu.winograd.tiles import SIDE, place, transform_strip
from fastdeconv.kernels.cpu.winograd.weights import KERNELS, kernel_elements, transform_kernels

BLOCK = np.dtype(
    [
        ("shape", "i8"),  # of a register tile, in `BLOCK_SHAPES`
        ("height", "i8"),  # its tiles
        ("width", "i8"),  # its columns, those of a panel
        ("block", "i8"),  # vectors of channels of a unit
        ("blocks", "i8"),  # units beside each other
        ("parts", "i8"),  # of a block's weights, for threads
        ("columns", "i8"),  # of a unit, whole panels
        ("depth", "i8"),  # channels that are summed over, of one group, with their phases and padding
        ("run", "i8"),  # of those that a partial sum adds
        ("at_once", "i8"),  # strips that are multiplied before their products are transformed
        ("pitch", "i8"),  # elements of a unit's weights of one point
        ("point_step", "i8"),  # elements of a unit's products of one point
        ("products_at", "i8"),  # where products begin in a unit's scratch memory
        ("room", "i8"),  # elements of scratch memory of a unit
        ("image", "i8"),  # strips of an image
        ("chunks", "i8"),  # of an image, 0 if they hold whole ones
        ("apart", "i8"),  # chunks from one of a launch to the next
        ("halo", "i8"),  # strips of the source that a chunk needs beyond its own
    ]
)


@kernel("T[]", "T[]", BLOCK, KERNELS)
def store_units(lo: int, hi: int, weight: Any, stored: Any, layout: Any, shape: Any) -> None:
    """Transform a part of the weights of one block of output channels of one group for all runs to come."""
    p, w = layout[0], shape[0]
    size = kernel_elements(w)
    kernels, planes, rows = empty(size, weight.dtype), empty(size, weight.dtype), empty(size, weight.dtype)
    for unit in range(lo, hi):
        block, part = unit // p.parts, unit % p.parts
        g, first = block // p.blocks, block % p.blocks * p.block
        at = block * w.points[0] * w.points[1] * w.points[2] * p.pitch
        for piece in range(shape.size):
            transform_kernels(shape[piece], weight, g, first, p.block, part, p.parts, stored,
                              at + piece * p.depth * p.columns, p.depth, p.width, p.pitch,
                              kernels, planes, rows)  # fmt: skip


@device_function
def multiply(
    p: Any, q: Any, points: int, pieces: Any, tiles: Any, tiles_at: int, rows: int, kernels: Any, kernels_at: int,
    products: Any, products_at: int,
) -> None:  # fmt: skip
    """Multiply some tiles with the weights of one unit, point after point; with several pieces their neighbours too.

    For each piece `pieces` tells how far these are and, for each point, which columns and terms are not zero: four
    numbers.
    """
    each = 1 + 4 * points
    for point in range(points):
        at = products_at + point * p.point_step
        add = False
        for piece in range(pieces.size // each):
            of = piece * each + 1 + 4 * point
            begin, end = pieces[of], pieces[of + 1]
            if begin == end:
                continue
            if not add and end - begin < p.columns:
                for m in range(rows):
                    zero_row(products, at + m * p.columns, begin)
                    zero_row(products, at + m * p.columns + end, p.columns - end)
            packed = kernels_at + point * p.pitch + piece * p.depth * p.columns
            last = (piece + 1) * each == pieces.size
            multiply_blocks(p, q.lanes, tiles, tiles_at + point * q.point_step + pieces[piece * each], q.pack_step,
                            rows, kernels, packed, products, at, add, begin, end, pieces[of + 2], pieces[of + 3],
                            kernels_at + (point + 1) * p.pitch if last else packed + p.depth * p.columns)  # fmt: skip
            add = True
        if not add:
            zero_row(products, at, rows * p.columns)


@device_function
def write_products(
    p: Any, t: Any, width: int, products: Any, products_at: int, first: int, some: int, g: int, block: int, many: int,
    out: Any, origins: Any, extra: Any, add: bool, lines: Any, mixed: Any, rows: Any, row_marks: Any, column_marks: Any,
) -> None:  # fmt: skip
    """Transform the products of some strips, from the first on, back to `many` blocks of channels of the result."""
    marked = -1
    for strip in range(some):
        n, at0, at1, at2, tiles = place(t, first + strip)
        mark(t, 1, origins, at1, 1, 1, row_marks)
        if at2 != marked:
            mark(t, 2, origins, at2, tiles, t.lattices[2], column_marks)
            marked = at2
        for b in range(many):
            at = products_at + strip * width * p.columns + b * t.lanes
            transform_back(t, products, at, p.point_step, p.columns, n, at0, at1, at2, tiles, g, block + b,
                           out, origins, extra, b * t.lanes, add,
                           lines, mixed, rows, row_marks, column_marks)  # fmt: skip


@kernel(
    "T[]",
    "T[]",
    "T[]",
    "T[]",
    "T[]",
    "T[]",
    BLOCK,
    KERNELS,
    SIDE,
    SIDE,
    "int[]",
    "int[]",
    "int",
    "int",
    "int",
    "int",
    "slot",
)
def product_units(
    lo: int, hi: int, source: Any, weight: Any, stored: Any, bias: Any, out: Any, room: Any, layout: Any, shape: Any,
    source_side: Any, target_side: Any, origins: Any, pieces: Any, first_strip: int, count: int, splits: int,
    adding: int, slot: int,
) -> None:  # fmt: skip
    """Compute one block of channels of one group for one of `splits` ranges of `count` strips.

    Weights are taken from `stored`, where `store_units` put them, if it is not empty.
    `adding` is 0 in the forward pass; in the input gradient 1, and 2 for the first to add.
    """
    p, w, q, t = layout[0], shape[0], source_side[0], target_side[0]
    lanes = t.lanes
    points = t.points[0] * t.points[1] * t.points[2]
    # What a call leaves in memory it touches again in the next one: fresh pages would cost more than the products.
    left_at = slot * p.room
    products_at = left_at + (0 if stored.size else p.products_at)
    kernels = stored if stored.size else room
    pitch = t.columns * lanes
    lines = empty(t.points[0] * t.points[1] * pitch, out.dtype)
    rows = empty(max(t.elements[0], t.points[0]) * t.span[1] * pitch + lanes * lanes, out.dtype)
    mixed = empty(t.points[0] * t.span[1] * pitch if t.transform[0] else 0, out.dtype)
    row_marks, column_marks = empty(t.span[1], np.int64), empty(t.columns, np.int64)
    size = kernel_elements(w)
    taps, tap_planes, tap_rows = empty(size, out.dtype), empty(size, out.dtype), empty(size, out.dtype)
    extra = empty(t.blocks * lanes, out.dtype)
    zero_row(extra, 0, t.blocks * lanes)
    for unit in range(lo, hi):
        # The range that is slowest is the one that the same thread has just transformed.
        split, rest = unit // (t.groups * p.blocks), unit % (t.groups * p.blocks)
        g, first = rest // p.blocks, rest % p.blocks * p.block
        begin, end = count * split // splits, count * (split + 1) // splits
        many = min(p.block, t.blocks - first)
        channels = min(many * lanes, t.channels - first * lanes)
        channel = g * t.channels + first * lanes
        if stored.size:
            left_at = rest * points * p.pitch
        else:
            transform_kernels(w, weight, g, first, p.block, 0, 1, room, left_at, p.depth, p.width, p.pitch,
                              taps, tap_planes, tap_rows)  # fmt: skip
        if bias.size:
            for c in range(channels):
                extra[c] = bias[channel + c]
        if adding == 2:  # the first to add, to the images that begin here
            for n in range(-(-(first_strip + begin) // p.image), -(-(first_strip + end) // p.image)):
                zero_pixels(t, out, n, channel, channels, 0, t.size[0] * t.size[1] * t.size[2])
        start = begin
        while start < end:
            number = start % p.at_once
            some = min(p.at_once - number, end - start)
            at = g * q.group_step + start // p.at_once * q.run_step + number * q.width * lanes
            multiply(p, q, points, pieces, source, at, some * q.width, kernels, left_at, room, products_at)
            write_products(p, t, q.width, room, products_at, first_strip + start, some, g, first, many,
                           out, origins, extra, adding > 0, lines, mixed, rows, row_marks, column_marks)  # fmt: skip
            start += some


@device_function
def _zero_from(p: Any, t: Any, n: int, g: int, chunk: int, out: Any) -> None:
    """Zero the rows of an image that a chunk and the next one add to, and those beyond its lattices."""
    step, width = t.stride[1], t.size[2]
    tile, stop = chunk * p.at_once // t.strips, min((chunk + 2) * p.at_once, p.image) // t.strips
    while tile < stop:
        first = t.first[1] + tile // t.tiles[1] * t.shift[1]
        top = tile % t.tiles[1]
        tiles = min(t.tiles[1] - top, stop - tile)
        begin = first + top * t.hop[1]
        if top == 0 or begin < 0:
            begin = first % step
        end = min(t.size[1], first + (top + tiles) * t.hop[1]) if top + tiles < t.tiles[1] else t.size[1]
        if step == 1:
            zero_pixels(t, out, n, g * t.channels, t.channels, begin * width, max(0, end - begin) * width)
        else:
            for row in range(begin, end, step):
                zero_pixels(t, out, n, g * t.channels, t.channels, row * width, width)
        tile += tiles


@kernel("T[]", "T[]", "T[]", "T[]", "T[]", BLOCK, SIDE, SIDE, "int[]", "int[]", "int[]", "int", "int", "int", "slot")
def chunk_units(
    lo: int, hi: int, source: Any, stored: Any, bias: Any, out: Any, room: Any, layout: Any,
    source_side: Any, target_side: Any, source_origins: Any, origins: Any, pieces: Any, strips: int, adding: int,
    odd: int, slot: int,
) -> None:  # fmt: skip
    """Compute all channels of one group for a chunk of `at_once` strips, whose tiles no other unit needs.

    `adding` as in `product_units`. Chunks of one image add to some rows of their neighbours: those of odd number are
    computed in a launch of their own, after the others, which zero all rows.
    """
    p, q, t = layout[0], source_side[0], target_side[0]
    lanes = t.lanes
    points = t.points[0] * t.points[1] * t.points[2]
    tiles_at = slot * p.room
    products_at = tiles_at + p.products_at
    size = max(t.span[1] * t.columns, q.span[1] * q.columns) * lanes
    lines = empty(t.points[0] * t.points[1] * max(t.columns, q.columns) * lanes, out.dtype)
    rows = empty(max(t.elements[0], t.points[0]) * size + lanes * lanes, out.dtype)
    mixed = empty(t.points[0] * size if t.transform[0] + q.transform[0] else 0, out.dtype)
    row_marks, column_marks = empty(t.span[1], np.int64), empty(t.columns, np.int64)
    extra = empty(p.block * lanes, out.dtype)
    zero_row(extra, 0, p.block * lanes)
    for unit in range(lo, hi):
        g, chunk = unit % t.groups, unit // t.groups
        start, end = chunk * p.at_once, strips
        first_strip = start
        if p.chunks:
            launched = (p.chunks + p.apart - 1 - odd) // p.apart
            n, chunk = chunk // launched, chunk % launched * p.apart + odd
            start, end = n * p.image + chunk * p.at_once, (n + 1) * p.image
            first_strip = start + n * p.halo
            if adding == 2:
                _zero_from(p, t, n, g, chunk, out)
        some = min(p.at_once, end - start)
        for strip in range(some + p.halo):
            for b in range(q.blocks):
                transform_strip(q, source, room, tiles_at, strip, source_origins, g, b, first_strip + strip,
                                rows, mixed, lines)  # fmt: skip
        if adding == 2 and not p.chunks:
            for n in range(-(-start // p.image), -(-(start + some) // p.image)):
                zero_pixels(t, out, n, g * t.channels, t.channels, 0, t.size[0] * t.size[1] * t.size[2])
        for block in range(p.blocks):
            first = block * p.block
            many = min(p.block, t.blocks - first)
            if bias.size:
                channel = g * t.channels + first * lanes
                for c in range(min(many * lanes, t.channels - first * lanes)):
                    extra[c] = bias[channel + c]
            kernels_at = (g * p.blocks + block) * points * p.pitch
            multiply(p, q, points, pieces, room, tiles_at, some * q.width, stored, kernels_at, room, products_at)
            write_products(p, t, q.width, room, products_at, start, some, g, first, many,
                           out, origins, extra, adding > 0, lines, mixed, rows, row_marks, column_marks)  # fmt: skip
