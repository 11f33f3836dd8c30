"""Weight gradient: dot products over pixels, vectors along the pixels of zero-padded planes.

``gw[ci, co, t] = Σ x[ci, q] · gy[co, phase(t), q + offset(t)]`` over the pixels q of all images; see `frame` for planes and
phases. Both operands lie in planes of one frame, so neither is transposed and each tap is one constant offset. The
zeros around x make what is read beyond a row of gy harmless; a NaN or Inf in gy can therefore reach taps
that only touch it through padding.

Memory: planes of x (channel, image, row, column) · planes of gy (channel, phase, image, row, column).
Parallel over rows of the weight (ci), columns (co, t) and, where those are few, over ranges of pixels, whose partial sums
are added in their order. How a problem is split depends on its size alone, so the result does not depend
on the threads.

Ladder:
1. Register tile of 4 ci × 6 (co, t) accumulator vectors, summed over lanes once a block of pixels: this file.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.kernels.cpu import frame as frames
from fastdeconv.kernels.cpu import host, planes, workspace
from fastdeconv.kernels.cpu.jit import kernel
from fastdeconv.kernels.cpu.tiles import INNER_ROWS, inner_columns, inner_tile
from fastdeconv.kernels.geometry import Geometry, Implementation, Run

Array = NDArray[Any]

LAYOUT = np.dtype(
    [
        ("groups", "i8"),
        ("rows", "i8"),  # input channels of a group
        ("columns", "i8"),  # output channels of a group × taps
        ("block_rows", "i8"),
        ("width", "i8"),  # columns of a tile
        ("row_blocks", "i8"),
        ("column_chunks", "i8"),
        ("splits", "i8"),  # ranges of pixels with sums of their own
        ("vectors", "i8"),  # of a plane
        ("block_vectors", "i8"),  # of a block of pixels
        ("lanes", "i8"),
        ("lead", "i8"),
        ("row_step", "i8"),  # elements of a plane of x
        ("channel_step", "i8"),  # elements of all planes of a channel of gy
        ("taps", "i8"),
        ("kernel", "i8"),  # elements of the kernel, taps that touch nothing included
        ("elements", "i8"),  # of the weight
    ]
)

# Pixels of a block, so that a tile's rows and columns stay in the first-level cache.
_BLOCK = 1024
# Enough units to share among threads.
_UNITS = 16


@kernel("T[]", "T[]", "T[]", LAYOUT, "int[]", "int[]")
def dot_units(lo: int, hi: int, x: Any, gy: Any, sums: Any, layout: Any, tap_offset: Any, tap_index: Any) -> None:
    """Sum one range of pixels for one block of rows and one chunk of columns of one group."""
    p = layout[0]
    row_offset = np.empty(8, np.int64)
    column_offset = np.empty(8, np.int64)
    tile = np.empty(64, x.dtype)
    width = p.width
    for unit in range(lo, hi):
        chunk = unit % p.column_chunks
        rest = unit // p.column_chunks
        block = rest % p.row_blocks
        rest //= p.row_blocks
        g = rest % p.groups
        split = rest // p.groups
        first = block * p.block_rows
        rows = min(p.block_rows, p.rows - first)
        # A block with missing rows reads its last row again.
        for m in range(p.block_rows):
            row_offset[m] = (g * p.rows + first + min(m, rows - 1)) * p.row_step + p.lead
        begin, end = p.columns * chunk // p.column_chunks, p.columns * (chunk + 1) // p.column_chunks
        start, stop = p.vectors * split // p.splits, p.vectors * (split + 1) // p.splits
        per_channel = p.columns // p.taps  # output channels of a group
        for at in range(start, stop, p.block_vectors):
            count = min(p.block_vectors, stop - at)
            for column in range(begin, end, width):
                present = min(width, end - column)
                for j in range(width):
                    co, t = divmod(column + min(j, present - 1), p.taps)
                    column_offset[j] = (g * per_channel + co) * p.channel_step + p.lead + tap_offset[t]
                inner_tile(p.block_rows, count, x, row_offset, gy, column_offset, at * p.lanes, tile)
                for m in range(rows):
                    row = (split * p.groups * p.rows + g * p.rows + first + m) * per_channel
                    for j in range(present):
                        co, t = divmod(column + j, p.taps)
                        k = (row + co) * p.kernel + tap_index[t]
                        if at == start:
                            sums[k] = tile[m * width + j]
                        else:
                            sums[k] += tile[m * width + j]


@kernel("T[]", "T[]", "int", "int")
def add_splits(lo: int, hi: int, sums: Any, out: Any, splits: int, elements: int) -> None:
    """Add the partial sums of all ranges of pixels in their order."""
    for i in range(lo, hi):
        total = sums[i]
        for s in range(1, splits):
            total += sums[s * elements + i]
        out[i] = total


def _block_rows(rows: int, columns: int) -> int:
    """Return the tile height with the least work, whole tiles times loads and multiplications."""

    def cost(height: int) -> float:
        width = inner_columns(height)
        # Columns are read across cache lines, rows are not; two of each and two products a cycle.
        return -(-rows // height) * -(-columns // width) * max(height * width, 2 * width + height)

    return min(range(1, INNER_ROWS + 1), key=cost)


def _bind(g: Geometry) -> Run:
    g = frames.merged(g)
    frame = frames.gather_frame(g)
    taps = sorted(frame.taps, key=lambda t: (t.phase, t.index))
    phases = sorted({t.phase for t in taps}) or [(0, 0, 0)]
    number = {phase: i for i, phase in enumerate(phases)}
    lanes = host.lanes(g.dtype)
    vectors = frames.vectors(g.dtype, frame.total)
    plane = frame.plane(lanes)
    columns = g.group_out * len(taps)
    block_rows = _block_rows(g.group_in, columns)
    width = inner_columns(block_rows)
    row_blocks = -(-g.group_in // block_rows)
    column_chunks = max(1, min(-(-columns // (2 * width)), -(-_UNITS // (row_blocks * g.groups))))
    block_vectors = max(1, _BLOCK // lanes)
    splits = max(1, min(vectors // block_vectors, _UNITS // (row_blocks * g.groups * column_chunks)))
    elements = g.in_channels * g.group_out * g.taps

    layout = np.zeros(1, LAYOUT)
    for name, value in {
        "groups": g.groups, "rows": g.group_in, "columns": columns, "block_rows": block_rows, "width": width,
        "row_blocks": row_blocks, "column_chunks": column_chunks, "splits": splits, "vectors": vectors,
        "block_vectors": block_vectors, "lanes": lanes, "lead": frame.lead, "row_step": plane,
        "channel_step": len(phases) * plane, "taps": len(taps), "kernel": g.taps, "elements": elements,
    }.items():  # fmt: skip
        layout[name] = value
    one = (1, 1, 1)
    x_layout = frames.planes_record(frame, g.batch, g.in_channels, g.input, one, 1, plane, shifted=False)
    gy_layout = frames.planes_record(frame, g.batch, g.out_channels, g.output, frame.stride, len(phases), plane)
    x_phase, gy_phase = frames.ints([0, 0, 0]), frames.ints([a for phase in phases for a in phase])
    tap_offset = frames.ints([number[t.phase] * plane + frame.flat(t.shift) for t in taps])
    tap_index = frames.ints([t.index for t in taps])
    x_elements, gy_elements = g.in_channels * plane, g.out_channels * len(phases) * plane
    units = splits * g.groups * row_blocks * column_chunks
    work = 2 * g.in_channels * columns * vectors * lanes
    untouched = len(taps) < g.taps

    def run(x: Array, gy: Array, gw: Array) -> None:
        if untouched:
            gw[...] = 0
        if not taps:
            return
        x_planes = workspace.take("planes", x_elements, g.dtype)
        gy_planes = workspace.take("gradient_planes", gy_elements, g.dtype)
        planes.fill.run(g.dtype, g.in_channels * g.batch, 4 * x_elements, x.reshape(-1), x_planes, x_layout, x_phase)
        planes.fill.run(
            g.dtype,
            g.out_channels * len(phases) * g.batch,
            4 * gy_elements,
            gy.reshape(-1),
            gy_planes,
            gy_layout,
            gy_phase,
        )
        out = gw.reshape(-1)
        sums = out
        if splits > 1:
            sums = workspace.take("sums", splits * elements, g.dtype)
            if untouched:
                sums[:] = 0
        dot_units.run(g.dtype, units, work, x_planes, gy_planes, sums, layout, tap_offset, tap_index)
        if splits > 1:
            add_splits.run(g.dtype, elements, splits * elements, sums, out, splits, elements)

    return run


WEIGHT_GRAD = Implementation(
    "direct_dot",
    "dot products over pixels, vectors along the pixels of zero-padded planes",
    lambda g: frames.too_large(g, forward=False),
    _bind,
)
