"""Weight gradient: ``gw = Gᵀ [(Aᵀ gy) (B x)ᵀ]``, summed over tiles; matrices as in `transforms`.

For each of the transforms' points, one matrix product over tiles: rows are input channels, columns are (block of output
channels, phase, channel), so that a unit holds whole kernels and writes them where they lie side by side.

Memory: transformed tiles as in `tiles`, in packs that are the rows or the columns of a unit, so that both are read in
order · sums of one unit (point, row, column).
Parallel over packs of rows and of columns; no unit touches another's part of the weight. Parts of the tiles are added
in their order. A NaN or Inf reaches the whole kernel between the channels that hold it.

Ladder, measured in docs/decisions/0006-winograd.md:
1. Inner products along tiles: a register tile adds up its lanes for every few tiles that a small image has.
2. Outer products along channels: tiles are transposed in registers after their transform.
3. Lanes along output channels, whose kernels lie side by side: along input channels every sum missed the caches.
4. Lanes are channels from the start: rows are transposed in registers instead of gathered.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdeconv.kernels.cpu import host, workspace
from fastdeconv.kernels.cpu.buffers import empty
from fastdeconv.kernels.cpu.columns import to_rows
from fastdeconv.kernels.cpu.costs import weights_of
from fastdeconv.kernels.cpu.frame import merged
from fastdeconv.kernels.cpu.jit import device_function, kernel
from fastdeconv.kernels.cpu.rows import zero_row
from fastdeconv.kernels.cpu.tiles import PRODUCT_SHAPES, product_tile
from fastdeconv.kernels.cpu.winograd import tiles, transforms
from fastdeconv.kernels.cpu.winograd.axes import Group, counts, declines, groups, multiplications
from fastdeconv.kernels.cpu.winograd.products import RUN
from fastdeconv.kernels.cpu.winograd.tiles import SIDE
from fastdeconv.kernels.cpu.winograd.transforms import combine
from fastdeconv.kernels.cpu.winograd.weights import KERNELS, kernel_elements, kernels
from fastdeconv.kernels.geometry import Bound, Cost, Geometry, Implementation, Run

Array = NDArray[Any]

SUMS = np.dtype(
    [
        ("shape", "i8"),  # of a register tile, in `PRODUCT_SHAPES`
        ("height", "i8"),  # its rows
        ("width", "i8"),  # its columns
        ("packs", "i8"),  # of rows
        ("blocks", "i8"),  # packs of columns
        ("rows", "i8"),  # of a unit's sums, whole register tiles
        ("columns", "i8"),
        ("point_step", "i8"),
    ]
)

# Sums of a unit, in bytes.
_SUMS = 512 << 10
# Rows of a unit, in bytes of a tile, and its columns: more of either would hardly be read less often.
_ROWS, _COLUMNS = 256, 512
# Transformed tiles of so many bytes are summed before the next ones are made: each time, all sums are transformed.
_TILES = 9 << 20


@device_function
def transform_sums(p: Any, sums: Any, at: int, point_step: int, planes: Any, rows: Any, kernels: Any) -> None:
    """Transform the sums of one input channel and one vector of output channels to a vector for each tap."""
    lanes = p.lanes
    k1, k2 = p.kernel[1], p.kernel[2]
    points0, points1, points2 = p.points[0], p.points[1], p.points[2]
    zero_row(kernels, 0, p.kernel[0] * k1 * k2 * lanes)
    for f0 in range(p.phases[0]):
        zero_row(planes, 0, points0 * k1 * k2 * lanes)
        for p0 in range(points0):
            for f1 in range(p.phases[1]):
                for f2 in range(p.phases[2]):
                    f = (f0 * p.phases[1] + f1) * p.phases[2] + f2
                    combine(p.transform[2], sums, at + f * lanes + p0 * points1 * points2 * point_step, point_step,
                            points2 * point_step, rows, 0, lanes, p.taps[2] * lanes, points1)  # fmt: skip
                    to = (p0 * k1 + p.first_tap[1, f1]) * k2 + p.first_tap[2, f2]
                    combine(p.transform[1], rows, 0, p.taps[2] * lanes, lanes,
                            planes, to * lanes, p.tap_step[1] * k2 * lanes, p.tap_step[2] * lanes,
                            p.taps[2])  # fmt: skip
        combine(p.transform[0], planes, 0, k1 * k2 * lanes, lanes, kernels, p.first_tap[0, f0] * k1 * k2 * lanes,
                p.tap_step[0] * k1 * k2 * lanes, lanes, k1 * k2)  # fmt: skip


@kernel("T[]", "T[]", "T[]", SUMS, KERNELS, SIDE, SIDE, "int", "int")
def weight_units(
    lo: int, hi: int, x: Any, gy: Any, out: Any, layout: Any, shape: Any, rows: Any, columns: Any,
    count: int, adding: int,
) -> None:  # fmt: skip
    """Sum `count` tiles for the kernels between one pack of input and one of output channels of a group."""
    p, w, left, right = layout[0], shape[0], rows[0], columns[0]
    lanes = w.lanes
    points = w.points[0] * w.points[1] * w.points[2]
    phases = w.phases[0] * w.phases[1] * w.phases[2]
    taps = w.kernel[0] * w.kernel[1] * w.kernel[2]
    sums = empty(points * p.point_step, out.dtype)
    size = kernel_elements(w)
    planes, lines, kernels = empty(size, out.dtype), empty(size, out.dtype), empty(size, out.dtype)
    zeros = empty(lanes, out.dtype)
    zero_row(zeros, 0, lanes)
    for unit in range(lo, hi):
        block = unit % p.blocks
        rest = unit // p.blocks
        pack, g = rest % p.packs, rest // p.packs
        for point in range(points):
            left_at = g * left.group_step + point * left.point_step + pack * left.pack_step
            right_at = g * right.group_step + point * right.point_step + block * right.pack_step
            for k in range(0, count, RUN):
                run = min(RUN, count - k)
                for c in range(0, right.pack, p.width):
                    for m in range(0, left.pack, p.height):
                        product_tile(p.shape, run, x, left_at + k * left.tile_step + m, 1, left.tile_step,
                                     gy, right_at + k * right.tile_step + c, right.tile_step,
                                     sums, point * p.point_step + m * p.columns + c, p.columns, k > 0)  # fmt: skip
        first = block * (right.pack // (phases * lanes))
        for m in range(min(left.pack, left.channels - pack * left.pack)):
            for b in range(first, min(right.blocks, first + right.pack // (phases * lanes))):
                transform_sums(w, sums, m * p.columns + (b - first) * phases * lanes, p.point_step,
                               planes, lines, kernels)  # fmt: skip
                at = ((g * left.channels + pack * left.pack + m) * right.channels + b * lanes) * taps
                to_rows(out, at, taps, min(lanes, right.channels - b * lanes), kernels, 0, zeros, 0, taps,
                        adding > 0)  # fmt: skip


class _Shape(NamedTuple):
    """The tiles of a product: those of registers, their rows and columns; rows and columns of a unit."""

    register: int
    height: int
    width: int
    rows: int
    columns: int


def _shape(row_vectors: int, blocks: int, phases: int, points: int, others: int, dtype: str) -> _Shape:
    """Return the shape with the least work; `others` are units beside packs of rows and of columns."""
    lanes, itemsize = host.lanes(dtype), np.dtype(dtype).itemsize
    most_rows = max(1, min(row_vectors, _ROWS // (lanes * itemsize)))

    def shapes() -> Iterator[tuple[float, _Shape]]:
        for register, (height, vectors) in enumerate(PRODUCT_SHAPES):
            for beside in range(1, blocks + 1):
                columns = -(-beside * phases // vectors) * vectors * lanes
                if beside > 1 and (points * lanes * columns * itemsize > _SUMS or columns > _COLUMNS):
                    break
                for deep in range(1, most_rows + 1):
                    rows = -(-deep * lanes // height) * height
                    units = others * -(-row_vectors // deep) * -(-blocks // beside)
                    if deep > 1 and points * rows * columns * itemsize > _SUMS:
                        break
                    # Beside a product a cycle, rows and columns come from a far cache for each unit; few units leave
                    # threads idle.
                    work = units * rows * columns * (1 + 4 / rows + 4 / columns + 1 / units)
                    yield work, _Shape(register, height, vectors * lanes, deep * lanes, beside * phases * lanes)

    return min(shapes())[1]


def _skew(pack: int, lanes: int) -> int:
    """Return what to add to the rows of a pack, so that those of successive tiles lie in different cache sets."""
    return lanes if pack % (16 * lanes) == 0 else 0


def bind(g: Geometry) -> Bound:
    """Return the function that runs the pass."""
    g = merged(g)
    parts = groups(g)
    assert not isinstance(parts, str)
    made = [_group(g, group) for group in parts]
    x_bytes, gy_bytes, private, units = (max(values) for values in zip(*(needs for _, *needs in made)))

    def run(x: Array, gy: Array, gw: Array) -> None:
        for number, (add, *_) in enumerate(made):
            add(x, gy, gw, number)

    return Bound(run, workspace.total(x_bytes + gy_bytes, private, units))


def _group(g: Geometry, group: Group) -> tuple[Run, int, int, int, int]:
    """Return what adds the products of one group, the bytes of tiles of x and gy and of each thread, and its units."""
    phases = math.prod(len(s.phases) for s in group)
    points = math.prod(s.points for s in group)
    lanes, itemsize = host.lanes(g.dtype), np.dtype(g.dtype).itemsize
    gy, gy_origins = tiles.side(g, group, True, transforms.transposed(transforms.OUTPUT))
    wide = int(gy["width"][0])
    x, x_origins = tiles.side(g, group, False, transforms.INPUT, int(gy["wide"][0]))
    row_vectors, blocks = int(x["blocks"][0]), int(gy["blocks"][0])
    shape = _shape(row_vectors, blocks, phases, points, g.groups, g.dtype)

    far = points * (tiles.depth(x) + tiles.depth(gy)) * g.groups * itemsize * wide  # bytes of a strip
    strips = tiles.all_strips(gy)
    most = max(1, min(strips, _TILES // far))
    most = -(-strips // -(-strips // most))  # parts of equal size
    # The last register tiles may reach past the last rows and columns.
    beyond = shape.height + shape.width
    x_elements = tiles.lay_out(x, most, shape.rows, _skew(shape.rows, lanes)) + beyond
    gy_elements = tiles.lay_out(gy, most, shape.columns, _skew(shape.columns, lanes)) + beyond

    rows, columns = (-(-n // of) * of for n, of in ((shape.rows, shape.height), (shape.columns, shape.width)))
    packs, unit_blocks = (-(-tiles.depth(side) // int(side["pack"][0])) for side in (x, gy))
    layout = np.zeros(1, SUMS)
    for name, value in {
        "shape": shape.register, "height": shape.height, "width": shape.width, "packs": packs,
        "blocks": unit_blocks, "rows": rows, "columns": columns, "point_step": rows * columns + 5 * lanes,
    }.items():  # fmt: skip
        layout[name] = value
    weights = kernels(g, group, True)
    weights["transform"] = [transforms.transposed(transforms.WEIGHT)[s.taps] for s in group]

    work = 2 * multiplications(group) * g.batch * g.in_channels * g.group_out
    units = g.groups * packs * unit_blocks
    multiply = weight_units.launcher(g.dtype, units, work)

    fills = {
        count: (tiles.filler(x, g.dtype, count), tiles.filler(gy, g.dtype, count))
        for count in {most, strips % most}
        if count
    }

    def run(array: Array, gradient: Array, out: Array, adding: int) -> None:
        x_tiles = workspace.take("tiles", x_elements, g.dtype)
        gy_tiles = workspace.take("gradient_tiles", gy_elements, g.dtype)
        for first in range(0, strips, most):
            count = min(most, strips - first)
            fill_x, fill_gy = fills[count]
            fill_x(array, x_tiles, x_origins, first)
            fill_gy(gradient, gy_tiles, gy_origins, first)
            multiply(x_tiles, gy_tiles, out, layout, weights, x, gy, count * wide, adding + first)
        workspace.keep("tiles", x_tiles)
        workspace.keep("gradient_tiles", gy_tiles)

    private = itemsize * points * int(layout["point_step"][0])
    private += itemsize * lanes * (2 * g.taps * points + points)
    private = max(private, tiles.private(itemsize, x), tiles.private(itemsize, gy))
    return run, x_elements * itemsize, gy_elements * itemsize, private, max(units, most * tiles.depth(gy) // lanes)


WINOGRAD = Implementation(
    "winograd",
    "minimal filtering: sums of products of transformed tiles, shared by all phases of a stride",
    lambda g: declines(g, True),
    bind,
    cost=Cost(lambda g: counts(g, False), weights_of("winograd", "weight_grad")),
)
