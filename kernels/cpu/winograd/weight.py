"""Weight gradient: ``gw = Gᵀ [(Aᵀ gy) (B x)ᵀ]``, summed over tiles; matrices as in `transforms`.

For each of the transforms' points, one matrix product over tiles: rows are input channels, columns are (block of output
channels, phase, output channel), so that a unit holds whole kernels and writes them where they lie side by side.

Memory: transformed tiles with channels side by side, those of x (group, point, pack of rows, tile, row), those of gy
(group, point, panel of columns, tile, column), so that both are read in order · sums of one unit (point, row, column).
Parallel over packs of rows and blocks of output channels; no unit touches another's part of the weight. Parts of the
tiles are added in their order. A NaN or Inf reaches the whole kernel between the channels that hold it.

Ladder, measured in docs/decisions/0006-winograd.md:
1. Inner products along tiles: a register tile adds up its lanes for every few tiles that a small image has.
2. Outer products along channels: tiles are transposed in registers after their transform.
3. Lanes along output channels, whose kernels lie side by side: along input channels every sum missed the caches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdeconv.kernels.cpu import host, workspace
from fastdeconv.kernels.cpu.buffers import empty
from fastdeconv.kernels.cpu.frame import merged
from fastdeconv.kernels.cpu.jit import kernel
from fastdeconv.kernels.cpu.rows import scatter, transpose, zero_row
from fastdeconv.kernels.cpu.tiles import PRODUCT_SHAPES, product_tile
from fastdeconv.kernels.cpu.winograd import cost, transforms
from fastdeconv.kernels.cpu.winograd.axes import Group, declines, groups, multiplications
from fastdeconv.kernels.cpu.winograd.panels import SIDE, filler, gather_transformed, largest, places, side, transform
from fastdeconv.kernels.cpu.winograd.products import PACK, PANELS, RUN, UNITS, tap_table
from fastdeconv.kernels.geometry import Geometry, Implementation, Run

Array = NDArray[Any]

SUMS = np.dtype(
    [
        ("rows", "i8"),  # input channels of a group
        ("pack", "i8"),  # of those side by side
        ("packs", "i8"),
        ("channels", "i8"),  # output channels of a group
        ("block", "i8"),  # of those in a unit
        ("blocks", "i8"),
        ("phases", "i8"),
        ("taps", "i8", (3,)),
        ("points", "i8", (3,)),
        ("transform", "i8", (3,)),
        ("kernel_taps", "i8"),
        ("shape", "i8"),  # of a register tile, in `PRODUCT_SHAPES`
        ("height", "i8"),  # its rows
        ("width", "i8"),  # its columns, those of a panel
        ("columns", "i8"),  # of a unit, whole panels
        ("lanes", "i8"),
        ("run", "i8"),  # products of a running total
    ]
)

# Sums of a unit, in bytes.
_SUMS = 512 << 10


@kernel("T[]", "T[]", SIDE, "int[]", "int", "int")
def transposed_units(
    lo: int, hi: int, array: Any, tiles: Any, layout: Any, offsets: Any, first: int, chunks: int
) -> None:
    """Transform one of `chunks` ranges of rows of one group in a vector of tiles, and put rows side by side.

    Rows are (block of channels, phase, channel). In the layout, ``row_step`` is the rows side by side and
    ``panel_step`` the elements of those of all tiles.
    """
    p = layout[0]
    lanes = p.width
    elements = p.elements[0] * p.elements[1] * p.elements[2]
    points = p.points[0] * p.points[1] * p.points[2]
    phases = p.phases[0] * p.phases[1] * p.phases[2]
    rows = (p.channels + p.block - 1) // p.block * p.block * phases
    squares = (rows + lanes - 1) // lanes
    half = largest(p) * lanes
    scratch = empty(2 * half, array.dtype)
    tile = empty(elements * lanes, array.dtype)
    square = empty(points * lanes * lanes, array.dtype)
    zero_row(square, 0, square.size)
    table = empty(phases * elements * lanes, np.int64)
    built = -1
    for unit in range(lo, hi):
        chunk = unit % chunks
        rest = unit // chunks
        g, panel = rest % p.groups, rest // p.groups
        if panel != built:
            places(table, p, offsets, first + panel)
            built = panel
        for first_row in range(squares * chunk // chunks * lanes, squares * (chunk + 1) // chunks * lanes, lanes):
            for row in range(first_row, min(rows, first_row + lanes)):
                f = row // p.block % phases
                c = row // (p.block * phases) * p.block + row % p.block
                if c < p.channels:
                    gather_transformed(p.transform, p.elements, p.points, 1, lanes,
                                       array, (g * p.channels + c) * p.plane, table, f * elements * lanes,
                                       square, (row - first_row) * lanes, lanes * lanes,
                                       tile, scratch, half)  # fmt: skip
            at = g * p.group_step + first_row // p.row_step * p.panel_step + first_row % p.row_step
            for point in range(points):
                transpose(tiles, at + point * p.point_step + panel * lanes * p.row_step, p.row_step,
                          square, point * lanes * lanes)  # fmt: skip


@kernel("T[]", "T[]", "T[]", SUMS, SIDE, SIDE, "int[]", "int")
def weight_units(
    lo: int, hi: int, x: Any, gy: Any, out: Any, layout: Any, rows: Any, columns: Any, taps: Any, tiles: int
) -> None:
    """Add a part of the tiles to the kernels between one pack of input and one block of output channels of a group."""
    p, left, right = layout[0], rows[0], columns[0]
    width, pack = p.width, p.pack
    points = p.points[0] * p.points[1] * p.points[2]
    elements = p.taps[0] * p.taps[1] * p.taps[2]
    panels = p.columns // width
    sums = empty(points * pack * p.columns, out.dtype)
    kernels = empty(elements * width, out.dtype)
    scratch = empty(2 * points * width, out.dtype)
    table = empty(panels * elements * width, np.int64)
    for unit in range(lo, hi):
        block = unit % p.blocks
        rest = unit // p.blocks
        i, g = rest % p.packs, rest // p.packs
        present, channels = min(pack, p.rows - i * pack), min(p.block, p.channels - block * p.block)
        for point in range(points):
            left_at = g * left.group_step + point * left.point_step + i * left.panel_step
            for panel in range(panels):
                right_at = g * right.group_step + point * right.point_step + (block * panels + panel) * right.panel_step
                at = (panel * points + point) * pack * width
                for k in range(0, tiles, p.run):
                    run = min(p.run, tiles - k)
                    for m in range(0, present, p.height):
                        product_tile(p.shape, run, x, left_at + k * pack + m, pack, gy, right_at + k * width,
                                     sums, at + m * width, k > 0)  # fmt: skip
        for panel in range(panels):
            for e in range(elements):
                for lane in range(width):
                    f, c = (panel * width + lane) // p.block, (panel * width + lane) % p.block
                    place = c * p.kernel_taps + taps[f * elements + e]
                    table[(panel * elements + e) * width + lane] = place if c < channels else -1
        for m in range(present):
            at = ((g * p.rows + i * pack + m) * p.channels + block * p.block) * p.kernel_taps
            for panel in range(panels):
                transform(p.transform, p.points, p.taps, width // p.lanes, width,
                          sums, (panel * points * pack + m) * width, pack * width,
                          kernels, 0, width, scratch, points * width)  # fmt: skip
                scatter(out, at, table, panel * elements * width, kernels, 0, out.dtype.type(0), True,
                        elements * width)  # fmt: skip


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


class _Shape(NamedTuple):
    """The tiles of a product: those of registers, their rows and columns; rows of a pack, channels of a block."""

    register: int
    height: int
    width: int
    pack: int
    block: int


def _shape(rows: int, channels: int, phases: int, points: int, others: int, dtype: str) -> _Shape:
    """Return the shape with the least work; `others` are units beside packs and blocks."""
    lanes, itemsize = host.lanes(dtype), np.dtype(dtype).itemsize

    def shapes() -> Iterator[tuple[float, _Shape]]:
        for register, (height, vectors) in enumerate(PRODUCT_SHAPES):
            width = vectors * lanes
            columns = math.lcm(phases, width)
            block = columns // phases
            blocks = -(-channels // block)
            step = math.lcm(lanes, height)
            most = max(step, min(PACK // itemsize, _SUMS // (points * columns * itemsize)))
            wanted = max(-(-rows // most), min(-(-UNITS // (others * blocks)), -(-rows // step)))
            pack = -(-rows // (wanted * step)) * step
            # Beside a product a cycle, a row of each side comes from the second cache for every tile.
            work = -(-rows // height) * height * blocks * columns
            yield work * (1 + (vectors + 1) / (height * vectors)), _Shape(register, height, width, pack, block)

    return min(shapes())[1]


def _group(g: Geometry, group: Group) -> Run:
    phases = math.prod(len(s.phases) for s in group)
    points = math.prod(s.points for s in group)
    tiles = g.batch * math.prod(s.tiles for s in group)
    lanes, itemsize = host.lanes(g.dtype), np.dtype(g.dtype).itemsize
    shape = _shape(g.group_in, g.group_out, phases, points, g.groups, g.dtype)
    packs, blocks = -(-g.group_in // shape.pack), -(-g.group_out // shape.block)
    columns = shape.block * phases

    far = points * (packs * shape.pack + blocks * columns) * g.groups * itemsize  # bytes of a tile
    all_vectors = -(-tiles // lanes)
    most = max(1, min(all_vectors, PANELS // (far * lanes)))
    most = -(-all_vectors // -(-all_vectors // most))  # parts of equal size

    x, x_offsets = side(g, group, False, transforms.INPUT, lanes, lanes)
    gy, gy_offsets = side(g, group, True, transforms.transposed(transforms.OUTPUT), lanes, lanes)
    gy["block"] = shape.block
    for layout, beside, count in ((x, shape.pack, packs), (gy, shape.width, blocks * columns // shape.width)):
        layout["row_step"], layout["panel_step"] = beside, most * lanes * beside
        # Points apart by a power of two would share cache sets.
        layout["point_step"] = count * layout["panel_step"] + 5 * lanes
        layout["group_step"] = points * layout["point_step"]
    x_elements, gy_elements = (int(g.groups * side["group_step"][0]) for side in (x, gy))

    record = np.zeros(1, SUMS)
    for name, value in {
        "rows": g.group_in, "pack": shape.pack, "packs": packs, "channels": g.group_out, "block": shape.block,
        "blocks": blocks, "phases": phases, "taps": [s.taps for s in group], "points": [s.points for s in group],
        "transform": [transforms.transposed(transforms.WEIGHT)[s.taps] for s in group], "kernel_taps": g.taps,
        "shape": shape.register, "height": shape.height, "width": shape.width, "columns": columns, "lanes": lanes,
        "run": RUN,
    }.items():  # fmt: skip
        record[name] = value
    taps = tap_table(g, group)
    work = 2 * multiplications(group) * g.batch * g.in_channels * g.group_out
    multiply = weight_units.launcher(g.dtype, g.groups * packs * blocks, work)
    fills = {
        count: (
            filler(transposed_units, g.dtype, x, x_offsets, count),
            filler(transposed_units, g.dtype, gy, gy_offsets, count),
        )
        for count in {most, all_vectors % most}
        if count
    }

    def run(array: Array, gradient: Array, out: Array) -> None:
        x_tiles = workspace.take("panels", x_elements, g.dtype)
        gy_tiles = workspace.take("gradient_panels", gy_elements, g.dtype)
        for first in range(0, all_vectors, most):
            count = min(most, all_vectors - first)
            fill_x, fill_gy = fills[count]
            fill_x(array, x_tiles, first)
            fill_gy(gradient, gy_tiles, first)
            multiply(x_tiles, gy_tiles, out, record, x, gy, taps, count * lanes)
        workspace.keep("panels", x_tiles)
        workspace.keep("gradient_panels", gy_tiles)

    return run


WINOGRAD = Implementation(
    "winograd",
    "minimal filtering: sums of products of transformed tiles, shared by all phases of a stride",
    lambda g: declines(g, True),
    bind,
    cost.weight_grad_yields,
)
DIRECT = Implementation(
    "direct_product",
    "one matrix product for taps that do not overlap",
    lambda g: declines(g, False),
    bind,
    cost.weight_grad_yields,
)
