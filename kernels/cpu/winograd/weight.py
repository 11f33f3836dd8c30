"""Weight gradient: ``gw = Gᵀ [(Aᵀ gy) (B x)ᵀ]``, summed over tiles; matrices as in `transforms`.

For each of the transforms' points, one matrix product over tiles: rows are input channels, columns are (block of output
channels, phase, channel), so that a unit holds whole kernels and writes them where they lie side by side.

Memory: transformed tiles as in `tiles`, in packs of a vector of input channels and of a panel of output channels, so
that both are read in order · sums of one unit (point, row, column).
Parallel over ranges of rows and of columns; no unit touches another's part of the weight. Parts of the tiles are added
in their order. A NaN or Inf reaches the whole kernel between the channels that hold it.

Ladder, measured in docs/decisions/0006-winograd.md:
1. Inner products along tiles: a register tile adds up its lanes for every few tiles that a small image has.
2. Outer products along channels: tiles are transposed in registers after their transform.
3. Lanes along output channels, whose kernels lie side by side: along input channels every sum missed the caches.
4. Lanes are channels from the start: rows are transposed in registers instead of gathered.
5. Tiles in vectors of input channels and in panels of output channels: register tiles of twelve sums read both at
   constant places, where tiles of eight sums computed addresses.
"""

from __future__ import annotations

import itertools
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
from fastdeconv.kernels.cpu.tiles import CHANNEL_SHAPES, PRODUCT_SHAPES, channel_step, channel_tile
from fastdeconv.kernels.cpu.winograd import tiles, transforms
from fastdeconv.kernels.cpu.winograd.axes import Group, counts, declines, groups, multiplications
from fastdeconv.kernels.cpu.winograd.products import RUN
from fastdeconv.kernels.cpu.winograd.tiles import SIDE
from fastdeconv.kernels.cpu.winograd.transforms import combine
from fastdeconv.kernels.cpu.winograd.weights import KERNELS, kernel_elements, kernels
from fastdeconv.kernels.geometry import Bound, Cost, Geometry, Implementation, Run

Array = NDArray[Any]

HEIGHT = PRODUCT_SHAPES[0][0]  # rows of a register tile

SUMS = np.dtype(
    [
        ("shape", "i8"),  # of a register tile, in `PRODUCT_SHAPES`
        ("width", "i8"),  # columns of a panel
        ("rows", "i8"),  # channels of a unit's rows
        ("blocks", "i8"),  # vectors of output channels of a unit
        ("below", "i8"),  # units of rows
        ("beside", "i8"),  # units of columns
        ("pitch", "i8"),  # columns of a unit's sums, whole panels
        ("run", "i8"),  # tiles that a sum in registers adds
        ("point_step", "i8"),
    ]
)

# Sums of a unit, in bytes.
_SUMS = 512 << 10
# Rows of a unit, in bytes of a tile, and its columns: more of either would hardly be read less often.
_ROWS, _COLUMNS = 256, 512
# Tiles of a panel, in bytes, that are summed in registers: they stay in the first cache.
_PANEL = 24 << 10
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
                    combine(p.transform[2, 0], sums, at + f * lanes + p0 * points1 * points2 * point_step, point_step,
                            points2 * point_step, rows, 0, lanes, p.taps[2] * lanes, points1)  # fmt: skip
                    to = (p0 * k1 + p.first_tap[1, f1]) * k2 + p.first_tap[2, f2]
                    combine(p.transform[1, 0], rows, 0, p.taps[2] * lanes, lanes,
                            planes, to * lanes, p.tap_step[1] * k2 * lanes, p.tap_step[2] * lanes,
                            p.taps[2])  # fmt: skip
        combine(p.transform[0, 0], planes, 0, k1 * k2 * lanes, lanes, kernels, p.first_tap[0, f0] * k1 * k2 * lanes,
                p.tap_step[0] * k1 * k2 * lanes, lanes, k1 * k2)  # fmt: skip


