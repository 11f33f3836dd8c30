"""Forward pass and input gradient of layers with few channels a group: tiles of both operands in shared memory.

``out[n, row, o] = Σ weight[channel, row, k] · source[n, channel, i]`` over the few channels of the group and the pairs
(k, i) of `lines`. A block takes some groups of an image and goes through tiles of their outputs; all phases of the
stride and all channels of the group are computed from one read of the source.

Memory: source and output of any strides · in shared memory the weights of the groups, the part of the source that a
tile reads (where lanes are four or more elements apart, rows have one more in as many as the stride or the banks, so
that lanes meet different banks), and the lines of each row and column of the tile, so that no output divides.
Parallel over images, groups, tiles; in a block over groups, outputs and, where outputs are few, slices of the taps,
which a tree adds. Neighbouring threads have neighbouring outputs of a channel, or with channels last neighbouring
groups. A NaN or Inf reaches what it touches and no more.

By calculation: global memory is read and written once, but for the edges of tiles. By the machine code of sm_80 a
product takes two reads of shared memory and 9 instructions, an output some 60 more, an element on its way to shared
memory 55: for depthwise k3 s2 about 100 an output, whose 5 bytes a device with four instructions a clock on each
multiprocessor moves in half that time. With three output channels a group or more, matrix products take fewer
instructions. 120 registers a thread leave room for two blocks on a multiprocessor, 47 KiB of shared memory for more.

Ladder, by the machine code:
1. Lines computed by each thread for its outputs: some 15 divisions an output.
2. Lines in shared memory, once for the rows and columns of a tile; places of 32 bits: 16 instructions a product, five
   of them to make addresses.
3. Places of 64 bits, unsigned: the compiler keeps addresses and adds to them, which in shared memory have 32 bits.
Not yet run on hardware.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
from numba import types

from fastdeconv.kernels.cuda import lines
from fastdeconv.kernels.cuda.device import cuda, device_function, unravel
from fastdeconv.kernels.cuda.elements import elements, refused
from fastdeconv.kernels.cuda.factory import kernel_factory
from fastdeconv.kernels.cuda.launches import (
    THREADS,
    DeviceImplementation,
    Launch,
    Layout,
    Steps,
    Target,
    channels_last,
    extent,
    index_for,
)
from fastdeconv.kernels.cuda.lines import AXIS, DILATION, PADDING, SIZE, SOURCE_STEP, STRIDE, TAP_STEP, TAPS
from fastdeconv.kernels.cuda.reduction import stride, tree
from fastdeconv.kernels.geometry import Axes, Geometry

CHANNELS = 4  # of a group, at most
ROOM = 40960  # bytes of shared memory for weights and source
LINES = 512  # rows and columns of a tile
_BANKS = 32
_BLOCKS = 8  # that keep a multiprocessor busy

# Instructions, about: of an element on its way to shared memory, a line, a product, a result.
LOAD, LINE, PRODUCT, RESULT = 55, 120, 9, 60

# What a table holds, threes by axis, and `AXIS` entries of `lines` for each axis after it.
(GROUPS, LANES, LANE_STEP, OTHER_STEP, PIXELS, COLUMNS, PARTS, GROUP_BLOCKS, ALL_TILES,
 SUMMED, ROWS, CHANNEL_STEP, ROW_STEP, WEIGHT_PITCH, OF_GROUP, PATCH_AT, PATCH_LANE, PATCH_CHANNEL,
 SOURCE_N, SOURCE_C, SOURCE_0, SOURCE_1, SOURCE_2, OUT_N, OUT_C, OUT_0, OUT_1, OUT_2) = range(28)  # fmt: skip
TILE, TILES, AFTER, OUTPUT, TAP_PITCH, TAP_ADVANCE, PLACE_PITCH, PLACE_ADVANCE = range(28, 52, 3)
AXES = 52

# What threads of a block share about a tile, threes by axis: first output, outputs, first place in the source, places.
BEGIN, EXTENT, LOW, PATCH = range(0, 12, 3)


@cache
def window(forward: bool, index: str) -> Any:
    """Return a device function: the first place that outputs from `begin` to `last` read, and how many."""
    cast = getattr(np, index)

    @device_function
    def read_by_outputs(table: Any, at: int, begin: int, last: int) -> Any:
        s, reach = cast(table[at + STRIDE]), cast(cast(table[at + TAPS] - 1) * cast(table[at + DILATION]))
        low = cast(max(cast(0), cast(begin + table[at + PADDING] - reach + s - 1)) // s)
        high = min(cast(table[at + SIZE]), cast(cast(last + table[at + PADDING]) // s + 1))
        return low, max(cast(0), cast(high - low))

    @device_function
    def read_by_inputs(table: Any, at: int, begin: int, last: int) -> Any:
        s, reach = cast(table[at + STRIDE]), cast(cast(table[at + TAPS] - 1) * cast(table[at + DILATION]))
        low = max(cast(0), cast(begin * s - table[at + PADDING]))
        high = min(cast(table[at + SIZE]), cast(last * s - table[at + PADDING] + reach + 1))
        return low, max(cast(0), cast(high - low))

    return read_by_outputs if forward else read_by_inputs


@cache
def staged(dtype: str, index: str, shift: int = 0, spare: int = 0) -> Any:
    """Return a device function that brings a box of a channel, given by its corner, to shared memory.

    With a `shift`, rows have 2^spare more elements after each 2^shift.
    """
    cast = getattr(np, index)
    unraveled, moved = unravel(index), stride(index)
    widen = elements(dtype).widen

    @device_function
    def stage(
        array: Any, corner: int, strides: Any, sizes: Any, other: int, others: int,
        buffer: Any, room_at: int, pitches: Any,
    ) -> None:  # fmt: skip
        size0, size1, size2 = sizes
        elements_of_box = cast(size0 * size1 * size2)
        if other < elements_of_box:
            by = unraveled(others, size0, size1, size2)
            _, r0, r1, r2 = unraveled(other, size0, size1, size2)
            for _ in range(other, elements_of_box, others):
                rel = cast(r2 * pitches[2])
                at = room_at + r0 * pitches[0] + r1 * pitches[1] + rel
                if shift:
                    at += rel >> shift << spare
                buffer[np.uint64(at)] = widen(array[corner + r0 * strides[0] + r1 * strides[1] + r2 * strides[2]])
                _, r0, r1, r2 = moved(cast(0), r0, r1, r2, by, size0, size1, size2)

    return stage


@kernel_factory
def kernel(forward: bool, dtype: str, index: str, shift: int, spare: int) -> Callable[..., None]:
    """Return the kernel of the forward pass or of the input gradient.

    Parameters
    ----------
    index : str
        The type of places in arrays.
    shift, spare : int
        Rows of the source have 2^spare more elements after each 2^shift; none, if `shift` is 0.
    """
    cast = getattr(np, index)
    place = np.uint64  # in shared memory: what is unsigned is not taken for a place before the end
    line, read_by, stage = lines.line(forward, index), window(forward, index), staged(dtype, index, shift, spare)
    element = elements(dtype)
    zero, kind, widen, narrow = element.zero, element.sum, element.widen, element.narrow
    room = ROOM // np.dtype(kind).itemsize

    def depthwise(source: Any, weight: Any, bias: Any, out: Any, table: Any, has_bias: int) -> None:
        buffer = cuda.shared.array(room, kind)
        sums = cuda.shared.array(THREADS, kind)
        taps = cuda.shared.array(LINES, types.int32)
        places = cuda.shared.array(LINES, types.int32)
        counts = cuda.shared.array(LINES, types.int32)
        box = cuda.shared.array(12, cast)
        thread = cast(cuda.threadIdx.x)
        lanes = cast(table[LANES])
        lane = cast(cast(thread // cast(table[LANE_STEP])) % lanes)
        others = cast(THREADS // lanes)
        other = cast(cast(thread // cast(table[OTHER_STEP])) % others)
        pixels, columns = cast(table[PIXELS]), cast(table[COLUMNS])
        pixel, part_of_taps, slices = cast(other % pixels), cast(other // pixels), cast(others // pixels)
        row, column, rows = cast(pixel // columns), cast(pixel % columns), cast(pixels // columns)

        block, parts = cast(cuda.blockIdx.x), cast(table[PARTS])
        part, rest = cast(block % parts), cast(block // parts)
        first_group = cast(cast(rest % cast(table[GROUP_BLOCKS])) * lanes)
        n = cast(rest // cast(table[GROUP_BLOCKS]))
        group = cast(first_group + lane)
        exists = group < table[GROUPS]
        summed, lines_of_group = cast(table[SUMMED]), cast(table[ROWS])

        weight_pitch, of_group = cast(table[WEIGHT_PITCH]), cast(table[OF_GROUP])
        present = cast(min(lanes, cast(table[GROUPS] - first_group)) * of_group)
        for i in range(thread, present, THREADS):
            buffer[cast(i % of_group) * weight_pitch + cast(i // of_group)] = widen(weight[first_group * of_group + i])

        tile0, tile1, tile2 = cast(table[TILE]), cast(table[TILE + 1]), cast(table[TILE + 2])
        strides = cast(table[SOURCE_0]), cast(table[SOURCE_1]), cast(table[SOURCE_2])
        pitches = cast(table[PLACE_PITCH]), cast(table[PLACE_PITCH + 1]), cast(table[PLACE_PITCH + 2])
        patch_at, patch_channel = cast(table[PATCH_AT] + lane * table[PATCH_LANE]), cast(table[PATCH_CHANNEL])
        row_step, channel_step = cast(table[ROW_STEP]), cast(table[CHANNEL_STEP])
        all_tiles = table[ALL_TILES]
        for tile in range(all_tiles * part // parts, all_tiles * (part + 1) // parts):
            cuda.syncthreads()
            if thread < 3:
                begin = cast(tile // table[AFTER + thread] % table[TILES + thread] * table[TILE + thread])
                size = cast(min(table[TILE + thread], table[OUTPUT + thread] - begin))
                low, patch = read_by(table, AXES + AXIS * thread, begin, cast(begin + size - 1))
                box[BEGIN + thread], box[EXTENT + thread] = begin, size
                box[LOW + thread], box[PATCH + thread] = low, patch
            cuda.syncthreads()
            for t in range(thread, tile0 + tile1 + tile2, THREADS):
                axis, first = (2, tile0 + tile1) if t >= tile0 + tile1 else (1, tile0) if t >= tile0 else (0, cast(0))
                if t - first < box[EXTENT + axis]:
                    tap, at, count = line(table, AXES + AXIS * axis, cast(box[BEGIN + axis] + t - first))
                    taps[t] = tap * table[TAP_PITCH + axis]
                    places[t] = (at - box[LOW + axis]) * table[PLACE_PITCH + axis]
                    counts[t] = count
            if exists:
                patch = box[PATCH], box[PATCH + 1], box[PATCH + 2]
                for channel in range(summed):
                    corner = cast(
                        n * table[SOURCE_N] + (group * summed + channel) * table[SOURCE_C]
                        + box[LOW] * strides[0] + box[LOW + 1] * strides[1] + box[LOW + 2] * strides[2]
                    )  # fmt: skip
                    at = cast(patch_at + channel * patch_channel)
                    stage(source, corner, strides, patch, other, others, buffer, at, pitches)
            cuda.syncthreads()

            size0, size1, size2 = box[EXTENT], box[EXTENT + 1], box[EXTENT + 2]
            tap_step0, step0 = cast(table[TAP_ADVANCE]), cast(table[PLACE_ADVANCE])
            tap_step1, step1 = cast(table[TAP_ADVANCE + 1]), cast(table[PLACE_ADVANCE + 1])
            tap_step2, step2 = cast(table[TAP_ADVANCE + 2]), cast(table[PLACE_ADVANCE + 2])
            slices_tap_step, slices_step = cast(slices * tap_step2), cast(slices * step2)
            out0, out1, out2 = cast(table[OUT_0]), cast(table[OUT_1]), cast(table[OUT_2])
            tile_at = cast(n * table[OUT_N] + box[BEGIN] * out0 + box[BEGIN + 1] * out1 + box[BEGIN + 2] * out2)
            for m in range(lines_of_group):
                out_channel = cast(group * lines_of_group + m)
                out_at = cast(tile_at + out_channel * table[OUT_C])
                more = widen(bias[out_channel]) if has_bias and exists else zero
                for first_column in range(0, size2, columns):
                    t2 = cast(first_column + column)
                    across = exists and row < rows and t2 < size2
                    tap2, rel2, count2 = cast(0), cast(0), cast(0)
                    if across:
                        at = tile0 + tile1 + t2
                        tap2, rel2, count2 = cast(taps[place(at)]), cast(places[place(at)]), cast(counts[place(at)])
                    tap2 = cast(tap2 + m * row_step + lane + part_of_taps * tap_step2)
                    rel2 = cast(rel2 + part_of_taps * step2)
                    mine = cast(cast(count2 + slices - 1 - part_of_taps) // slices)
                    for t0 in range(size0):
                        tap0, place0, count0 = taps[place(t0)], places[place(t0)], counts[place(t0)]
                        for first_row in range(0, size1, rows):
                            t1 = cast(first_row + row)
                            active = across and t1 < size1
                            total = zero
                            if active:
                                at = tile0 + t1
                                tap1, place1, count1 = taps[place(at)], places[place(at)], counts[place(at)]
                                for channel in range(summed):
                                    tap_at = cast(tap0 + tap1 + tap2 + channel * channel_step)
                                    place_at = cast(place0 + place1 + patch_at + channel * patch_channel)
                                    for j0 in range(count0):
                                        for j1 in range(count1):
                                            number = np.int64(tap_at + j0 * tap_step0 + j1 * tap_step1)
                                            first = np.int64(place_at + j0 * step0 + j1 * step1)
                                            rel, j2 = np.int64(rel2), mine
                                            while j2 > 0:
                                                at = first + rel
                                                if shift:
                                                    at += rel >> shift << spare
                                                total += buffer[place(number)] * buffer[place(at)]
                                                number += slices_tap_step
                                                rel += slices_step
                                                j2 = cast(j2 - 1)
                            if slices > 1:
                                sums[thread] = total
                                total = tree(sums, thread, part_of_taps, slices, cast(pixels * table[OTHER_STEP]))
                                cuda.syncthreads()
                            if active and part_of_taps == 0:
                                out[out_at + t0 * out0 + t1 * out1 + t2 * out2] = narrow(total + more)

    return depthwise


class Tile(NamedTuple):
    """How a block is used.

    Attributes
    ----------
    lanes : int
        Groups of a block.
    size : tuple of int
        Outputs of a tile on each axis.
    patch : tuple of int
        What it reads of the source on each axis, at most.
    pixels : int
        Threads side by side along the outputs of a group; the others share taps.
    """

    lanes: int
    size: Axes
    patch: Axes
    pixels: int


def shift_for(g: Geometry, lanes: int) -> int:
    """Return b, where a row of outputs that inputs read has one element more after each 2^b; 0 where it has none.

    Only where four or more lanes would meet in a bank: where two do, the longer rows make as many conflicts.
    """
    pixels = _BANKS // lanes  # that a warp reads side by side
    if math.gcd(g.stride[2], pixels) < 4 or g.input[2] == 1:
        return 0
    return (max(pixels, g.stride[2]) - 1).bit_length()


def plane_of(patch: Axes, shift: int) -> int:
    """Return the elements of shared memory that a patch of one channel takes."""
    return patch[0] * patch[1] * row_of(patch, shift)


def row_of(patch: Axes, shift: int) -> int:
    """Return the elements of shared memory that a row of a patch takes."""
    return patch[2] + (patch[2] >> shift if shift else 0)


def grow(limits: Axes, whole: int, enough: int, fits: Callable[[Axes], bool]) -> Axes | None:
    """Return the largest box that fits, rows first and then as many as are enough; None if not even one pixel fits.

    Parameters
    ----------
    whole : int
        What rows are a multiple of, where they are cut: then they begin with a sector of memory.
    """
    columns = limits[2]
    while columns > 1 and not fits((1, 1, columns)):
        columns //= 2
        columns -= columns % next((unit for unit in (whole, 8) if unit <= columns), 1)
    if not fits((1, 1, columns)):
        return None
    rows = planes = 1
    while rows < limits[1] and rows * columns < enough and fits((1, more := min(2 * rows, limits[1]), columns)):
        rows = more
    while planes < limits[0] and planes * rows * columns < enough and fits((min(2 * planes, limits[0]), rows, columns)):
        planes = min(2 * planes, limits[0])
    return planes, rows, columns


def lanes_for(g: Geometry, last: bool) -> list[list[int]]:
    """Return how many groups a block should have; else may, the most that fit: less than a sector of memory each."""
    most = 1 << (g.groups - 1).bit_length()
    some = [lanes for lanes in (32, 16, 8, 4, 2, 1) if lanes <= most]
    cut = sum(lanes >= 8 for lanes in some) if last and most >= 8 else len(some)
    return [some[:cut], *([lanes] for lanes in some[cut:])]


def room_for(g: Geometry) -> int:
    """Return the elements that shared memory has room for."""
    return ROOM // np.dtype(elements(g.dtype).sum).itemsize


@cache
def tile_for(g: Geometry, forward: bool, last: bool) -> Tile | None:
    """Return the tile with the fewest instructions an output; None if none fits."""
    for some in lanes_for(g, last):
        tiles = [tile for lanes in some if (tile := _largest(g, forward, lanes))]
        if tiles:
            return min(tiles, key=lambda tile: _cost(g, forward, tile))
    return None


def _largest(g: Geometry, forward: bool, lanes: int) -> Tile | None:
    """Return the largest tile for so many groups."""
    left = room_for(g) - (lanes | 1) * g.group_in * g.group_out * g.taps
    channels = g.group_in if forward else g.group_out
    shift = 0 if forward else shift_for(g, lanes)

    def fits(size: Axes) -> bool:
        return lanes * channels * plane_of(_patch(g, forward, size), shift) <= left and sum(size) <= LINES

    outputs = g.output if forward else g.input
    limits = outputs[0], outputs[1], min(outputs[2], LINES - 8)
    size = grow(limits, 8 * g.stride[2] if forward else 8, 16 * THREADS // lanes, fits)
    if size is None:
        return None
    pixels = min(THREADS // lanes, 1 << (math.prod(size) - 1).bit_length())
    return Tile(lanes, size, _patch(g, forward, size), pixels)


def _patch(g: Geometry, forward: bool, size: Axes) -> Axes:
    """Return the most places of the source that a tile reads, on each axis."""
    reach = [d * (k - 1) for d, k in zip(g.dilation, g.kernel)]
    if forward:
        found = [min(i, (t - 1 + r) // s + 1) for t, r, s, i in zip(size, reach, g.stride, g.input)]
    else:
        found = [min(o, s * (t - 1) + r + 1) for t, r, s, o in zip(size, reach, g.stride, g.output)]
    return found[0], found[1], found[2]


def _cost(g: Geometry, forward: bool, tile: Tile) -> float:
    """Return about how many instructions of a thread an output takes."""
    outputs, channels = math.prod(tile.size), g.group_in if forward else g.group_out
    columns = min(tile.size[2], tile.pixels)
    rounds = tile.size[0] * -(-tile.size[1] // (tile.pixels // columns)) * -(-tile.size[2] // columns)
    slices = THREADS // tile.lanes // tile.pixels
    taps = g.taps * channels / (math.prod(g.stride) if forward else 1)
    each = PRODUCT * -(-taps // slices) + (RESULT if slices == 1 else 4 * RESULT)
    rows = g.group_out if forward else g.group_in
    return (
        LOAD * channels * math.prod(tile.patch) / outputs / rows
        + LINE * sum(tile.size) / (outputs * tile.lanes * rows)
        + each * rounds * tile.pixels * slices / outputs
    )


def steps(forward: bool, g: Geometry, layout: Layout, target: Target) -> Steps:
    """Return the launch of the forward pass or of the input gradient."""
    shapes = (g.input_shape, g.output_shape) if forward else (g.output_shape, g.input_shape)
    rows, channels = (g.group_out, g.group_in) if forward else (g.group_in, g.group_out)
    last = channels_last(layout.second)
    tile = tile_for(g, forward, last)
    assert tile is not None, "declined"
    lanes, size, patch, pixels = tile
    shift = 0 if forward else shift_for(g, lanes)
    tiles = [-(-n // t) for n, t in zip(shapes[1][2:], size)]
    group_blocks = -(-g.groups // lanes)
    parts = max(1, min(math.prod(tiles), -(-_BLOCKS * target.multiprocessors // (g.batch * group_blocks))))
    pitch, of_group, plane = lanes | 1, g.group_in * g.group_out * g.taps, plane_of(patch, shift)
    pixel, lane = (lanes, 1) if last else (1, channels * plane)
    row_step, channel_step = (g.taps, g.group_out * g.taps) if forward else (g.group_out * g.taps, g.taps)
    spare, axes = pixel.bit_length() - 1, lines.axes(g, forward)
    tap_pitch = (g.kernel[1] * g.kernel[2] * pitch, g.kernel[2] * pitch, pitch)
    place_pitch = (patch[1] * row_of(patch, shift) * pixel, row_of(patch, shift) * pixel, pixel)
    table = [
        g.groups, lanes, 1 if last else THREADS // lanes, lanes if last else 1, pixels, min(size[2], pixels),
        parts, group_blocks, math.prod(tiles), channels, rows,
        channel_step * pitch, row_step * pitch, pitch, of_group, pitch * of_group, lane, plane * pixel,
        *layout.first, *layout.second,
        *size, *tiles, tiles[1] * tiles[2], tiles[2], 1, *shapes[1][2:],
        *tap_pitch, *(p * step for p, step in zip(tap_pitch, axes[TAP_STEP::AXIS])),
        *place_pitch, *(p * step for p, step in zip(place_pitch, axes[SOURCE_STEP::AXIS])), *axes,
    ]  # fmt: skip
    index = index_for(lines.reach(g), extent(shapes[0], layout.first), extent(shapes[1], layout.second))
    launch = Launch(
        kernel(forward, g.dtype, index, shift and shift + spare, shift and spare),
        (*(elements(g.dtype).pointer,) * 4, "int64*", "int32"),
        (g.batch * group_blocks * parts,),
        ("source", "weight", "bias", "out", "table", int(layout.bias)),
    )
    return Steps((launch,), {"table": np.array(table, np.int64)}, {})


def few_channels(g: Geometry) -> str | None:
    """Return why a layer is not one of few channels a group, or None."""
    if g.group_in > CHANNELS or g.group_out > CHANNELS:
        return f"serves at most {CHANNELS} channels a group, not {g.group_in} and {g.group_out}"
    return refused(g.dtype)


def _declines(forward: bool, g: Geometry, target: Target) -> str | None:
    if sentence := few_channels(g):
        return sentence
    if tile_for(g, forward, False) is None:
        return f"weights of a group and what one output reads of the source do not fit {ROOM // 1024} KiB"
    return None


def _yields(forward: bool, g: Geometry, target: Target) -> str | None:
    # Of the instructions of a matrix product's smallest tile, which has 16 rows, four fifths multiply.
    rows = g.group_out if forward else g.group_in
    if g.dtype != "int64" and 20 / rows < PRODUCT:
        return (
            f"with {rows} rows of 16, matrix products take {20 / rows:.0f} instructions each; here they take {PRODUCT}"
        )
    return None


_IDEA = "Tiles of outputs of few groups, their weights and all that they read in shared memory."
FORWARD = DeviceImplementation(
    "depthwise", _IDEA, partial(_declines, True), partial(steps, True), partial(_yields, True)
)
INPUT_GRAD = DeviceImplementation(
    "depthwise", _IDEA, partial(_declines, False), partial(steps, False), partial(_yields, False)
)
