"""Weight gradient: implicit matrix products over pixels, in ranges that are added in their order.

``gw[row, column] = Σ x[n, row, i] · gy[n, co, s·i + d·k - p]``: rows are input channels of a group, columns are (output
channel, tap), depth is (image, input pixel). Each block sums one range of the depth for one tile; `add_ranges` adds the
ranges, one after the other, so that results do not depend on the grid, and no float is added atomically.

Memory: x and gy of any strides · tiles of 8 × rows and 8 × columns in shared memory, twice, their rows four elements
longer than the tile, so that threads that store a column of them meet different banks.
Parallel over tiles of rows and columns, groups, ranges. A NaN or Inf reaches the weights it touches and no others.

Not yet run on hardware.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types

from fastdeconv.kernels.cuda.device import cuda, device_function, multiply_add, read4, scatter, unravel
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
from fastdeconv.kernels.geometry import Geometry

DEPTH = 8  # of a tile
ROWS, COLUMNS = 64, 64
SPARE = 4
# Blocks that keep a multiprocessor busy.
_BLOCKS = 2

# What a table of sizes holds.
(CHANNELS, OUT_CHANNELS, GROUPS, BATCH, INPUT_0, INPUT_1, INPUT_2, OUTPUT_0, OUTPUT_1, OUTPUT_2,
 KERNEL_0, KERNEL_1, KERNEL_2, STRIDE_0, STRIDE_1, STRIDE_2, PADDING_0, PADDING_1, PADDING_2,
 DILATION_0, DILATION_1, DILATION_2, X_N, X_C, X_0, X_1, X_2, GY_N, GY_C, GY_0, GY_1, GY_2,
 RANGES) = range(33)  # fmt: skip


@kernel_factory
def kernel(index: str) -> Callable[..., None]:
    """Return the kernel; `index` is the integer type of all places in arrays."""
    cast = getattr(np, index)
    unraveled = unravel(index)
    element = np.float32
    none, zeros = (element(0),) * 4, (element(0),) * 16
    pitch_a, pitch_b = ROWS + SPARE, COLUMNS + SPARE
    size_a, size_b = DEPTH * pitch_a, DEPTH * pitch_b
    room_a, room_b = 2 * size_a, 2 * size_b
    many_a, many_b = ROWS * DEPTH // THREADS, COLUMNS * DEPTH // THREADS

    @device_function
    def below(i: int, end: int, at: int, step: int) -> Any:
        """Return a place, or -1 from an index on."""
        return np.int64(at + i * step) if i < end else np.int64(-1)

    @device_function
    def four_below(i: int, end: int, at: int, step: int) -> Any:
        return (below(i, end, at, step), below(cast(i + 1), end, at, step),
                below(cast(i + 2), end, at, step), below(cast(i + 3), end, at, step))  # fmt: skip

    def weight_gemm(x: Any, gy: Any, sums_out: Any, table: Any) -> None:
        rows = cuda.shared.array(room_a, types.float32)
        columns = cuda.shared.array(room_b, types.float32)
        thread = cast(cuda.threadIdx.x)
        k, line = cast(thread % DEPTH), cast(thread // DEPTH)
        groups = cast(table[GROUPS])
        group, part = cast(cast(cuda.blockIdx.z) % groups), cast(cast(cuda.blockIdx.z) // groups)
        channels, out_channels = cast(table[CHANNELS]), cast(table[OUT_CHANNELS])
        kernel1, kernel2 = cast(table[KERNEL_1]), cast(table[KERNEL_2])
        taps = cast(cast(table[KERNEL_0]) * kernel1 * kernel2)
        all_columns = cast(out_channels * taps)
        first_row, first_column = cast(cast(cuda.blockIdx.y) * ROWS), cast(cast(cuda.blockIdx.x) * COLUMNS)
        input0, input1, input2 = cast(table[INPUT_0]), cast(table[INPUT_1]), cast(table[INPUT_2])
        output0, output1, output2 = cast(table[OUTPUT_0]), cast(table[OUTPUT_1]), cast(table[OUTPUT_2])
        pixels = cast(cast(table[BATCH]) * input0 * input1 * input2)
        begin = cast(pixels * part // cast(table[RANGES]))
        end = cast(pixels * (part + 1) // cast(table[RANGES]))

        # The columns that this thread loads: where their tap begins in the output, and their channel.
        shift0 = cuda.local.array(many_b, cast)
        shift1 = cuda.local.array(many_b, cast)
        shift2 = cuda.local.array(many_b, cast)
        channel_at = cuda.local.array(many_b, cast)
        for j in range(many_b):
            column = cast(first_column + line + j * (THREADS // DEPTH))
            tap, channel = cast(column % taps), cast(column // taps)
            t2, rest = cast(tap % kernel2), cast(tap // kernel2)
            shift0[j] = cast(cast(rest // kernel1) * cast(table[DILATION_0]) - cast(table[PADDING_0]))
            shift1[j] = cast(cast(rest % kernel1) * cast(table[DILATION_1]) - cast(table[PADDING_1]))
            shift2[j] = cast(t2 * cast(table[DILATION_2]) - cast(table[PADDING_2]))
            channel_at[j] = (
                cast((group * out_channels + channel) * cast(table[GY_C])) if column < all_columns else cast(-1)
            )
        x_c, gy_n = cast(table[X_C]), cast(table[GY_N])
        gy0, gy1, gy2 = cast(table[GY_0]), cast(table[GY_1]), cast(table[GY_2])

        sums = zeros
        next_row = cuda.local.array(many_a, types.float32)
        next_column = cuda.local.array(many_b, types.float32)
        thread_row, thread_column = cast(thread // 16), cast(thread % 16)
        tiles = cast((end - begin + DEPTH - 1) // DEPTH)
        now = cast(0)
        for step in range(tiles + 1):
            if step < tiles:
                pixel = cast(begin + step * DEPTH + k)
                exists = pixel < end
                n, i0, i1, i2 = unraveled(pixel, input0, input1, input2)
                x_at = cast(
                    n * cast(table[X_N]) + group * channels * x_c
                    + i0 * cast(table[X_0]) + i1 * cast(table[X_1]) + i2 * cast(table[X_2])
                )  # fmt: skip
                o0, o1, o2 = (
                    cast(i0 * cast(table[STRIDE_0])),
                    cast(i1 * cast(table[STRIDE_1])),
                    cast(i2 * cast(table[STRIDE_2])),
                )
                for j in range(many_a):
                    m = cast(first_row + line + j * (THREADS // DEPTH))
                    value = element(0)
                    if exists and m < channels:
                        value = element(x[x_at + m * x_c])
                    next_row[j] = value
                for j in range(many_b):
                    p0, p1, p2 = cast(o0 + shift0[j]), cast(o1 + shift1[j]), cast(o2 + shift2[j])
                    value = element(0)
                    if (
                        exists and channel_at[j] >= 0
                        and p0 >= 0 and p0 < output0 and p1 >= 0 and p1 < output1 and p2 >= 0 and p2 < output2
                    ):  # fmt: skip
                        value = element(gy[n * gy_n + channel_at[j] + p0 * gy0 + p1 * gy1 + p2 * gy2])
                    next_column[j] = value
            if step > 0:
                for depth in range(DEPTH):
                    left = read4(rows, now * size_a + depth * pitch_a + thread_row * 4)
                    right = read4(columns, now * size_b + depth * pitch_b + thread_column * 4)
                    sums = multiply_add(left, right, sums)
                now = cast(1 - now)
            if step < tiles:
                for j in range(many_a):
                    rows[now * size_a + k * pitch_a + line + j * (THREADS // DEPTH)] = next_row[j]
                for j in range(many_b):
                    columns[now * size_b + k * pitch_b + line + j * (THREADS // DEPTH)] = next_column[j]
                cuda.syncthreads()

        at = cast((part * cast(table[GROUPS]) + group) * channels * all_columns)
        m, column = cast(first_row + thread_row * 4), cast(first_column + thread_column * 4)
        lines = four_below(m, channels, at, all_columns)
        places = four_below(column, all_columns, cast(0), cast(1))
        scatter(sums_out, places, lines, none, sums)

    return weight_gemm


def add_ranges(sums: Any, out: Any, count: int, ranges: int) -> None:
    """Add the ranges of each weight in their order; a thread has one weight."""
    i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    if i < count:
        total = sums[i]
        for part in range(1, ranges):
            total += sums[part * count + i]
        out[i] = total


def ranges_for(g: Geometry, target: Target) -> int:
    """Return how many ranges keep the device busy, of at least 64 tiles each."""
    blocks = -(-g.group_out * g.taps // COLUMNS) * -(-g.group_in // ROWS) * g.groups
    deep = g.batch * math.prod(g.input) // (64 * DEPTH)
    return max(1, min(deep, -(-_BLOCKS * target.multiprocessors // blocks)))


def steps(g: Geometry, layout: Layout, target: Target, ranges: int = 0) -> Steps:
    """Return the launches of the weight gradient."""
    ranges = ranges or ranges_for(g, target)
    table = [
        g.group_in, g.group_out, g.groups, g.batch, *g.input, *g.output, *g.kernel, *g.stride, *g.padding, *g.dilation,
        *layout.first, *layout.second, ranges,
    ]  # fmt: skip
    count = math.prod(g.weight_shape)
    index = index_for(ranges * count, extent(g.input_shape, layout.first), extent(g.output_shape, layout.second))
    multiply = Launch(
        kernel(index),
        ("float32*", "float32*", "float32*", "int64*"),
        (-(-g.group_out * g.taps // COLUMNS), -(-g.group_in // ROWS), g.groups * ranges),
        ("x", "gy", "sums", "table"),
    )
    add = Launch(
        add_ranges, ("float32*", "float32*", "int64", "int64"), (-(-count // THREADS),), ("sums", "out", count, ranges)
    )
    return Steps((multiply, add), {"table": np.array(table, np.int64)}, {"sums": Scratch(ranges * count, "float32")})


def _declines(g: Geometry, target: Target) -> str | None:
    return None if g.dtype == "float32" else f"serves float32, not {g.dtype}"


WEIGHT_GRAD = DeviceImplementation(
    "weight_gemm",
    "Matrix products over pixels in tiles of shared memory, in ranges that are added in their order.",
    _declines,
    steps,
)
