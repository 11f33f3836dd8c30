"""From arrays to transformed panels: what the products of all three passes read.

A panel holds `width` tiles side by side, one a vector lane. For each point of the transform it is a matrix of rows
(phase, channel) × tiles. Which element of the array a tile reads or writes is the sum of an offset on each axis, from
tables of (phase, tile, element).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.kernels.cpu.buffers import empty
from fastdeconv.kernels.cpu.frame import Ints, ints
from fastdeconv.kernels.cpu.jit import Kernel, device_function, kernel
from fastdeconv.kernels.cpu.rows import gather
from fastdeconv.kernels.cpu.winograd.axes import Group
from fastdeconv.kernels.cpu.winograd.transforms import combine
from fastdeconv.kernels.geometry import Geometry, Run

SIDE = np.dtype(
    [
        ("groups", "i8"),
        ("channels", "i8"),  # of one group
        ("block", "i8"),  # of those whose phases lie together
        ("phases", "i8", (3,)),
        ("tiles", "i8", (3,)),  # of one image
        ("batch", "i8"),
        ("elements", "i8", (3,)),  # of a tile in the array
        ("points", "i8", (3,)),
        ("transform", "i8", (3,)),
        ("table", "i8", (3,)),  # where the offsets of each axis start
        ("plane", "i8"),  # elements of a channel of the array
        ("width", "i8"),
        ("vectors", "i8"),  # of a row
        ("group_step", "i8"),  # elements of the panels of a group, of a point, a panel and a row
        ("point_step", "i8"),
        ("panel_step", "i8"),
        ("row_step", "i8"),
    ]
)

# What no sum of offsets makes positive again.
_NOWHERE = -(1 << 60)
# Enough units to share among threads.
_UNITS = 8


def side(
    g: Geometry, group: Group, output: bool, which: dict[int, int], width: int, lanes: int
) -> tuple[NDArray[np.void], Ints]:
    """Describe how tiles of a group lie in the input or the output, and the offsets of their elements.

    `which` tells the transform by the number of taps. The steps of the panels are the caller's to fill in.
    """
    layout = np.zeros(1, SIDE)
    size = g.output if output else g.input
    tables: list[int] = []
    for axis, segment in enumerate(group):
        step = math.prod(size[axis + 1 :])
        elements = segment.outputs if output else segment.points
        starts = [(p.start, p.residue) for p in segment.phases] if output else [(segment.first, 0)]
        stride = g.output[axis] if g.input[axis] == 1 else g.stride[axis]
        layout["table"][0, axis] = len(tables)
        for start, residue in starts:
            for i in range(start, start + segment.outputs * segment.tiles, segment.outputs):
                for e in range(i, i + elements):
                    at = stride * e + residue if output else e
                    tables.append(at * step if 0 <= at < size[axis] else _NOWHERE)
        layout["phases"][0, axis] = len(starts)
        layout["tiles"][0, axis] = segment.tiles
        layout["elements"][0, axis] = elements
        layout["points"][0, axis] = segment.points
        layout["transform"][0, axis] = which[segment.taps]
    layout["groups"], layout["batch"], layout["plane"] = g.groups, g.batch, math.prod(size)
    layout["channels"] = layout["block"] = g.group_out if output else g.group_in
    layout["width"], layout["vectors"] = width, width // lanes
    return layout, ints(tables)


@device_function
def places(table: Any, p: Any, offsets: Any, panel: int) -> None:
    """Fill ``table[phase, element, tile]`` with offsets from a channel's plane of the first image; -1 is nowhere."""
    width = p.width
    phases0, phases1, phases2 = p.phases[0], p.phases[1], p.phases[2]
    tiles0, tiles1, tiles2 = p.tiles[0], p.tiles[1], p.tiles[2]
    elements0, elements1, elements2 = p.elements[0], p.elements[1], p.elements[2]
    image = p.groups * p.channels * p.plane
    tile = panel * width
    t2 = tile % tiles2
    rest = tile // tiles2
    t1 = rest % tiles1
    rest //= tiles1
    t0, n = rest % tiles0, rest // tiles0
    for lane in range(width):
        base = n * image if n < p.batch else _NOWHERE
        at = lane
        for f0 in range(phases0):
            start0 = p.table[0] + (f0 * tiles0 + t0) * elements0
            for f1 in range(phases1):
                start1 = p.table[1] + (f1 * tiles1 + t1) * elements1
                for f2 in range(phases2):
                    start2 = p.table[2] + (f2 * tiles2 + t2) * elements2
                    for e0 in range(elements0):
                        for e1 in range(elements1):
                            outer = base + offsets[start0 + e0] + offsets[start1 + e1]
                            for e2 in range(elements2):
                                table[at] = max(outer + offsets[start2 + e2], -1)
                                at += width
        t2 += 1
        if t2 == tiles2:
            t2 = 0
            t1 += 1
            if t1 == tiles1:
                t1 = 0
                t0 += 1
                if t0 == tiles0:
                    t0 = 0
                    n += 1


