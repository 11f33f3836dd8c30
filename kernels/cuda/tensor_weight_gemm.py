"""Weight gradient on tensor cores: implicit matrix products over pixels, in ranges that are added in their order.

``gw[row, column] = Σ x[n, row, i] · gy[n, co, s·i + d·k - p]``, as in `weight_gemm`: rows are input channels of a
group, columns are (tap, output channel), depth is (image, input pixel). Both operands have channels next to each other
and the depth from line to line, so ``ldmatrix`` transposes elements of 16 bits; those of 32 are loaded one by one. Each
block sums one range of the depth for one tile; `add_kernel` adds the ranges, one after the other: no float is added
atomically, and results do not depend on the grid.

Memory: x and gy as chunks of channels (`channels_last`) · tiles of pixels with lines of as many chunks as fill rows or
columns, in shared memory at ``chunk ^ line % 8``: eight neighbouring lines of one chunk lie in different banks; with
elements of 32 bits at ``chunk ^ line % 4 · 2``, so that four lines of eight neighbours do · sums of (range, group, row,
column), whole tiles of them.
Parallel over tiles of rows and columns, groups, ranges.

Products of float16 and bfloat16 are exact, those of float32 have factors rounded to TF32; sums are float32, rounded
once to the weights' type. A NaN or Inf of gy reaches the weights it touches and no others; one of x also reaches those
whose tap lies outside the output.

A thread goes from one pixel to the next it loads by adding digits with a carry; nothing is divided in the loop.
Not yet run on hardware.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import types

from fastdeconv.kernels.cuda.channels_last import BITS, chunk_elements, chunks
from fastdeconv.kernels.cuda.device import cuda, device_function, unravel
from fastdeconv.kernels.cuda.factory import kernel_factory
from fastdeconv.kernels.cuda.inline_ptx import (
    CHUNK,
    commit_copies,
    copy_chunk,
    load_matrices,
    load_words,
    multiply_matrices,
    narrow,
    round_to_tf32,
    shared_address,
    wait_copies,
    write_sums,
)
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
from fastdeconv.kernels.cuda.tensor_gemm import declines, yields
from fastdeconv.kernels.geometry import Geometry


class Tile(NamedTuple):
    """Rows and columns of a block, both multiplied by two warps and two, and the tiles there is room for."""

    size: int
    stages: int


TILES = (Tile(128, 3), Tile(64, 4))
THREADS_OF_TILE = 128
# Blocks that keep a multiprocessor busy, and tiles of depth that are worth a block.
_BLOCKS = 2
_DEEP = 16

(X_CHUNKS, GY_CHUNKS, GROUPS, BATCH, INPUT_0, INPUT_1, INPUT_2, OUTPUT_0, OUTPUT_1, OUTPUT_2,
 KERNEL_0, KERNEL_1, KERNEL_2, STRIDE_0, STRIDE_1, STRIDE_2, PADDING_0, PADDING_1, PADDING_2,
 DILATION_0, DILATION_1, DILATION_2, X_N, X_G, X_0, X_1, X_2, GY_N, GY_G, GY_0, GY_1, GY_2,
 RANGES, STEP_N, STEP_0, STEP_1, STEP_2) = range(37)  # fmt: skip


@kernel_factory
def kernel(tile: Tile, dtype: str, index: str) -> Callable[..., None]:
    """Return the kernel; `index` is the integer type of all places in arrays."""
    cast, u32 = getattr(np, index), np.uint32
    unraveled = unravel(index)
    size, stages = tile
    each, depth = chunk_elements(BITS[dtype]), depth_of(dtype)
    words = each == 4
    width = size // each  # chunks of a line
    line_bytes = width * CHUNK
    tile_bytes = depth * line_bytes
    stage_bytes = 2 * tile_bytes
    lines = THREADS_OF_TILE // width  # that all threads load at once
    many = depth // lines
    room = stages * stage_bytes // 4
    half = size // 2  # of a warp
    parts, columns = half // 16, half // 8
    zeros = (np.float32(0),) * (parts * columns * 4)
    wait = wait_copies(stages - 2)
    if words:
        load_left = load_words(parts, 2 * CHUNK, 2, 4 * line_bytes)
        load_right = load_words(columns, 2 * CHUNK, 1, 4 * line_bytes)
    else:
        load_left, load_right = (load_matrices(count, 2 * CHUNK, transposed=True) for count in (parts, columns // 2))
    multiply, write = multiply_matrices(dtype), write_sums(parts, columns)

    @device_function
    def swizzled(line: int, chunk: int) -> Any:
        """Return where a chunk of a line is in a tile, in bytes."""
        if words:
            return u32(line * line_bytes + (chunk ^ line % 4 * 2) * CHUNK)
        return u32(line * line_bytes + (chunk ^ line % 8) * CHUNK)

    @device_function
    def lane_of(lane: int, first: int, left: bool) -> Any:
        """Return where a lane loads what of rows or columns begins with a chunk."""
        if words:
            return u32(swizzled(cast(lane % 4), cast(first + lane // 16)) + lane // 4 % 4 * 4)
        if left:
            return swizzled(cast(lane % 8 + lane // 16 * 8), cast(first + lane // 8 % 2))
        return swizzled(cast(lane % 16), cast(first + lane // 16))

    @device_function
    def multiply_lines(stage: int, left_at: int, right_at: int, cells: Any) -> Any:
        left, right = load_left(stage, left_at), load_right(u32(stage + tile_bytes), right_at)
        if words:
            left, right = round_to_tf32(left), round_to_tf32(right)
        return multiply(left, right, cells)

    @device_function
    def added(digit: int, more: int, limit: int) -> Any:
        """Return the digit of a sum, and what it carries."""
        total = cast(digit + more)
        carries = total >= limit
        return (cast(total - limit) if carries else total), (cast(1) if carries else cast(0))

    def tensor_weight_gemm(x: Any, gy: Any, sums: Any, table: Any) -> None:
        buffer = cuda.shared.array(room, types.uint32, alignment=128)
        base = shared_address(buffer)
        thread = cast(cuda.threadIdx.x)
        lane, warp = cast(thread % 32), cast(thread // 32)
        line, chunk = cast(thread // width), cast(thread % width)
        groups = cast(table[GROUPS])
        group, part = cast(cast(cuda.blockIdx.z) % groups), cast(cast(cuda.blockIdx.z) // groups)
        x_chunks, gy_chunks = cast(table[X_CHUNKS]), cast(table[GY_CHUNKS])
        kernel1, kernel2 = cast(table[KERNEL_1]), cast(table[KERNEL_2])
        input0, input1, input2 = cast(table[INPUT_0]), cast(table[INPUT_1]), cast(table[INPUT_2])
        output0, output1, output2 = cast(table[OUTPUT_0]), cast(table[OUTPUT_1]), cast(table[OUTPUT_2])
        stride0, stride1, stride2 = cast(table[STRIDE_0]), cast(table[STRIDE_1]), cast(table[STRIDE_2])
        x0, x1, x2 = cast(table[X_0]), cast(table[X_1]), cast(table[X_2])
        gy0, gy1, gy2 = cast(table[GY_0]), cast(table[GY_1]), cast(table[GY_2])
        x_n, gy_n = cast(table[X_N]), cast(table[GY_N])
        step_n, step0, step1, step2 = (
            cast(table[STEP_N]), cast(table[STEP_0]), cast(table[STEP_1]), cast(table[STEP_2]),
        )  # fmt: skip
        pixels = cast(cast(table[BATCH]) * input0 * input1 * input2)
        begin = cast(pixels * part // cast(table[RANGES]))
        end = cast(pixels * (part + 1) // cast(table[RANGES]))

        # The chunk of rows and the chunk of columns that this thread loads, of all pixels.
        row_chunk = cast(cast(cuda.blockIdx.y) * width + chunk)
        column_chunk = cast(cast(cuda.blockIdx.x) * width + chunk)
        row_exists = row_chunk < x_chunks
        row_at = cast(group * cast(table[X_G]) + row_chunk)
        tap = cast(column_chunk // gy_chunks)
        column_exists = tap < cast(table[KERNEL_0]) * kernel1 * kernel2
        column_at = cast(group * cast(table[GY_G]) + column_chunk % gy_chunks)
        shift0 = cast(cast(tap // kernel2 // kernel1) * cast(table[DILATION_0]) - cast(table[PADDING_0]))
        shift1 = cast(cast(tap // kernel2 % kernel1) * cast(table[DILATION_1]) - cast(table[PADDING_1]))
        shift2 = cast(cast(tap % kernel2) * cast(table[DILATION_2]) - cast(table[PADDING_2]))

        image = cuda.local.array(many, cast)
        place0 = cuda.local.array(many, cast)
        place1 = cuda.local.array(many, cast)
        place2 = cuda.local.array(many, cast)
        for j in range(many):
            n, i0, i1, i2 = unraveled(cast(begin + line + j * lines), input0, input1, input2)
            image[j], place0[j], place1[j], place2[j] = n, i0, i1, i2

        write_at = swizzled(line, chunk)
        left_at = lane_of(lane, cast(warp // 2 * (half // each)), True)
        right_at = lane_of(lane, cast(warp % 2 * (half // each)), False)
        write_stage = read_stage = base
        end_stage = u32(base + stages * stage_bytes)
        tiles = cast((end - begin + depth - 1) // depth)
        pixel = cast(begin + line)
        cells = zeros
        step = cast(0)
        while step < tiles + stages - 1:  # a range would count in 64 bits beside it
            if step >= stages - 1:
                wait()
                cuda.syncthreads()
            if step < tiles:
                to = u32(write_stage + write_at)
                for j in range(many):
                    exists = pixel + j * lines < end
                    n, i0, i1, i2 = image[j], place0[j], place1[j], place2[j]
                    at = cast(row_at + n * x_n + i0 * x0 + i1 * x1 + i2 * x2)
                    copied = u32(CHUNK) if exists and row_exists else u32(0)  # no byte is read outside
                    copy_chunk(u32(to + j * lines * line_bytes), x, at, copied)
                    o0, o1, o2 = cast(i0 * stride0 + shift0), cast(i1 * stride1 + shift1), cast(i2 * stride2 + shift2)
                    inside = (
                        exists and column_exists
                        and o0 >= 0 and o0 < output0 and o1 >= 0 and o1 < output1 and o2 >= 0 and o2 < output2
                    )  # fmt: skip
                    at = cast(column_at + n * gy_n + o0 * gy0 + o1 * gy1 + o2 * gy2)
                    copied = u32(CHUNK) if inside else u32(0)
                    copy_chunk(u32(to + tile_bytes + j * lines * line_bytes), gy, at, copied)
                    place2[j], carry = added(i2, step2, input2)
                    place1[j], carry = added(i1, cast(step1 + carry), input1)
                    place0[j], carry = added(i0, cast(step0 + carry), input0)
                    image[j] = cast(n + step_n + carry)
                pixel = cast(pixel + depth)
                write_stage = u32(write_stage + stage_bytes)
                if write_stage == end_stage:
                    write_stage = base
            # Empty at the end, so that the same number of groups may be under way.
            commit_copies()
            if step >= stages - 1:
                cells = multiply_lines(read_stage, left_at, right_at, cells)
                cells = multiply_lines(u32(read_stage + tile_bytes // 2), left_at, right_at, cells)
                read_stage = u32(read_stage + stage_bytes)
                if read_stage == end_stage:
                    read_stage = base
            step = cast(step + 1)

        pitch = np.int64(cast(cuda.gridDim.x) * size)
        row = np.int64(cast(cuda.blockIdx.y) * size + warp // 2 * half + lane // 4)
        column = np.int64(cast(cuda.blockIdx.x) * size + warp % 2 * half + lane % 4 * 2)
        first_row = np.int64(cast(cuda.blockIdx.z)) * cast(cuda.gridDim.y) * size
        write(cells, sums, (first_row + row) * pitch + column, pitch)

    return tensor_weight_gemm


@kernel_factory
def add_kernel(dtype: str) -> Callable[..., None]:
    """Return the kernel that adds the ranges of each weight in their order; a thread has one weight."""
    to_element = narrow(dtype)

    def add_ranges(
        sums: Any, out: Any, count: int, ranges: int, range_step: int, group_step: int, pitch: int,
        channels: int, out_channels: int, padded: int, taps: int,
    ) -> None:  # fmt: skip
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if i < count:
            tap, rest = i % taps, i // taps
            channel, row = rest % out_channels, rest // out_channels
            at = row // channels * group_step + row % channels * pitch + tap * padded + channel
            total = sums[at]
            for part in range(1, ranges):
                total += sums[at + part * range_step]
            out[i] = to_element(total)

    return add_ranges


def depth_of(dtype: str) -> int:
    """Return the pixels of a tile: those of two products."""
    return 4 * chunk_elements(BITS[dtype])


def ranges_for(g: Geometry, blocks: int, target: Target) -> int:
    """Return how many ranges keep the device busy, each deep enough to be worth a block."""
    deep = g.batch * math.prod(g.input) // (_DEEP * depth_of(g.dtype))
    return max(1, min(deep, -(-_BLOCKS * target.multiprocessors // blocks)))


def steps(g: Geometry, layout: Layout, target: Target, tile: Tile | None = None, ranges: int = 0) -> Steps:
    """Return the launches of the weight gradient."""
    tile = tile or (TILES[1] if min(g.group_in, g.group_out * g.taps) <= TILES[1].size else TILES[0])
    x = chunks("x", g.dtype, g.input_shape, layout.first, g.groups, layout.aligned)
    gy = chunks("gy", g.dtype, g.output_shape, layout.second, g.groups, layout.aligned)
    padded = gy.of_group * chunk_elements(BITS[g.dtype])
    row_blocks, column_blocks = -(-g.group_in // tile.size), -(-g.taps * padded // tile.size)
    ranges = ranges or ranges_for(g, row_blocks * column_blocks * g.groups, target)
    digits = [depth_of(g.dtype)]
    for size in reversed(g.input):
        more, digit = divmod(digits[0], size)
        digits[:1] = [more, digit]
    table = [
        x.of_group, gy.of_group, g.groups, g.batch, *g.input, *g.output, *g.kernel, *g.stride, *g.padding, *g.dilation,
        *x.strides, *gy.strides, ranges, *digits,
    ]  # fmt: skip
    pitch = column_blocks * tile.size
    group_step = row_blocks * tile.size * pitch
    range_step = g.groups * group_step
    index = index_for(
        extent((g.batch, g.groups, *g.input), x.strides) + x.of_group,
        extent((g.batch, g.groups, *g.output), gy.strides) + gy.of_group,
        g.batch * math.prod(g.input) * ranges,
    )
    multiply = Launch(
        kernel(tile, g.dtype, index),
        ("uint32*", "uint32*", "float32*", "int64*"),
        (column_blocks, row_blocks, g.groups * ranges),
        (x.name, gy.name, "sums", "table"),
        THREADS_OF_TILE,
    )
    count = math.prod(g.weight_shape)
    add = Launch(
        add_kernel(g.dtype),
        ("float32*", f"{BITS[g.dtype]}*", *("int64",) * 9),
        (blocks_for(count),),
        ("sums", "out", count, ranges, range_step, group_step, pitch, g.group_in, g.group_out, padded, g.taps),
    )
    return Steps(
        (*x.launches, *gy.launches, multiply, add),
        {"table": np.array(table, np.int64)} | x.tables | gy.tables,
        {"sums": Scratch(ranges * range_step, "float32")} | x.scratch | gy.scratch,
    )


WEIGHT_GRAD = DeviceImplementation(
    "tensor_weight_gemm",
    "Matrix products over pixels on tensor cores, in ranges that are added in their order.",
    declines,
    steps,
    yields,
    True,
)
