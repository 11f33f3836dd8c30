"""Forward pass and input gradient: batched matrix products between transforms.

Forward: ``y = A [(G w) (B x)]``; input gradient: ``gx = Bᵀ [(G w)ᵀ (Aᵀ gy)]``. Matrices A, B, G act on each axis
(`transforms`); for each of their points, one matrix product over channels multiplies weights and tiles. Forward: rows
are (phase, output channel), depth is input channels. Input gradient: rows are input channels, depth is (phase, output
channel), and tiles that share inputs add up.

Memory: panels of transformed tiles (group, point, panel, depth, tile) · weights of one unit (point, pack, depth, row),
those of one point in the second-level cache while panels pass by · products of one unit (point, panel, row, tile).
Parallel over blocks of channels of the result, and over ranges of panels where they write apart; no unit touches
another's output. A NaN or Inf reaches every output of the tiles that hold it, and what it adds up to there may be NaN.
Rounding is that of the largest sums of a tile.

Ladder, measured in docs/decisions/0006-winograd.md:
1. Units of few rows, all points of a panel at once.
2. Units of some 64 rows, points one after the other: panels are read from a far cache a fifth as often.
3. Weights of all phases side by side, in packs of whole vectors; scratch memory kept between calls.
4. Register tiles chosen for few tiles too; single outputs at edges only where they pay.
5. Input gradient: weights transformed along output channels, then transposed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdeconv.kernels.cpu import host, workspace
from fastdeconv.kernels.cpu.buffers import empty
from fastdeconv.kernels.cpu.frame import Ints, ints, merged
from fastdeconv.kernels.cpu.jit import device_function, kernel
from fastdeconv.kernels.cpu.rows import scatter, transpose, zero_row
from fastdeconv.kernels.cpu.tiles import PRODUCT_SHAPES, product_tile
from fastdeconv.kernels.cpu.winograd import cost, transforms
from fastdeconv.kernels.cpu.winograd.axes import Group, declines, groups, multiplications
from fastdeconv.kernels.cpu.winograd.panels import (
    SIDE,
    filler,
    gather_transformed,
    largest,
    places,
    side,
    transform,
    transform_units,
)
from fastdeconv.kernels.geometry import Bound, Geometry, Implementation, Prepared, Run

Array = NDArray[Any]

WEIGHTS = np.dtype(
    [
        ("rows", "i8"),  # channels of the result, of one group
        ("block", "i8"),  # of those in a unit
        ("blocks", "i8"),
        ("shape", "i8"),  # of a register tile, in `PRODUCT_SHAPES`
        ("height", "i8"),  # its rows
        ("pack", "i8"),  # rows of weights side by side
        ("tall", "i8"),  # rows of a unit, whole packs
        ("depth", "i8"),  # channels that are summed over, of one group
        ("row_phases", "i8"),
        ("depth_phases", "i8"),
        ("taps", "i8", (3,)),
        ("transform", "i8", (3,)),
        ("points", "i8", (3,)),
        ("group_step", "i8"),  # strides of the weight array
        ("row_step", "i8"),
        ("depth_step", "i8"),
        ("panels", "i8"),  # that are multiplied before their products are transformed
        ("pitch", "i8"),  # elements of a unit's weights of one point
        ("room", "i8"),  # elements of a unit's weights and products
        ("run", "i8"),  # products of a running total
    ]
)

# Transformed tiles of so many bytes are used before the next ones are made.
PANELS = 16 << 20
# Weights of a unit at one point, in bytes: they stay in the second-level cache while the panels pass by.
_UNIT_WEIGHTS = 256 << 10
# Bytes of a row of a pack: more would put the rows that a register tile reads into few cache sets.
PACK = 256
# Products of a unit that are transformed together, in bytes.
_PRODUCTS = 1 << 20
# A sum longer than this is one of partial sums.
RUN = 512
# Prepared weights may be so many times as large as the weights; else they are transformed in every run. DCGAN's
# second layer, which takes a quarter less time with them, holds 6.4 times.
_STORED = 7
# Enough units to share among threads.
UNITS = 8


@device_function
def transform_weights(
    p: Any, lanes: int, weight: Any, start: int, present: int, taps: Any, left: Any, left_at: int,
    table: Any, tile: Any, scratch: Any,
) -> None:  # fmt: skip
    """Transform the weights of a block of output channels to ``left[point, pack, input channel, (phase, channel)]``.

    A pack is so many rows as fill whole vectors.
    """
    elements = p.taps[0] * p.taps[1] * p.taps[2]
    pack = p.pack
    half = p.points[0] * p.points[1] * p.points[2] * pack
    at = 0
    for first in range(0, p.tall, pack):
        for e in range(elements):
            for row in range(first, first + pack):
                f, c = row // p.block, row % p.block
                table[at] = taps[f * elements + e] + c * p.row_step if f < p.row_phases and c < present else -1
                at += 1
    for c in range(p.depth):
        for i in range(p.tall // pack):
            gather_transformed(p.transform, p.taps, p.points, pack // lanes, pack,
                               weight, start + c * p.depth_step, table, i * elements * pack,
                               left, left_at + (i * p.depth + c) * pack, p.pitch, tile, scratch, half)  # fmt: skip


@device_function
def transpose_weights(
    p: Any, lanes: int, weight: Any, start: int, present: int, taps: Any, left: Any, left_at: int,
    table: Any, tile: Any, square: Any, scratch: Any,
) -> None:  # fmt: skip
    """Transform the weights of a block of input channels to ``left[point, pack, (phase, output channel), channel]``.

    The kernels of output channels lie side by side in memory, so they are the lanes until the end.
    """
    elements = p.taps[0] * p.taps[1] * p.taps[2]
    points = p.points[0] * p.points[1] * p.points[2]
    depth = p.depth * p.depth_phases
    for first in range(0, p.tall, lanes):
        pack_at = left_at + first // p.pack * depth * p.pack + first % p.pack
        for f in range(p.depth_phases):
            for c in range(0, p.depth, lanes):
                for e in range(elements):
                    for lane in range(lanes):
                        inside = c + lane < p.depth
                        table[e * lanes + lane] = taps[f * elements + e] + lane * p.depth_step if inside else -1
                for row in range(first, min(first + lanes, present)):
                    gather_transformed(p.transform, p.taps, p.points, 1, lanes,
                                       weight, start + row * p.row_step + c * p.depth_step, table, 0,
                                       square, (row - first) * lanes, lanes * lanes,
                                       tile, scratch, points * lanes)  # fmt: skip
                # Rows past the last channel are overwritten by those of the next phase and pack.
                for point in range(points):
                    transpose(left, pack_at + point * p.pitch + (f * p.depth + c) * p.pack, p.pack,
                              square, point * lanes * lanes)  # fmt: skip


@kernel("T[]", "T[]", WEIGHTS, "int[]", "int")
def store_units(lo: int, hi: int, weight: Any, stored: Any, weights: Any, taps: Any, lanes: int) -> None:
    """Transform the weights of one block of output channels of one group for all runs to come."""
    p = weights[0]
    points, tap_count = p.points[0] * p.points[1] * p.points[2], p.taps[0] * p.taps[1] * p.taps[2]
    table, tile = empty(tap_count * p.tall, np.int64), empty(tap_count * p.pack, weight.dtype)
    scratch = empty(2 * points * p.pack, weight.dtype)
    for unit in range(lo, hi):
        first = unit % p.blocks * p.block
        at = unit // p.blocks * p.group_step + first * p.row_step
        transform_weights(p, lanes, weight, at, min(p.block, p.rows - first), taps, stored, unit * points * p.pitch,
                          table, tile, scratch)  # fmt: skip


@kernel("T[]", "T[]", "T[]", "T[]", "T[]", "T[]", WEIGHTS, SIDE, SIDE, "int[]", "int[]", "int", "int", "int", "int")
def product_units(
    lo: int, hi: int, panels: Any, weight: Any, stored: Any, bias: Any, out: Any, room: Any, weights: Any,
    source: Any, target: Any, offsets: Any, taps: Any, first_panel: int, count: int, splits: int, adding: int,
) -> None:  # fmt: skip
    """Compute one block of channels of one group for one of `splits` ranges of `count` panels.

    Weights are taken from `stored`, where `store_units` put them, if it is not empty.
    `adding` is 0 in the forward pass; in the input gradient 1, and 2 for the first to add.
    """
    p, q, t = weights[0], source[0], target[0]
    width, tall, height = t.width, p.tall, p.height
    points = p.points[0] * p.points[1] * p.points[2]
    elements = t.elements[0] * t.elements[1] * t.elements[2]
    depth = p.depth * p.depth_phases
    half = largest(t) * width
    transformed = t.transform[0] + t.transform[1] + t.transform[2] > 0
    # What a call leaves in memory it touches again in the next one: fresh pages would cost more than the products.
    left_at = lo * p.room
    products_at = left_at + points * p.pitch
    lefts = stored if stored.size else room
    scratch = empty(2 * half, out.dtype)
    tile = empty(elements * width, out.dtype)
    table = empty(p.row_phases * elements * width, np.int64)
    lanes = width // t.vectors
    pack = p.pack
    tap_count = p.taps[0] * p.taps[1] * p.taps[2]
    weight_table = empty(tap_count * tall, np.int64)
    weight_tile = empty(tap_count * pack, out.dtype)
    weight_scratch = empty(2 * points * pack, out.dtype)
    square = empty(points * lanes * lanes if adding else 0, out.dtype)
    zero_row(square, 0, square.size)
    for unit in range(lo, hi):
        split = unit % splits
        rest = unit // splits
        block, g = rest % p.blocks, rest // p.blocks
        first = block * p.block
        present = min(p.block, p.rows - first)
        at = g * p.group_step + first * p.row_step
        if stored.size:
            left_at = rest * points * p.pitch
        elif adding:
            transpose_weights(p, lanes, weight, at, present, taps, room, left_at,
                              weight_table, weight_tile, square, weight_scratch)  # fmt: skip
        else:
            transform_weights(p, lanes, weight, at, present, taps, room, left_at,
                              weight_table, weight_tile, weight_scratch)  # fmt: skip
        used = p.row_phases * p.block
        if adding == 2:  # the first to add; here, so that threads share the page faults of a new array
            for n in range(t.batch):
                zero_row(out, (n * t.groups * p.rows + g * p.rows + first) * t.plane, present * t.plane)
        end = count * (split + 1) // splits
        for start in range(count * split // splits, end, p.panels):
            some = min(p.panels, end - start)
            for point in range(points):
                for panel in range(some):
                    right = g * q.group_step + point * q.point_step + (start + panel) * q.panel_step
                    at = products_at + (point * p.panels + panel) * tall * width
                    for k in range(0, depth, p.run):
                        run = min(p.run, depth - k)
                        for m in range(0, used, height):
                            left = left_at + point * p.pitch + (m // pack * depth + k) * pack + m % pack
                            product_tile(p.shape, run, lefts, left, pack,
                                         panels, right + k * width, room, at + m * width, k > 0)  # fmt: skip
            for panel in range(some):
                places(table, t, offsets, first_panel + start + panel)
                for f in range(p.row_phases):
                    for c in range(present):
                        at = products_at + (panel * tall + f * p.block + c) * width
                        channel = g * p.rows + first + c
                        extra = bias[channel] if bias.size else out.dtype.type(0)
                        if transformed:
                            transform(t.transform, t.points, t.elements, t.vectors, width, room, at, p.panels * tall * width,
                                      tile, 0, width, scratch, half)  # fmt: skip
                            scatter(out, channel * t.plane, table, f * elements * width, tile, 0, extra, adding > 0,
                                    elements * width)  # fmt: skip
                        else:
                            scatter(out, channel * t.plane, table, f * width, room, at, extra, adding > 0, width)


class _Shape(NamedTuple):
    """The tiles of a product: those of registers, their rows and width; channels, rows of a pack, rows of a unit."""

    register: int
    height: int
    width: int
    block: int
    pack: int
    tall: int


def _shape(rows: int, phases: int, depth: int, tiles: int, others: int, dtype: str) -> _Shape:
    """Return the shape with the least work; `others` are units beside the blocks of channels."""
    lanes, itemsize = host.lanes(dtype), np.dtype(dtype).itemsize
    fits = max(16, min(256, _UNIT_WEIGHTS // (itemsize * depth)))
    wanted = max(1, -(-UNITS // others))
    most = max(1, min(rows, fits // phases, -(-rows // wanted)))

    def work(shape: int, block: int) -> float:
        height, columns = PRODUCT_SHAPES[shape]
        used = -(-block * phases // height) * height
        products = -(-rows // block) * used * -(-tiles // (columns * lanes)) * columns * lanes
        # Beside a product a cycle, a row of the panel comes from the second cache for each tile, and from a far one
        # once a unit.
        return products * (1 + (columns + 1) / (height * columns) + 4 / used)

    shape, block = min(itertools.product(range(len(PRODUCT_SHAPES)), range(max(1, most // 2), most + 1)),
                       key=lambda s: work(*s))  # fmt: skip
    height, columns = PRODUCT_SHAPES[shape]
    used = block * phases
    packs = -(-used * itemsize // PACK)
    step = max(lanes, height)
    pack = -(-used // (packs * step)) * step
    return _Shape(shape, height, columns * lanes, block, pack, packs * pack)


class _Part(NamedTuple):
    """What computes the outputs of one group, and its scratch memory in bytes: by slot, and of each thread."""

    run: Run
    store: Callable[[Array], Array]
    stored: int
    panels: int
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
    panels, products, private, units = map(max, needs)
    scratch = workspace.total(panels + products, private, units)
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
    tiles = g.batch * math.prod(s.tiles for s in group)
    rows, depth = (g.group_out, g.group_in) if forward else (g.group_in, g.group_out)
    row_phases, depth_phases = (phases, 1) if forward else (1, phases)
    lanes, itemsize = host.lanes(g.dtype), np.dtype(g.dtype).itemsize
    far = points * depth * depth_phases * itemsize * g.groups  # bytes of a tile's panels
    # What adds to its result must not be split.
    others = g.groups * (max(1, min(UNITS // g.groups, tiles // 512)) if forward else 1)
    shape = _shape(rows, row_phases, depth * depth_phases, tiles, others, g.dtype)
    width = shape.width
    all_panels = -(-tiles // width)
    most = max(1, min(all_panels, PANELS // (far * width)))
    most = -(-all_panels // -(-all_panels // most))  # parts of equal size

    blocks = -(-rows // shape.block)
    input_step, output_step = g.group_out * g.taps, g.taps
    at_once = max(1, min(most, _PRODUCTS // (itemsize * points * shape.tall * width)))
    # Room for what a transposition writes past the last row.
    pitch = depth * depth_phases * shape.tall + lanes * shape.pack
    room = points * (pitch + at_once * shape.tall * width)
    weights = np.zeros(1, WEIGHTS)
    for name, value in {
        "rows": rows, "block": shape.block, "blocks": blocks, "shape": shape.register, "height": shape.height,
        "pack": shape.pack, "tall": shape.tall, "depth": depth, "row_phases": row_phases, "depth_phases": depth_phases,
        "taps": [s.taps for s in group], "transform": [transforms.WEIGHT[s.taps] for s in group],
        "points": [s.points for s in group], "group_step": g.group_in * input_step,
        "row_step": output_step if forward else input_step, "depth_step": input_step if forward else output_step,
        "panels": at_once, "pitch": pitch, "room": room, "run": RUN,
    }.items():  # fmt: skip
        weights[name] = value

    into = transforms.INPUT if forward else transforms.transposed(transforms.OUTPUT)
    back = transforms.OUTPUT if forward else transforms.transposed(transforms.INPUT)
    source, source_offsets = side(g, group, not forward, into, width, lanes)
    target, target_offsets = side(g, group, forward, back, width, lanes)
    panel_step = depth * depth_phases * width
    source["row_step"], source["panel_step"] = width, panel_step
    source["point_step"] = most * panel_step + 5 * lanes  # points apart by a power of two would share cache sets
    source["group_step"] = points * source["point_step"]
    elements = int(g.groups * source["group_step"][0])
    taps = tap_table(g, group)

    def launchers(count: int) -> tuple[Any, Any, int]:
        splits = max(1, min(count, others // g.groups))
        work = 2 * multiplications(group) * g.batch * g.in_channels * g.group_out
        fill = filler(transform_units, g.dtype, source, source_offsets, count)
        return fill, product_units.launcher(g.dtype, g.groups * blocks * splits, work), splits

    slots = room * g.groups * blocks * max(1, others // g.groups)
    calls = {count: launchers(count) for count in {most, all_panels % most} if count}

    stored = g.groups * blocks * points * pitch
    launch_store = store_units.launcher(g.dtype, g.groups * blocks, 8 * stored)

    def store(w: Array) -> Array:
        held = workspace.new(stored, g.dtype)
        launch_store(w, held, weights, taps, lanes)
        return held

    def run(array: Array, w: Array, kept: Array, bias: Array, out: Array, adding: int) -> None:
        panels = workspace.take("panels", elements, g.dtype)
        products = workspace.take("products", slots, g.dtype)
        for first in range(0, all_panels, most):
            count = min(most, all_panels - first)
            fill, multiply, splits = calls[count]
            fill(array, panels, first)
            multiply(
                panels, w, kept, bias, out, products, weights, source, target, target_offsets, taps, first, count,
                splits, min(adding, 1) if first else adding,
            )  # fmt: skip
        workspace.keep("panels", panels)
        workspace.keep("products", products)

    taps_of_phase = math.prod(s.taps for s in group)
    private = taps_of_phase * (8 * shape.tall + shape.pack * itemsize)
    private += points * (2 * shape.pack + (0 if forward else lanes * lanes)) * itemsize
    private += max(buffers(source, itemsize), buffers(target, itemsize))
    units = g.groups * max(blocks * max(1, others // g.groups), most * depth * depth_phases)
    return _Part(run, store, stored, elements * itemsize, slots * itemsize, private, units)


def buffers(layout: NDArray[np.void], itemsize: int) -> int:
    """Return the bytes that a thread needs to place the elements of tiles and to transform one tile after the other."""
    elements, points, phases = (layout[name][0].tolist() for name in ("elements", "points", "phases"))
    rows = 2 * math.prod(map(max, elements, points)) + math.prod(elements)
    bytes_of_lane: int = rows * itemsize + 8 * math.prod(phases + elements)
    return bytes_of_lane * int(layout["width"][0])


def tap_table(g: Geometry, group: Group) -> Ints:
    """Return where each phase's taps are in a kernel: (phase, tap)."""
    return ints(
        [
            (k0 * g.kernel[1] + k1) * g.kernel[2] + k2
            for a in group[0].phases
            for b in group[1].phases
            for c in group[2].phases
            for k0 in a.taps
            for k1 in b.taps
            for k2 in c.taps
        ]
    )


def _implementation(forward: bool, transformed: bool) -> Implementation:
    return Implementation(
        "winograd" if transformed else "direct_product",
        "minimal filtering: matrix products between transforms of small tiles, shared by all phases of a stride"
        if transformed
        else "one matrix product for taps that do not overlap",
        lambda g: declines(g, transformed),
        lambda g: bind(g, forward),
        cost.forward_yields if forward else cost.input_grad_yields,
    )


WINOGRAD_FORWARD, WINOGRAD_INPUT_GRAD = _implementation(True, True), _implementation(False, True)
DIRECT_FORWARD, DIRECT_INPUT_GRAD = _implementation(True, False), _implementation(False, False)
