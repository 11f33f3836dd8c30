"""Forward pass and input gradient on tensor cores: implicit matrix products, several tiles of operands on their way.

``out[n, row, q] = Σ weight[channel, row, k] · source[n, channel, hop·q + shift_k]`` (`phases`), as in `gather_gemm`:
rows are channels of the output, columns pixels of one phase, depth is (tap, chunk of channels). Here pixels are the
left operand: a warp multiplies 16 of them with 8 channels of the output at a time.

Memory: the source as chunks of channels (`channels_last`) · weights packed to (group, phase, block of rows, step of the
depth, row, chunk) · a tile of either operand has lines of four chunks, in shared memory at ``chunk ^ line // 2 % 4``:
eight neighbouring lines of one chunk, what ``ldmatrix`` reads at once, lie in different banks, and so do two lines of
four, what copies write. Copies to shared memory are asynchronous, with zeros for pixels outside the source. The sums
go through shared memory, so that neighbouring threads store neighbours of the output, whichever axis is last.
Parallel over tiles of pixels, blocks of rows, groups; no block touches another's outputs.

Products of float16 and bfloat16 are exact, those of float32 have factors rounded to TF32; all sums and the bias are
float32, rounded once to the output's type. A NaN or Inf of the source reaches the outputs it touches and no others; one
of the weights also reaches those whose tap lies outside the source.

One barrier a step of the depth: what is written after it is the tile that was used before it. Not yet run on hardware.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
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
    multiply_matrices,
    narrow,
    round_to_tf32,
    shared_address,
    store_sums,
    wait_copies,
    widen,
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
from fastdeconv.kernels.cuda.phases import sums
from fastdeconv.kernels.geometry import Geometry

DEPTH = 4  # chunks of a tile
LINE = DEPTH * CHUNK  # bytes


class Tile(NamedTuple):
    """What a block computes, the warps among which it is cut, and how many tiles of operands there are room for."""

    pixels: int
    rows: int
    pixel_warps: int
    row_warps: int
    stages: int

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.pixel_warps * self.row_warps


TILES = (Tile(128, 128, 2, 2, 3), Tile(64, 64, 2, 2, 4), Tile(128, 32, 4, 1, 4))
WIDE, SMALL, NARROW = TILES


@kernel_factory
def kernel(tile: Tile, dtype: str, index: str, channels_last: bool) -> Callable[..., None]:
    """Return the kernel.

    Parameters
    ----------
    index : str
        Integer type of all places in arrays.
    channels_last : bool
        Whether neighbours of the output are channels, not pixels: what neighbouring threads store.
    """
    cast, u32 = getattr(np, index), np.uint32
    unraveled, counts, place_of, find_phase = (f(index) for f in (unravel, phase_counts, pixel_place, phase_of))
    block_pixels, block_rows, _, row_warps, stages = tile
    threads = tile.threads
    lines = threads // DEPTH  # that all threads load at once
    many_pixels, many_rows = block_pixels // lines, block_rows // lines
    stage_bytes = (block_pixels + block_rows) * LINE
    warp_pixels, warp_rows = block_pixels // tile.pixel_warps, block_rows // row_warps
    parts, columns = warp_pixels // 16, warp_rows // 8
    zeros = (np.float32(0),) * (parts * columns * 4)

    # Sums go to shared memory in as many rounds as the sixteens of a warp's pixels.
    staged_pixels = block_pixels // parts
    line_words = block_rows + 8 if channels_last else staged_pixels + 4
    pixel_words, row_words = (line_words, 1) if channels_last else (1, line_words)
    staged_words = line_words * (staged_pixels if channels_last else block_rows)
    room = max(stages * stage_bytes // 4, staged_words + 2 * staged_pixels)

    wait, wait_all = wait_copies(stages - 2), wait_copies(0)
    load_left, load_right = load_matrices(parts, 16 * LINE), load_matrices(columns // 2, 16 * LINE)
    multiply = multiply_matrices(dtype)
    store = store_sums(parts, columns, 4 * pixel_words, 4 * row_words)
    to_float, to_element, float_of_bits = widen(dtype), narrow(dtype), widen("float32")
    rounds_left = dtype == "float32"

    @device_function
    def swizzled(line: int, chunk: int) -> Any:
        """Return where a chunk of a line is in a tile, in bytes."""
        return u32(line * LINE + (chunk ^ line // 2 % DEPTH) * CHUNK)

    @device_function
    def multiply_half(stage: int, left_at: int, right_at: int, cells: Any) -> Any:
        left = load_left(stage, left_at)
        if rounds_left:
            left = round_to_tf32(left)
        return multiply(left, load_right(u32(stage + block_pixels * LINE), right_at), cells)

    @device_function
    def note_place(buffer: Any, place: int) -> None:
        thread = cast(cuda.threadIdx.x)
        if thread < staged_pixels:
            buffer[u32(staged_words + thread)] = u32(place)
            if index == "int64":
                buffer[u32(staged_words + staged_pixels + thread)] = u32(place >> 32)

    @device_function
    def noted_place(buffer: Any, pixel: int) -> Any:
        low = buffer[u32(staged_words + pixel)]
        if index == "int64":
            high = buffer[u32(staged_words + staged_pixels + pixel)]
            return cast(np.int64(high) << 32 | np.int64(low))
        return cast(low)

    @device_function
    def store_pixels(buffer: Any, bias: Any, has_bias: int, out: Any, table: Any, group: int, first_row: int) -> None:
        """Write a row of all pixels: neighbouring threads have neighbouring rows."""
        thread = cast(cuda.threadIdx.x)
        row = cast(thread % block_rows)
        if first_row + row < cast(table[ROWS]):
            channel = cast(group * cast(table[ROWS]) + first_row + row)
            column = cast(channel * cast(table[OUT_C]))
            more = to_float(bias[channel]) if has_bias else np.float32(0)
            pixel = u32(thread // block_rows)
            while pixel < staged_pixels:
                place = noted_place(buffer, pixel)
                if place >= 0:
                    value = float_of_bits(buffer[u32(pixel * line_words + row)])
                    out[cast(place + column)] = to_element(value + more)
                pixel = u32(pixel + threads // block_rows)

    @device_function
    def store_rows(
        buffer: Any, bias: Any, has_bias: int, out: Any, table: Any, group: int, first_row: int, place: int
    ) -> None:
        """Write a pixel of all rows: neighbouring threads have neighbouring pixels."""
        thread = cast(cuda.threadIdx.x)
        pixel, rows, out_c = cast(thread % staged_pixels), cast(table[ROWS]), cast(table[OUT_C])
        if place >= 0:
            row = cast(thread // staged_pixels)
            end = cast(min(rows - first_row, block_rows))
            while row < end:
                channel = cast(group * rows + first_row + row)
                more = to_float(bias[channel]) if has_bias else np.float32(0)
                value = float_of_bits(buffer[u32(row * line_words + pixel)])
                out[cast(place + channel * out_c)] = to_element(value + more)
                row = cast(row + threads // staged_pixels)

    def tensor_gemm(source: Any, packed: Any, bias: Any, out: Any, table: Any, has_bias: int) -> None:
        buffer = cuda.shared.array(room, types.uint32, alignment=128)
        base = shared_address(buffer)
        thread = cast(cuda.threadIdx.x)
        lane, warp = cast(thread % 32), cast(thread // 32)
        line, chunk = cast(thread // DEPTH), cast(thread % DEPTH)
        block, row_block, group = cast(cuda.blockIdx.x), cast(cuda.blockIdx.y), cast(cuda.blockIdx.z)
        phase = find_phase(table, FIRST_TILE, block)
        taps, tap_at = cast(table[phase + TAPS]), cast(table[phase + FIRST_TAP])
        padded = cast(table[PADDED])
        count0, count1, count2 = counts(table, phase)
        pixels = cast(cast(table[BATCH]) * count0 * count1 * count2)
        first_pixel = cast((block - cast(table[phase + FIRST_TILE])) * block_pixels)
        size0, size1, size2 = cast(table[SIZE_0]), cast(table[SIZE_1]), cast(table[SIZE_2])
        source0, source1, source2 = cast(table[SOURCE_0]), cast(table[SOURCE_1]), cast(table[SOURCE_2])

        # The pixels that this thread loads: where they are in the source, but for the tap.
        at = cuda.local.array(many_pixels, cast)
        place0 = cuda.local.array(many_pixels, cast)
        place1 = cuda.local.array(many_pixels, cast)
        place2 = cuda.local.array(many_pixels, cast)
        offset = cuda.local.array(many_pixels, cast)
        for j in range(many_pixels):
            pixel = cast(first_pixel + line + lines * j)
            inside = pixel < pixels
            n, q0, q1, q2 = unraveled(pixel, count0, count1, count2)
            # A pixel that does not exist lies outside the source.
            place0[j] = cast(q0 * cast(table[HOP_0])) if inside else cast(-(1 << 30))
            place1[j] = cast(q1 * cast(table[HOP_1]))
            place2[j] = cast(q2 * cast(table[HOP_2]))
            at[j] = cast(
                n * cast(table[SOURCE_N]) + group * cast(table[SOURCE_C])
                + cast(q0 * cast(table[HOP_0])) * source0 + place1[j] * source1 + place2[j] * source2
            )  # fmt: skip

        tiles = cast((taps * padded + DEPTH - 1) // DEPTH)
        first_depth = cast(cast(table[phase + DEPTH_AT]) * cast(table[ROW_BLOCKS]) + row_block * tiles * DEPTH)
        packed_at = cast(group * cast(table[GROUP_WEIGHTS]) + first_depth * block_rows + thread)
        tap, chunk = cast(chunk // padded), cast(chunk % padded)
        moved = True
        write_at = swizzled(line, cast(thread % DEPTH))
        # Lanes of a warp read lines of its pixels and of its rows.
        left_line = cast(warp // row_warps * warp_pixels + lane % 16)
        left_at = swizzled(left_line, cast(lane // 16))
        right_line = cast(warp % row_warps * warp_rows + lane // 16 * 8 + lane % 8)
        right_at = swizzled(right_line, cast(lane // 8 % 2))
        write_stage = read_stage = base
        end = u32(base + stages * stage_bytes)
        cells = zeros
        step = cast(0)
        while step < tiles + stages - 1:  # a range would count in 64 bits beside it
            if step >= stages - 1:
                wait()
                cuda.syncthreads()
            if step < tiles:
                if moved:
                    exists = tap < taps
                    entry = cast(tap_at + TAP * (tap if exists else cast(0)))
                    shift0, shift1 = cast(table[entry + SHIFT_0]), cast(table[entry + SHIFT_1])
                    shift2, delta = cast(table[entry + SHIFT_2]), cast(table[entry + DELTA])
                    for j in range(many_pixels):
                        p0, p1, p2 = cast(place0[j] + shift0), cast(place1[j] + shift1), cast(place2[j] + shift2)
                        inside = exists and p0 >= 0 and p0 < size0 and p1 >= 0 and p1 < size1 and p2 >= 0 and p2 < size2
                        offset[j] = cast(at[j] + delta) if inside else cast(-1)
                to = u32(write_stage + write_at)
                for j in range(many_pixels):
                    copied = u32(CHUNK) if offset[j] >= 0 else u32(0)  # no byte is read outside
                    copy_chunk(u32(to + j * lines * LINE), source, cast(offset[j] + chunk), copied)
                for j in range(many_rows):
                    place = cast(packed_at + j * threads)
                    copy_chunk(u32(to + (block_pixels + j * lines) * LINE), packed, place, u32(CHUNK))
                packed_at = cast(packed_at + block_rows * DEPTH)
                chunk = cast(chunk + DEPTH)
                moved = chunk >= padded
                while chunk >= padded:
                    chunk = cast(chunk - padded)
                    tap = cast(tap + 1)
                write_stage = u32(write_stage + stage_bytes)
                if write_stage == end:
                    write_stage = base
            # Empty at the end, so that the same number of groups may be under way.
            commit_copies()
            if step >= stages - 1:
                cells = multiply_half(read_stage, left_at, right_at, cells)
                cells = multiply_half(read_stage, u32(left_at ^ 2 * CHUNK), u32(right_at ^ 2 * CHUNK), cells)
                read_stage = u32(read_stage + stage_bytes)
                if read_stage == end:
                    read_stage = base
            step = cast(step + 1)
        wait_all()
        cuda.syncthreads()

        first_row = cast(row_block * block_rows)
        staged_at = u32(
            base + 4 * pixel_words * (warp // row_warps * 16 + lane // 4)
            + 4 * row_words * (warp % row_warps * warp_rows + lane % 4 * 2)
        )  # fmt: skip
        for part in range(cast(parts)):
            if part > 0:
                cuda.syncthreads()
            store(cells, staged_at, part)
            staged = cast(thread % staged_pixels)  # which is this pixel of the tile
            pixel = cast(first_pixel + staged // 16 * warp_pixels + part * 16 + staged % 16)
            place = place_of(table, phase, pixel, pixels)
            if channels_last:
                note_place(buffer, place)
                cuda.syncthreads()
                store_pixels(buffer, bias, has_bias, out, table, group, first_row)
            else:
                cuda.syncthreads()
                store_rows(buffer, bias, has_bias, out, table, group, first_row, place)

    return tensor_gemm


@kernel_factory
def pack_kernel(tile_rows: int, bits: str, index: str) -> Callable[..., None]:
    """Return the kernel that packs weights; sizes are in the table. A thread makes one element."""
    block_rows = tile_rows
    cast = getattr(np, index)
    each = chunk_elements(bits)
    find_phase = phase_of(index)
    rounds = bits == "uint32"
    none = getattr(np, bits)(0)

    def pack(
        weight: Any, packed: Any, table: Any, count: int, group_step: int, channel_step: int, row_step: int
    ) -> None:
        i = cast(cast(cuda.blockIdx.x) * cast(cuda.blockDim.x) + cast(cuda.threadIdx.x))
        if i >= count:
            return
        padded, row_blocks = cast(table[PADDED]), cast(table[ROW_BLOCKS])
        unit = cast(i // each)
        group = cast(unit // cast(table[GROUP_WEIGHTS]))
        unit = cast(unit % cast(table[GROUP_WEIGHTS]))
        phase = find_phase(table, DEPTH_AT, cast(unit // (row_blocks * block_rows)))
        taps = cast(table[phase + TAPS])
        tiles = cast((taps * padded + DEPTH - 1) // DEPTH)
        unit = cast(unit - cast(table[phase + DEPTH_AT]) * row_blocks * block_rows)
        tile = cast(unit // (block_rows * DEPTH))
        line = cast(unit // DEPTH % block_rows)
        depth = cast(tile % tiles * DEPTH + unit % DEPTH)
        m = cast(tile // tiles * block_rows + line)
        tap, channel = cast(depth // padded), cast(depth % padded * each + i % each)
        value = none
        if m < cast(table[ROWS]) and tap < taps and channel < cast(table[CHANNELS]):
            number = cast(table[cast(table[phase + FIRST_TAP]) + TAP * tap + NUMBER])
            value = weight[group * group_step + channel * channel_step + m * row_step + number]
            if rounds:
                value = round_to_tf32((value,))[0]
        packed[i] = value

    return pack


def tile_for(rows: int, pixels: int, groups: int, target: Target) -> Tile:
    """Return the largest tile that rows fill and of which there are enough for the device."""
    if rows <= NARROW.rows:
        return NARROW
    blocks = -(-rows // WIDE.rows) * -(-pixels // WIDE.pixels) * groups
    return SMALL if rows <= SMALL.rows or blocks < target.multiprocessors else WIDE


def steps(forward: bool, g: Geometry, layout: Layout, target: Target, tile: Tile | None = None) -> Steps:
    """Return the launches of the forward pass or of the input gradient."""
    s = sums(g, forward)
    shapes = (g.input_shape, g.output_shape) if forward else (g.output_shape, g.input_shape)
    tile = tile or tile_for(s.rows, g.batch * sum(math.prod(phase.size) for phase in s.phases), g.groups, target)
    source = chunks("source", g.dtype, shapes[0], layout.first, g.groups, layout.aligned)
    table = phase_table(
        s, g.batch, g.groups, source.strides, layout.second,
        rows=tile.rows, columns=tile.pixels, padded=source.of_group, depth=DEPTH,
    )  # fmt: skip
    packed = g.groups * table.group_weights
    bits = BITS[g.dtype]
    each = chunk_elements(bits)
    group_step, input_step, output_step = g.group_in * g.group_out * g.taps, g.group_out * g.taps, g.taps
    channel_step, row_step = (input_step, output_step) if forward else (output_step, input_step)
    index = index_for(packed * each)
    pack = Launch(
        pack_kernel(tile.rows, bits, index),
        (f"{bits}*", f"{bits}*", "int64*", *(index,) * 4),
        (blocks_for(packed * each),),  # none where every tap lies outside the output
        ("weight", "packed", "table", packed * each, group_step, channel_step, row_step),
    )
    source_chunks = extent((g.batch, g.groups, *s.source), source.strides) + source.of_group
    index = index_for(packed, source_chunks, extent(shapes[1], layout.second))
    multiply = Launch(
        kernel(tile, g.dtype, index, layout.second[1] == 1),
        ("uint32*", "uint32*", f"{bits}*", f"{bits}*", "int64*", "int32"),
        (table.tiles, -(-s.rows // tile.rows), g.groups),
        (source.name, "packed", "bias", "out", "table", int(layout.bias)),
        tile.threads,
    )
    return Steps(
        (pack, *source.launches, multiply),
        {"table": np.array(table.integers, np.int64)} | source.tables,
        {"packed": Scratch(packed * each, g.dtype)} | source.scratch,
    )


def declines(g: Geometry, target: Target) -> str | None:
    """Return why tensor cores cannot serve a problem, or None."""
    if g.dtype not in BITS:
        return f"serves float16, bfloat16 and float32 as TF32, not {g.dtype}"
    if g.dtype == "float32" and not target.tf32:
        return "would round factors to TF32, which float32 allows only at precision 'high'"
    if target.capability < (8, 0):
        return f"needs compute capability 8.0, not {'.'.join(map(str, target.capability))}"
    return None


def yields(g: Geometry, target: Target) -> str | None:
    """Return why other kernels should be faster, or None."""
    if min(g.group_in, g.group_out) < 8:
        return "groups of under 8 channels, which leave most of each matrix empty"
    return None


_IDEA = "Matrix products on tensor cores, of weights and gathered pixels, operands copied several tiles ahead."
FORWARD = DeviceImplementation("tensor_gemm", _IDEA, declines, partial(steps, True), yields, True)
INPUT_GRAD = DeviceImplementation("tensor_gemm", _IDEA, declines, partial(steps, False), yields, True)
