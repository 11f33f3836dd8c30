"""Forward pass and input gradient: implicit matrix products, tiles in shared memory, register tiles in every thread.

``out[n, row, q] = Σ weight[channel, row, k] · source[n, channel, hop·q + shift_k]`` (`phases`): rows are channels of
the output, columns are pixels of one phase of one batch, depth is (tap, channel). No zero is inserted and no column
matrix is built: a thread that loads a pixel computes where it is, once for each tap.

Memory: source and output of any strides · weights packed to (group, phase, block of rows, depth, row) in the type of
sums, zeros for what is missing · stages of 16 lines in shared memory (`tiles`), twice: the next is loaded while one is
used. Lanes load along pixels; along channels where these are neighbours, several with one access where all are aligned.
Results leave through shared memory, along the same axis.
Parallel over tiles of pixels, blocks of rows, groups; no block touches another's outputs. Sums run in the order of the
depth, so results do not depend on the grid. A NaN or Inf of the source reaches the outputs it touches and no others;
one of the weights also those whose tap lies outside the source, where it meets a zero.

Ladder, by the machine code for sm_80 (nothing has run on hardware yet): products in percent of the instructions from
barrier to barrier, for float32, 128 × 128, channels first.
1. Sums in a local array: the compiler unrolls the products, not the loop that stores them, so the array is in memory.
2. Sums are a tuple that goes through the loop: all 64 in registers. 61.
3. All lines of a tile unrolled by the intrinsic that multiplies, the next read before one is used: 76.
4. Places in 32 bits throughout, no test for negative places in shared memory, no check of channels where they fill all
   tiles, a thread's loads at one pixel where there are as many threads as pixels: 85.
5. 16 lines a tile, so that what a tile costs is shared by twice the products: 88, of which the places of the next tap,
   which most tiles do not compute, are a branch of their own; 86 with that branch counted as taken.
Channels last reach 88; tiles of 64 and of 32 rows 84 and 78, because each element loaded serves as many products as
there are rows; fewer than 9 channels 74, because a tile has several taps. float64 reaches 73: 8 × 4 sums a thread are
what registers hold without a spill, and shared memory is read more often.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numba import types

from fastdeconv.kernels.cuda.device import cuda, device_function, divided, reader, unravel, unsigned, writer
from fastdeconv.kernels.cuda.elements import DTYPES, Elements, elements, widen_unit
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
from fastdeconv.kernels.cuda.phase_table import (
    BATCH,
    CHANNELS,
    DELTA,
    DEPTH_AT,
    FIRST_TAP,
    FIRST_TILE,
    GROUP_WEIGHTS,
    HOP_0,
    HOP_1,
    HOP_2,
    NUMBER,
    OUT_C,
    PADDED,
    ROW_BLOCKS,
    ROWS,
    SHIFT_0,
    SHIFT_1,
    SHIFT_2,
    SIZE_0,
    SIZE_1,
    SIZE_2,
    SOURCE_0,
    SOURCE_1,
    SOURCE_2,
    SOURCE_C,
    SOURCE_N,
    TAP,
    TAPS,
    phase_counts,
    phase_of,
    phase_table,
    pixel_place,
)
from fastdeconv.kernels.cuda.phases import Sums, sums
from fastdeconv.kernels.cuda.tiles import Tile, drain, position, product, stage_of
from fastdeconv.kernels.geometry import Geometry

TILES = (Tile(128, 128, 8, 8), Tile(64, 128, 8, 8), Tile(32, 128, 8, 8), Tile(16, 128, 8, 4))
TILES_OF_DOUBLES = (Tile(64, 64, 8, 4), Tile(32, 64, 8, 4), Tile(16, 128, 8, 4))


class Loads(NamedTuple):
    """Who loads what of the source.

    Attributes
    ----------
    channels_last : bool
        Whether lanes run along channels, a few of each pixel, in the source and in the output; else along pixels.
    unit : int
        Channels of one access.
    few : bool
        Whether there are fewer channels than lines in a tile, so that one tile has several taps.
    whole : bool
        Whether channels fill all lines of all tiles, so that none is checked.
    """

    channels_last: bool = False
    unit: int = 1
    few: bool = False
    whole: bool = False

    def lanes(self, size: int) -> int:
        """Return how many lanes load one pixel, in elements of so many bytes.

        As many as have 32 or 64 bytes of it, and meet different banks as they store them.
        """
        if self.few or not self.channels_last:
            return 1
        return 8 if self.unit == 1 else 2 if size == 4 else 4


@kernel_factory
def kernel(tile: Tile, index: str, dtype: str, loads: Loads) -> Callable[..., None]:
    """Return the kernel for one shape of tiles; `index` is the integer type of all places in arrays."""
    cast, natural = getattr(np, index), unsigned(index)
    kind = elements(dtype)
    held, run, widen, narrow = kind.held, kind.run, kind.widen, kind.narrow
    sum_type = getattr(types, kind.sum)
    channels_last, unit, few, whole = loads
    lanes, spread = loads.lanes(kind.size), spreads(loads, kind)
    depth, threads, block_rows, block_columns = tile.depth, tile.threads, tile.rows, tile.columns
    stage = stage_of(tile, run, 0)
    find_phase, counts, place = phase_of(index), phase_counts(index), pixel_place(index)
    unraveled, placed, multiply = unravel(index), position(tile), product(tile, run, stage)
    read_rows, write_rows, read_source, write_source = reader(run), writer(run), reader(unit), writer(unit)
    widened = widen_unit(kind, unit)
    blanks, zeros = (kind.blank,) * unit, (kind.zero,) * (tile.thread_rows * tile.thread_columns)
    row_pitch, column_pitch, columns_at, stage_size = stage

    # A thread loads `many` pixels, `accesses` of each, and so many runs of weights.
    pixel_lanes = min(threads // lanes, block_columns)
    depth_lanes = threads // (lanes * pixel_lanes)
    many, accesses = block_columns // pixel_lanes, depth // (lanes * depth_lanes * unit)
    access_step = lanes * depth_lanes * unit
    runs = block_rows // run
    weight_loaders = min(threads, runs * depth)
    many_weights = runs * depth // weight_loaders
    weight_lines, all_load = weight_loaders // runs, weight_loaders == threads
    weights_size, loaded_size = many_weights * run, many * accesses * unit

    @device_function
    def put_spread(array: Any, at: int, values: Any) -> None:
        """Write four channels to two pairs of lines."""
        put_pair(array, at, values[:2])
        put_pair(array, at + 8 * column_pitch, values[2:])

    put_pair, put = writer(1, 2, column_pitch), put_spread if spread else writer(1, unit, column_pitch)

    @device_function
    def found(
        table: Any, tap: int, at: int, place0: int, place1: int, place2: int, size0: int, size1: int, size2: int
    ) -> Any:
        """Return where the element of a pixel and a tap is in the source, or -1."""
        p0, p1, p2 = place0 + table[tap + SHIFT_0], place1 + table[tap + SHIFT_1], place2 + table[tap + SHIFT_2]
        inside = natural(p0) < size0 and natural(p1) < size1 and natural(p2) < size2
        return cast(at + table[tap + DELTA]) if inside else cast(-1)

    @device_function
    def store(context: Any, row: int, column: int, value: Any) -> None:
        out, places, bias, has_bias, first_row, rows, first_channel, out_c = context
        at, m = places[column], cast(first_row + row)
        if at >= 0 and m < rows:
            channel = cast(first_channel + m)
            if has_bias:
                value = value + widen(bias[channel])
            out[at + channel * out_c] = narrow(value)

    drain_size, leave = drain(tile, run, channels_last, store)
    room_size = max(2 * stage_size, drain_size)

    def gather_gemm(source: Any, packed: Any, bias: Any, out: Any, table: Any, has_bias: int) -> None:
        room = cuda.shared.array(room_size, sum_type)
        places = cuda.shared.array(block_columns, cast)
        thread = cast(cuda.threadIdx.x)
        block, row_block, group = cast(cuda.blockIdx.x), cast(cuda.blockIdx.y), cast(cuda.blockIdx.z)

        phase = find_phase(table, FIRST_TILE, block)
        taps, tap_at = cast(table[phase + TAPS]), cast(table[phase + FIRST_TAP])
        padded, channels = cast(table[PADDED]), cast(table[CHANNELS])
        count0, count1, count2 = counts(table, phase)
        pixels = cast(table[BATCH] * count0 * count1 * count2)
        first_pixel = cast((block - table[phase + FIRST_TILE]) * block_columns)
        size0, size1, size2 = natural(table[SIZE_0]), natural(table[SIZE_1]), natural(table[SIZE_2])
        source_c = cast(table[SOURCE_C])

        # The pixels that this thread loads: where they are in the source, but for the tap.
        mine = cast(thread // lanes % pixel_lanes)
        first_line = cast((thread // lanes // pixel_lanes * lanes + thread % lanes) * unit)
        at = cuda.local.array(many, cast)
        place0 = cuda.local.array(many, cast)
        place1 = cuda.local.array(many, cast)
        place2 = cuda.local.array(many, cast)
        offset = cuda.local.array(many, cast)
        for p in range(many):
            pixel = cast(first_pixel + mine + p * pixel_lanes)
            n, q0, q1, q2 = unraveled(pixel, count0, count1, count2)
            place1[p] = cast(q1 * table[HOP_1])
            place2[p] = cast(q2 * table[HOP_2])
            q0 = cast(q0 * table[HOP_0])
            # A pixel that does not exist lies outside the source.
            place0[p] = q0 if pixel < pixels else cast(-(1 << 30))
            at[p] = cast(
                n * table[SOURCE_N] + group * channels * source_c
                + q0 * table[SOURCE_0] + place1[p] * table[SOURCE_1] + place2[p] * table[SOURCE_2]
            )  # fmt: skip
            offset[p] = cast(-1)

        cells = zeros
        weights = cuda.local.array(weights_size, sum_type)
        loaded = cuda.local.array(loaded_size, held)
        # Where the lines that this thread loads lie, in the first tap and in the table of taps.
        jump = cuda.local.array(accesses, cast)
        start = cuda.local.array(accesses, cast)
        tiles = cast((taps * padded + depth - 1) // depth)
        packed_at = cast(
            group * table[GROUP_WEIGHTS]
            + (table[phase + DEPTH_AT] * table[ROW_BLOCKS] + row_block * tiles * depth) * block_rows
            + thread * run
        )
        weights_to = cast(thread // runs * row_pitch + thread % runs * run)
        first_slot = cast(first_line // 2) if spread else first_line
        source_to = cast(columns_at + first_slot * column_pitch + mine)
        row, column = placed(thread)
        row_at, column_at = cast(row * run), cast(columns_at + column * run)
        channel = cast(0)
        entry, end = tap_at, cast(tap_at + TAP * taps)
        at_stage = cast(0)
        for i in range(accesses):
            line = cast(first_line + i * access_step)
            if few:
                tap, line = divided(line, padded)
                # A channel that does not exist is one of no tap.
                start[i] = cast(tap * TAP) if line < channels else end
            jump[i] = cast(line * source_c)
        for step in range(cast(tiles + 1)):
            if step < tiles:
                # Load the next tiles to registers.
                if all_load or thread < weight_loaders:
                    for i in range(many_weights):
                        write_rows(weights, i * run, read_rows(packed, packed_at + i * weight_loaders * run))
                packed_at = cast(packed_at + depth * block_rows)
                if few:
                    for i in range(accesses):
                        here = cast(entry + start[i])
                        exists = here < end
                        here = here if exists else tap_at
                        for p in range(many):
                            where = found(table, here, at[p], place0[p], place1[p], place2[p], size0, size1, size2)
                            write_source(loaded, p * accesses + i, blanks)
                            if exists and where >= 0:
                                loaded[p * accesses + i] = source[cast(where + jump[i])]
                    entry = cast(entry + TAP * (depth // padded))
                else:
                    if channel == 0:
                        for p in range(many):
                            offset[p] = found(table, entry, at[p], place0[p], place1[p], place2[p], size0, size1, size2)
                    for p in range(many):
                        here = cast(offset[p] + channel * source_c)
                        for i in range(accesses):
                            write_source(loaded, (p * accesses + i) * unit, blanks)
                            if offset[p] >= 0 and (whole or first_line + i * access_step + channel < channels):
                                values = read_source(source, cast(here + jump[i]))
                                write_source(loaded, (p * accesses + i) * unit, values)
                    channel = cast(channel + depth)
                    if channel >= padded:
                        channel = cast(0)
                        entry = cast(entry + TAP)
            if step > 0:
                cells = multiply(cells, room, cast(row_at + at_stage), cast(column_at + at_stage))
                at_stage = cast(stage_size - at_stage)
            if step < tiles:
                if all_load or thread < weight_loaders:
                    for i in range(many_weights):
                        to = weights_to + at_stage + i * weight_lines * row_pitch
                        write_rows(room, to, read_rows(weights, i * run))
                for p in range(many):
                    for i in range(accesses):
                        to = source_to + at_stage + i * access_step * column_pitch + p * pixel_lanes
                        put(room, to, widened(read_source(loaded, (p * accesses + i) * unit)))
                cuda.syncthreads()

        for i in range(max(1, block_columns // threads)):
            column = cast(thread + i * threads)
            if column < block_columns:
                places[column] = place(table, phase, cast(first_pixel + column), pixels)
        rows, out_c, first_row = cast(table[ROWS]), cast(table[OUT_C]), cast(row_block * block_rows)
        context = out, places, bias, has_bias, first_row, rows, cast(group * rows), out_c
        leave(cells, room, thread, context)

    return gather_gemm


@kernel_factory
def pack_kernel(tile_rows: int, depth: int, index: str, dtype: str, spread: bool) -> Callable[..., None]:
    """Return the kernel that packs weights, as sums' type; sizes are in the table. A thread makes one element."""
    block_rows, lines_of_tile = tile_rows, depth
    cast = getattr(np, index)
    kind, find_phase = elements(dtype), phase_of(index)
    zero, widen = kind.zero, kind.widen

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
        phase = find_phase(table, DEPTH_AT, cast(line // row_blocks))
        taps = cast(table[phase + TAPS])
        deep = cast((taps * padded + lines_of_tile - 1) // lines_of_tile * lines_of_tile)
        line = cast(line - cast(table[phase + DEPTH_AT]) * row_blocks)
        m = cast(line // deep * block_rows + row)
        k = cast(line % deep)
        if spread:
            # A lane's four channels lie in two pairs of lines, beside those of the other lanes.
            k = cast(k // 16 * 16 + k % 8 // 2 * 4 + k % 2 + k % 16 // 8 * 2)
        tap, channel = cast(k // padded), cast(k % padded)
        value = zero
        if m < cast(table[ROWS]) and tap < taps and channel < cast(table[CHANNELS]):
            number = cast(table[cast(table[phase + FIRST_TAP]) + TAP * tap + NUMBER])
            value = widen(weight[group * group_step + channel * channel_step + m * row_step + number])
        packed[i] = value

    return pack


def spreads(loads: Loads, kind: Elements) -> bool:
    """Return whether channels of a tile lie in another order, in which four lanes of four meet different banks."""
    return loads.lanes(kind.size) * loads.unit == 16


def tile_for(rows: int, dtype: str) -> Tile:
    """Return the smallest tile that has so many rows, or the largest."""
    tiles = TILES_OF_DOUBLES if dtype == "float64" else TILES
    return next((tile for tile in reversed(tiles) if tile.rows >= rows), tiles[0])


def padded_channels(channels: int, depth: int) -> int:
    """Return the lines of a tap: whole tiles of them, or as many as fit several times in one."""
    return min(-(-channels // depth) * depth, 1 << (channels - 1).bit_length())


def loads_for(s: Sums, layout: Layout, tile: Tile, kind: Elements) -> Loads:
    """Return who loads what: lanes run along channels where those of both arrays are neighbours."""
    channels_last = layout.first[1] == layout.second[1] == 1
    if padded_channels(s.channels, tile.depth) < tile.depth:
        return Loads(channels_last, few=True)
    if not channels_last:
        return Loads(whole=s.channels % tile.depth == 0)
    steps = (s.channels, layout.first[0], *layout.first[2:])
    return Loads(True, kind.run if layout.aligned and not any(n % kind.run for n in steps) else 1)


def steps(forward: bool, g: Geometry, layout: Layout, target: Target, tile: Tile | None = None) -> Steps:
    """Return the launches of the forward pass or of the input gradient."""
    s, kind = sums(g, forward), elements(g.dtype)
    tile = tile or tile_for(s.rows, g.dtype)
    loads, deep = loads_for(s, layout, tile, kind), tile.depth
    padded = padded_channels(s.channels, deep)
    table = phase_table(
        s, g.batch, g.groups, layout.first, layout.second,
        rows=tile.rows, columns=tile.columns, padded=padded, depth=deep,
    )  # fmt: skip
    packed = g.groups * table.group_weights
    group_step, input_step, output_step = g.group_in * g.group_out * g.taps, g.group_out * g.taps, g.taps
    channel_step, row_step = (input_step, output_step) if forward else (output_step, input_step)
    shapes = (g.input_shape, g.output_shape) if forward else (g.output_shape, g.input_shape)
    index = index_for(packed, extent(shapes[0], layout.first), extent(shapes[1], layout.second))
    pointer, sum_pointer = kind.pointer, f"{kind.sum}*"
    pack = Launch(
        pack_kernel(tile.rows, deep, index, g.dtype, spreads(loads, kind)),
        (pointer, sum_pointer, "int64*", *(index,) * 4),
        (blocks_for(packed),),
        ("weight", "packed", "table", packed, group_step, channel_step, row_step),
    )
    multiply = Launch(
        kernel(tile, index, g.dtype, loads),
        (pointer, sum_pointer, pointer, pointer, "int64*", "int32"),
        (table.tiles, -(-s.rows // tile.rows), g.groups),
        ("source", "packed", "bias", "out", "table", int(layout.bias)),
        tile.threads,
    )
    table_of_pass = np.array(table.integers, np.int64)
    return Steps((pack, multiply), {"table": table_of_pass}, {"packed": Scratch(packed, kind.sum)})


def _declines(g: Geometry, target: Target) -> str | None:
    return None if g.dtype in DTYPES else f"serves {', '.join(DTYPES)}, not {g.dtype}"


_IDEA = "Matrix products of weights and gathered pixels, a phase of the stride at a time, in tiles of shared memory."
FORWARD = DeviceImplementation("gather_gemm", _IDEA, _declines, partial(steps, True))
INPUT_GRAD = DeviceImplementation("gather_gemm", _IDEA, _declines, partial(steps, False))
