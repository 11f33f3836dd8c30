"""Weight gradient: implicit matrix products over pixels, in ranges that are added in their order.

``gw[row, column] = Σ x[n, row, i] · gy[n, co, s·i + d·k - p]``: rows are input channels of a group, columns are (tap,
output channel), depth is (image, input pixel). Each block sums one range of the depth for one tile; a second kernel
adds the ranges, one after the other, so that results do not depend on the grid, and no float is added atomically.

Memory: x and gy of any strides · stages of tiles in shared memory (`tiles`), twice: the next is loaded while one is
used · where the next pixels lie in both arrays, found once for the block. A thread loads units of neighbouring
channels, which have one tap; lanes run along pixels, or along channels where these are neighbours, with one access a
unit where all are aligned. Results of channels that do not exist are computed from others and dropped.
Parallel over tiles of rows and columns, groups, ranges. A NaN or Inf of gy reaches the weights it touches and no
others; one of x also those whose tap lies outside the output, where it meets a zero.

Ladder, by the machine code for sm_80 (nothing has run on hardware yet): products in percent of the instructions from
barrier to barrier, for float32.
1. Tiles of 64 × 64 × 8, 4 × 4 sums a thread; every thread divides to find its pixel, every column checks its tap: 24.
2. Tiles of 128 × 128 × 16 with 8 × 8 sums; columns in the order (tap, channel), so that four share a check and a store
   of 16 bytes; pixels found by one thread each, for 16 tiles at once: 85 channels first and 88 channels last in a tile
   that finds no pixels; 79 and 81 where one does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import types

from fastdeconv.kernels.cuda.device import cuda, device_function, reader, unravel, unsigned, writer
from fastdeconv.kernels.cuda.elements import DTYPES, elements, widen_unit
from fastdeconv.kernels.cuda.factory import kernel_factory
from fastdeconv.kernels.cuda.launches import (
    DeviceImplementation,
    Launch,
    Layout,
    Scratch,
    Steps,
    Target,
    blocks_for,
    extent,
    index_for,
)
from fastdeconv.kernels.cuda.tiles import Tile, drain, position, product, stage_of
from fastdeconv.kernels.geometry import Geometry

TILES = (Tile(128, 128, 8, 8), Tile(64, 128, 8, 8), Tile(32, 128, 8, 8, 8))
TILES_OF_DOUBLES = (Tile(64, 64, 8, 4), Tile(32, 64, 8, 4))
# Blocks that keep a multiprocessor busy, and tiles of the depth that make a range worth its sums.
_BLOCKS, _TILES = 2, 32

# What a table of sizes holds; `PADDED` is the columns of a tap.
(CHANNELS, OUT_CHANNELS, PADDED, GROUPS, BATCH, INPUT_0, INPUT_1, INPUT_2, OUTPUT_0, OUTPUT_1, OUTPUT_2,
 KERNEL_0, KERNEL_1, KERNEL_2, STRIDE_0, STRIDE_1, STRIDE_2, PADDING_0, PADDING_1, PADDING_2,
 DILATION_0, DILATION_1, DILATION_2, X_N, X_C, X_0, X_1, X_2, GY_N, GY_C, GY_0, GY_1, GY_2,
 RANGES) = range(34)  # fmt: skip


class Loads(NamedTuple):
    """Who loads what of both arrays.

    Attributes
    ----------
    channels_last : bool
        Whether channels are neighbours: lanes run along them, and a unit is one access.
    unit : int
        Channels that a thread loads of one pixel and one tap.
    """

    channels_last: bool
    unit: int


class Share(NamedTuple):
    """What a thread loads of the rows, or the columns, of a tile.

    Attributes
    ----------
    lines, pixel_lanes : int
        Threads side by side along channels, and along pixels.
    units, pixels : int
        Of each thread.
    """

    lines: int
    pixel_lanes: int
    units: int
    pixels: int


def share_of(length: int, tile: Tile, loads: Loads) -> Share:
    """Return what a thread loads of so many rows or columns."""
    lines = min(tile.threads, length // loads.unit) if loads.channels_last else tile.threads // tile.depth
    pixel_lanes = tile.threads // lines
    return Share(lines, pixel_lanes, length // (lines * loads.unit), tile.depth // pixel_lanes)


@kernel_factory
def kernel(tile: Tile, index: str, dtype: str, loads: Loads) -> Callable[..., None]:
    """Return the kernel for one shape of tiles; `index` is the integer type of all places in arrays."""
    cast, natural = getattr(np, index), unsigned(index)
    kind = elements(dtype)
    held, run = kind.held, kind.run
    sum_type = getattr(types, kind.sum)
    channels_last, unit = loads
    depth, threads, block_rows, block_columns = tile.depth, tile.threads, tile.rows, tile.columns
    stage = stage_of(tile, run, run)
    unraveled, placed, multiply = unravel(index), position(tile), product(tile, run, stage)
    blanks, widened = (kind.blank,) * unit, widen_unit(kind, unit)
    zeros = (kind.zero,) * (tile.thread_rows * tile.thread_columns)
    row_pitch, column_pitch, columns_at, stage_size = stage
    row_lines, row_lanes, row_units, row_pixels = share_of(block_rows, tile, loads)
    column_lines, column_lanes, column_units, column_pixels = share_of(block_columns, tile, loads)
    rows_size, columns_size = row_units * row_pixels * unit, column_units * column_pixels * unit
    spots_size = 4 * threads
    read, read_spot, read_unit = reader(1), reader(4), reader(unit)
    write, write_spot, write_unit = writer(1), writer(4), writer(unit)

    @device_function
    def store(context: Any, row: int, column: int, value: Any) -> None:
        sums, at, first_row, rows, first_column, columns = context
        m, k = cast(first_row + row), cast(first_column + column)
        if m < rows and k < columns:
            sums[at + m * columns + k] = value

    drain_size, leave = drain(tile, run, False, store)
    room_size = max(2 * stage_size, drain_size)

    @device_function
    def load(array: Any, at: int, step: int, count: int, loaded: Any, where: int) -> None:
        """Load the channels of a unit, of which `count` exist; the last stands for those that do not."""
        if channels_last:
            write_unit(loaded, where, read_unit(array, at))
        else:
            for j in range(unit):
                loaded[where + j] = array[cast(at + (j if j < count else cast(count - 1)) * step)]

    @device_function
    def put(loaded: Any, where: int, room: Any, to: int) -> None:
        """Write a unit to shared memory as sums."""
        write_unit(room, to, widened(read_unit(loaded, where)))

    def weight_gemm(x: Any, gy: Any, sums_out: Any, table: Any) -> None:
        room = cuda.shared.array(room_size, sum_type)
        # Where pixels are: in x; in gy for no tap, and on its three axes.
        starts = cuda.shared.array(threads, cast)
        spots = cuda.shared.array(spots_size, cast)
        thread = cast(cuda.threadIdx.x)
        groups = cast(table[GROUPS])
        group, part = cast(cuda.blockIdx.z % groups), cast(cuda.blockIdx.z // groups)
        channels, out_channels, padded = cast(table[CHANNELS]), cast(table[OUT_CHANNELS]), cast(table[PADDED])
        kernel1, kernel2 = cast(table[KERNEL_1]), cast(table[KERNEL_2])
        all_columns = cast(table[KERNEL_0] * kernel1 * kernel2 * padded)
        first_row, first_column = cast(cuda.blockIdx.y * block_rows), cast(cuda.blockIdx.x * block_columns)
        input0, input1, input2 = cast(table[INPUT_0]), cast(table[INPUT_1]), cast(table[INPUT_2])
        output0, output1, output2 = natural(table[OUTPUT_0]), natural(table[OUTPUT_1]), natural(table[OUTPUT_2])
        pixels = cast(table[BATCH] * input0 * input1 * input2)
        begin, end = cast(pixels * part // table[RANGES]), cast(pixels * (part + 1) // table[RANGES])
        x_c, gy_c = cast(table[X_C]), cast(table[GY_C])

        # The rows and columns that this thread loads: places that pixels add to, channels that there are, and the tap.
        if channels_last:
            row_line, row_pixel = cast(thread % row_lines), cast(thread // row_lines)
            column_line, column_pixel = cast(thread % column_lines), cast(thread // column_lines)
        else:
            row_line, row_pixel = cast(thread // depth), cast(thread % depth)
            column_line, column_pixel = row_line, row_pixel
        row_at = cuda.local.array(row_units, cast)
        row_count = cuda.local.array(row_units, cast)
        for q in range(row_units):
            m = cast(first_row + (row_line + q * row_lines) * unit)
            row_at[q] = cast((group * channels + m) * x_c)
            row_count[q] = cast(channels - m)
        column_at = cuda.local.array(column_units, cast)
        column_count = cuda.local.array(column_units, cast)
        shift0 = cuda.local.array(column_units, cast)
        shift1 = cuda.local.array(column_units, cast)
        shift2 = cuda.local.array(column_units, cast)
        for q in range(column_units):
            column = cast(first_column + (column_line + q * column_lines) * unit)
            tap, channel = cast(column // padded), cast(column % padded)
            rest = cast(tap // kernel2)
            shift0[q] = cast(rest // kernel1 * table[DILATION_0] - table[PADDING_0])
            shift1[q] = cast(rest % kernel1 * table[DILATION_1] - table[PADDING_1])
            shift2[q] = cast(tap % kernel2 * table[DILATION_2] - table[PADDING_2])
            column_at[q] = cast(
                (group * out_channels + channel) * gy_c
                + shift0[q] * table[GY_0] + shift1[q] * table[GY_1] + shift2[q] * table[GY_2]
            )  # fmt: skip
            column_count[q] = cast(out_channels - channel) if column < all_columns else cast(0)

        cells = zeros
        next_rows = cuda.local.array(rows_size, held)
        next_columns = cuda.local.array(columns_size, held)
        row, column = placed(thread)
        left_at, right_at = cast(row * run), cast(columns_at + column * run)
        rows_to = cast(row_pixel * row_pitch + row_line * unit)
        columns_to = cast(columns_at + column_pixel * column_pitch + column_line * unit)
        tiles = cast((end - begin + depth - 1) // depth)
        at_stage, ahead = cast(0), cast(0)
        for step in range(cast(tiles + 1)):
            if step < tiles:
                if ahead == 0:
                    # Threads find the pixels of the next steps, one each.
                    cuda.syncthreads()
                    pixel = cast(begin + step * depth + thread)
                    n, i0, i1, i2 = unraveled(pixel, input0, input1, input2)
                    start = cast(n * table[X_N] + i0 * table[X_0] + i1 * table[X_1] + i2 * table[X_2])
                    o0, o1 = cast(i0 * table[STRIDE_0]), cast(i1 * table[STRIDE_1])
                    o2 = cast(i2 * table[STRIDE_2])
                    spot = cast(n * table[GY_N] + o0 * table[GY_0] + o1 * table[GY_1] + o2 * table[GY_2])
                    # A pixel that does not exist lies outside both arrays.
                    write(starts, thread, (start if pixel < end else cast(-1),))
                    write_spot(spots, thread * 4, (spot, o0 if pixel < end else cast(-(1 << 30)), o1, o2))
                    cuda.syncthreads()
                for p in range(row_pixels):
                    (start,) = read(starts, ahead + row_pixel + p * row_lanes)
                    for q in range(row_units):
                        where = (p * row_units + q) * unit
                        write_unit(next_rows, where, blanks)
                        if start >= 0 and row_count[q] > 0:
                            load(x, cast(start + row_at[q]), x_c, row_count[q], next_rows, where)
                for p in range(column_pixels):
                    spot, o0, o1, o2 = read_spot(spots, 4 * (ahead + column_pixel + p * column_lanes))
                    for q in range(column_units):
                        where = (p * column_units + q) * unit
                        write_unit(next_columns, where, blanks)
                        p0, p1, p2 = natural(o0 + shift0[q]), natural(o1 + shift1[q]), natural(o2 + shift2[q])
                        if p0 < output0 and p1 < output1 and p2 < output2 and column_count[q] > 0:
                            load(gy, cast(spot + column_at[q]), gy_c, column_count[q], next_columns, where)
                ahead = cast(ahead + depth)
                if ahead == threads:
                    ahead = cast(0)
            if step > 0:
                cells = multiply(cells, room, cast(left_at + at_stage), cast(right_at + at_stage))
                at_stage = cast(stage_size - at_stage)
            if step < tiles:
                for p in range(row_pixels):
                    for q in range(row_units):
                        to = rows_to + at_stage + p * row_lanes * row_pitch + q * row_lines * unit
                        put(next_rows, (p * row_units + q) * unit, room, to)
                for p in range(column_pixels):
                    for q in range(column_units):
                        to = columns_to + at_stage + p * column_lanes * column_pitch + q * column_lines * unit
                        put(next_columns, (p * column_units + q) * unit, room, to)
                cuda.syncthreads()

        at = cast((part * groups + group) * channels * all_columns)
        context = sums_out, at, first_row, channels, first_column, all_columns
        leave(cells, room, thread, context)

    return weight_gemm


@kernel_factory
def add_kernel(index: str, dtype: str) -> Callable[..., None]:
    """Return the kernel that adds the ranges of each weight in their order; a thread has one weight."""
    cast, narrow = getattr(np, index), elements(dtype).narrow

    def add_ranges(
        sums: Any, out: Any, count: int, taps: int, channels: int, padded: int, ranges: int, range_size: int
    ) -> None:
        i = cast(cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x)
        if i < count:
            tap, rest = cast(i % taps), cast(i // taps)
            at = cast((rest // channels * taps + tap) * padded + rest % channels)
            total = sums[at]
            for part in range(1, ranges):
                total += sums[cast(at + part * range_size)]
            out[i] = narrow(total)

    return add_ranges


def tile_for(rows: int, dtype: str) -> Tile:
    """Return the smallest tile that has so many rows, or the largest."""
    tiles = TILES_OF_DOUBLES if dtype == "float64" else TILES
    return next((tile for tile in reversed(tiles) if tile.rows >= rows), tiles[0])


def loads_for(g: Geometry, layout: Layout) -> Loads:
    """Return who loads what: lanes run along channels where those of both arrays are neighbours."""
    unit = elements(g.dtype).run
    if layout.first[1] != 1 or layout.second[1] != 1:
        return Loads(False, unit)
    steps = (g.group_in, g.group_out, layout.first[0], layout.second[0], *layout.first[2:], *layout.second[2:])
    return Loads(True, unit if layout.aligned and not any(n % unit for n in steps) else 1)


def ranges_for(g: Geometry, target: Target, tile: Tile, columns: int) -> int:
    """Return how many ranges keep the device busy, of enough tiles each."""
    blocks = -(-columns // tile.columns) * -(-g.group_in // tile.rows) * g.groups
    deep = g.batch * math.prod(g.input) // (_TILES * tile.depth)
    return max(1, min(deep, -(-_BLOCKS * target.multiprocessors // blocks)))


def steps(g: Geometry, layout: Layout, target: Target, ranges: int = 0, tile: Tile | None = None) -> Steps:
    """Return the launches of the weight gradient."""
    kind, loads, tile = elements(g.dtype), loads_for(g, layout), tile or tile_for(g.group_in, g.dtype)
    padded = -(-g.group_out // kind.run) * kind.run
    columns = g.taps * padded
    ranges = ranges or ranges_for(g, target, tile, columns)
    table = [
        g.group_in, g.group_out, padded, g.groups, g.batch, *g.input, *g.output, *g.kernel, *g.stride, *g.padding,
        *g.dilation, *layout.first, *layout.second, ranges,
    ]  # fmt: skip
    count, range_size = math.prod(g.weight_shape), g.in_channels * columns
    index = index_for(ranges * range_size, extent(g.input_shape, layout.first), extent(g.output_shape, layout.second))
    pointer, sum_pointer = kind.pointer, f"{kind.sum}*"
    multiply = Launch(
        kernel(tile, index, g.dtype, loads),
        (pointer, pointer, sum_pointer, "int64*"),
        (-(-columns // tile.columns), -(-g.group_in // tile.rows), g.groups * ranges),
        ("x", "gy", "sums", "table"),
        tile.threads,
    )
    add = Launch(
        add_kernel(index, g.dtype),
        (sum_pointer, pointer, *(index,) * 6),
        (blocks_for(count),),
        ("sums", "out", count, g.taps, g.group_out, padded, ranges, range_size),
    )
    scratch = {"sums": Scratch(ranges * range_size, kind.sum)}
    return Steps((multiply, add), {"table": np.array(table, np.int64)}, scratch)


def _declines(g: Geometry, target: Target) -> str | None:
    return None if g.dtype in DTYPES else f"serves {', '.join(DTYPES)}, not {g.dtype}"


WEIGHT_GRAD = DeviceImplementation(
    "weight_gemm",
    "Matrix products over pixels in tiles of shared memory, in ranges that are added in their order.",
    _declines,
    steps,
)
