"""From arrays to transformed tiles: what the products of all three passes read.

Tiles are cut into strips: those that follow one another along a row. A unit of work reads the rows under a strip for
one block of channels, as many as a vector has lanes, turns them to columns (`..columns`), and transforms vectors: one
lane is one channel. Nothing depends on how tiles lie, or on whether channels are first or last in memory, but where
columns are read.

Transformed tiles lie as (group, run of strips, point, pack of channels, tile, channel of the pack). Channels are padded
with zeros to whole blocks; where tiles have phases, those of a block follow one another, (block, phase, lane), or the
blocks of a phase do.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.kernels.cpu import host
from fastdeconv.kernels.cpu.buffers import empty
from fastdeconv.kernels.cpu.columns import read_pixels, to_columns
from fastdeconv.kernels.cpu.frame import Ints, ints
from fastdeconv.kernels.cpu.jit import device_function, kernel
from fastdeconv.kernels.cpu.rows import zero_row
from fastdeconv.kernels.cpu.winograd.axes import Group
from fastdeconv.kernels.cpu.winograd.transforms import combine
from fastdeconv.kernels.geometry import Geometry, Run

SIDE = np.dtype(
    [
        ("lanes", "i8"),
        ("batch", "i8"),
        ("groups", "i8"),
        ("channels", "i8"),  # of one group
        ("blocks", "i8"),  # of those
        ("size", "i8", (3,)),  # of the array
        ("image", "i8"),  # elements from one image to the next
        ("channel", "i8"),  # from one channel to the next; 1 if these are last in memory
        ("pixel", "i8"),  # from one pixel to the next; 1 if channels come before them
        ("phases", "i8", (3,)),
        ("tiles", "i8", (3,)),  # of one image
        ("wide", "i8"),  # tiles of a strip in each lattice of the last axis
        ("next", "i8"),  # tiles from one strip of a row to the next, in each lattice
        ("width", "i8"),  # tiles of a strip
        ("strips", "i8"),  # of a row of tiles
        ("elements", "i8", (3,)),  # of a tile in the array
        ("points", "i8", (3,)),
        ("transform", "i8", (3,)),
        ("stride", "i8", (3,)),  # from one element of a tile to the next
        ("hop", "i8", (3,)),  # from one tile to the next
        ("lattices", "i8", (3,)),
        ("shift", "i8", (3,)),  # from one lattice to the next
        ("table", "i8", (3,)),  # where the origins of each axis start
        ("first", "i8", (3,)),  # origin of the phase that comes first
        ("span", "i8", (3,)),  # elements under the tiles of all phases that begin together
        ("columns", "i8"),  # elements under a strip
        ("block_step", "i8"),  # vectors from one block to the next
        ("phase_step", "i8"),  # and from one phase to the next
        ("pack", "i8"),  # channels of a pack, phases included
        ("pack_step", "i8"),
        ("point_step", "i8"),
        ("run", "i8"),  # strips whose tiles lie side by side
        ("run_step", "i8"),
        ("group_step", "i8"),
    ]
)

# Columns under a strip, at most, so that the rows under it stay in the second-level cache.
_COLUMNS = 512

# Enough units to share among threads.
_UNITS = 16


def side(
    g: Geometry, group: Group, output: bool, which: dict[int, int], wide: int = 0
) -> tuple[NDArray[np.void], Ints]:
    """Describe how tiles of a group lie in the input or the output, and where the first tile of each phase begins.

    `which` tells the transform by the number of taps, `wide` the tiles of a strip in each lattice, if they are not to
    be chosen. How transformed tiles lie is the caller's to fill in.
    """
    layout = np.zeros(1, SIDE)
    size = g.output if output else g.input
    origins: list[int] = []
    for axis, segment in enumerate(group):
        stride = (g.output[axis] if g.input[axis] == 1 else g.stride[axis]) if output else 1
        starts = [stride * p.start + p.residue for p in segment.phases] if output else [segment.first]
        elements = segment.outputs if output else segment.points
        for name, number in {
            "table": len(origins), "phases": len(starts), "tiles": segment.tiles, "elements": elements,
            "points": segment.points, "transform": which[segment.taps], "stride": stride * segment.spread,
            "hop": stride * segment.spread * segment.outputs, "lattices": segment.spread, "shift": stride,
            "first": min(starts), "span": max(starts) - min(starts) + stride * segment.spread * (elements - 1) + 1,
        }.items():  # fmt: skip
            layout[name][0, axis] = number
        origins += starts
    tiles, lattices = group[2].tiles, group[2].spread
    hop, shift, span = (int(layout[name][0, 2]) for name in ("hop", "shift", "span"))
    span += shift * (lattices - 1)
    if not wide:
        strips = -(-tiles // max(1, (_COLUMNS - span) // hop + 1))
        wide = -(-tiles // strips)
    channels, lanes = g.group_out if output else g.group_in, host.lanes(g.dtype)
    pixels = math.prod(size)
    for name, value in {
        "lanes": lanes, "batch": g.batch, "groups": g.groups, "channels": channels, "blocks": -(-channels // lanes),
        "size": size, "image": g.groups * channels * pixels, "channel": 1 if g.channels_last else pixels,
        "pixel": g.groups * channels if g.channels_last else 1, "wide": wide, "next": wide, "width": wide * lattices,
        "strips": -(-tiles // wide), "columns": span + hop * (wide - 1),
        "block_step": math.prod(len(s.phases) for s in group) if output else 1, "phase_step": 1,
    }.items():  # fmt: skip
        layout[name] = value
    return layout, ints(origins)


def widen(layout: NDArray[np.void], beyond: list[int]) -> None:
    """Have strips reach so many tiles further on each axis, and images so many rows of tiles."""
    layout["tiles"][0, 1:] += beyond[1:]
    layout["wide"] += beyond[2]
    layout["width"] += beyond[2]
    layout["columns"] += beyond[2] * layout["hop"][0, 2]


def lay_out(layout: NDArray[np.void], strips: int, pack: int, run: int = 0) -> int:
    """Fill in how transformed tiles of so many strips lie, and return their elements.

    `pack` is the channels of a pack, phases included. `run` strips lie side by side, or all if it is 0.
    """
    run = run or strips
    lanes, width = int(layout["lanes"][0]), int(layout["width"][0])
    layout["pack"], layout["run"] = pack, run
    # Packs and points apart by a power of two would share cache sets.
    layout["pack_step"] = run * width * pack + (lanes if run * width % 8 == 0 else 0)
    layout["point_step"] = -(-depth(layout) // pack) * layout["pack_step"] + 5 * lanes
    layout["run_step"] = math.prod(layout["points"][0].tolist()) * layout["point_step"]
    layout["group_step"] = -(-strips // run) * layout["run_step"]
    return int(layout["groups"][0] * layout["group_step"][0])


def depth(layout: NDArray[np.void]) -> int:
    """Return the channels of one group, padded to whole vectors, with their phases."""
    return int(layout["blocks"][0] * layout["lanes"][0]) * math.prod(map(int, layout["phases"][0]))


def all_strips(layout: NDArray[np.void]) -> int:
    """Return the strips of a whole batch."""
    lines = math.prod(map(int, (*layout["tiles"][0, :2], *layout["lattices"][0, :2])))
    return int(layout["batch"][0] * layout["strips"][0]) * lines


@device_function
def place(p: Any, strip: int) -> tuple[int, int, int, int, int]:
    """Return the image of a strip, how far on each axis it is from the first tile, and its tiles in a lattice."""
    t2 = strip % p.strips * p.next
    rest = strip // p.strips
    at1 = rest % p.tiles[1] * p.hop[1]
    rest //= p.tiles[1]
    at1 += rest % p.lattices[1] * p.shift[1]
    rest //= p.lattices[1]
    at0 = rest % p.tiles[0] * p.hop[0]
    rest //= p.tiles[0]
    at0 += rest % p.lattices[0] * p.shift[0]
    n: int = rest // p.lattices[0]
    return n, at0, at1, t2 * p.hop[2], min(p.wide, p.tiles[2] - t2)


@device_function
def read_rows(
    p: Any, array: Any, base: int, block: int, slice_: int, row: int, column: int, begin: int, end: int,
    target: Any, at: int,
) -> None:  # fmt: skip
    """Turn the columns ``begin .. end - 1`` of the rows under a strip to vectors, those outside the array to zeros.

    `base` is the element of a block of channels in the image's first pixel.
    """
    channels = min(p.lanes, p.channels - block * p.lanes)
    height, width, pitch = p.span[1], p.size[2], (end - begin) * p.lanes
    if slice_ < 0 or slice_ >= p.size[0] or pitch <= 0:
        zero_row(target, at, height * max(0, pitch))
        return
    top, bottom = min(max(0, -row), height), max(0, min(height, p.size[1] - row))
    whole = end - begin == width  # one run of whole rows
    run = (bottom - top) * width if whole else end - begin
    for i in range(top, top + 1 if whole else bottom):
        start = base + ((slice_ * p.size[1] + row + i) * width + begin) * p.pixel
        if p.channel == 1:
            # The next strip's rows, in the order of memory: each block asks for its share.
            ahead = start + p.hop[1] * width * p.pixel + block * (run - 1) * p.lanes
            read_pixels(target, at + i * pitch, array, start, p.pixel, channels, run, ahead)
        else:
            to_columns(target, at + i * pitch, p.lanes, array, start, p.channel, channels, run)
    zero_row(target, at, top * pitch)
    zero_row(target, at + max(top, bottom) * pitch, (height - max(top, bottom)) * pitch)


@device_function
def transform_strip(
    p: Any, array: Any, tiles: Any, base: int, number: int, origins: Any, g: int, b: int, strip: int,
    rows: Any, mixed: Any, lines: Any,
) -> None:  # fmt: skip
    """Transform one block of channels in one strip, whose `number` is its place in a run of tiles from `base` on.

    The last three are buffers.
    """
    lanes = p.lanes
    points0, points1, points2 = p.points[0], p.points[1], p.points[2]
    pitch = p.columns * lanes
    n, at0, at1, at2, count = place(p, strip)
    column = p.first[2] + at2
    begin = min(max(0, column), p.size[2])
    end = max(begin, min(p.size[2], column + p.columns))
    inside, size = (end - begin) * lanes, p.span[1] * (end - begin) * lanes
    left = (begin - column) * lanes if end > begin else pitch
    first = n * p.image + (g * p.channels + b * lanes) * p.channel
    for line in range(points1):
        zero_row(lines, line * pitch, left)
        zero_row(lines, line * pitch + left + inside, pitch - left - inside)
    for f0 in range(p.phases[0]):
        for e0 in range(p.elements[0]):
            i0 = origins[p.table[0] + f0] + at0 + e0 * p.stride[0]
            read_rows(p, array, first, b, i0, p.first[1] + at1, column, begin, end,
                      rows, e0 * size)  # fmt: skip
        source = rows
        if p.transform[0]:
            combine(p.transform[0], rows, 0, size, lanes, mixed, 0, size, lanes, size // lanes)
            source = mixed
        for p0 in range(points0):
            for f1 in range(p.phases[1]):
                row = origins[p.table[1] + f1] - p.first[1]
                combine(p.transform[1], source, p0 * size + row * inside, p.stride[1] * inside, lanes,
                        lines, left, pitch, lanes, end - begin)  # fmt: skip
                for f2 in range(p.phases[2]):
                    f = (f0 * p.phases[1] + f1) * p.phases[2] + f2
                    k = (b * p.block_step + f * p.phase_step) * lanes
                    at = (base + p0 * points1 * points2 * p.point_step
                          + k // p.pack * p.pack_step + k % p.pack + number * p.width * p.pack)  # fmt: skip
                    start = (origins[p.table[2] + f2] - p.first[2]) * lanes
                    for p1 in range(points1):
                        for c in range(p.lattices[2]):
                            of = p1 * pitch + start + c * p.shift[2] * lanes
                            to = at + p1 * points2 * p.point_step + c * p.wide * p.pack
                            combine(p.transform[2], lines, of, p.stride[2] * lanes, p.hop[2] * lanes,
                                    tiles, to, p.point_step, p.pack, count)  # fmt: skip
                            for t in range(count, p.wide):
                                for p2 in range(points2):
                                    zero_row(tiles, to + p2 * p.point_step + t * p.pack, lanes)


@kernel("T[]", "T[]", SIDE, "int[]", "int", "int", "int")
def tile_units(
    lo: int, hi: int, array: Any, tiles: Any, layout: Any, origins: Any, first: int, strips: int, ranges: int
) -> None:
    """Transform one block of channels of one group in one range of some strips, counted from the first."""
    p = layout[0]
    lanes = p.lanes
    pitch = p.columns * lanes
    slice_size = p.span[1] * pitch
    # A block of columns may end after the last one; zeros that follow are written later.
    rows = empty(p.elements[0] * slice_size + lanes * lanes, array.dtype)
    mixed = empty(p.points[0] * slice_size if p.transform[0] else 0, array.dtype)
    lines = empty(p.points[1] * pitch, array.dtype)
    for unit in range(lo, hi):
        part, rest = unit // (p.groups * p.blocks), unit % (p.groups * p.blocks)
        g, b = rest // p.blocks, rest % p.blocks
        # Strip after strip of the same planes, so that what is read next is known early.
        for strip in range(strips * part // ranges, strips * (part + 1) // ranges):
            at = g * p.group_step + strip // p.run * p.run_step
            transform_strip(p, array, tiles, at, strip % p.run, origins, g, b, first + strip, rows, mixed, lines)


def filler(layout: NDArray[np.void], dtype: str, strips: int, ranges: int = 0) -> Run:
    """Return what transforms so many strips, in so many ranges; 0 for as few as give threads enough to do."""
    blocks = int(layout["groups"][0] * layout["blocks"][0])
    ranges = ranges or min(strips, -(-_UNITS // blocks))
    points = math.prod(layout["points"][0].tolist())
    work = 8 * points * int(layout["groups"][0]) * depth(layout) * strips * int(layout["width"][0])
    fill = tile_units.launcher(dtype, blocks * ranges, work)

    def run(array: Any, tiles: Any, origins: Any, first: int) -> None:
        fill(array, tiles, layout, origins, first, strips, ranges)

    return run


def private(itemsize: int, *sides: NDArray[np.void]) -> int:
    """Return the bytes that each thread needs to transform tiles of these sides, or products back to them."""
    layouts = [side[0] for side in sides]
    slices = max(int(max(p["elements"][0], p["points"][0]) + p["points"][0]) for p in layouts)
    size = max(int(p["span"][1]) * int(p["columns"]) for p in layouts)
    lines = max(int(p["points"][0] * p["points"][1]) * int(p["columns"]) for p in layouts)
    lanes = int(layouts[0]["lanes"])
    return itemsize * lanes * (slices * size + lines + lanes)
