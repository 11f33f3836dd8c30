"""Forward pass and input gradient: batched matrix products between transforms.

Forward: ``y = A [(G w) (B x)]``; input gradient: ``gx = Bᵀ [(G w)ᵀ (Aᵀ gy)]``. Matrices A, B, G act on each axis
(`transforms`); for each of their points, one matrix product over channels multiplies tiles and weights. Forward:
columns are (block of output channels, phase, channel), depth is input channels. Input gradient: columns are input
channels, depth is (block of output channels, phase, channel), and tiles that share inputs add up.

Memory: transformed tiles as in `tiles` · weights of one unit (point, panel of columns, depth, column), those of one
point in the second-level cache while tiles pass by · products of one unit (point, tile, column).
Parallel over blocks of channels of the result, and over ranges of strips where they write apart; no unit touches
another's output. A NaN or Inf reaches every output of the tiles that hold it, and what it adds up to there may be NaN.
Rounding is that of the largest sums of a tile.

Ladder, measured in docs/decisions/0006-winograd.md:
1. Units of few rows, all points of a panel at once.
2. Units of some 64 rows, points one after the other: tiles are read from a far cache a fifth as often.
3. Weights of all phases side by side, in packs of whole vectors; scratch memory kept between calls.
4. Register tiles chosen for few tiles too; single outputs at edges only where they pay.
5. Lanes are channels, not tiles: rows are transposed in registers instead of gathered, weights too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from fastdeconv.kernels.cpu import host, workspace
from fastdeconv.kernels.cpu.buffers import empty
from fastdeconv.kernels.cpu.costs import weights_of
from fastdeconv.kernels.cpu.frame import merged
from fastdeconv.kernels.cpu.jit import kernel
from fastdeconv.kernels.cpu.rows import zero_row
from fastdeconv.kernels.cpu.tiles import PRODUCT_SHAPES, product_tile
from fastdeconv.kernels.cpu.winograd import tiles, transforms
from fastdeconv.kernels.cpu.winograd.axes import Group, counts, declines, groups, multiplications
from fastdeconv.kernels.cpu.winograd.results import mark, transform_back
from fastdeconv.kernels.cpu.winograd.tiles import SIDE, place
from fastdeconv.kernels.cpu.winograd.weights import KERNELS, kernel_elements, kernels, transform_kernels
from fastdeconv.kernels.geometry import Bound, Cost, Geometry, Implementation, Prepared, Run

Array = NDArray[Any]

BLOCK = np.dtype(
    [
        ("shape", "i8"),  # of a register tile, in `PRODUCT_SHAPES`
        ("height", "i8"),  # its tiles
        ("width", "i8"),  # its columns, those of a panel
        ("block", "i8"),  # vectors of channels of a unit
        ("blocks", "i8"),  # units beside each other
        ("columns", "i8"),  # of a unit, whole panels
        ("depth", "i8"),  # channels that are summed over, of one group, with their phases and padding
        ("at_once", "i8"),  # strips that are multiplied before their products are transformed
        ("pitch", "i8"),  # elements of a unit's weights of one point
        ("point_step", "i8"),  # elements of a unit's products of one point
        ("room", "i8"),  # elements of a unit's weights and products
        ("image", "i8"),  # strips of an image
    ]
)

# Transformed tiles of so many bytes are used before the next ones are made.
_TILES = 6 << 20
# Weights of a unit at one point, in bytes: they stay in the second-level cache while the tiles pass by.
_UNIT_WEIGHTS = 256 << 10
# Products of a unit that are transformed together, in bytes.
_PRODUCTS = 1 << 20
# A sum longer than this is one of partial sums.
RUN = 512
# Prepared weights may be so many times as large as the weights; else they are transformed in every run. DCGAN's
# second layer, which takes a quarter less time with them, holds 6.4 times.
_STORED = 7
# Enough units to share among threads; each reads all tiles of its range and has memory of its own, so not many more.
# Sums do not depend on it.
_UNITS = min(32, 2 * int(numba.config.NUMBA_NUM_THREADS))
# A range of fewer tiles would not pay for transforming its weights.
_RANGE = 512


@kernel("T[]", "T[]", BLOCK, KERNELS)
def store_units(lo: int, hi: int, weight: Any, stored: Any, layout: Any, shape: Any) -> None:
    """Transform the weights of one block of output channels of one group for all runs to come."""
    p, w = layout[0], shape[0]
    size = kernel_elements(w)
    kernels, planes, rows = empty(size, weight.dtype), empty(size, weight.dtype), empty(size, weight.dtype)
    for unit in range(lo, hi):
        g, first = unit // p.blocks, unit % p.blocks * p.block
        at = unit * w.points[0] * w.points[1] * w.points[2] * p.pitch
        transform_kernels(w, weight, g, first, p.block, stored, at, p.depth, p.width, p.pitch,
                          kernels, planes, rows)  # fmt: skip


@kernel(
    "T[]", "T[]", "T[]", "T[]", "T[]", "T[]", BLOCK, KERNELS, SIDE, SIDE, "int[]", "int", "int", "int", "int", "slot"
)
def product_units(
    lo: int, hi: int, source: Any, weight: Any, stored: Any, bias: Any, out: Any, room: Any, layout: Any, shape: Any,
    source_side: Any, target_side: Any, origins: Any, first_strip: int, count: int, splits: int, adding: int,
    slot: int,
) -> None:  # fmt: skip
    """Compute one block of channels of one group for one of `splits` ranges of `count` strips.

    Weights are taken from `stored`, where `store_units` put them, if it is not empty.
    `adding` is 0 in the forward pass; in the input gradient 1, and 2 for the first to add.
    """
    p, w, q, t = layout[0], shape[0], source_side[0], target_side[0]
    lanes = t.lanes
    points = t.points[0] * t.points[1] * t.points[2]
    phases = t.phases[0] * t.phases[1] * t.phases[2]
    # What a call leaves in memory it touches again in the next one: fresh pages would cost more than the products.
    left_at = slot * p.room
    products_at = left_at + (0 if stored.size else points * p.pitch)
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
            transform_kernels(w, weight, g, first, p.block, room, left_at, p.depth, p.width, p.pitch,
                              taps, tap_planes, tap_rows)  # fmt: skip
        if bias.size:
            for c in range(channels):
                extra[c] = bias[channel + c]
        if adding == 2:  # the first to add, to the images that begin here
            for n in range(-(-(first_strip + begin) // p.image), -(-(first_strip + end) // p.image)):
                zero_row(out, (n * t.groups * t.channels + channel) * t.plane, channels * t.plane)
        marked = -1
        for start in range(begin, end, p.at_once):
            some = min(p.at_once, end - start)
            for point in range(points):
                at = g * q.group_step + point * q.point_step + start * q.width * q.tile_step
                for m in range(0, some * q.width, p.height):
                    for c in range(0, p.columns, p.width):
                        to = products_at + point * p.point_step + m * p.columns + c
                        for k in range(0, p.depth, q.pack):
                            run = min(q.pack, p.depth - k)
                            product_tile(p.shape, run,
                                         source, at + k // q.pack * q.pack_step + m * q.tile_step, q.tile_step, 1,
                                         kernels, left_at + point * p.pitch + c * p.depth + k * p.width, p.width,
                                         room, to, p.columns, k > 0)  # fmt: skip
            for strip in range(some):
                n, at0, at1, at2, tiles = place(t, first_strip + start + strip)
                mark(t, 1, origins, at1, 1, 1, row_marks)
                if at2 != marked:
                    mark(t, 2, origins, at2, tiles, t.lattices[2], column_marks)
                    marked = at2
                for b in range(many):
                    at = products_at + strip * q.width * p.columns + b * phases * lanes
                    transform_back(t, room, at, p.point_step, p.columns, n, at0, at1, at2, tiles, g, first + b,
                                   out, origins, extra, b * lanes, adding > 0,
                                   lines, mixed, rows, row_marks, column_marks)  # fmt: skip


class _Shape(NamedTuple):
    """The tiles of a product: those of registers, their rows and columns; vectors of channels of a unit."""

    register: int
    height: int
    width: int
    block: int


def _shape(blocks: int, phases: int, depth: int, tiles: int, others: int, dtype: str) -> _Shape:
    """Return the shape with the least work; `others` are units beside the blocks of channels."""
    lanes, itemsize = host.lanes(dtype), np.dtype(dtype).itemsize
    fits = _UNIT_WEIGHTS // (itemsize * depth * phases * lanes)
    wanted = max(1, -(-_UNITS // others))
    most = max(1, min(blocks, fits, -(-blocks // wanted)))

    def work(shape: int, block: int) -> float:
        height, vectors = PRODUCT_SHAPES[shape]
        columns = -(-block * phases // vectors) * vectors * lanes
        products = -(-blocks // block) * columns * -(-tiles // height) * height
        # Beside a product a cycle, columns of the weights come from the second cache for each tile of registers, and
        # tiles from a far one once a unit.
        return products * (1 + (vectors + 1) / (height * vectors) + 4 / columns)

    shape, block = min(itertools.product(range(len(PRODUCT_SHAPES)), range(max(1, most // 2), most + 1)),
                       key=lambda s: work(*s))  # fmt: skip
    height, vectors = PRODUCT_SHAPES[shape]
    return _Shape(shape, height, vectors * lanes, block)


class _Part(NamedTuple):
    """What computes the outputs of one group, and its scratch memory in bytes: by slot, and of each thread."""

    run: Run
    store: Callable[[Array], Array]
    stored: int
    tiles: int
    products: int
    private: int
    units: int


def bind(g: Geometry, forward: bool) -> Bound:
    """Return the function that runs the pass."""
    g = merged(g)
    parts = groups(g)
    assert not isinstance(parts, str)
    made = [_group(g, group, forward) for group in parts]
    runs, stores, stored, *needs = zip(*made)
    tiles, products, private, units = map(max, needs)
    scratch = workspace.total(tiles + products, private, units)
    nothing = np.empty(0, g.dtype)
    if forward:

        def run(x: Array, w: Array, bias: Array | None, y: Array) -> None:
            for each in runs:
                each(x, w, nothing, nothing if bias is None else bias, y, 0)

        def prepare(w: Array) -> Prepared:
            held = [store(w) for store in stores]

            def run_prepared(x: Array, bias: Array | None, y: Array) -> None:
                for each, weights in zip(runs, held):
                    each(x, nothing, weights, nothing if bias is None else bias, y, 0)

            return Prepared(run_prepared, sum(weights.nbytes for weights in held))

        room = _STORED * math.prod(g.weight_shape)
        return Bound(run, scratch, prepare if sum(stored) <= room else None)

    def run_gradient(gy: Array, w: Array, gx: Array) -> None:
        for number, each in enumerate(runs):
            each(gy, w, nothing, nothing, gx, 2 if number == 0 else 1)

    return Bound(run_gradient, scratch)


def _group(g: Geometry, group: Group, forward: bool) -> _Part:
    phases = math.prod(len(s.phases) for s in group)
    points = math.prod(s.points for s in group)
    lanes, itemsize = host.lanes(g.dtype), np.dtype(g.dtype).itemsize
    into = transforms.INPUT if forward else transforms.transposed(transforms.OUTPUT)
    back = transforms.OUTPUT if forward else transforms.transposed(transforms.INPUT)
    # Strips are those of the output, the longer rows.
    output, output_origins = tiles.side(g, group, True, back if forward else into)
    wide = int(output["width"][0])
    inner, inner_origins = tiles.side(g, group, False, into if forward else back, int(output["wide"][0]))
    source, target = (inner, output) if forward else (output, inner)
    source_origins, target_origins = (inner_origins, output_origins) if forward else (output_origins, inner_origins)
    strips = tiles.all_strips(output)
    blocks = int(target["blocks"][0])
    row_phases = phases if forward else 1
    depth = tiles.depth(source)

    image = strips // g.batch
    far = points * depth * itemsize * g.groups * wide  # bytes of a strip's transformed tiles
    most = max(1, min(strips, _TILES // far))
    # What adds to its result is split between images only.
    whole = 1 if forward or most < 2 * image else image
    most = -(-strips // (whole * -(-strips // most))) * whole  # parts of equal size

    def ranges(count: int) -> int:
        most = max(1, min(_UNITS // g.groups, count * wide // _RANGE, count // whole))
        if forward:
            return most
        return next(n for n in range(most, 0, -1) if count // whole % n == 0) if whole > 1 else 1

    splits = ranges(most)
    shape = _shape(blocks, row_phases, depth, strips * wide, g.groups * splits, g.dtype)
    columns = -(-shape.block * row_phases * lanes // shape.width) * shape.width
    at_once = max(1, min(-(-most // splits), _PRODUCTS // (itemsize * points * columns * wide)))
    pack = -(-depth // (lanes * -(-depth // RUN))) * lanes
    # The last register tile may reach past the last tile.
    elements = tiles.lay_out(source, most, pack, lanes) + shape.height * (pack + lanes)

    pitch = depth * columns + 5 * lanes
    point_step = -(-at_once * wide // shape.height) * shape.height * columns + 5 * lanes
    room = points * (pitch + point_step)
    unit_blocks = -(-blocks // shape.block)
    layout = np.zeros(1, BLOCK)
    for name, value in {
        "shape": shape.register, "height": shape.height, "width": shape.width, "block": shape.block,
        "blocks": unit_blocks, "columns": columns, "depth": depth, "at_once": at_once,
        "pitch": pitch, "point_step": point_step, "room": room, "image": image,
    }.items():  # fmt: skip
        layout[name] = value
    weights = kernels(g, group, forward)

    work = 2 * multiplications(group) * g.batch * g.in_channels * g.group_out
    units = g.groups * unit_blocks * splits

    def launchers(count: int) -> tuple[Any, Any, int]:
        parts = ranges(count)
        fill = tiles.filler(source, g.dtype, count, parts if parts > 1 else 0)
        return fill, product_units.launcher(g.dtype, g.groups * unit_blocks * parts, work), parts

    calls = {count: launchers(count) for count in {most, strips % most} if count}
    slots = room * max(1, min(units, int(numba.config.NUMBA_NUM_THREADS)))
    stored = g.groups * unit_blocks * points * pitch
    launch_store = store_units.launcher(g.dtype, g.groups * unit_blocks, 8 * stored)

    def store(w: Array) -> Array:
        held = workspace.new(stored, g.dtype)
        launch_store(w, held, layout, weights)
        return held

    def run(array: Array, w: Array, kept: Array, bias: Array, out: Array, adding: int) -> None:
        panels = workspace.take("tiles", elements, g.dtype)
        products = workspace.take("products", slots, g.dtype)
        for first in range(0, strips, most):
            count = min(most, strips - first)
            fill, multiply, parts = calls[count]
            fill(array, panels, source_origins, first)
            multiply(
                panels, w, kept, bias, out, products, layout, weights, source, target, target_origins,
                first, count, parts, adding,
            )  # fmt: skip
        workspace.keep("tiles", panels)
        workspace.keep("products", products)

    return _Part(
        run, store, stored, elements * itemsize, slots * itemsize,
        max(tiles.private(source, itemsize), tiles.private(target, itemsize)), max(units, most * depth // lanes),
    )  # fmt: skip


def _implementation(forward: bool, transformed: bool) -> Implementation:
    name = "winograd" if transformed else "direct_product"
    return Implementation(
        name,
        "minimal filtering: matrix products between transforms of small tiles, shared by all phases of a stride"
        if transformed
        else "one matrix product for taps that do not overlap",
        lambda g: declines(g, transformed),
        lambda g: bind(g, forward),
        cost=Cost(lambda g: counts(g, forward), weights_of(name, "forward" if forward else "input_grad")),
        batch_invariant=not transformed,  # the sizes of tiles depend on how many there are
    )


WINOGRAD_FORWARD, WINOGRAD_INPUT_GRAD = _implementation(True, True), _implementation(False, True)
DIRECT_FORWARD, DIRECT_INPUT_GRAD = _implementation(True, False), _implementation(False, False)
