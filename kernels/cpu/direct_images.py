"""Small images, many of them: matrix products whose rows are images.

Forward: ``y[n, m, o] = b[m] + Σ x[n, c, i] · w[c, m, k]`` over the pairs of an input i and a tap k that meet at output
o: for each, one product whose depth are input channels c, and whose columns are output channels m. Input gradient: the
same with o and i, m and c in each other's place. No product falls outside of the output, as many do at the edges of
small images in other kernels, and nothing is transformed.

Memory: x as (chunk of images, group, pixel, vector of channels, image, lane) · weights packed (group, unit, tap, panel
of columns, channel, column), those of one tap and unit in the second-level cache while all its pairs pass by · results
of a unit (pixel, image, column), which are turned to rows of the array at the end.
Parallel over groups, chunks of images and blocks of channels of the result. NaN and Inf reach what they touch and no
more.

Measured in docs/decisions/0018-images.md.
"""

from __future__ import annotations

import itertools
import math
from functools import lru_cache
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from fastdeconv.kernels.cpu import frame, host, planes, workspace
from fastdeconv.kernels.cpu.buffers import empty
from fastdeconv.kernels.cpu.columns import to_columns, to_rows
from fastdeconv.kernels.cpu.costs import weights_of
from fastdeconv.kernels.cpu.frame import Ints
from fastdeconv.kernels.cpu.jit import kernel
from fastdeconv.kernels.cpu.panels import BlockShape, block_shape, multiply_blocks
from fastdeconv.kernels.cpu.rows import read_ahead, zero_row
from fastdeconv.kernels.cpu.winograd.transforms import combine
from fastdeconv.kernels.geometry import Bound, Cost, Geometry, Implementation

Array = NDArray[Any]

LAYOUT = np.dtype(
    [
        ("lanes", "i8"),
        ("groups", "i8"),
        ("batch", "i8"),
        ("sources", "i8"),  # channels of a group that are summed over
        ("targets", "i8"),  # channels of a group of the result
        ("source_pixels", "i8"),
        ("target_pixels", "i8"),
        ("taps", "i8"),
        ("rows", "i8"),  # images of a chunk
        ("depth", "i8"),  # sources, padded to whole vectors
        ("run", "i8"),  # of those that a partial sum adds
        ("shape", "i8"),  # of a register tile, in `BLOCK_SHAPES`
        ("height", "i8"),  # its rows
        ("width", "i8"),  # its columns, those of a panel
        ("block", "i8"),  # vectors of channels of a unit
        ("blocks", "i8"),  # units beside each other
        ("columns", "i8"),  # of a unit, whole panels
        ("vector_step", "i8"),  # elements from one vector of channels of a pixel to the next, and so on
        ("pixel_step", "i8"),
        ("tap_step", "i8"),
        ("result_step", "i8"),
        ("room", "i8"),  # elements of a unit's results
        ("group_step", "i8"),  # strides of the weight array
        ("source_step", "i8"),
        ("target_step", "i8"),
    ]
)

# Images of a chunk at most, pixels of an image, and pairs of an input and a tap.
_ROWS, _PIXELS, _PAIRS = 64, 256, 1 << 14
# Weights of one tap of a unit, and its results, in bytes.
_TAP, _RESULTS = 256 << 10, 2 << 20
# A sum longer than this is one of partial sums.
_RUN = 512
# Kernels of so many channels ahead are fetched: they lie pages apart, where no processor looks ahead by itself.
_AHEAD = 4


@kernel("T[]", "T[]", LAYOUT)
def image_units(lo: int, hi: int, x: Any, tiles: Any, layout: Any) -> None:
    """Turn one vector of channels of one group to columns, in one chunk of images."""
    p = layout[0]
    lanes, pixels = p.lanes, p.source_pixels
    vectors = p.depth // lanes
    columns = empty((pixels + lanes) * lanes, x.dtype)
    for unit in range(lo, hi):
        b, rest = unit % vectors, unit // vectors
        g, chunk = rest % p.groups, rest // p.groups
        for row in range(min(p.rows, p.batch - chunk * p.rows)):
            channel = ((chunk * p.rows + row) * p.groups + g) * p.sources + b * lanes
            to_columns(columns, 0, lanes, x, channel * pixels, pixels, min(lanes, p.sources - b * lanes), pixels)
            to = rest * pixels * p.pixel_step + b * p.vector_step + row * lanes
            combine(0, columns, 0, 0, lanes, tiles, to, 0, p.pixel_step, pixels)


