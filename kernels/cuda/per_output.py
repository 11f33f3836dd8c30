"""All three passes: a thread for each output, a team of threads for each weight; anything that is legal.

``out[n, row, o] = Σ weight[channel, row, k] · source[n, channel, i]`` over channels of the group and the pairs (k, i)
of `lines`, whose taps are all that contribute. ``gw[ci, co, k] = Σ x[n, ci, i] · gy[n, co, s·i + d·k - p]`` over images
and the inputs i that tap k keeps inside.

Memory: arrays of any strides, read where they lie; neighbouring threads have neighbouring pixels, or with channels last
neighbouring channels; nothing is staged, so what threads share comes from the caches.
Parallel over outputs; over weights, lanes and ranges (`reduction`). Sums run in the order of the taps for each channel,
those of channels are then added; results do not depend on the grid. A NaN or Inf reaches what it touches and no more.

By calculation: a product takes two loads and about eight instructions, a result some 150 more for divisions. That is a
tenth of what tiles in shared memory reach where channels are many, and no worse where each operand is used once.
Not yet run on hardware.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fastdeconv.kernels.cuda import lines
from fastdeconv.kernels.cuda.device import cuda, unravel
from fastdeconv.kernels.cuda.elements import elements, refused
from fastdeconv.kernels.cuda.factory import kernel_factory
from fastdeconv.kernels.cuda.launches import (
    THREADS,
    DeviceImplementation,
    Launch,
    Layout,
    Scratch,
    Steps,
    Target,
    blocks_for,
    channels_last,
    extent,
    index_for,
)
from fastdeconv.kernels.cuda.lines import AXIS, SOURCE_STEP, TAP_STEP
from fastdeconv.kernels.cuda.reduction import add, room, stride, team, tree
from fastdeconv.kernels.geometry import Geometry

# What a table holds, and `AXIS` entries of `lines` for each axis after it.
(COUNT, CHANNELS_LAST, ROWS, ALL_ROWS, CHANNELS, SIZE_0, SIZE_1, SIZE_2, KERNEL_1, KERNEL_2,
 GROUP_STEP, CHANNEL_STEP, ROW_STEP, SOURCE_N, SOURCE_C, SOURCE_0, SOURCE_1, SOURCE_2,
 OUT_N, OUT_C, OUT_0, OUT_1, OUT_2) = range(23)  # fmt: skip
AXES = 23


@kernel_factory
def kernel(forward: bool, dtype: str, index: str) -> Callable[..., None]:
    """Return the kernel of the forward pass or of the input gradient; `index` is the type of places in arrays."""
    cast = getattr(np, index)
    unraveled, line = unravel(index), lines.line(forward, index)
    element = elements(dtype)
    zero, widen, narrow = element.zero, element.widen, element.narrow

    def direct_gather(source: Any, weight: Any, bias: Any, out: Any, table: Any, has_bias: int) -> None:
        i = cast(cuda.blockIdx.x * THREADS + cuda.threadIdx.x)
        if i >= table[COUNT]:
            return
        rows = cast(table[ALL_ROWS])
        size0, size1, size2 = cast(table[SIZE_0]), cast(table[SIZE_1]), cast(table[SIZE_2])
        if table[CHANNELS_LAST]:
            row = cast(i % rows)
            n, o0, o1, o2 = unraveled(cast(i // rows), size0, size1, size2)
        else:
            plane, o0, o1, o2 = unraveled(i, size0, size1, size2)
            row, n = cast(plane % rows), cast(plane // rows)
        group, line_of_group = cast(row // cast(table[ROWS])), cast(row % cast(table[ROWS]))

        tap0, at0, count0 = line(table, AXES, o0)
        tap1, at1, count1 = line(table, AXES + AXIS, o1)
        tap2, at2, count2 = line(table, AXES + 2 * AXIS, o2)
        tap_step0 = cast(table[AXES + TAP_STEP] * table[KERNEL_1] * table[KERNEL_2])
        tap_step1 = cast(table[AXES + AXIS + TAP_STEP] * table[KERNEL_2])
        tap_step2 = cast(table[AXES + 2 * AXIS + TAP_STEP])
        step0 = cast(table[AXES + SOURCE_STEP] * table[SOURCE_0])
        step1 = cast(table[AXES + AXIS + SOURCE_STEP] * table[SOURCE_1])
        step2 = cast(table[AXES + 2 * AXIS + SOURCE_STEP] * table[SOURCE_2])
        channels = cast(table[CHANNELS])
        at = cast(
            n * table[SOURCE_N] + group * channels * table[SOURCE_C]
            + at0 * table[SOURCE_0] + at1 * table[SOURCE_1] + at2 * table[SOURCE_2]
        )  # fmt: skip
        tap = cast(
            group * table[GROUP_STEP] + line_of_group * table[ROW_STEP]
            + (tap0 * table[KERNEL_1] + tap1) * table[KERNEL_2] + tap2
        )  # fmt: skip
        total = zero
        for channel in range(channels):
            part = zero
            plane_at = cast(at + channel * cast(table[SOURCE_C]))
            plane_tap = cast(tap + channel * cast(table[CHANNEL_STEP]))
            for j0 in range(count0):
                for j1 in range(count1):
                    place = cast(plane_at + j0 * step0 + j1 * step1)
                    number = cast(plane_tap + j0 * tap_step0 + j1 * tap_step1)
                    for _ in range(count2):
                        part += widen(weight[number]) * widen(source[place])
                        place = cast(place + step2)
                        number = cast(number + tap_step2)
            total += part
        if has_bias:
            total += widen(bias[row])
        place = (
            n * table[OUT_N] + row * table[OUT_C] + o0 * table[OUT_0] + o1 * table[OUT_1] + o2 * table[OUT_2]
        )  # fmt: skip
        out[place] = narrow(total)

    return direct_gather


def steps(forward: bool, g: Geometry, layout: Layout, target: Target) -> Steps:
    """Return the launch of the forward pass or of the input gradient."""
    shapes = (g.input_shape, g.output_shape) if forward else (g.output_shape, g.input_shape)
    rows, channels = (g.group_out, g.group_in) if forward else (g.group_in, g.group_out)
    input_step, output_step = g.group_out * g.taps, g.taps
    row_step, channel_step = (output_step, input_step) if forward else (input_step, output_step)
    count = math.prod(shapes[1])
    table = [
        count, channels_last(layout.second), rows, rows * g.groups, channels, *shapes[1][2:], *g.kernel[1:],
        g.group_in * input_step, channel_step, row_step, *layout.first, *layout.second, *lines.axes(g, forward),
    ]  # fmt: skip
    index = index_for(
        count + THREADS, math.prod(g.weight_shape), lines.reach(g),
        extent(shapes[0], layout.first), extent(shapes[1], layout.second),
    )  # fmt: skip
    pointer = elements(g.dtype).pointer
    launch = Launch(
        kernel(forward, g.dtype, index),
        (*(pointer,) * 4, "int64*", "int32"),
        (blocks_for(count),),
        ("source", "weight", "bias", "out", "table", int(layout.bias)),
    )
    return Steps((launch,), {"table": np.array(table, np.int64)}, {})


# What the table of the weight gradient holds.
(W_COUNT, W_CHANNELS_LAST, W_BATCH, W_INPUTS, W_OUTPUTS, W_GROUP_IN, W_KERNEL_0, W_KERNEL_1, W_KERNEL_2,
 W_INPUT_0, W_INPUT_1, W_INPUT_2, W_OUTPUT_0, W_OUTPUT_1, W_OUTPUT_2, W_STRIDE_0, W_STRIDE_1, W_STRIDE_2,
 W_PADDING_0, W_PADDING_1, W_PADDING_2, W_DILATION_0, W_DILATION_1, W_DILATION_2,
 X_N, X_C, X_0, X_1, X_2, GY_N, GY_C, GY_0, GY_1, GY_2, LANES, LANE_STEP, SLOT_STEP, RANGES) = range(38)  # fmt: skip


@kernel_factory
def weight_kernel(dtype: str, index: str) -> Callable[..., None]:
    """Return the kernel that sums ranges of each weight; `index` is the type of places in arrays."""
    cast = getattr(np, index)
    unraveled, moved, inside = unravel(index), stride(index), lines.interval(index)
    element = elements(dtype)
    zero, kind, widen = element.zero, element.sum, element.widen

    def direct_gather_weights(x: Any, gy: Any, sums_out: Any, table: Any) -> None:
        sums = cuda.shared.array(THREADS, kind)
        thread = cast(cuda.threadIdx.x)
        lanes = cast(table[LANES])
        lane = cast(cast(thread // cast(table[LANE_STEP])) % lanes)
        slots = cast(THREADS // lanes)
        number = cast(cuda.blockIdx.x * slots + cast(thread // cast(table[SLOT_STEP])) % slots)
        exists = number < table[W_COUNT]
        inputs, outputs = cast(table[W_INPUTS]), cast(table[W_OUTPUTS])
        kernel0, kernel1, kernel2 = cast(table[W_KERNEL_0]), cast(table[W_KERNEL_1]), cast(table[W_KERNEL_2])
        if table[W_CHANNELS_LAST]:
            column = cast(number % outputs)
            row = cast(cast(number // outputs) % inputs)
            plane, k0, k1, k2 = unraveled(cast(number // (outputs * inputs)), kernel0, kernel1, kernel2)
        else:
            plane, k0, k1, k2 = unraveled(number, kernel0, kernel1, kernel2)
            row, column = cast(plane // outputs), cast(plane % outputs)
        total = zero
        if exists:
            base0 = cast(k0 * table[W_DILATION_0] - table[W_PADDING_0])
            base1 = cast(k1 * table[W_DILATION_1] - table[W_PADDING_1])
            base2 = cast(k2 * table[W_DILATION_2] - table[W_PADDING_2])
            stride0, stride1, stride2 = cast(table[W_STRIDE_0]), cast(table[W_STRIDE_1]), cast(table[W_STRIDE_2])
            first0, size0 = inside(base0, stride0, cast(table[W_INPUT_0]), cast(table[W_OUTPUT_0]))
            first1, size1 = inside(base1, stride1, cast(table[W_INPUT_1]), cast(table[W_OUTPUT_1]))
            first2, size2 = inside(base2, stride2, cast(table[W_INPUT_2]), cast(table[W_OUTPUT_2]))
            pixels = cast(table[W_BATCH] * size0 * size1 * size2)
            begin = cast(pixels * cuda.blockIdx.y // table[RANGES] + lane)
            end = cast(pixels * (cuda.blockIdx.y + 1) // table[RANGES])
            if begin < end:
                group = cast(row // cast(table[W_GROUP_IN]))
                x_at = cast(row * table[X_C] + first0 * table[X_0] + first1 * table[X_1] + first2 * table[X_2])
                gy_at = cast(
                    (group * outputs + column) * table[GY_C]
                    + (base0 + first0 * stride0) * table[GY_0]
                    + (base1 + first1 * stride1) * table[GY_1]
                    + (base2 + first2 * stride2) * table[GY_2]
                )
                x_n, x0, x1, x2 = cast(table[X_N]), cast(table[X_0]), cast(table[X_1]), cast(table[X_2])
                gy_n, gy0 = cast(table[GY_N]), cast(stride0 * table[GY_0])
                gy1, gy2 = cast(stride1 * table[GY_1]), cast(stride2 * table[GY_2])
                n, j0, j1, j2 = unraveled(begin, size0, size1, size2)
                by = unraveled(lanes, size0, size1, size2)
                for _ in range(begin, end, lanes):
                    a = widen(x[x_at + n * x_n + j0 * x0 + j1 * x1 + j2 * x2])
                    total += a * widen(gy[gy_at + n * gy_n + j0 * gy0 + j1 * gy1 + j2 * gy2])
                    n, j0, j1, j2 = moved(n, j0, j1, j2, by, size0, size1, size2)
        sums[thread] = total
        total = tree(sums, thread, lane, lanes, cast(table[LANE_STEP]))
        if exists and lane == 0:
            place = cast(cast(row * outputs + column) * kernel0 * kernel1 * kernel2)
            tap = cast(cast(k0 * kernel1 + k1) * kernel2 + k2)
            sums_out[cuda.blockIdx.y * table[W_COUNT] + place + tap] = total

    return direct_gather_weights


def weight_steps(g: Geometry, layout: Layout, target: Target) -> Steps:
    """Return the launches of the weight gradient."""
    count, products = math.prod(g.weight_shape), g.batch * math.prod(g.input)
    last = channels_last(layout.second)
    lanes, lane_step, slot_step, blocks, ranges = team(count, products, last, target)
    table = [
        count, last, g.batch, g.in_channels, g.group_out, g.group_in, *g.kernel, *g.input, *g.output, *g.stride,
        *g.padding, *g.dilation, *layout.first, *layout.second, lanes, lane_step, slot_step, ranges,
    ]  # fmt: skip
    index = index_for(
        count * ranges + THREADS, products + THREADS, lines.reach(g),
        extent(g.input_shape, layout.first), extent(g.output_shape, layout.second),
    )  # fmt: skip
    element = elements(g.dtype)
    multiply = Launch(
        weight_kernel(g.dtype, index),
        (element.pointer, element.pointer, f"{element.sum}*", "int64*"),
        (blocks, ranges),
        ("x", "gy", "sums", "table"),
    )
    scratch = {"sums": Scratch(room(count, products, target), element.sum)}
    return Steps((multiply, add(g.dtype, count, ranges)), {"table": np.array(table, np.int64)}, scratch)


def _declines(g: Geometry, target: Target) -> str | None:
    return refused(g.dtype)


_IDEA = "A thread for each result, exactly the taps that contribute, operands read where they lie."
FORWARD = DeviceImplementation("direct_gather", _IDEA, _declines, partial(steps, True))
INPUT_GRAD = DeviceImplementation("direct_gather", _IDEA, _declines, partial(steps, False))
WEIGHT_GRAD = DeviceImplementation(
    "direct_gather",
    "A team of threads for each weight, exactly the pixels that it meets, in ranges that are added in their order.",
    _declines,
    weight_steps,
)
