"""Forward pass and input gradient: implicit matrix products, tiles in shared memory, register tiles in every thread.

``out[n, row, q] = Σ weight[channel, row, k] · source[n, channel, hop·q + shift_k]`` (`phases`): rows are channels of
the output, columns are pixels of one phase of one batch, depth is (tap, channel). No zero is inserted and no column
matrix is built: a thread that loads a pixel computes where it is, once for each tap.

Memory: source and output of any strides, channels first or last alike · weights packed to (group, phase, block of rows,
depth, row), zeros for what is missing · tiles of 8 × rows and 8 × columns in shared memory, twice: the next are loaded
while one is used.
Parallel over tiles of pixels, blocks of rows, groups; no block touches another's outputs. Sums run in the order of the
depth, so results do not depend on the grid. A NaN or Inf reaches the outputs it touches and no others.

Ladder, by the machine code (nothing has run on hardware yet):
1. Sums in a local array: the compiler unrolls the products, not the loop that stores them, so the array is in memory.
2. Sums are a tuple that goes through the loop: all 64 in registers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numba import types

from fastdeconv.kernels.cuda.device import cuda, device_function, multiply_add, read4, scatter, unravel, write4
from fastdeconv.kernels.cuda.factory import kernel_factory
from fastdeconv.kernels.cuda.launches import (
    THREADS,
    DeviceImplementation,
    Launch,
    Layout,
    Scratch,
    Steps,
    Target,
    extent,
    index_for,
)
from fastdeconv.kernels.cuda.phases import sums
from fastdeconv.kernels.geometry import Geometry

DEPTH = 8  # of a tile


class Tile(NamedTuple):
    """Rows and columns of a block, and those of a thread."""

    rows: int
    columns: int
    thread_rows: int
    thread_columns: int


TILES = (Tile(128, 128, 8, 8), Tile(64, 128, 4, 8), Tile(32, 128, 4, 4), Tile(16, 256, 4, 4))

# What a table of sizes holds, in this order; then `PHASE` entries a phase, then four a tap: shifts and its number.
(ROWS, CHANNELS, PADDED, ROW_BLOCKS, GROUPS, BATCH, PHASES,
 SOURCE_N, SOURCE_C, SOURCE_0, SOURCE_1, SOURCE_2, OUT_N, OUT_C, OUT_0, OUT_1, OUT_2,
 SIZE_0, SIZE_1, SIZE_2, HOP_0, HOP_1, HOP_2, STEP_0, STEP_1, STEP_2, GROUP_WEIGHTS) = range(27)  # fmt: skip
HEADER = 27
(FIRST_TILE, FIRST_TAP, TAPS, DEPTH_AT, FIRST_0, FIRST_1, FIRST_2, COUNT_0, COUNT_1, COUNT_2) = range(10)
PHASE = 10


@kernel_factory
def kernel(tile: Tile, index: str) -> Callable[..., None]:
    """Return the kernel for one shape of tiles; `index` is the integer type of all places in arrays."""
    block_rows, block_columns, thread_rows, thread_columns = tile
    cast = getattr(np, index)
    unraveled = unravel(index)
    across = block_columns // thread_columns
    lane_pixels = block_columns // 32
    loaders = block_rows * DEPTH // 4  # threads that load rows, four each
    size_a, size_b = DEPTH * block_rows, DEPTH * block_columns
    room_a, room_b = 2 * size_a, 2 * size_b
    element = np.float32
    zeros = (element(0),) * (thread_rows * thread_columns)

    @device_function
    def counts(table: Any, phase: int) -> Any:
        return cast(table[phase + COUNT_0]), cast(table[phase + COUNT_1]), cast(table[phase + COUNT_2])

    @device_function
    def four_places(table: Any, phase: int, first: int, pixels: int) -> Any:
        return (place(table, phase, first, pixels), place(table, phase, cast(first + 1), pixels),
                place(table, phase, cast(first + 2), pixels), place(table, phase, cast(first + 3), pixels))  # fmt: skip

    @device_function
    def place(table: Any, phase: int, pixel: int, pixels: int) -> Any:
        """Return where a pixel of a phase is in the output, or -1."""
        if pixel >= pixels:
            return np.int64(-1)
        count0, count1, count2 = counts(table, phase)
        n, q0, q1, q2 = unraveled(pixel, count0, count1, count2)
        return np.int64(
            n * table[OUT_N]
            + (q0 * table[STEP_0] + table[phase + FIRST_0]) * table[OUT_0]
            + (q1 * table[STEP_1] + table[phase + FIRST_1]) * table[OUT_1]
            + (q2 * table[STEP_2] + table[phase + FIRST_2]) * table[OUT_2]
        )

    @device_function
    def four_rows(table: Any, bias: Any, has_bias: int, group: int, first: int) -> Any:
        a, b = row_of(table, bias, has_bias, group, first), row_of(table, bias, has_bias, group, cast(first + 1))
        c, d = (
            row_of(table, bias, has_bias, group, cast(first + 2)),
            row_of(table, bias, has_bias, group, cast(first + 3)),
        )
        return (a[0], b[0], c[0], d[0]), (a[1], b[1], c[1], d[1])

    @device_function
    def row_of(table: Any, bias: Any, has_bias: int, group: int, m: int) -> Any:
        """Return where a row's channel begins in an image of the output, or -1, and its bias."""
        if m >= table[ROWS]:
            return np.int64(-1), element(0)
        channel = group * table[ROWS] + m
        return np.int64(channel * table[OUT_C]), element(bias[channel]) if has_bias else element(0)

    def gather_gemm(source: Any, packed: Any, bias: Any, out: Any, table: Any, has_bias: int) -> None:
        rows = cuda.shared.array(room_a, types.float32)
        columns = cuda.shared.array(room_b, types.float32)
        thread = cast(cuda.threadIdx.x)
        lane, row = cast(thread % 32), cast(thread // 32)
        block = cast(cuda.blockIdx.x)
        row_block = cast(cuda.blockIdx.y)
        group = cast(cuda.blockIdx.z)

        # Which phase the tile is of: the last that begins at it or before.
        low, high = cast(0), cast(table[PHASES])
        while high - low > 1:
            middle = cast((low + high) // 2)
            if table[HEADER + middle * PHASE + FIRST_TILE] <= block:
                low = middle
            else:
                high = middle
        phase = cast(HEADER + low * PHASE)
        taps = cast(table[phase + TAPS])
        tap_at = cast(table[phase + FIRST_TAP])
        padded, channels = cast(table[PADDED]), cast(table[CHANNELS])
        count0, count1, count2 = counts(table, phase)
        pixels = cast(table[BATCH]) * count0 * count1 * count2
        first_pixel = cast((block - table[phase + FIRST_TILE]) * block_columns)
        size0, size1, size2 = cast(table[SIZE_0]), cast(table[SIZE_1]), cast(table[SIZE_2])
        source0, source1, source2 = cast(table[SOURCE_0]), cast(table[SOURCE_1]), cast(table[SOURCE_2])
        source_c = cast(table[SOURCE_C])

        # The pixels that this thread loads: where they are in the source, but for the tap.
        at = cuda.local.array(lane_pixels, cast)
        place0 = cuda.local.array(lane_pixels, cast)
        place1 = cuda.local.array(lane_pixels, cast)
        place2 = cuda.local.array(lane_pixels, cast)
        offset = cuda.local.array(lane_pixels, cast)
        for j in range(lane_pixels):
            pixel = cast(first_pixel + lane + 32 * j)
            inside = pixel < pixels
            n, q0, q1, q2 = unraveled(pixel, count0, count1, count2)
            # A pixel that does not exist lies outside the source.
            place0[j] = cast(q0 * cast(table[HOP_0])) if inside else cast(-(1 << 30))
            place1[j] = cast(q1 * cast(table[HOP_1]))
            place2[j] = cast(q2 * cast(table[HOP_2]))
            at[j] = cast(
                n * cast(table[SOURCE_N]) + group * channels * source_c
                + place1[j] * source1 + place2[j] * source2
            ) + (cast(q0 * cast(table[HOP_0]) * source0) if inside else cast(0))  # fmt: skip

        cells = zeros
        next_rows = (element(0), element(0), element(0), element(0))
        next_column = cuda.local.array(lane_pixels, types.float32)
        depth = cast(taps * padded)
        tiles = cast((depth + DEPTH - 1) // DEPTH)
        first_line = cast(table[phase + DEPTH_AT]) * cast(table[ROW_BLOCKS]) + row_block * tiles * DEPTH
        packed_at = cast(group * cast(table[GROUP_WEIGHTS]) + first_line * block_rows)
        tap, channel = cast(row // padded), cast(row % padded)
        moved = True
        thread_row, thread_column = cast(thread // across), cast(thread % across)
        now = cast(0)
        for step in range(tiles + 1):
            if step < tiles:
                # Load the next tiles to registers.
                if thread < loaders:
                    next_rows = read4(packed, packed_at + step * size_a + thread * 4)
                if moved:
                    exists = tap < taps
                    entry = cast(tap_at + 4 * (tap if exists else cast(0)))
                    shift0, shift1, shift2 = cast(table[entry]), cast(table[entry + 1]), cast(table[entry + 2])
                    delta = cast(shift0 * source0 + shift1 * source1 + shift2 * source2)
                    for j in range(lane_pixels):
                        p0, p1, p2 = cast(place0[j] + shift0), cast(place1[j] + shift1), cast(place2[j] + shift2)
                        inside = exists and p0 >= 0 and p0 < size0 and p1 >= 0 and p1 < size1 and p2 >= 0 and p2 < size2
                        offset[j] = cast(at[j] + delta) if inside else cast(-1)
                for j in range(lane_pixels):
                    value = element(0)
                    if offset[j] >= 0 and channel < channels:
                        value = element(source[offset[j] + channel * source_c])
                    next_column[j] = value
                channel = cast(channel + DEPTH)
                moved = channel >= padded
                while channel >= padded:
                    channel = cast(channel - padded)
                    tap = cast(tap + 1)
            if step > 0:
                # Multiply what shared memory holds.
                left_at = cast(now * size_a + thread_row * 4)
                right_at = cast(now * size_b + thread_column * 4)
                for k in range(DEPTH):
                    left = read4(rows, left_at + k * block_rows)
                    if thread_rows == 8:
                        left = left + read4(rows, left_at + k * block_rows + block_rows // 2)
                    right = read4(columns, right_at + k * block_columns)
                    if thread_columns == 8:
                        right = right + read4(columns, right_at + k * block_columns + block_columns // 2)
                    cells = multiply_add(left, right, cells)
                now = cast(1 - now)
            if step < tiles:
                if thread < loaders:
                    write4(rows, now * size_a + thread * 4, next_rows)
                for j in range(lane_pixels):
                    columns[now * size_b + row * block_columns + lane + 32 * j] = next_column[j]
                cuda.syncthreads()

        quad = cast(first_pixel + thread_column * 4)
        places = four_places(table, phase, quad, pixels)
        if thread_columns == 8:
            places = places + four_places(table, phase, cast(quad + block_columns // 2), pixels)
        quad = cast(row_block * block_rows + thread_row * 4)
        lines, more = four_rows(table, bias, has_bias, group, quad)
        if thread_rows == 8:
            others, others_more = four_rows(table, bias, has_bias, group, cast(quad + block_rows // 2))
            lines, more = lines + others, more + others_more
        scatter(out, places, lines, more, cells)

    return gather_gemm


@kernel_factory
def pack_kernel(tile_rows: int, index: str) -> Callable[..., None]:
    """Return the kernel that packs weights; sizes are in the table. A thread makes one element."""
    block_rows = tile_rows
    cast = getattr(np, index)

    def pack(
        weight: Any, packed: Any, table: Any, count: int, group_step: int, channel_step: int, row_step: int
    ) -> None:
        i = cast(cast(cuda.blockIdx.x) * cast(cuda.blockDim.x) + cast(cuda.threadIdx.x))
        if i >= count:
            return
        padded, row_blocks = cast(table[PADDED]), cast(table[ROW_BLOCKS])
        row, line = cast(i % block_rows), cast(i // block_rows)
        lines = cast(cast(table[GROUP_WEIGHTS]) // block_rows)
        group = cast(line // lines)
        line = cast(line % lines)
        low, high = cast(0), cast(table[PHASES])
        while high - low > 1:
            middle = cast((low + high) // 2)
            if cast(table[HEADER + middle * PHASE + DEPTH_AT]) * row_blocks <= line:
                low = middle
            else:
                high = middle
        phase = cast(HEADER + low * PHASE)
        taps = cast(table[phase + TAPS])
        deep = cast((taps * padded + DEPTH - 1) // DEPTH * DEPTH)
        line = cast(line - cast(table[phase + DEPTH_AT]) * row_blocks)
        m = cast(line // deep * block_rows + row)
        k = cast(line % deep)
        tap, channel = cast(k // padded), cast(k % padded)
        value = types.float32(0)
        if m < cast(table[ROWS]) and tap < taps and channel < cast(table[CHANNELS]):
            number = cast(table[cast(table[phase + FIRST_TAP]) + 4 * tap + 3])
            value = types.float32(weight[group * group_step + channel * channel_step + m * row_step + number])
        packed[i] = value

    return pack


def tile_for(rows: int) -> Tile:
    """Return the smallest tile that has so many rows, or the largest."""
    return next((tile for tile in reversed(TILES) if tile.rows >= rows), TILES[0])


def steps(forward: bool, g: Geometry, layout: Layout, target: Target, tile: Tile | None = None) -> Steps:
    """Return the launches of the forward pass or of the input gradient."""
    s = sums(g, forward)
    tile = tile or tile_for(s.rows)
    padded = -(-s.channels // DEPTH) * DEPTH if s.channels >= DEPTH else 1 << (s.channels - 1).bit_length()
    row_blocks = -(-s.rows // tile.rows)
    head: list[int] = []
    taps: list[int] = []
    tiles = depth = 0
    for phase in s.phases:
        first_tap = HEADER + PHASE * len(s.phases) + len(taps)
        head += [tiles, first_tap, len(phase.taps), depth, *phase.first, *phase.size]
        for tap in phase.taps:
            taps += [*tap.shift, tap.weight]
        tiles += -(-g.batch * math.prod(phase.size) // tile.columns)
        depth += -(-len(phase.taps) * padded // DEPTH) * DEPTH
    group_weights = depth * row_blocks * tile.rows
    front = [
        s.rows, s.channels, padded, row_blocks, g.groups, g.batch, len(s.phases), *layout.first, *layout.second,
        *s.source, *s.hop, *s.step, group_weights,
    ]  # fmt: skip
    packed = g.groups * group_weights
    group_step, input_step, output_step = g.group_in * g.group_out * g.taps, g.group_out * g.taps, g.taps
    channel_step, row_step = (input_step, output_step) if forward else (output_step, input_step)
    shapes = (g.input_shape, g.output_shape) if forward else (g.output_shape, g.input_shape)
    index = index_for(packed, extent(shapes[0], layout.first), extent(shapes[1], layout.second))
    pack = Launch(
        pack_kernel(tile.rows, index),
        ("float32*", "float32*", "int64*", *(index,) * 4),
        (-(-packed // THREADS),),
        ("weight", "packed", "table", packed, group_step, channel_step, row_step),
    )
    multiply = Launch(
        kernel(tile, index),
        (*("float32*",) * 4, "int64*", "int32"),
        (tiles, row_blocks, g.groups),
        ("source", "packed", "bias", "out", "table", int(layout.bias)),
    )
    return Steps(
        (pack, multiply), {"table": np.array(front + head + taps, np.int64)}, {"packed": Scratch(packed, "float32")}
    )


def _declines(g: Geometry, target: Target) -> str | None:
    return None if g.dtype == "float32" else f"serves float32, not {g.dtype}"


_IDEA = "Matrix products of weights and gathered pixels, a phase of the stride at a time, in tiles of shared memory."
FORWARD = DeviceImplementation("gather_gemm", _IDEA, _declines, partial(steps, True))
INPUT_GRAD = DeviceImplementation("gather_gemm", _IDEA, _declines, partial(steps, False))