@kernel("T[]", "T[]", LAYOUT)
def pack_units(lo: int, hi: int, w: Any, packed: Any, layout: Any) -> None:
    """Pack the weights between one vector of summed channels and the channels of one unit."""
    p = layout[0]
    lanes, taps = p.lanes, p.taps
    vectors = p.depth // lanes
    kernels = empty((taps + lanes) * lanes, w.dtype)
    for unit in range(lo, hi):
        of, rest = unit % vectors, unit // vectors
        g, first = rest // p.blocks, rest % p.blocks * p.block
        for b in range(p.block):
            present = max(0, min(lanes, p.targets - (first + b) * lanes))
            panel = b * lanes // p.width * p.depth * p.width + b * lanes % p.width
            for d in range(of * lanes, (of + 1) * lanes):
                at = g * p.group_step + (first + b) * lanes * p.target_step + d * p.source_step
                inside = present if d < p.sources else 0
                if p.target_step == taps:
                    read_ahead(w, at + _AHEAD * p.source_step, inside * taps)
                to_columns(kernels, 0, lanes, w, at if inside else 0, p.target_step, inside, taps)
                combine(0, kernels, 0, 0, lanes, packed, rest * taps * p.tap_step + panel + d * p.width,
                        0, p.tap_step, taps)  # fmt: skip


