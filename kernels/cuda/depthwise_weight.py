"""Weight gradient of layers with few channels a group: tiles of both operands in shared memory, in ranges.

``gw[ci, co, k] = Σ x[n, ci, i] · gy[n, co, s·i + d·k - p]``: a block takes some groups and some columns of the kernel,
and goes through a range of tiles of inputs, of all images; its threads have a weight each, or several, and where
weights are few, slices of the inputs. The ranges are added in their order (`reduction`).

Memory: x and gy of any strides · in shared memory the sums of a block, a tile of x, what its taps reach of gy, and for
each tap the interval of inputs that it keeps inside.
Parallel over groups, columns of long kernels, ranges; in a block over groups, weights, slices. Results do not depend on
the grid. A NaN or Inf reaches what it touches and no more.

By calculation: both arrays are read once for each block of columns; long kernels with channels last have several, as
the sums of all taps of eight groups do not fit. By the machine code of sm_80 a product takes two reads of shared memory
and 8 instructions, and there are as many products an input as taps.
Not yet run on hardware.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import types

from fastdeconv.kernels.cuda import lines
from fastdeconv.kernels.cuda.depthwise import (
    LINE,
    LOAD,
    PRODUCT,
    RESULT,
    few_channels,
    grow,
    lanes_for,
    staged,
)
from fastdeconv.kernels.cuda.device import cuda, device_function, unravel
from fastdeconv.kernels.cuda.elements import elements
from fastdeconv.kernels.cuda.factory import kernel_factory
from fastdeconv.kernels.cuda.launches import (
    THREADS,
    DeviceImplementation,
    Launch,
    Layout,
    Scratch,
    Steps,
    Target,
    channels_last,
    extent,
    index_for,
)
from fastdeconv.kernels.cuda.reduction import add
from fastdeconv.kernels.geometry import Axes, Geometry

ROOM = 32768  # bytes of shared memory for sums and operands
LINES = 1088  # taps of a block, those of each axis
_BLOCKS = 8  # that keep a multiprocessor busy

# What a table holds, threes by axis.
(GROUPS, LANES, LANE_STEP, OTHER_STEP, SLOTS, SLICES, CHUNKS, PARTS, UNITS, ALL_TILES, COUNT,
 GROUP_IN, GROUP_OUT, WEIGHTS, SUM_STEP, SUM_LANE, X_AT, X_LANE, X_CHANNEL, GY_AT, GY_LANE, GY_CHANNEL,
 PIXEL, X_N, X_C, X_0, X_1, X_2, GY_N, GY_C, GY_0, GY_1, GY_2) = range(33)  # fmt: skip
TILE, TILES, AFTER, INPUT, OUTPUT, KERNEL, CHUNK, STRIDE, PADDING, DILATION, X_PITCH, GY_PITCH = range(33, 69, 3)

# What threads of a block share about a tile, threes by axis: first input, inputs, first output, outputs.
BEGIN, EXTENT, LOW, PATCH = range(0, 12, 3)


@kernel_factory
def kernel(dtype: str, index: str) -> Callable[..., None]:
    """Return the kernel that sums ranges of each weight; `index` is the type of places in arrays."""
    cast = getattr(np, index)
    place = np.uint64  # in shared memory: what is unsigned is not taken for a place before the end
    unraveled, inside, stage = unravel(index), lines.interval(index), staged(dtype, index)
    zero, kind = elements(dtype).zero, elements(dtype).sum
    room = ROOM // np.dtype(kind).itemsize

    @device_function
    def three(table: Any, at: int) -> Any:
        return cast(table[at]), cast(table[at + 1]), cast(table[at + 2])

    def depthwise_weights(x: Any, gy: Any, sums_out: Any, table: Any) -> None:
        buffer = cuda.shared.array(room, kind)
        firsts = cuda.shared.array(LINES, types.int32)
        places = cuda.shared.array(LINES, types.int32)
        counts = cuda.shared.array(LINES, types.int32)
        box = cuda.shared.array(12, cast)
        thread = cast(cuda.threadIdx.x)
        lanes = cast(table[LANES])
        lane = cast(cast(thread // cast(table[LANE_STEP])) % lanes)
        others = cast(THREADS // lanes)
        other = cast(cast(thread // cast(table[OTHER_STEP])) % others)
        slots, slices = cast(table[SLOTS]), cast(table[SLICES])
        slot, part_of_row = cast(other % slots), cast(other // slots)

        block, parts, chunks = cast(cuda.blockIdx.x), cast(table[PARTS]), cast(table[CHUNKS])
        part, rest = cast(block % parts), cast(block // parts)
        chunk, group = cast(rest % chunks), cast(cast(rest // chunks) * lanes + lane)
        exists = group < table[GROUPS]
        group_in, group_out = cast(table[GROUP_IN]), cast(table[GROUP_OUT])
        chunk0, chunk1, chunk2 = three(table, CHUNK)
        first_tap, weights = cast(chunk * chunk2), cast(table[WEIGHTS])
        sum_step, sum_at = cast(table[SUM_STEP]), cast(lane * table[SUM_LANE])
        for w in range(other, slices * weights, others):
            buffer[place(sum_at + w * sum_step)] = zero

        pixel = cast(table[PIXEL])
        x_strides, gy_strides = three(table, X_0), three(table, GY_0)
        x_pitch, gy_pitch = three(table, X_PITCH), three(table, GY_PITCH)
        stride0, stride1, stride2 = three(table, STRIDE)
        x_at, gy_at = cast(table[X_AT] + lane * table[X_LANE]), cast(table[GY_AT] + lane * table[GY_LANE])
        x_channel, gy_channel = cast(table[X_CHANNEL]), cast(table[GY_CHANNEL])
        for unit in range(table[UNITS] * part // parts, table[UNITS] * (part + 1) // parts):
            n, tile = cast(unit // table[ALL_TILES]), cast(unit % table[ALL_TILES])
            cuda.syncthreads()
            if thread < 3:
                begin = cast(tile // table[AFTER + thread] % table[TILES + thread] * table[TILE + thread])
                size = cast(min(table[TILE + thread], table[INPUT + thread] - begin))
                low_tap = first_tap if thread == 2 else cast(0)
                taps = cast(min(table[CHUNK + thread], table[KERNEL + thread] - low_tap))
                base = cast(
                    begin * table[STRIDE + thread] + low_tap * table[DILATION + thread] - table[PADDING + thread]
                )
                reach = cast((size - 1) * table[STRIDE + thread] + (taps - 1) * table[DILATION + thread] + 1)
                low = max(cast(0), base)
                high = min(cast(table[OUTPUT + thread]), cast(base + reach))
                box[BEGIN + thread], box[EXTENT + thread] = begin, size
                box[LOW + thread], box[PATCH + thread] = low, max(cast(0), cast(high - low))
            cuda.syncthreads()
            for t in range(thread, chunk0 + chunk1 + chunk2, THREADS):
                axis, k = cast(0), cast(t)
                if t >= chunk0 + chunk1:
                    axis, k = cast(2), cast(t - chunk0 - chunk1 + first_tap)
                elif t >= chunk0:
                    axis, k = cast(1), cast(t - chunk0)
                step = cast(table[STRIDE + axis])
                base = cast(box[BEGIN + axis] * step + k * table[DILATION + axis] - table[PADDING + axis])
                first, count = inside(base, step, box[EXTENT + axis], cast(table[OUTPUT + axis]))
                firsts[t] = first * table[X_PITCH + axis]
                places[t] = (base + first * step - box[LOW + axis]) * table[GY_PITCH + axis]
                counts[t] = count if k < table[KERNEL + axis] else cast(0)
            if exists:
                sizes = box[EXTENT], box[EXTENT + 1], box[EXTENT + 2]
                patch = box[PATCH], box[PATCH + 1], box[PATCH + 2]
                for c in range(group_in):
                    corner = cast(
                        n * table[X_N] + (group * group_in + c) * table[X_C]
                        + box[BEGIN] * x_strides[0] + box[BEGIN + 1] * x_strides[1] + box[BEGIN + 2] * x_strides[2]
                    )  # fmt: skip
                    at = cast(x_at + c * x_channel)
                    stage(x, corner, x_strides, sizes, other, others, buffer, at, x_pitch)
                for c in range(group_out):
                    corner = cast(
                        n * table[GY_N] + (group * group_out + c) * table[GY_C]
                        + box[LOW] * gy_strides[0] + box[LOW + 1] * gy_strides[1] + box[LOW + 2] * gy_strides[2]
                    )  # fmt: skip
                    at = cast(gy_at + c * gy_channel)
                    stage(gy, corner, gy_strides, patch, other, others, buffer, at, gy_pitch)
            cuda.syncthreads()

            x_step, gy_step = cast(slices * pixel), cast(slices * stride2 * pixel)
            for w in range(slot, weights if exists and part_of_row < slices else 0, slots):
                pair, k0, k1, k2 = unraveled(cast(w), chunk0, chunk1, chunk2)
                at0, at1, at2 = k0, chunk0 + k1, chunk0 + chunk1 + k2
                count0, count1, count2 = counts[place(at0)], counts[place(at1)], counts[place(at2)]
                mine = cast(cast(count2 + slices - 1 - part_of_row) // slices)
                x_first = cast(
                    x_at + cast(pair // group_out) * x_channel + firsts[place(at0)] + firsts[place(at1)]
                    + firsts[place(at2)] + part_of_row * pixel
                )  # fmt: skip
                gy_first = cast(
                    gy_at + cast(pair % group_out) * gy_channel + places[place(at0)] + places[place(at1)]
                    + places[place(at2)] + part_of_row * stride2 * pixel
                )  # fmt: skip
                total = zero
                for j0 in range(count0):
                    for j1 in range(count1):
                        left = np.int64(x_first + j0 * x_pitch[0] + j1 * x_pitch[1])
                        right = np.int64(gy_first + j0 * stride0 * gy_pitch[0] + j1 * stride1 * gy_pitch[1])
                        j2 = mine
                        while j2 > 0:
                            total += buffer[place(left)] * buffer[place(right)]
                            left += x_step
                            right += gy_step
                            j2 = cast(j2 - 1)
                buffer[place(sum_at + (part_of_row * weights + w) * sum_step)] += total

        cuda.syncthreads()
        for w in range(other, weights if exists else 0, others):
            pair, k0, k1, k2 = unraveled(cast(w), chunk0, chunk1, chunk2)
            k2 = cast(k2 + first_tap)
            total = zero
            for s in range(slices):
                total += buffer[place(sum_at + (s * weights + w) * sum_step)]
            if k2 < table[KERNEL + 2]:
                number = (group * group_in * group_out + pair) * chunk0 + k0
                sums_out[part * table[COUNT] + (number * chunk1 + k1) * table[KERNEL + 2] + k2] = total

    return depthwise_weights


class Tile(NamedTuple):
    """How a block is used.

    Attributes
    ----------
    lanes : int
        Groups of a block.
    columns : int
        Of the kernel.
    size : tuple of int
        Inputs of a tile on each axis.
    patch : tuple of int
        What their taps reach of the output on each axis, at most.
    slots, slices : int
        Threads of a group that have weights side by side, and that share the inputs of a row.
    """

    lanes: int
    columns: int
    size: Axes
    patch: Axes
    slots: int
    slices: int


@cache
def tile_for(g: Geometry, last: bool) -> Tile | None:
    """Return the tile with the fewest instructions an input; None if none fits."""
    cuts = {-(-g.kernel[2] // 2**i) for i in range(g.kernel[2].bit_length())}
    for some in lanes_for(g, last):
        tiles = [tile for lanes in some for columns in cuts if (tile := _largest(g, lanes, columns))]
        if tiles:
            return min(tiles, key=lambda tile: _cost(g, tile))
    return None


def _largest(g: Geometry, lanes: int, columns: int) -> Tile | None:
    """Return the largest tile for so many groups and columns of the kernel."""
    if g.kernel[0] + g.kernel[1] + columns > LINES:
        return None
    weights, others = _weights(g, columns), THREADS // lanes
    slots = min(weights, others)
    slices = min(others // slots, g.input[2])
    room = ROOM // np.dtype(elements(g.dtype).sum).itemsize // lanes - weights * slices

    def fits(size: Axes) -> bool:
        return g.group_in * math.prod(size) + g.group_out * math.prod(_patch(g, columns, size)) <= room

    size = grow(g.input, 8, 16 * THREADS // lanes, fits)
    if size is None:
        return None
    return Tile(lanes, columns, size, _patch(g, columns, size), slots, slices)


def _weights(g: Geometry, columns: int) -> int:
    return g.group_in * g.group_out * g.kernel[0] * g.kernel[1] * columns


def _patch(g: Geometry, columns: int, size: Axes) -> Axes:
    """Return the most places of the output that a tile's taps reach, on each axis."""
    taps = (*g.kernel[:2], columns)
    found = [min(o, s * (t - 1) + d * (k - 1) + 1) for o, s, t, d, k in zip(g.output, g.stride, size, g.dilation, taps)]
    return found[0], found[1], found[2]


