"""Weight gradient: ``gw = Gᵀ [(Aᵀ gy) (B x)ᵀ]``, summed over tiles; matrices as in `transforms`.

For each of the transforms' points, one matrix product over tiles: rows are input channels, columns are (block of output
channels, phase, channel), so that a unit holds whole kernels and writes them where they lie side by side.

Two ways. Where the sums of a group are few, ranges of tiles are summed apart, each in a core's cache (`ranges`). Else
all threads transform tiles together, part by part, and a unit sums them for a range of rows and one of columns.

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
6. Panels of two vectors where three would leave columns empty; few sums by ranges of tiles, in a core's cache.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from fastdeconv.kernels.cpu import host, workspace
from fastdeconv.kernels.cpu.buffers import empty
from fastdeconv.kernels.cpu.costs import weights_of
from fastdeconv.kernels.cpu.frame import Ints, ints, merged
from fastdeconv.kernels.cpu.jit import kernel
from fastdeconv.kernels.cpu.panels import share_of
from fastdeconv.kernels.cpu.product_tiles import (
    CHANNEL_SHAPES,
    CHANNEL_TERMS,
    PRODUCT_SHAPES,
    channel_step,
    channel_tile,
)
from fastdeconv.kernels.cpu.rows import zero_row
from fastdeconv.kernels.cpu.winograd import tiles, transforms
from fastdeconv.kernels.cpu.winograd.axes import (
    Group,
    combinations,
    lines,
    multiplications,
    plan_counts,
    plans,
    single_elements,
    too_far,
)
from fastdeconv.kernels.cpu.winograd.products import RUN
from fastdeconv.kernels.cpu.winograd.ranges import HEIGHT, RANGES, kernel_units, range_units
from fastdeconv.kernels.cpu.winograd.sums import write_kernels
from fastdeconv.kernels.cpu.winograd.tiles import SIDE
from fastdeconv.kernels.cpu.winograd.weights import KERNELS, kernel_elements, kernels
from fastdeconv.kernels.geometry import Bound, Cost, Geometry, Implementation, Run

Array = NDArray[Any]

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
# Where the sums of a group take no more bytes than `_KEPT`, ranges of tiles are summed apart, `_RANGES` of them or less
# where there are groups, or where each would have less than `_FEWEST` tiles, in chunks of `_CHUNK` bytes, which stay in
# the second-level cache.
_KEPT, _CHUNK = (2560 << 10, 768 << 10) if host.REGISTERS == 32 else (320 << 10, 256 << 10)
_RANGES, _FEWEST = 8, 128
# Transformed tiles of so many bytes are summed before the next ones are made: each time, all sums are transformed.
_TILES = 9 << 20


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
                    of = right_at + c // p.width * right.pack_step + k * right.pack
                    # The panel that is multiplied next: beside this one, of the next tiles, or of the next point.
                    ahead = of + right.pack_step
                    if c + p.width >= columns:
                        ahead = right_at + (k + run) * right.pack if k + run < count else right_at + right.point_step
                    for m in range(top, top + channels, HEIGHT):
                        at = left_at + m // left.pack * left.pack_step + k * left.pack + m % left.pack
                        to = point * p.point_step + (m - top) * p.pitch + c
                        channel_tile(p.shape, run, x, at, gy, of, sums, to, p.pitch, k > 0,
                                     ahead + share_of((m - top) // HEIGHT, run // CHANNEL_TERMS, run * right.pack, gy),
                                     )  # fmt: skip
        write_kernels(shape, sums, lead, p.pitch, p.point_step, out, g * left.channels + top, channels,
                      right.channels, first, many, adding > 0, planes, lines, kernels, zeros)  # fmt: skip


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
    parts = _plan(g)
    assert not isinstance(parts, str)
    made = [_by_ranges(g, group) or _together(g, group) for group in parts]
    runs, shared, private, units = zip(*made)
    most = {slot: max(each.get(slot, 0) for each in shared) for each in shared for slot in each}

    def run(x: Array, gy: Array, gw: Array) -> None:
        for number, add in enumerate(runs):
            add(x, gy, gw, number)

    return Bound(run, workspace.total(sum(most.values()), max(private), max(units)))


@lru_cache(maxsize=256)
def _plan(g: Geometry) -> tuple[Group, ...] | str:
    """Return the groups of tiles that should take least time, or why none serve."""
    every = plans(g)
    if isinstance(every, str):
        return every
    if (reason := too_far(g, every[0])) is not None:
        return reason
    if any(s.pieces > 1 for group in itertools.chain(*every) for s in group):
        every = [plan for plan in every if all("ranged_product" in _group_counts(g, group) for group in plan)]
    if not every:
        return "a phase has more than 3 taps, and sums are too many for a core's cache, or tiles too few"
    weights = weights_of("winograd", "weight_grad")  # for both layouts

    def cost(plan: tuple[Group, ...]) -> float:
        return sum(weights.get(kind, 0) * n for kind, n in _plan_counts(g, plan).items())

    return min(every, key=cost)


def _declines(g: Geometry) -> str | None:
    """Return why the pass cannot serve a problem, or None."""
    plan = _plan(merged(g))
    if isinstance(plan, str):
        return plan
    if any(s.taps > 1 for group in plan for s in group):
        return None
    return "every phase has one tap: it is a plain product"


class _Part(NamedTuple):
    """What adds the kernels of one group, and its scratch memory in bytes: by slot, and of each thread."""

    run: Run
    shared: dict[str, int]
    private: int
    units: int


def _ranges_of(g: Geometry, group: Group, x: NDArray[np.void], gy: NDArray[np.void]) -> NDArray[np.void] | None:
    """Describe ranges of tiles that are summed apart, or return None where sums are too many or tiles too few.

    It depends on the problem alone, not on threads, as the order of sums does. How tiles lie in a chunk is filled in.
    """
    phases, points = (math.prod(values) for values in zip(*((len(s.phases), s.points) for s in group)))
    lanes, itemsize = host.lanes(g.dtype), np.dtype(g.dtype).itemsize
    strips, wide, blocks = tiles.all_strips(gy), int(gy["width"][0]), int(gy["blocks"][0])
    rows = -(-g.group_in // HEIGHT) * HEIGHT
    pitch, register = min(
        (-(-blocks * phases // columns) * columns * lanes, which)
        for which, (_, columns) in enumerate(PRODUCT_SHAPES[:CHANNEL_SHAPES])
    )
    point_step = rows * pitch + 5 * lanes
    sums = math.prod(s.pieces for s in group) * points * point_step
    ranges = min(max(1, 2 * _RANGES // g.groups), _RANGES, strips, strips * wide // _FEWEST)
    strip = points * wide * (tiles.depth(x) + pitch) * itemsize  # bytes of its tiles
    kept = ranges * g.groups * sums * itemsize
    if ranges * g.groups < _RANGES or sums * itemsize > _KEPT or strip > 2 * _CHUNK or kept > workspace.MOST_KEPT:
        return None
    halo = (group[1].pieces - 1) * int(gy["strips"][0])
    at_once = max(1, min(_CHUNK // strip, RUN // wide, -(-strips // ranges)))
    width = PRODUCT_SHAPES[register][1] * lanes
    x_elements = tiles.lay_out(x, at_once + halo, channel_step(lanes)) // g.groups
    layout = np.zeros(1, RANGES)
    for name, value in {
        "shape": register, "width": width, "rows": rows, "pitch": pitch, "point_step": point_step,
        "sums": sums, "ranges": ranges, "strips": strips, "at_once": at_once, "image": strips // g.batch, "halo": halo,
        "gradient_at": x_elements, "room": x_elements + tiles.lay_out(gy, at_once, width) // g.groups,
    }.items():  # fmt: skip
        layout[name] = value
    return layout


def _by_ranges(g: Geometry, group: Group) -> _Part | None:
    """Return what sums ranges of tiles apart, each in a core's cache, where it can."""
    x, gy, origins = _sides(g, group)
    layout = _ranges_of(g, group, x, gy)
    if layout is None:
        return None
    itemsize, weights = np.dtype(g.dtype).itemsize, kernels(g, group, True, of_weights=False)
    row, table = int(gy["strips"][0] * x["width"][0]), []
    for (_, a, b), used in combinations(group):
        table += [a * row + b, *(begin < end for begin, end in used)]
    pieces = ints(table)
    units, elements = g.groups * int(layout["ranges"][0]), int(layout["sums"][0])
    work = 2 * multiplications(group) * g.batch * g.in_channels * g.group_out
    multiply = range_units.launcher(g.dtype, units, work)
    finish = kernel_units.launcher(g.dtype, g.groups * int(layout["rows"][0]) // HEIGHT, 8 * units * elements)
    slots = int(layout["room"][0]) * max(1, min(units, int(numba.config.NUMBA_NUM_THREADS)))

    def run(array: Array, gradient: Array, out: Array, adding: int) -> None:
        sums, rooms = workspace.take("sums", units * elements, g.dtype), workspace.take("tiles", slots, g.dtype)
        multiply(array, gradient, sums, rooms, layout, x, gy, *origins, pieces)
        finish(sums, out, layout, weights, x, gy, adding)
        workspace.keep("sums", sums)
        workspace.keep("tiles", rooms)

    shared = {"sums": units * elements * itemsize, "tiles": slots * itemsize}
    return _Part(run, shared, _private(g, math.prod(s.points for s in group), x, gy), units)


def _sides(g: Geometry, group: Group) -> tuple[NDArray[np.void], NDArray[np.void], tuple[Ints, Ints]]:
    """Describe how tiles lie in x and in the gradient, and where they begin."""
    gy, gy_origins = tiles.side(g, group, True, transforms.transposed(transforms.OUTPUT))
    x, x_origins = tiles.side(g, group, False, transforms.INPUT, int(gy["wide"][0]))
    tiles.widen(x, [s.pieces - 1 for s in group])
    return x, gy, (x_origins, gy_origins)


def _private(g: Geometry, points: int, *sides: NDArray[np.void]) -> int:
    """Return the bytes that each thread needs to transform tiles of these sides, or sums to kernels."""
    itemsize = np.dtype(g.dtype).itemsize
    return max(itemsize * host.lanes(g.dtype) * (2 * g.taps * points + points), tiles.private(itemsize, *sides))


def _together(g: Geometry, group: Group) -> _Part:
    """Return what has all threads transform tiles, part by part, and then sum them by ranges of channels."""
    phases = math.prod(len(s.phases) for s in group)
    points = math.prod(s.points for s in group)
    lanes, itemsize = host.lanes(g.dtype), np.dtype(g.dtype).itemsize
    x, gy, (x_origins, gy_origins) = _sides(g, group)
    wide, blocks = int(gy["width"][0]), int(gy["blocks"][0])
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
        "shape": shape.register, "width": width, "rows": shape.rows, "blocks": shape.blocks, "below": below,
        "beside": beside, "pitch": shape.pitch, "run": min(RUN, _PANEL // (width * itemsize)),
        "point_step": shape.rows * shape.pitch + 5 * lanes,
    }.items():  # fmt: skip
        layout[name] = value
    weights = kernels(g, group, True, of_weights=False)
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

    private = itemsize * points * int(layout["point_step"][0]) + _private(g, points, x, gy)
    shared = {"tiles": x_elements * itemsize, "gradient_tiles": gy_elements * itemsize}
    return _Part(run, shared, private, max(units, most * tiles.depth(gy) // lanes))


@lru_cache(maxsize=1024)  # plans share groups
def _group_counts(g: Geometry, group: Group) -> dict[str, float]:
    """Count what one group of tiles does; "ranged" are products and elements where they are summed by ranges."""
    x, gy, _ = _sides(g, group)
    prefix = "" if _ranges_of(g, group, x, gy) is None else "ranged_"
    return {prefix + kind: n for kind, n in plan_counts(g, (group,), False).items()}


def _plan_counts(g: Geometry, plan: tuple[Group, ...]) -> dict[str, float]:
    """Add up what all groups do; beside one another, each reads elements one in a row, and adds to the kernels."""
    total: dict[str, float] = defaultdict(float)
    for group in plan:
        for kind, n in _group_counts(g, group).items():
            total[kind] += n
    total["input_line"], total["output_line"] = (sum(n) for n in zip(*(lines(g, group) for group in plan)))
    if len(plan) > 1:
        total["apart"] = sum(sum(single_elements(g, group)) for group in plan)
        total["kernel"] = (len(plan) - 1) * g.in_channels * g.group_out
    return total


def _counts(g: Geometry) -> dict[str, float]:
    """Count what the pass does with the best plan."""
    g = merged(g)
    plan = _plan(g)
    assert not isinstance(plan, str)
    return _plan_counts(g, plan)


WINOGRAD = Implementation(
    "winograd",
    "minimal filtering: sums of products of transformed tiles, shared by all phases of a stride",
    _declines,
    bind,
    cost=Cost(_counts, *(weights_of("winograd", "weight_grad", last) for last in (False, True))),
    channels_last=(False, True),
)