@kernel("T[]", "T[]", "T[]", SUMS, KERNELS, SIDE, SIDE, "int", "int")
def weight_units(
    lo: int, hi: int, x: Any, gy: Any, out: Any, layout: Any, shape: Any, rows: Any, columns: Any,
    count: int, adding: int,
) -> None:  # fmt: skip
    """Sum `count` tiles for the kernels between one range of input and one of output channels of a group."""
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
        block = unit % p.beside
        rest = unit // p.beside
        top, g = rest % p.below * p.rows, rest // p.below
        first = block * p.blocks
        many = min(p.blocks, right.blocks - first)
        # The first panel may begin with columns of the unit before.
        panel, lead = first * phases * lanes // p.width, first * phases * lanes % p.width
        columns = lead + many * phases * lanes
        channels = min(p.rows, left.channels - top)
        for point in range(points):
            left_at = g * left.group_step + point * left.point_step
            right_at = g * right.group_step + point * right.point_step + panel * right.pack_step
            for k in range(0, count, p.run):
                run = min(p.run, count - k)
                for c in range(0, columns, p.width):
                    for m in range(top, top + channels, HEIGHT):
                        at = left_at + m // left.pack * left.pack_step + k * left.pack + m % left.pack
                        to = point * p.point_step + (m - top) * p.pitch + c
                        channel_tile(p.shape, run, x, at, gy, right_at + c // p.width * right.pack_step + k * right.pack,
                                     sums, to, p.pitch, k > 0)  # fmt: skip
        for m in range(channels):
            for b in range(many):
                transform_sums(w, sums, m * p.pitch + lead + b * phases * lanes, p.point_step, planes, lines, kernels)
                at = ((g * left.channels + top + m) * right.channels + (first + b) * lanes) * taps
                to_rows(out, at, taps, min(lanes, right.channels - (first + b) * lanes), kernels, 0, zeros, 0, taps,
                        adding > 0)  # fmt: skip


class _Shape(NamedTuple):
    """The kind of register tile; a unit's rows, its vectors of output channels, its columns in whole panels."""

    register: int
    rows: int
    blocks: int
    pitch: int


def _shape(channels: int, blocks: int, phases: int, points: int, others: int, dtype: str) -> _Shape:
    """Return the shape with the least work; `others` are units beside those of rows and of columns."""
    lanes, itemsize = host.lanes(dtype), np.dtype(dtype).itemsize
    pack = channel_step(lanes)

    def shapes() -> Iterator[tuple[float, _Shape]]:
        for register, beside in itertools.product(range(CHANNEL_SHAPES), range(1, blocks + 1)):
            vectors = PRODUCT_SHAPES[register][1]
            # Where units do not begin with a panel, one more has columns of two.
            panels = -(-beside * phases // vectors) + (beside < blocks and beside * phases % vectors > 0)
            pitch = panels * vectors * lanes
            if beside > 1 and (points * pack * pitch * itemsize > _SUMS or pitch > _COLUMNS):
                continue
            for rows in range(pack, min(channels + pack, max(pack + 1, _ROWS // itemsize + 1)), pack):
                units = others * -(-channels // rows) * -(-blocks // beside)
                if rows > pack and points * rows * pitch * itemsize > _SUMS:
                    break
                # Beside a product a cycle, rows and columns come from a far cache for each unit; few units leave
                # threads idle. Each product of a register tile takes its part of a row and of a column.
                operands = (vectors + 1) / (HEIGHT * vectors)
                work = units * rows * pitch * (1 + operands + 4 / rows + 4 / pitch + 1 / units)
                yield work, _Shape(register, rows, beside, pitch)

    return min(shapes())[1]


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
    blocks = int(gy["blocks"][0])
    shape = _shape(g.group_in, blocks, phases, points, g.groups, g.dtype)
    pack, width = channel_step(lanes), PRODUCT_SHAPES[shape.register][1] * lanes

    far = points * (tiles.depth(x) + tiles.depth(gy)) * g.groups * itemsize * wide  # bytes of a strip
    strips = tiles.all_strips(gy)
    most = max(1, min(strips, _TILES // far))
    most = -(-strips // -(-strips // most))  # parts of equal size
    x_elements, gy_elements = tiles.lay_out(x, most, pack), tiles.lay_out(gy, most, width)

    below, beside = -(-g.group_in // shape.rows), -(-blocks // shape.blocks)
    layout = np.zeros(1, SUMS)
    for name, value in {
        "shape": shape.register, "width": width, "rows": shape.rows, "blocks": shape.blocks, "below": below, "beside": beside,
        "pitch": shape.pitch, "run": min(RUN, _PANEL // (width * itemsize)),
        "point_step": shape.rows * shape.pitch + 5 * lanes,
    }.items():  # fmt: skip
        layout[name] = value
    weights = kernels(g, group, True)
    weights["transform"] = [[transforms.transposed(transforms.WEIGHT)[s.taps]] for s in group]

    work = 2 * multiplications(group) * g.batch * g.in_channels * g.group_out
    units = g.groups * below * beside
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
