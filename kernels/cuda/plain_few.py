"""Beside the tiles of `plain_gemm`: products of few columns, and outputs that no tap reaches.

Few columns: weights are most of the traffic and each is used by one thread, so a tile in shared memory saves nothing.
Warps of a block have every `WARPS`-th channel, lanes have rows, weights go from global memory to registers, and the
sums of the warps are added in shared memory, in their order. Parallel over blocks of rows and of columns, and groups.

Not yet run on hardware.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastdeconv.kernels.cuda.device import cuda, device_function, multiply_add, reader, unravel
from fastdeconv.kernels.cuda.factory import kernel_factory
from fastdeconv.kernels.cuda.launches import THREADS
from fastdeconv.kernels.cuda.packing import tabulate
from fastdeconv.kernels.cuda.plain_places import (
    CHANNELS,
    DILATION_0,
    GROUPS,
    INPUT_0,
    KERNEL_0,
    OUT_0,
    OUT_1,
    OUT_2,
    OUT_C,
    OUT_CHANNELS,
    OUT_N,
    OUTPUT_0,
    OUTPUT_1,
    OUTPUT_2,
    PADDING_0,
    PITCH,
    SOURCE_C,
    STRIDE_0,
    bias_reader,
    decoders,
)
from fastdeconv.kernels.cuda.registers import gatherer, put

WARPS = THREADS // 32


@kernel_factory
def few_kernel(columns: int, wide: int, element_name: str, index: str) -> Callable[..., None]:
    """Return the kernel for so many columns; a thread reads `wide` weights with one access."""
    cast, element = getattr(np, index), getattr(np, element_name)
    block_rows, cells_of = 32 * wide, wide * columns
    room = WARPS * 32 * cells_of
    zeros, none = (element(0),) * cells_of, (element(0),) * wide
    row_of, column_of, source_of = decoders(index, True)
    bias_of, read = bias_reader(element, index), reader(wide)
    sources_of, gather = tabulate(source_of, columns), gatherer(1)

    @device_function
    def weights_at(weight: Any, at: int, line: int, exists: bool, k: int, channels: int) -> Any:
        return read(weight, at + k * line) if exists and k < channels else none

    def few_columns(source: Any, weight: Any, bias: Any, out: Any, table: Any, has_bias: int) -> None:
        sums = cuda.shared.array(room, element)
        thread = cast(cuda.threadIdx.x)
        lane, warp = cast(thread % 32), cast(thread // 32)
        first_row = cast(cast(cuda.blockIdx.x) * block_rows)
        first_column = cast(cast(cuda.blockIdx.y) * columns)
        group = cast(cuda.blockIdx.z)
        channels, line = cast(table[CHANNELS]), cast(table[PITCH])
        source_c = cast(table[SOURCE_C])
        source_at = cast(group * channels * source_c)
        row = cast(first_row + lane * wide)
        weight_at = cast(group * channels * line + row)
        exists = row < line
        places = sources_of(table, first_column)
        cells = zeros
        for first in range(warp, channels, 4 * WARPS):
            # Four channels, whose loads are under way together.
            a, b, c, d = cast(first), cast(first + WARPS), cast(first + 2 * WARPS), cast(first + 3 * WARPS)
            left_a = weights_at(weight, weight_at, line, exists, a, channels)
            left_b = weights_at(weight, weight_at, line, exists, b, channels)
            left_c = weights_at(weight, weight_at, line, exists, c, channels)
            left_d = weights_at(weight, weight_at, line, exists, d, channels)
            right_a = gather(source, places, cast(source_at + a * source_c), True)
            right_b = gather(source, places, cast(source_at + b * source_c), b < channels)
            right_c = gather(source, places, cast(source_at + c * source_c), c < channels)
            right_d = gather(source, places, cast(source_at + d * source_c), d < channels)
            cells = multiply_add(left_a, right_a, cells)
            cells = multiply_add(left_b, right_b, cells)
            cells = multiply_add(left_c, right_c, cells)
            cells = multiply_add(left_d, right_d, cells)
        put(sums, warp * cells_of * 32 + lane, 32, cells)
        cuda.syncthreads()

        first_channel = cast(group * table[OUT_CHANNELS])
        for i in range(thread, cells_of * 32, THREADS):
            j, r = cast(i // block_rows), cast(i % block_rows)
            at = cast((r % wide * columns + j) * 32 + r // wide)
            total = sums[at]
            for part in range(1, WARPS):
                total += sums[part * cells_of * 32 + at]
            r = cast(first_row + r)
            row_at, r0, r1, r2 = row_of(table, r)
            column_at, c0, c1, c2 = column_of(table, cast(first_column + j))
            o0, o1, o2 = cast(r0 + c0), cast(r1 + c1), cast(r2 + c2)
            inside = o0 >= 0 and o0 < table[OUTPUT_0] and o1 >= 0 and o1 < table[OUTPUT_1]
            if inside and o2 >= 0 and o2 < table[OUTPUT_2]:
                more = bias_of((table, bias, first_channel, has_bias), r)[0]
                out[first_channel * table[OUT_C] + row_at + column_at] = total + more

    return few_columns


@kernel_factory
def fill_kernel(element_name: str, index: str) -> Callable[..., None]:
    """Return the kernel that writes the bias, or zero, to each output that no tap reaches; a thread has one output."""
    cast, element = getattr(np, index), getattr(np, element_name)
    unraveled = unravel(index)

    @device_function
    def reached(table: Any, axis: int, o: int) -> Any:
        """Return whether a pair of pixel and tap is at a place of an axis."""
        place, stride = cast(o + table[PADDING_0 + axis]), cast(table[STRIDE_0 + axis])
        tap, dilation = cast(place % stride), cast(table[DILATION_0 + axis])
        return (
            place // stride < table[INPUT_0 + axis] and tap % dilation == 0 and tap // dilation < table[KERNEL_0 + axis]
        )

    def fill(bias: Any, out: Any, table: Any, count: int, has_bias: int) -> None:
        i = cast(cast(cuda.blockIdx.x) * cast(cuda.blockDim.x) + cast(cuda.threadIdx.x))
        if i >= count:
            return
        channels = cast(cast(table[GROUPS]) * cast(table[OUT_CHANNELS]))
        size0, size1, size2 = cast(table[OUTPUT_0]), cast(table[OUTPUT_1]), cast(table[OUTPUT_2])
        if table[OUT_C] == 1:
            channel = cast(i % channels)
            n, o0, o1, o2 = unraveled(cast(i // channels), size0, size1, size2)
        else:
            line, o0, o1, o2 = unraveled(i, size0, size1, size2)
            n, channel = cast(line // channels), cast(line % channels)
        if not (reached(table, 0, o0) and reached(table, 1, o1) and reached(table, 2, o2)):
            at = n * table[OUT_N] + channel * table[OUT_C]
            at += o0 * table[OUT_0] + o1 * table[OUT_1] + o2 * table[OUT_2]
            out[at] = bias[channel] if has_bias else element(0)

    return fill
