"""Weight gradient: dot products over pixels, vectors along the pixels of zero-padded planes.

``gw[ci, co, t] = Σ x[ci, q] · gy[co, phase(t), q + offset(t)]`` over the pixels q of all images; see `frame` for planes
and phases. Both operands lie in planes of one frame, so neither is transposed and each tap is one constant offset. The
zeros around x make what is read beyond a row of gy harmless; a NaN or Inf in gy can therefore reach taps that only
touch it through padding.

Memory: planes of x (channel, depth, row, image, column) · planes of gy (channel, phase, …) likewise · sums
(range of pixels, ci, column), where a column is a pair (co, t).
Parallel over chunks of rows, of columns and, where those are few, over ranges of pixels, whose sums are added in their
order. How a problem is split depends on its sizes alone, so the result does not depend on the threads.

Ladder, measured in docs/decisions/0004-direct-kernels.md:
1. Register tile of 4 ci × 6 columns of accumulator vectors, lanes summed one vector after the other.
2. Lanes of all accumulators summed together, indices from tables, gy kept in the second-level cache across rows.
3. A few images at a time, so that their planes are still cached when they are read.
4. Images side by side, so that the zeros above and below them are not multiplied.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdeconv.kernels.cpu import frame as frames
from fastdeconv.kernels.cpu import host, planes, workspace
from fastdeconv.kernels.cpu.buffers import empty
from fastdeconv.kernels.cpu.costs import weights_of
from fastdeconv.kernels.cpu.jit import kernel
from fastdeconv.kernels.cpu.tiles import INNER_ROWS, inner_columns, inner_tile
from fastdeconv.kernels.geometry import Axes, Bound, Cost, Geometry, Implementation

Array = NDArray[Any]

LAYOUT = np.dtype(
    [
        ("groups", "i8"),
        ("rows", "i8"),  # input channels of a group
        ("columns", "i8"),  # output channels of a group × taps
        ("height", "i8"),  # rows of a tile
        ("width", "i8"),  # columns of a tile
        ("row_chunks", "i8"),
        ("column_chunks", "i8"),
        ("splits", "i8"),  # ranges of pixels with sums of their own
        ("vectors", "i8"),  # of a plane
        ("block_vectors", "i8"),  # of a block of pixels
        ("lanes", "i8"),
        ("lead", "i8"),
        ("row_step", "i8"),  # elements of a plane of x
        ("group_step", "i8"),  # elements of all planes of gy of a group
        ("elements", "i8"),  # of the weight gradient
    ]
)

# Pixels of a block, so that a tile's rows and columns stay in the first-level cache.
_BLOCK = 1024
# Enough units to share among threads.
_UNITS = 16


@kernel("T[]", "T[]", "T[]", "int", LAYOUT, "int[]")
def dot_units(lo: int, hi: int, x: Any, gy: Any, sums: Any, begin_sums: int, layout: Any, column_at: Any) -> None:
    """Add one range of pixels for one chunk of rows and one of columns of one group; `begin_sums` forgets the old."""
    p = layout[0]
    height, width = p.height, p.width
    row_offset = empty(height, np.int64)
    column_offset = empty(width, np.int64)
    tile = empty(height * width, x.dtype)
    blocks = (p.rows + height - 1) // height
    for unit in range(lo, hi):
        column_chunk = unit % p.column_chunks
        rest = unit // p.column_chunks
        row_chunk = rest % p.row_chunks
        rest //= p.row_chunks
        g, split = rest % p.groups, rest // p.groups
        begin, end = p.columns * column_chunk // p.column_chunks, p.columns * (column_chunk + 1) // p.column_chunks
        start, stop = p.vectors * split // p.splits, p.vectors * (split + 1) // p.splits
        for at in range(start, stop, p.block_vectors):
            count = min(p.block_vectors, stop - at)
            for block in range(blocks * row_chunk // p.row_chunks, blocks * (row_chunk + 1) // p.row_chunks):
                first = g * p.rows + block * height
                rows = min(height, p.rows - block * height)
                # A tile with missing rows or columns reads its last one again.
                for m in range(height):
                    row_offset[m] = (first + min(m, rows - 1)) * p.row_step + p.lead
                for column in range(begin, end, width):
                    present = min(width, end - column)
                    for j in range(width):
                        column_offset[j] = p.lead + g * p.group_step + column_at[column + min(j, present - 1)]
                    inner_tile(height, count, x, row_offset, gy, column_offset, at * p.lanes, tile)
                    for m in range(rows):
                        k = split * p.elements + (first + m) * p.columns + column
                        for j in range(present):
                            if begin_sums and at == start:
                                sums[k + j] = tile[m * width + j]
                            else:
                                sums[k + j] += tile[m * width + j]


@kernel("T[]", "T[]", "int", "int", "int", "int[]")
def collect(lo: int, hi: int, sums: Any, out: Any, splits: int, columns: int, elements: int, column_index: Any) -> None:
    """Add the sums of all ranges of pixels in their order and put them in the weight's order; a unit is a row."""
    size = out.size * columns // elements  # elements of a row of the result
    for row in range(lo, hi):
        for j in range(columns):
            total = sums[row * columns + j]
            for s in range(1, splits):
                total += sums[s * elements + row * columns + j]
            out[row * size + column_index[j]] = total


