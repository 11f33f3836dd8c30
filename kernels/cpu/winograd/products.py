"""Forward pass and input gradient: batched matrix products between transforms.

Forward: ``y = A [(G w) (B x)]``; input gradient: ``gx = Bᵀ [(G w)ᵀ (Aᵀ gy)]``. Matrices A, B, G act on each axis
(`transforms`); for each of their points, one matrix product over channels multiplies tiles and weights. Forward:
columns are (block of output channels, phase, channel), depth is input channels. Input gradient: columns are input
channels, depth is (block of output channels, phase, channel), and tiles that share inputs add up.

Two ways (`units`). By chunks: a unit transforms some tens of tiles and computes all channels from them; weights, all of
which are transformed beforehand, pass by once for each chunk. Together: all threads transform a part of the tiles, and
a unit multiplies them with a block of channels of the weights, which it transforms itself. Chunks where they are
enough for all threads and weights are not much more than tiles. Sums, and so all bits, are the same both ways.

Memory: by chunks, all transformed weights (unit, point, panel of columns, depth, column) and for each thread the tiles
and the products of a chunk; together, transformed tiles as in `tiles`, and for each thread the weights of one unit
and products (point, tile, column).
Parallel over chunks of strips, or over blocks of channels of the result and ranges of strips; units that run together
touch no common output. What adds to its result is cut between images, or an image's rows of tiles into chunks: those of
even number are computed first, then those between them, as neighbours add to some rows of both. Where outputs need
windows of several tiles, a chunk's source reaches some tiles further; it is not done together.
A NaN or Inf reaches every output of the tiles that hold it, and what it adds up to there may be NaN. Rounding is that
of the largest sums of a tile.

Ladder, measured in docs/decisions/0006-winograd.md:
1. Units of few rows, all points of a panel at once.
2. Units of some 64 rows, points one after the other: tiles are read from a far cache a fifth as often.
3. Weights of all phases side by side, in packs of whole vectors; scratch memory kept between calls.
4. Register tiles chosen for few tiles too; single outputs at edges only where they pay.
5. Lanes are channels, not tiles: rows are transposed in registers instead of gathered, weights too.
6. Chunks: tiles and products no longer go to memory and back.
7. Tiles in blocks of a vector of channels, so that register tiles of six rows read them at constant places.
8. Four to nine taps of a phase, by the windows of tiles side by side.
9. Phases of different numbers of taps in one group; products with weights that are zero left out.
10. Arrays with channels last: their pixels are vectors of channels already (docs/decisions/0022-channels-last.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from fastdeconv.kernels.cpu import host, workspace
from fastdeconv.kernels.cpu.costs import weights_of
from fastdeconv.kernels.cpu.frame import Ints, ints, merged
from fastdeconv.kernels.cpu.panels import BlockShape, block_shape
from fastdeconv.kernels.cpu.winograd import tiles, transforms
from fastdeconv.kernels.cpu.winograd.axes import Group, combinations, counts, declines, groups, multiplications
from fastdeconv.kernels.cpu.winograd.units import BLOCK, chunk_units, product_units, store_units
from fastdeconv.kernels.cpu.winograd.weights import kernels
from fastdeconv.kernels.geometry import Bound, Cost, Geometry, Implementation, Prepared, Run

Array = NDArray[Any]

# Transformed tiles of so many bytes are used before the next ones are made.
_TILES = (12 if host.REGISTERS == 32 else 6) << 20
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
# Channels whose weights are worth a unit to transform.
_PART = 8
# A range of fewer tiles would not pay for transforming its weights.
_RANGE = 512
# Tiles that a chunk should have, at least and at most: few where all weights stay in the second-level cache beside
# them. It never has `_LARGE` times as many. Wide vectors read weights faster than the caches beyond it give them.
_FEWEST, _CHUNK = (48, 128) if host.REGISTERS == 32 else (24, 64)
_LARGE = 3
# Vectors of columns that a chunk is multiplied with at once: products of all points stay in that cache too.
_CHUNK_VECTORS = 8
# Weights are read once a chunk: more than tiles, so many times, they would come from memory too often.
_WEIGHTS = 1.5


def _threads() -> int:
    return max(1, int(numba.config.NUMBA_NUM_THREADS))


class _Group:
    """One group of tiles of a pass: what all units need to know, and how their scratch memory lies."""

    def __init__(self, g: Geometry, group: Group, forward: bool, alone: bool) -> None:
        self.g, self.forward, self.alone = g, forward, alone
        if not forward:  # all windows that a tile of gy adds to
            axes = [s._replace(tiles=s.tiles + s.pieces - 1) for s in group]
            group = axes[0], axes[1], axes[2]
        self.points = math.prod(s.points for s in group)
        self.lanes, self.itemsize = host.lanes(g.dtype), np.dtype(g.dtype).itemsize
        into = transforms.INPUT if forward else transforms.transposed(transforms.OUTPUT)
        back = transforms.OUTPUT if forward else transforms.transposed(transforms.INPUT)
        # Strips are those of the output, the longer rows.
        output, output_origins = tiles.side(g, group, True, back if forward else into)
        inner, inner_origins = tiles.side(g, group, False, into if forward else back, int(output["wide"][0]))
        self.source, self.target = (inner, output) if forward else (output, inner)
        self.origins = (inner_origins, output_origins) if forward else (output_origins, inner_origins)
        self.strips = tiles.all_strips(output)
        self.pieces = combinations(group)
        self.shifts = [(0, 0)]  # rows and tiles to the window of each piece
        self.halo = (group[1].pieces - 1) * int(output["strips"][0])
        if math.prod(s.pieces for s in group) > 1:
            self._widen(group)
        self.image = self.strips // g.batch  # strips of an image
        self.wide = int(self.source["width"][0])  # tiles of a strip
        self.phases = math.prod(len(s.phases) for s in group) if forward else 1  # of the result
        self.blocks = int(self.target["blocks"][0])
        self.depth = tiles.depth(self.source)
        self.source["block_step"], self.source["phase_step"] = 1, self.source["blocks"]
        self.run = -(-self.depth // (self.lanes * -(-self.depth // RUN))) * self.lanes
        self.weights = kernels(g, group, forward)
        self.work = 2 * multiplications(group) * g.batch * g.in_channels * g.group_out
        self.private = tiles.private(self.itemsize, self.source, self.target)

    def _widen(self, group: Group) -> None:
        """Have strips of the source reach as far as the last pieces need, which is back in the input gradient."""
        beyond = [s.pieces - 1 for s in group]
        tiles.widen(self.source, beyond)
        p, origins = self.source[0], self.origins[0]
        for axis in (1, 2) if not self.forward else ():
            back = beyond[axis] * p["hop"][axis]
            p["first"][axis] -= back
            origins[p["table"][axis] : p["table"][axis] + p["phases"][axis]] -= back
        self.shifts = [(a, b) if self.forward else (beyond[1] - a, beyond[2] - b) for (_, a, b), _ in self.pieces]

    def columns(self, shape: BlockShape) -> int:
        """Return the columns of a unit's weights: whole panels."""
        return -(-shape.block * self.phases * self.lanes // shape.width) * shape.width

    def units(self, shape: BlockShape, at_once: int) -> NDArray[np.void]:
        """Describe units of a shape that multiply so many strips at once."""
        columns = self.columns(shape)
        rows = -(-at_once * self.wide // shape.height) * shape.height
        pitch = len(self.shifts) * self.depth * columns + 5 * self.lanes
        point_step = rows * columns + 5 * self.lanes
        layout = np.zeros(1, BLOCK)
        self.target["phase_step"] = shape.block
        for name, value in {
            "shape": shape.register, "height": shape.height, "width": shape.width, "block": shape.block,
            "blocks": -(-self.blocks // shape.block), "columns": columns, "depth": self.depth, "run": self.run,
            "at_once": at_once, "pitch": pitch, "point_step": point_step, "image": self.image, "halo": self.halo,
            "apart": 1 if self.forward else 2,
        }.items():  # fmt: skip
            layout[name] = value
        return layout

    def pieces_of(self, shape: BlockShape) -> Ints:
        """Return what `units.multiply` needs to know of the pieces."""
        columns, row = self.columns(shape), int(self.source["strips"][0]) * self.wide
        table: list[int] = []
        for (a, b), used in zip(self.shifts, self.pieces):
            table.append((a * row + b) * self.lanes)
            for begin, end in used.phases:
                if self.forward:
                    step = shape.block * self.lanes
                    last = -(-end * step // shape.width) * shape.width
                    table += [begin * step // shape.width * shape.width, last, 0, self.depth]
                else:
                    step = int(self.source["blocks"][0]) * self.lanes
                    table += [0, columns if begin < end else 0, begin * step, end * step]
        return ints(table)

    def storing(self, layout: NDArray[np.void]) -> tuple[int, Callable[[Array, Array], None]]:
        """Return the elements of all transformed weights, and what transforms them."""
        blocks = self.g.groups * int(layout["blocks"][0])
        elements = blocks * self.points * int(layout["pitch"][0])
        channels = self.g.group_in if self.forward else self.g.group_out
        layout["parts"] = parts = max(1, min(-(-_UNITS // blocks), channels // _PART))
        launch = store_units.launcher(self.g.dtype, blocks * parts, 8 * elements)
        return elements, lambda w, held: launch(w, held, layout, self.weights)


class _Part(NamedTuple):
    """What computes the outputs of one group, and its scratch memory in bytes: by slot, and of each thread."""

    run: Run
    store: Callable[[Array, Array], None]
    stored: int  # elements
    shared: dict[str, int]
    private: int
    units: int


def bind(g: Geometry, forward: bool) -> Bound:
    """Return the function that runs the pass."""
    g = merged(g)
    parts = groups(g, forward)
    assert not isinstance(parts, str)
    made = [_part(_Group(g, group, forward, len(parts) == 1)) for group in parts]
    runs, stores, stored, shared, private, units = zip(*made)
    most = {slot: max(each.get(slot, 0) for each in shared) for each in shared for slot in each}
    scratch = workspace.total(sum(most.values()), max(private), max(units))
    nothing = np.empty(0, g.dtype)
    if forward:

        def run(x: Array, w: Array, bias: Array | None, y: Array) -> None:
            for each in runs:
                each(x, w, nothing, nothing if bias is None else bias, y, 0)

        def prepare(w: Array) -> Prepared:
            held = [workspace.new(elements, g.dtype) for elements in stored]
            for store, weights in zip(stores, held):
                store(w, weights)

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


def _part(group: _Group) -> _Part:
    at_once, chunks = _strips_of_a_chunk(group)
    part = _by_chunks(group, at_once, chunks) if at_once else None
    return part or _together(group)


def _strips_of_a_chunk(group: _Group) -> tuple[int, int]:
    """Return how many strips make a chunk, 0 if there are too few for all threads, and the chunks of an image.

    The latter are 0 unless an image is cut whose chunks add to common rows, or need common rows of the source. Adding
    changes the order of sums where several groups, or several strips of a row, add to one result: these are left to
    what does not depend on threads. Where outputs need windows of several tiles, there is no other way than chunks.
    """
    units = group.g.groups
    most = max(_FEWEST, min(_CHUNK, group.depth // 4))
    if len(group.shifts) > 1:
        if group.forward:
            row, images = 1, units * group.g.batch
            chunks = -(-group.image * group.wide // most)
            chunks = max(1, -(-chunks * images // _threads()) * _threads() // images)
        else:
            row, chunks = int(group.target["strips"][0]), 2 * -(-group.image * group.wide // (2 * most))
        at_once = -(-group.image // (chunks * row)) * row
        return at_once, -(-group.image // at_once)
    whole = 1 if group.forward else group.image
    chunks = -(-group.strips * group.wide // most)
    chunks = -(-chunks // _threads()) * _threads()  # so that they end together
    at_once = -(-group.strips // whole // chunks) * whole
    if units * -(-group.strips // at_once) >= _threads() and at_once * group.wide <= _LARGE * most:
        return at_once, 0
    p = group.target[0]
    if group.forward or not group.alone or p["strips"] * p["size"][0] * p["tiles"][0] * p["lattices"][0] > 1:
        return 0, 0
    chunks = 2 * -(-group.image * group.wide // (2 * most))
    at_once = -(-group.image // chunks)
    chunks = -(-group.image // at_once)
    few = units * group.g.batch * (chunks // 2) < _threads()
    return (0, 0) if few or at_once * group.wide > _LARGE * most else (at_once, chunks)


def _by_chunks(group: _Group, at_once: int, chunks: int) -> _Part | None:
    """Return what has each unit compute all channels of a chunk, or None if that reads weights too often for it."""
    g, source = group.g, group.source
    most = max(1, _CHUNK_VECTORS // group.phases)
    most = -(-group.blocks // -(-group.blocks // most))  # units of equal size
    shape = block_shape(group.blocks, group.phases, at_once * group.wide, most, g.dtype)
    layout = group.units(shape, at_once)
    stored, store = group.storing(layout)
    if len(group.shifts) == 1 and stored > _WEIGHTS * group.points * group.depth * g.groups * group.strips * group.wide:
        return None
    tiles.lay_out(source, at_once + group.halo, group.lanes)
    # The last register tile may reach past the last tile, and so do the last pieces of tiles that are not used.
    products_at = int(source["group_step"][0]) + (shape.height + max(b for _, b in group.shifts)) * group.lanes
    pieces = group.pieces_of(shape)
    room = products_at + group.points * int(layout["point_step"][0])
    layout["products_at"], layout["room"], layout["chunks"] = products_at, room, chunks
    units = g.groups * -(-group.strips // at_once)
    rounds = [units]
    if chunks:
        rounds = [chunks] if group.forward else [-(-chunks // 2), chunks // 2]
        rounds = [g.groups * g.batch * n for n in rounds]
        units = rounds[0]
    slots = room * min(units, _threads())
    if len(group.shifts) == 1 and (stored + slots) * group.itemsize > workspace.MOST_KEPT:
        return None
    launches = [chunk_units.launcher(g.dtype, count, group.work) for count in rounds if count]

    def run(array: Array, w: Array, kept: Array, bias: Array, out: Array, adding: int) -> None:
        held = kept if kept.size else workspace.take("weights", stored, g.dtype)
        if not kept.size:
            store(w, held)
        rooms = workspace.take("products", slots, g.dtype)
        for odd, compute in enumerate(launches):
            compute(
                array, held, bias, out, rooms, layout, source, group.target, *group.origins, pieces, group.strips,
                1 if odd else adding, odd,
            )  # fmt: skip
        workspace.keep("products", rooms)
        if not kept.size:
            workspace.keep("weights", held)

    shared = {"weights": stored * group.itemsize, "products": slots * group.itemsize}
    return _Part(run, store, stored, shared, group.private, units)


def _together(group: _Group) -> _Part:
    """Return what has all threads transform tiles, part by part, and then multiply them by blocks of channels."""
    g, source = group.g, group.source
    far = group.points * group.depth * group.itemsize * g.groups * group.wide  # bytes of a strip's transformed tiles
    most = max(1, min(group.strips, _TILES // far))
    # What adds to its result is split between images only.
    whole = 1 if group.forward or most < 2 * group.image else group.image
    most = -(-group.strips // (whole * -(-group.strips // most))) * whole  # parts of equal size

    def ranges(count: int) -> int:
        most = max(1, min(_UNITS // g.groups, count * group.wide // _RANGE, count // whole))
        if group.forward:
            return most
        return next(n for n in range(most, 0, -1) if count // whole % n == 0) if whole > 1 else 1

    splits = ranges(most)
    wanted = max(1, -(-_UNITS // (g.groups * splits)))
    fits = _UNIT_WEIGHTS // (group.itemsize * group.depth * group.phases * group.lanes)
    largest = min(fits, -(-group.blocks // wanted))
    shape = block_shape(group.blocks, group.phases, group.strips * group.wide, largest, g.dtype)
    strip = group.itemsize * group.points * group.columns(shape) * group.wide  # bytes of its products
    at_once = max(1, min(-(-most // splits), _PRODUCTS // strip))
    layout, pieces = group.units(shape, at_once), group.pieces_of(shape)
    stored, store = group.storing(layout)
    # The last register tile may reach past the last tile.
    elements = tiles.lay_out(source, most, group.lanes, run=at_once) + shape.height * group.lanes
    layout["products_at"] = group.points * int(layout["pitch"][0])
    room = group.points * int(layout["pitch"][0] + layout["point_step"][0])
    layout["room"] = room
    blocks = g.groups * int(layout["blocks"][0])

    def launchers(count: int) -> tuple[Any, Any, int]:
        parts = ranges(count)
        fill = tiles.filler(source, g.dtype, count, parts if parts > 1 else 0)
        return fill, product_units.launcher(g.dtype, blocks * parts, group.work), parts

    calls = {count: launchers(count) for count in {most, group.strips % most} if count}
    units = blocks * max(parts for *_, parts in calls.values())  # the last part may have more ranges than the others
    slots = room * min(units, _threads())

    def run(array: Array, w: Array, kept: Array, bias: Array, out: Array, adding: int) -> None:
        panels = workspace.take("tiles", elements, g.dtype)
        rooms = workspace.take("products", slots, g.dtype)
        for first in range(0, group.strips, most):
            count = min(most, group.strips - first)
            fill, multiply, parts = calls[count]
            fill(array, panels, group.origins[0], first)
            multiply(
                panels, w, kept, bias, out, rooms, layout, group.weights, source, group.target, group.origins[1],
                pieces, first, count, parts, adding,
            )  # fmt: skip
        workspace.keep("tiles", panels)
        workspace.keep("products", rooms)

    shared = {"tiles": elements * group.itemsize, "products": slots * group.itemsize}
    return _Part(run, store, stored, shared, group.private, max(units, most * group.depth // group.lanes))


def _implementation(forward: bool, transformed: bool) -> Implementation:
    name, pass_ = "winograd" if transformed else "direct_product", "forward" if forward else "input_grad"
    return Implementation(
        name,
        "minimal filtering: matrix products between transforms of small tiles, shared by all phases of a stride"
        if transformed
        else "one matrix product for taps that do not overlap",
        lambda g: declines(g, transformed),
        lambda g: bind(g, forward),
        cost=Cost(lambda g: counts(g, forward), weights_of(name, pass_), weights_of(name, pass_, channels_last=True)),
        batch_invariant=not transformed,  # the sizes of tiles depend on how many there are
        channels_last=(False, True),
    )


WINOGRAD_FORWARD, WINOGRAD_INPUT_GRAD = _implementation(True, True), _implementation(False, True)
DIRECT_FORWARD, DIRECT_INPUT_GRAD = _implementation(True, False), _implementation(False, False)