@device_function
def largest(p: Any) -> int:
    """Return the rows of the largest tile between elements and points."""
    size = 1
    for axis in range(3):
        size *= max(p.elements[axis], p.points[axis])
    return size


@device_function
def transform(
    which: Any, before: Any, after: Any, vectors: int, width: int,
    source: Any, source_at: int, source_step: int, target: Any, target_at: int, target_step: int,
    scratch: Any, half: int,
) -> None:  # fmt: skip
    """Transform a tile of ``before[0] × before[1] × before[2]`` rows along each axis to ``after[...]`` rows.

    Rows are `width` elements, `source_step` or `target_step` apart; scratch has twice `half` elements.
    """
    n1, n2 = before[1], before[2]
    now, at, step = source, source_at, source_step
    free = 0
    if which[0]:
        for j in range(n1 * n2):
            combine(which[0], now, at + j * step, n1 * n2 * step,
                    scratch, free + j * width, n1 * n2 * width, vectors)  # fmt: skip
        now, at, step, free = scratch, free, width, half - free
    if which[1]:
        for i in range(after[0]):
            for j in range(n2):
                combine(which[1], now, at + (i * n1 * n2 + j) * step, n2 * step,
                        scratch, free + (i * after[1] * n2 + j) * width, n2 * width, vectors)  # fmt: skip
        now, at, step, free = scratch, free, width, half - free
    for i in range(after[0] * after[1]):
        combine(which[2], now, at + i * n2 * step, step,
                target, target_at + i * after[2] * target_step, target_step, vectors)  # fmt: skip


@device_function
def gather_transformed(
    which: Any, before: Any, after: Any, vectors: int, width: int,
    array: Any, array_at: int, table: Any, table_at: int, target: Any, target_at: int, target_step: int,
    tile: Any, scratch: Any, half: int,
) -> None:  # fmt: skip
    """Transform a tile whose elements a table places in an array; see `transform`."""
    elements = before[0] * before[1] * before[2]
    if which[0] or which[1] or which[2]:
        gather(tile, 0, array, array_at, table, table_at, elements * width)
        transform(which, before, after, vectors, width, tile, 0, width, target, target_at, target_step, scratch, half)
    else:
        gather(target, target_at, array, array_at, table, table_at, width)


@kernel("T[]", "T[]", SIDE, "int[]", "int", "int")
def transform_units(
    lo: int, hi: int, array: Any, panels: Any, layout: Any, offsets: Any, first_panel: int, chunks: int
) -> None:
    """Transform one of `chunks` ranges of rows of one group in one panel."""
    p = layout[0]
    width = p.width
    elements = p.elements[0] * p.elements[1] * p.elements[2]
    phases = p.phases[0] * p.phases[1] * p.phases[2]
    rows = phases * p.channels
    half = largest(p) * width
    scratch = empty(2 * half, array.dtype)
    tile = empty(elements * width, array.dtype)
    table = empty(phases * elements * width, np.int64)
    built = -1
    for unit in range(lo, hi):
        chunk = unit % chunks
        rest = unit // chunks
        g, panel = rest % p.groups, rest // p.groups
        if panel != built:
            places(table, p, offsets, first_panel + panel)
            built = panel
        for row in range(rows * chunk // chunks, rows * (chunk + 1) // chunks):
            f, c = row // p.channels, row % p.channels
            gather_transformed(p.transform, p.elements, p.points, p.vectors, width,
                               array, (g * p.channels + c) * p.plane, table, f * elements * width, panels,
                               g * p.group_step + panel * p.panel_step + row * p.row_step, p.point_step,
                               tile, scratch, half)  # fmt: skip


def filler(kernel: Kernel, dtype: str, layout: NDArray[np.void], offsets: Ints, count: int) -> Run:
    """Return ``fill(array, panels, first)``, which transforms `count` panels from the first one on with a kernel."""
    groups, channels = int(layout["groups"][0]), int(layout["channels"][0])
    rows = math.prod(layout["phases"][0].tolist()) * channels
    points = math.prod(layout["points"][0].tolist())
    chunks = max(1, min(rows, -(-_UNITS // (count * groups))))
    work = 8 * groups * rows * count * points * int(layout["width"][0])
    launch = kernel.launcher(dtype, count * groups * chunks, work)

    def fill(array: NDArray[Any], panels: NDArray[Any], first: int) -> None:
        launch(array, panels, layout, offsets, first, chunks)

    return fill
