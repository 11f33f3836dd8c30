"""Gradient of the bias: ``out[c] = Σ gy[n, c, o]`` over images and pixels, in ranges that are added in their order.

Memory: gy of any strides, read once; neighbouring threads have neighbouring pixels of a channel, or with channels last
neighbouring channels.
Parallel over channels, lanes and ranges (`reduction`); results do not depend on the grid. A NaN or Inf reaches its
channel and no other.

By calculation: an element takes one load and some 15 instructions to find the next; an element of four bytes takes a
device as long to read from memory as about ten.
Not yet run on hardware.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastdeconv.kernels.cuda.device import cuda, unravel
from fastdeconv.kernels.cuda.elements import elements
from fastdeconv.kernels.cuda.factory import kernel_factory
from fastdeconv.kernels.cuda.launches import (
    THREADS,
    Launch,
    Scratch,
    Steps,
    Strides,
    Target,
    channels_last,
    extent,
    index_for,
)
from fastdeconv.kernels.cuda.reduction import add, room, stride, team, tree
from fastdeconv.kernels.geometry import Geometry

# What a table holds.
(CHANNELS, PIXELS, SIZE_0, SIZE_1, SIZE_2, GY_N, GY_C, GY_0, GY_1, GY_2,
 LANES, LANE_STEP, SLOT_STEP, RANGES) = range(14)  # fmt: skip


@kernel_factory
def kernel(dtype: str, index: str) -> Callable[..., None]:
    """Return the kernel that sums ranges of each channel; `index` is the type of places in arrays."""
    cast = getattr(np, index)
    unraveled, moved = unravel(index), stride(index)
    zero, kind, widen = elements(dtype).zero, elements(dtype).sum, elements(dtype).widen

    def bias_grad(gy: Any, sums_out: Any, table: Any) -> None:
        sums = cuda.shared.array(THREADS, kind)
        thread = cast(cuda.threadIdx.x)
        lanes = cast(table[LANES])
        lane = cast(cast(thread // cast(table[LANE_STEP])) % lanes)
        slots = cast(THREADS // lanes)
        channel = cast(cuda.blockIdx.x * slots + cast(thread // cast(table[SLOT_STEP])) % slots)
        exists = channel < table[CHANNELS]
        size0, size1, size2 = cast(table[SIZE_0]), cast(table[SIZE_1]), cast(table[SIZE_2])
        begin = cast(table[PIXELS] * cuda.blockIdx.y // table[RANGES] + lane)
        end = cast(table[PIXELS] * (cuda.blockIdx.y + 1) // table[RANGES])
        total = zero
        if exists and begin < end:
            at = cast(channel * table[GY_C])
            gy_n = cast(table[GY_N])
            gy0, gy1, gy2 = cast(table[GY_0]), cast(table[GY_1]), cast(table[GY_2])
            n, o0, o1, o2 = unraveled(begin, size0, size1, size2)
            by = unraveled(lanes, size0, size1, size2)
            for _ in range(begin, end, lanes):
                total += widen(gy[at + n * gy_n + o0 * gy0 + o1 * gy1 + o2 * gy2])
                n, o0, o1, o2 = moved(n, o0, o1, o2, by, size0, size1, size2)
        sums[thread] = total
        total = tree(sums, thread, lane, lanes, cast(table[LANE_STEP]))
        if exists and lane == 0:
            sums_out[cuda.blockIdx.y * table[CHANNELS] + channel] = total

    return bias_grad


def steps(g: Geometry, gy_strides: Strides, target: Target) -> Steps:
    """Return the launches, whose arrays are "gy" and "out", one element for each output channel."""
    pixels = g.batch * math.prod(g.output)
    lanes, lane_step, slot_step, blocks, ranges = team(g.out_channels, pixels, channels_last(gy_strides), target)
    table = [g.out_channels, pixels, *g.output, *gy_strides, lanes, lane_step, slot_step, ranges]
    index = index_for(pixels + THREADS, g.out_channels + THREADS, extent(g.output_shape, gy_strides))
    element = elements(g.dtype)
    sum_up = Launch(
        kernel(g.dtype, index),
        (element.pointer, f"{element.sum}*", "int64*"),
        (blocks, ranges),
        ("gy", "sums", "table"),
    )
    scratch = {"sums": Scratch(room(g.out_channels, pixels, target), element.sum)}
    return Steps((sum_up, add(g.dtype, g.out_channels, ranges)), {"table": np.array(table, np.int64)}, scratch)