def tile_height(rows: int, columns: int) -> int:
    """Return the tile height with the least work, whole tiles times loads and multiplications."""

    def cost(height: int) -> float:
        width = inner_columns(height)
        # Columns are read across cache lines, rows are not; two of each and two products a cycle.
        return -(-rows // height) * -(-columns // width) * max(height * width, 2 * width + height)

    return min(range(1, INNER_ROWS + 1), key=cost)


def counts(g: Geometry) -> dict[str, float]:
    """Count what the kernel does: products, with those in padding, elements and rows of planes, sums, weights."""
    g = frames.merged(g)
    frame = frames.gather_frame(g, side_by_side=True)
    columns = g.group_out * len(frame.taps)
    height = tile_height(g.group_in, columns)
    width = inner_columns(height)
    gradient = g.out_channels * len(frames.planes_of(frame.taps))
    weights = g.in_channels * columns
    return {
        "product": float(g.groups * -(-g.group_in // height) * height * -(-columns // width) * width * frame.total),
        "plane": frame.total * g.in_channels,
        "gradient": frame.total * gradient,
        "lanes": weights * -(-frame.total // _BLOCK),
        "row": g.batch * frame.pitch[0] * frame.pitch[1] * (g.in_channels + gradient),
        "weight": weights,
        "call": 1,
    }


def _bind(g: Geometry) -> Bound:
    g = frames.merged(g)
    frame = frames.gather_frame(g, side_by_side=True)
    taps = sorted(frame.taps, key=lambda t: (t.phase, t.weight))
    source_planes = g.in_channels + g.out_channels * len(frames.planes_of(taps))
    images = frames.images_at_once(frame, g, source_planes)
    columns = g.group_out * len(taps)
    elements = g.in_channels * columns
    splits = _splits(g, frame.total // g.batch * images, columns)
    cut = frames.bands(frame, g, source_planes, False) if images == 1 else None
    if cut is None:
        add = {n: _part(g._replace(batch=n), taps, splits) for n in frames.part_sizes(g, images)}
    else:
        splits = _splits(g, frame.total // g.batch * cut.rows // cut.total, columns)
        add = {n: _part(g._replace(batch=1), taps, splits, cut, n) for n in cut.sizes}
    x_image, y_image = (math.prod(shape[1:]) for shape in (g.input_shape, g.output_shape))
    column_index = (np.arange(g.group_out)[:, None] * g.taps + frames.ints([t.weight for t in taps])).reshape(-1)
    gather = collect.launcher(g.dtype, g.in_channels, 4 * splits * elements)
    untouched = len(taps) < g.taps

    def run(x: Array, gy: Array, gw: Array) -> None:
        if untouched:
            gw[:] = 0
        if not taps:
            return
        sums = workspace.take("sums", splits * elements, g.dtype)
        for first, count in frames.parts(g, images):
            end = first + count
            arrays = x[first * x_image : end * x_image], gy[first * y_image : end * y_image], sums
            for row, rows in cut or ((0, count),):
                add[rows].run(*arrays, row, int(first == row == 0))
        gather(sums, gw, splits, columns, elements, column_index)
        workspace.keep("sums", sums)

    itemsize = np.dtype(g.dtype).itemsize
    scratch = max(
        workspace.total((splits * elements + part.planes) * itemsize, part.tables, part.units) for part in add.values()
    )
    return Bound(run, scratch if taps else 0)


class _Chunks(NamedTuple):
    """How the weight is cut: rows and columns of a tile, and chunks of each for units."""

    height: int
    width: int
    rows: int
    columns: int


def _chunks(g: Geometry, columns: int) -> _Chunks:
    height = tile_height(g.group_in, columns)
    width = inner_columns(height)
    rows = min(-(-g.group_in // height), max(1, 4 // g.groups))
    return _Chunks(height, width, rows, max(1, min(-(-columns // (2 * width)), -(-_UNITS // (rows * g.groups)))))


def _splits(g: Geometry, pixels: int, columns: int) -> int:
    """Return into how many ranges the pixels are cut, where the weight alone gives too few units."""
    chunks = _chunks(g, columns)
    return max(1, min(pixels // _BLOCK, _UNITS // (chunks.rows * g.groups * chunks.columns)))


class _Part(NamedTuple):
    """What adds some images, or a band of one, to the sums, or begins them: elements of planes, bytes of tables."""

    run: Callable[[Array, Array, Array, int, int], None]
    planes: int
    tables: int
    units: int


def _part(g: Geometry, taps: list[frames.Tap], splits: int, cut: frames.Bands | None = None, band: int = 0) -> _Part:
    """Prepare the addition of a batch of this size, or of a band of so many rows."""
    frame = frames.gather_frame(g, side_by_side=True)
    if cut:
        frame = cut.frame(frame, band)
    number = frames.planes_of(taps)
    phases = list(number)
    lanes = host.lanes(g.dtype)
    vectors = -(-frame.total // lanes)
    plane = frame.plane(lanes)
    channel_step = len(phases) * plane
    columns = g.group_out * len(taps)
    chunks = _chunks(g, columns)
    # Blocks of equal length: a short one would spend its time on adding up lanes.
    share = -(-vectors // splits)
    blocks = -(-share * lanes // _BLOCK)
    layout = np.zeros(1, LAYOUT)
    for name, value in {
        "groups": g.groups, "rows": g.group_in, "columns": columns, "height": chunks.height, "width": chunks.width,
        "row_chunks": chunks.rows, "column_chunks": chunks.columns, "splits": splits, "vectors": vectors,
        "block_vectors": -(-share // blocks), "lanes": lanes, "lead": frame.start, "row_step": plane,
        "group_step": g.group_out * channel_step, "elements": g.in_channels * columns,
    }.items():  # fmt: skip
        layout[name] = value
    one: Axes = (1, 1, 1)
    x_filling = frames.filling(frame, g.batch, g.in_channels, g.input, one, [(0, 0, 0)], plane, False, cut)
    gy_filling = frames.filling(frame, g.batch, g.out_channels, g.output, frame.stride, phases, plane, True, cut)
    tap_offset = frames.ints([number[t.phase] * plane + frame.flat(t.shift) for t in taps])
    column_at = (np.arange(g.group_out)[:, None] * channel_step + tap_offset).reshape(-1)
    fill_x = planes.filler("planes", g.dtype, x_filling, cut)
    fill_gy = planes.filler("gradient_planes", g.dtype, gy_filling, cut)
    units = splits * g.groups * chunks.rows * chunks.columns
    compute = dot_units.launcher(g.dtype, units, 2 * g.in_channels * columns * vectors * lanes)

    def add(x: Array, gy: Array, sums: Array, row: int, begin: int) -> None:
        x_planes, gy_planes = fill_x(x, row), fill_gy(gy, row)
        compute(x_planes, gy_planes, sums, begin, layout, column_at)
        workspace.keep("planes", x_planes)
        workspace.keep("gradient_planes", gy_planes)

    tables = 8 * (chunks.height + chunks.width) + chunks.height * chunks.width * np.dtype(g.dtype).itemsize
    return _Part(add, x_filling.elements + gy_filling.elements, tables, units)


WEIGHT_GRAD = Implementation(
    "direct_dot",
    "dot products over pixels, vectors along the pixels of zero-padded planes",
    lambda g: frames.too_large(g, forward=False),
    _bind,
    cost=Cost(counts, weights_of("direct_dot", "weight_grad")),
)
