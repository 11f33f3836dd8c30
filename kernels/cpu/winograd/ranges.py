"""The compiled units of the weight gradient where a core's cache holds all sums of a group.

A unit of `range_units` transforms some tens of tiles of x and of the gradient at a time, and adds their products to
sums of its own: neither tiles nor sums leave the core's caches. A unit of `kernel_units` adds up what the ranges have
summed, in their order, and transforms it. How many ranges there are depends on the problem alone, so bits do too.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdeconv.kernels.cpu.buffers import empty
from fastdeconv.kernels.cpu.jit import device_function, kernel
from fastdeconv.kernels.cpu.product_tiles import PRODUCT_SHAPES, channel_tile
from fastdeconv.kernels.cpu.rows import accumulate_rows, zero_row
from fastdeconv.kernels.cpu.winograd.sums import write_kernels
from fastdeconv.kernels.cpu.winograd.tiles import SIDE, transform_strip
from fastdeconv.kernels.cpu.winograd.weights import KERNELS, kernel_elements

HEIGHT = PRODUCT_SHAPES[0][0]  # rows of a register tile

RANGES = np.dtype(
    [
        ("shape", "i8"),  # of a register tile, in `PRODUCT_SHAPES`
        ("width", "i8"),  # columns of a panel
        ("rows", "i8"),  # input channels of a group, whole register tiles
        ("pitch", "i8"),  # columns of the sums, whole panels
        ("point_step", "i8"),
        ("sums", "i8"),  # elements of a range's sums of one group
        ("ranges", "i8"),
        ("strips", "i8"),  # of all images
        ("at_once", "i8"),  # strips of a chunk
        ("image", "i8"),  # strips of an image
        ("halo", "i8"),  # strips of x that a chunk of one image needs beyond its own, if it needs any
        ("gradient_at", "i8"),  # where tiles of the gradient begin in a unit's scratch memory
        ("room", "i8"),  # elements of that
    ]
)


@kernel("T[]", "T[]", "T[]", "T[]", RANGES, SIDE, SIDE, "int[]", "int[]", "int[]", "slot")
def range_units(
    lo: int, hi: int, x: Any, gy: Any, sums: Any, room: Any, layout: Any, x_side: Any, gy_side: Any,
    x_origins: Any, gy_origins: Any, pieces: Any, slot: int,
) -> None:  # fmt: skip
    """Sum one range of tiles for all kernels of one group.

    For each piece of the kernels `pieces` tells how many tiles its windows are from those of the gradient, and for each
    point whether its sums are needed.
    """
    p, left, right = layout[0], x_side[0], gy_side[0]
    lanes = left.lanes
    points = left.points[0] * left.points[1] * left.points[2]
    left_at, right_at = slot * p.room, slot * p.room + p.gradient_at
    size = max(left.span[1] * left.columns, right.span[1] * right.columns) * lanes
    rows = empty(max(left.elements[0], right.elements[0]) * size + lanes * lanes, x.dtype)
    mixed = empty(left.points[0] * size if left.transform[0] + right.transform[0] else 0, x.dtype)
    lines = empty(left.points[1] * max(left.columns, right.columns) * lanes, x.dtype)
    for unit in range(lo, hi):
        g, number = unit % left.groups, unit // left.groups
        begin, end = p.strips * number // p.ranges, p.strips * (number + 1) // p.ranges
        first = begin
        while first < end:
            some = min(p.at_once, end - first)
            # The first strip of x that is needed: chunks with a halo are of one image.
            of_x = first
            if p.halo:
                some = min(some, p.image - first % p.image)
                of_x += first // p.image * p.halo
            for strip in range(some + p.halo):
                for b in range(left.blocks):
                    transform_strip(left, x, room, left_at, strip, x_origins, g, b, of_x + strip,
                                    rows, mixed, lines)  # fmt: skip
            for strip in range(some):
                for b in range(right.blocks):
                    transform_strip(right, gy, room, right_at, strip, gy_origins, g, b, first + strip,
                                    rows, mixed, lines)  # fmt: skip
            # Between rows of tiles of the gradient there are some of x that it has none for.
            runs = 1 if left.width == right.width else some
            run = some * right.width // runs
            for piece in range(pieces.size // (1 + points)):
                shift = pieces[piece * (1 + points)]
                for point in range(points):
                    if not pieces[piece * (1 + points) + 1 + point]:
                        continue
                    to = unit * p.sums + (piece * points + point) * p.point_step
                    _add_products(p, left, right, room, left_at + point * left.point_step + shift * left.pack,
                                  right_at + point * right.point_step, runs, run, sums, to, first > begin)  # fmt: skip
            first += some


@device_function
def _add_products(
    p: Any, left: Any, right: Any, room: Any, left_at: int, right_at: int, runs: int, run: int,
    sums: Any, sums_at: int, add: bool,
) -> None:  # fmt: skip
    """Add the products of some runs of tiles at one point to the sums of all channels, or begin with them."""
    for c in range(0, p.pitch, p.width):
        for m in range(0, p.rows, HEIGHT):
            x_at = left_at + m // left.pack * left.pack_step + m % left.pack
            gy_at = right_at + c // p.width * right.pack_step
            for i in range(runs):
                channel_tile(p.shape, run, room, x_at + i * left.width * left.pack, room, gy_at + i * run * right.pack,
                             sums, sums_at + m * p.pitch + c, p.pitch, add or i > 0, gy_at)  # fmt: skip


@kernel("T[]", "T[]", RANGES, KERNELS, SIDE, SIDE, "int")
def kernel_units(
    lo: int, hi: int, sums: Any, out: Any, layout: Any, shape: Any, x_side: Any, gy_side: Any, adding: int
) -> None:
    """Compute the kernels of a register tile's rows of input channels of one group from the sums of all ranges."""
    p, w, left, right = layout[0], shape[0], x_side[0], gy_side[0]
    points = w.points[0] * w.points[1] * w.points[2]
    size = kernel_elements(w)
    planes, lines, kernels = empty(size, out.dtype), empty(size, out.dtype), empty(size, out.dtype)
    zeros = empty(w.lanes, out.dtype)
    zero_row(zeros, 0, w.lanes)
    blocks = p.rows // HEIGHT
    for unit in range(lo, hi):
        g, top = unit // blocks, unit % blocks * HEIGHT
        total = g * p.sums + top * p.pitch
        for number in range(1, p.ranges):
            part = (number * left.groups + g) * p.sums + top * p.pitch
            accumulate_rows(sums, total, p.point_step, sums, part, p.point_step, points * shape.size, HEIGHT * p.pitch)
        write_kernels(shape, sums, total, p.pitch, p.point_step, out, g * left.channels + top,
                      min(HEIGHT, left.channels - top), right.channels, 0, right.blocks, adding > 0,
                      planes, lines, kernels, zeros)  # fmt: skip