def _cost(g: Geometry, tile: Tile) -> float:
    """Return about how many instructions of a thread an input of a group takes."""
    inputs, chunks = math.prod(tile.size), -(-g.kernel[2] // tile.columns)
    rounds = -(-_weights(g, tile.columns) // tile.slots)
    threads = rounds * (THREADS // tile.lanes)  # for one weight each, idle ones included
    each = RESULT + PRODUCT * inputs // tile.slices
    loads = LOAD * (g.group_in * inputs + g.group_out * math.prod(tile.patch))
    taps = LINE * (g.kernel[0] + g.kernel[1] + tile.columns) / tile.lanes
    return chunks * (loads + taps + threads * each) / inputs


def ranges_for(g: Geometry, last: bool, target: Target) -> int:
    """Return how many ranges keep the device busy."""
    tile = tile_for(g, last)
    assert tile is not None, "declined"
    units = g.batch * math.prod(-(-n // t) for n, t in zip(g.input, tile.size))
    blocks = -(-g.groups // tile.lanes) * -(-g.kernel[2] // tile.columns)
    return max(1, min(units, -(-_BLOCKS * target.multiprocessors // blocks)))


def steps(g: Geometry, layout: Layout, target: Target) -> Steps:
    """Return the launches of the weight gradient."""
    last = channels_last(layout.second)
    tile = tile_for(g, last)
    assert tile is not None, "declined"
    lanes, columns, size, patch, slots, slices = tile
    weights, count = _weights(g, columns), math.prod(g.weight_shape)
    tiles = [-(-n // t) for n, t in zip(g.input, size)]
    chunks, group_blocks = -(-g.kernel[2] // columns), -(-g.groups // lanes)
    parts, most = ranges_for(g, last, target), max(ranges_for(g, each, target) for each in (False, True))
    inputs, outputs = math.prod(size), math.prod(patch)
    pixel = lanes if last else 1
    sums, x_room = lanes * weights * slices, lanes * g.group_in * inputs
    table = [
        g.groups, lanes, 1 if last else THREADS // lanes, pixel, slots, slices, chunks, parts,
        g.batch * math.prod(tiles), math.prod(tiles), count,
        g.group_in, g.group_out, weights, pixel, 1 if last else weights * slices,
        sums, 1 if last else g.group_in * inputs, inputs * pixel,
        sums + x_room, 1 if last else g.group_out * outputs, outputs * pixel,
        pixel, *layout.first, *layout.second,
        *size, *tiles, tiles[1] * tiles[2], tiles[2], 1, *g.input, *g.output, *g.kernel, *g.kernel[:2], columns,
        *g.stride, *g.padding, *g.dilation,
        size[1] * size[2] * pixel, size[2] * pixel, pixel, patch[1] * patch[2] * pixel, patch[2] * pixel, pixel,
    ]  # fmt: skip
    index = index_for(
        lines.reach(g), parts * count, extent(g.input_shape, layout.first), extent(g.output_shape, layout.second)
    )
    element = elements(g.dtype)
    multiply = Launch(
        kernel(g.dtype, index),
        (element.pointer, element.pointer, f"{element.sum}*", "int64*"),
        (group_blocks * chunks * parts,),
        ("x", "gy", "sums", "table"),
    )
    scratch = {"sums": Scratch(most * count, element.sum)}
    return Steps((multiply, add(g.dtype, count, parts)), {"table": np.array(table, np.int64)}, scratch)


def _declines(g: Geometry, target: Target) -> str | None:
    if sentence := few_channels(g):
        return sentence
    if tile_for(g, False) is None:
        return f"a column of a group's weights and what it reaches of the output do not fit {ROOM // 1024} KiB"
    return None


WEIGHT_GRAD = DeviceImplementation(
    "depthwise",
    "Tiles of inputs of few groups and all that their taps reach in shared memory, in ranges that are added in order.",
    _declines,
    steps,
)