@kernel("T[]", "T[]", "T[]", "T[]", "T[]", LAYOUT, "int[]", "slot")
def product_units(
    lo: int, hi: int, tiles: Any, packed: Any, bias: Any, y: Any, room: Any, layout: Any, pairs: Any, slot: int
) -> None:
    """Compute one block of channels of the result for one chunk of images of one group.

    `pairs` are (tap, source pixel, target pixel, whether it is the target's first) by taps.
    """
    p = layout[0]
    lanes, pixels = p.lanes, p.target_pixels
    results = slot * p.room
    columns = empty(pixels * lanes, y.dtype)
    extra = empty(lanes, y.dtype)
    zero_row(extra, 0, lanes)
    for unit in range(lo, hi):
        block, rest = unit % p.blocks, unit // p.blocks
        g, chunk = rest % p.groups, rest // p.groups
        images = min(p.rows, p.batch - chunk * p.rows)
        for pair in range(0, pairs.size, 4):
            at = (rest * p.source_pixels + pairs[pair + 1]) * p.pixel_step
            left = ((g * p.blocks + block) * p.taps + pairs[pair]) * p.tap_step
            to = results + pairs[pair + 2] * p.result_step
            multiply_blocks(p, lanes, tiles, at, p.vector_step, images, packed, left, room, to,
                            pairs[pair + 3] == 0, 0, p.columns, 0, p.depth, left)  # fmt: skip
        for b in range(min(p.block, (p.targets + lanes - 1) // lanes - block * p.block)):
            first = (block * p.block + b) * lanes
            present = min(lanes, p.targets - first)
            if bias.size:
                for c in range(present):
                    extra[c] = bias[g * p.targets + first + c]
            for row in range(images):
                of = results + row * p.columns + b * lanes
                combine(0, room, of, 0, p.result_step, columns, 0, 0, lanes, pixels)
                channel = ((chunk * p.rows + row) * p.groups + g) * p.targets + first
                to_rows(y, channel * pixels, pixels, present, columns, 0, lanes, extra, 0, pixels, False)


class _Sizes(NamedTuple):
    """What a pass reads and writes: channels of a group, pixels, images of a chunk; and the pairs of its products."""

    sources: int
    targets: int
    source_pixels: int
    target_pixels: int
    rows: int
    chunks: int
    pairs: list[tuple[int, int, int]]  # (tap, source pixel, target pixel)


def _meetings(g: Geometry) -> list[list[tuple[int, int, int]]]:
    """Return what meets on each axis: (tap, input, output)."""
    axes = zip(g.input, g.output, g.kernel, g.stride, g.padding, g.dilation)
    return [
        [(k, i, o) for k in range(kernel) for i in range(size) if 0 <= (o := stride * i + dilation * k - padding) < end]
        for size, end, kernel, stride, padding, dilation in axes
    ]


@lru_cache(maxsize=64)
def _sizes(g: Geometry, forward: bool) -> _Sizes:
    inputs, outputs = math.prod(g.input), math.prod(g.output)
    sides = (g.kernel, g.input, g.output)
    pairs = sorted(
        tuple((a * side[1] + b) * side[2] + c for a, b, c, side in zip(*meeting, sides))
        for meeting in itertools.product(*_meetings(g))
    )
    chunks = -(-g.batch // _ROWS)
    rows = -(-g.batch // chunks)
    if forward:
        return _Sizes(g.group_in, g.group_out, inputs, outputs, rows, chunks, pairs)
    turned = sorted((k, o, i) for k, i, o in pairs)
    return _Sizes(g.group_out, g.group_in, outputs, inputs, rows, chunks, turned)


def _declines(g: Geometry, forward: bool) -> str | None:
    if g.dtype not in ("float32", "float64"):
        return f"vector code is for float32 and float64, not {g.dtype}"
    if g.batch < 2:
        return "a product of one image has one row"
    if math.prod(g.input) == 1:
        return "inputs of one pixel have one product in all, not one for each pair of an input and a tap"
    if (pixels := max(math.prod(g.input), math.prod(g.output))) > _PIXELS:
        return f"{pixels} pixels of an image are more than {_PIXELS}"
    if max(g.kernel) > _PIXELS or math.prod(map(len, _meetings(g))) > _PAIRS:
        return f"kernels of {g.taps} taps on {math.prod(g.input)} inputs need tables out of proportion"
    sizes = _sizes(g, forward)
    if len({target for *_, target in sizes.pairs}) < sizes.target_pixels:
        return "some results have no products, and would be left as they are"
    return None


def _shape(g: Geometry, sizes: _Sizes) -> BlockShape:
    lanes, itemsize = host.lanes(g.dtype), np.dtype(g.dtype).itemsize
    vectors = -(-sizes.targets // lanes)
    fits = min(
        _TAP // (itemsize * lanes * sizes.sources), _RESULTS // (itemsize * lanes * sizes.rows * sizes.target_pixels)
    )
    wanted = -(-int(numba.config.NUMBA_NUM_THREADS) // (g.groups * sizes.chunks))  # units beside each other
    return block_shape(vectors, 1, sizes.rows, min(fits, -(-vectors // max(1, wanted))), g.dtype)


def _counts(g: Geometry, forward: bool) -> dict[str, float]:
    sizes = _sizes(g, forward)
    shape, lanes = _shape(g, sizes), host.lanes(g.dtype)
    units = g.groups * sizes.chunks * -(-sizes.targets // (shape.block * lanes))
    columns = -(-shape.block * lanes // shape.width) * shape.width
    depth = -(-sizes.sources // lanes) * lanes
    tile = units * columns * -(-sizes.rows // shape.height) * shape.height * len(sizes.pairs)
    return {
        "product": float(tile * depth),
        "sum": float(tile * -(-depth // _RUN)),
        "operand": float(g.batch * g.groups * sizes.sources * sizes.source_pixels),
        "result": float(g.batch * g.groups * sizes.targets * sizes.target_pixels),
        "weight": float(math.prod(g.weight_shape)),
        "call": 1,
    }


def _table(sizes: _Sizes) -> Ints:
    seen: set[int] = set()
    rows = []
    for tap, source, target in sizes.pairs:
        rows += [tap, source, target, int(target not in seen)]
        seen.add(target)
    return frame.ints(rows)


def _bind(g: Geometry, forward: bool) -> Bound:
    lanes, itemsize = host.lanes(g.dtype), np.dtype(g.dtype).itemsize
    sizes = _sizes(g, forward)
    shape = _shape(g, sizes)
    depth = -(-sizes.sources // lanes) * lanes
    columns = -(-shape.block * lanes // shape.width) * shape.width
    blocks = -(-sizes.targets // (shape.block * lanes))
    padded = -(-sizes.rows // shape.height) * shape.height
    # No power of two, or successive vectors of channels would share cache sets.
    vector_step = (padded + (padded % 8 == 0)) * lanes
    pixel_step = depth // lanes * vector_step + 5 * lanes
    tap_step, result_step = depth * columns + 5 * lanes, padded * columns
    group_step = g.group_in * g.group_out * g.taps
    steps = (g.group_out * g.taps, g.taps)
    layout = np.zeros(1, LAYOUT)
    for name, value in {
        "lanes": lanes, "groups": g.groups, "batch": g.batch, "sources": sizes.sources, "targets": sizes.targets,
        "source_pixels": sizes.source_pixels, "target_pixels": sizes.target_pixels, "taps": g.taps,
        "rows": sizes.rows, "depth": depth, "run": -(-depth // (lanes * -(-depth // _RUN))) * lanes,
        "shape": shape.register, "height": shape.height, "width": shape.width, "block": shape.block, "blocks": blocks,
        "columns": columns, "vector_step": vector_step, "pixel_step": pixel_step, "tap_step": tap_step,
        "result_step": result_step, "room": sizes.target_pixels * result_step, "group_step": group_step,
        "source_step": steps[0 if forward else 1], "target_step": steps[1 if forward else 0],
    }.items():  # fmt: skip
        layout[name] = value
    pairs = _table(sizes)
    vectors, chunks = depth // lanes, sizes.chunks
    tile_elements = chunks * g.groups * sizes.source_pixels * pixel_step + shape.height * lanes
    packed_elements = g.groups * blocks * g.taps * tap_step
    units = chunks * g.groups * blocks
    slots = sizes.target_pixels * result_step * max(1, min(units, int(numba.config.NUMBA_NUM_THREADS)))
    fill = image_units.launcher(g.dtype, chunks * g.groups * vectors, 8 * tile_elements)
    launch_pack = pack_units.launcher(g.dtype, g.groups * blocks * vectors, 8 * packed_elements)
    compute = product_units.launcher(g.dtype, units, 2 * g.multiplications)
    no_bias = np.empty(0, g.dtype)

    def pack(w: Array, packed: Array) -> None:
        launch_pack(w, packed, layout)

    def run_packed(x: Array, packed: Array, bias: Array | None, y: Array) -> None:
        tiles = workspace.take("tiles", tile_elements, g.dtype)
        rooms = workspace.take("products", slots, g.dtype)
        fill(x, tiles, layout)
        compute(tiles, packed, no_bias if bias is None else bias, y, rooms, layout, pairs)
        workspace.keep("tiles", tiles)
        workspace.keep("products", rooms)

    private = itemsize * lanes * (max(sizes.source_pixels, sizes.target_pixels, g.taps) + lanes + 1)
    scratch = workspace.total((tile_elements + packed_elements + slots) * itemsize, private, units * vectors)
    bound = planes.with_packed_weights(g.dtype, packed_elements, pack, run_packed, scratch)
    if forward:
        return bound
    return Bound(lambda gy, w, gx: bound.run(gy, w, None, gx), scratch)


def _implementation(forward: bool) -> Implementation:
    return Implementation(
        "direct_images",
        "matrix products whose rows are the images of a batch, one for each input and tap that meet at an output",
        lambda g: _declines(g, forward),
        lambda g: _bind(g, forward),
        cost=Cost(lambda g: _counts(g, forward), weights_of("direct_images", "forward" if forward else "input_grad")),
    )


FORWARD, INPUT_GRAD = _implementation(True), _implementation(False)
