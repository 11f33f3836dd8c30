"""Forward pass to few channels (images, masks, waveforms): patches of outputs in registers, no matrix tile.

Row o of the output sums ``w[ci, co, k] · source[ci, (o + p - d·k) / s]`` over channels and the taps k of its phase. A
matrix tile would give channels its rows, and leave 13 of 16 empty for RGB. Here a thread has all phases of the last
axis and all channels at `positions` neighbouring pixels of one row of the output: `positions · stride · channels` sums.
For each channel and tap of the other axes it reads as many pixels (and those that the taps reach beyond), one row of
the kernel for each channel, and multiplies both for all taps of the last axis: 96 products with 22 elements read for
k4 s2 to RGB. Which product belongs to which sum is part of the compiled kernel (`Row`).

Memory: source and output of any strides · weights packed to (channel, taps of the first axes, (output channel, tap of
the last)) · pixels of a block with all that taps reach, for as many channels as fit, in shared memory, so that each is
read from global memory once a block; vectors of a thread's positions are as far apart as threads of a row together
fill, against bank conflicts · sums go through shared memory, so that rows of the output are written side by side.
16-byte reads of pixels would begin where taps reach, rarely at a multiple of 16 bytes; with channels adjacent they do
not, and are used.
Parallel over images, groups, tiles of rows and positions. Where these are too few, threads of a block share the
channels, and their sums are added in their order. A NaN or Inf among the pixels reaches the outputs it touches and no
others; one among the weights also outputs that its tap would meet beyond the border.

The input gradient sums few channels for many rows: `gather_gemm` fills its tiles (depth is (tap, channel), 3 channels
padded to 4), so it has no twin here.

Not yet run on hardware.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastdeconv.kernels.cuda.device import cuda, device_function, reader, unravel, writer
from fastdeconv.kernels.cuda.factory import kernel_factory
from fastdeconv.kernels.cuda.launches import (
    DeviceImplementation,
    Launch,
    Layout,
    Scratch,
    Steps,
    Target,
    extent,
    index_for,
)
from fastdeconv.kernels.cuda.packing import Lines, channel_vectors, pack, tabulate
from fastdeconv.kernels.cuda.phases import axis_phases
from fastdeconv.kernels.cuda.registers import products, put
from fastdeconv.kernels.geometry import Geometry

THREADS = 128
WARPS = THREADS // 32
MOST_CHANNELS = 4
ROOM, WEIGHT_ROOM = 32768, 8192  # bytes of shared memory
LANES = (4, 8, 16, 32)  # threads of a row
# Registers of a thread, in bytes: sums, and a row of weights.
SUMS, WEIGHTS = 192, 256
_BLOCKS = 2  # that keep a multiprocessor busy

# What a table of sizes holds, in this order; then the first tap of each phase of axis 0, and of axis 1.
(CHANNELS, GROUPS, SOURCE_N, SOURCE_C, SOURCE_0, SOURCE_1, SOURCE_2, OUT_N, OUT_C, OUT_0, OUT_1, OUT_2,
 INPUT_0, INPUT_1, INPUT_2, OUTPUT_0, OUTPUT_1, OUTPUT_2, TILES_0, TILES_1, TILES_2, ROWS_0, ROWS_1, LANES_OF, PARTS,
 CHUNK, HEIGHT_0, HEIGHT_1, WIDTH, PIECE, LINE, LOWEST, KERNEL_0, KERNEL_1, STRIDE_0, STRIDE_1, PADDING_0, PADDING_1,
 DILATION_0, DILATION_1, TAP_STEP_0, TAP_STEP_1, PIXEL_STEP_0, PIXEL_STEP_1) = range(44)  # fmt: skip
HEADER = 44


class Row(NamedTuple):
    """What the compiled kernel knows of a layer: its channels and its last axis.

    Attributes
    ----------
    channels, stride, taps : int
        Output channels of a group; stride and kernel size on the last axis.
    terms : tuple of (int, int, int)
        Of each tap of the last axis: its phase, its number, and the pixel from the first that taps reach.
    positions : int
        Of a thread.
    channels_last : bool
        Whether channels of the output are adjacent: sums of a thread are in the order of the output.
    """

    channels: int
    stride: int
    taps: int
    terms: tuple[tuple[int, int, int], ...]
    positions: int
    channels_last: bool = False

    @property
    def sums(self) -> int:
        """Sums of a thread."""
        return self.channels * self.run

    @property
    def run(self) -> int:
        """Outputs of a thread in one row."""
        return self.positions * self.stride

    @property
    def reach(self) -> int:
        """Pixels that taps reach beyond a position."""
        return max(pixel for _, _, pixel in self.terms)

    @property
    def products(self) -> tuple[tuple[int, int, int], ...]:
        """Sum, weight and pixel of each product; sums are (channel, output) or the reverse, weights (channel, tap)."""
        channel, output = (1, self.channels) if self.channels_last else (self.run, 1)
        return tuple(
            (co * channel + (j * self.stride + phase) * output, co * self.taps + tap, j + pixel)
            for phase, tap, pixel in self.terms
            for co in range(self.channels)
            for j in range(self.positions)
        )


@kernel_factory
def kernel(row: Row, element_name: str, index: str, by_channels: bool) -> Callable[..., None]:
    """Return the kernel; channels of the source may be read in vectors."""
    cast, element = getattr(np, index), getattr(np, element_name)
    unraveled = unravel(index)
    lanes = 16 // np.dtype(element).itemsize
    room_of, weight_room = ROOM // np.dtype(element).itemsize, WEIGHT_ROOM // np.dtype(element).itemsize
    apart = row.positions // lanes  # vectors of pixels from one thread to the next
    pixel_vectors = -(-(row.positions + row.reach) // lanes)
    weight_vectors = -(-row.channels * row.taps // lanes)
    weight_pitch = weight_vectors * lanes
    outputs, run, couts = row.sums, row.run, row.channels
    inner = couts if row.channels_last else 1  # channels of a line of the output
    each = run * inner  # of a line, of a thread
    sum_pitch = THREADS + max(1, 32 // each)
    zeros, none = (element(0),) * outputs, (element(0),) * lanes
    read, write = reader(lanes), writer(lanes)
    read_weights, add = reader(lanes, weight_vectors, lanes), products(row.products)

    @device_function
    def read_vector(context: Any, number: int) -> Any:
        pixels, at, piece = context
        return read(pixels, at + number % apart * piece + number // apart * lanes)

    read_pixels = tabulate(read_vector, pixel_vectors)

    @device_function
    def channel_of(context: Any, number: int) -> Any:
        source, at, step, count = context
        return (source[at + number * step],) if number < count else (element(0),)

    some_channels = tabulate(channel_of, lanes)

    @device_function
    def phase_of(table: Any, axis: int, first: int, o: int) -> Any:
        """Return the first tap of an output's phase, and the pixel it meets."""
        stride, place = cast(table[STRIDE_0 + axis]), cast(o + table[PADDING_0 + axis])
        tap = cast(table[first + place % stride])
        return tap, cast((place - tap * cast(table[DILATION_0 + axis])) // stride)

    def few_outputs(source: Any, packed: Any, bias: Any, out: Any, table: Any, has_bias: int) -> None:
        pixels = cuda.shared.array(room_of, element)
        weights = cuda.shared.array(weight_room, element)
        thread = cast(cuda.threadIdx.x)
        lane, warp = cast(thread % 32), cast(thread // 32)
        image, tile0, tile1, tile2 = unraveled(
            cast(cuda.blockIdx.x), cast(table[TILES_0]), cast(table[TILES_1]), cast(table[TILES_2])
        )
        groups, channels = cast(table[GROUPS]), cast(table[CHANNELS])
        n, group = cast(image // groups), cast(image % groups)
        rows0, rows1 = cast(table[ROWS_0]), cast(table[ROWS_1])
        across, parts = cast(table[LANES_OF]), cast(table[PARTS])
        output0, output1, output2 = cast(table[OUTPUT_0]), cast(table[OUTPUT_1]), cast(table[OUTPUT_2])
        first0, first1, first2 = cast(tile0 * rows0), cast(tile1 * rows1), cast(tile2 * across * row.positions)

        # What shared memory holds: from which pixel on each axis, and how much.
        kernel0, kernel1 = cast(table[KERNEL_0]), cast(table[KERNEL_1])
        stride0, stride1 = cast(table[STRIDE_0]), cast(table[STRIDE_1])
        low0 = cast(
            (first0 + cast(table[PADDING_0]) - (kernel0 - 1) * cast(table[DILATION_0]) + stride0 - 1) // stride0
        )
        low1 = cast(
            (first1 + cast(table[PADDING_1]) - (kernel1 - 1) * cast(table[DILATION_1]) + stride1 - 1) // stride1
        )
        low2 = cast(first2 + cast(table[LOWEST]))
        height0, height1 = cast(table[HEIGHT_0]), cast(table[HEIGHT_1])
        width, piece, line = cast(table[WIDTH]), cast(table[PIECE]), cast(table[LINE])
        plane = cast(height0 * height1 * line)
        source_c, chunk = cast(table[SOURCE_C]), cast(table[CHUNK])
        source0, source1, source2 = cast(table[SOURCE_0]), cast(table[SOURCE_1]), cast(table[SOURCE_2])
        input0, input1, input2 = cast(table[INPUT_0]), cast(table[INPUT_1]), cast(table[INPUT_2])
        image_at = cast(n * table[SOURCE_N] + group * channels * source_c)
        channel_weights = cast(kernel0 * kernel1 * weight_pitch)

        # This thread's row of the output, its taps, and its share of the channels.
        place = cast(thread // across)
        part, place = cast(place // (rows0 * rows1)), cast(place % (rows0 * rows1))
        o0, o1 = cast(first0 + place // rows1), cast(first1 + place % rows1)
        tap0, pixel0 = phase_of(table, 0, HEADER, o0)
        tap1, pixel1 = phase_of(table, 1, cast(HEADER + stride0), o1)
        tap_step0, tap_step1 = cast(table[TAP_STEP_0]), cast(table[TAP_STEP_1])
        pixel_step0, pixel_step1 = cast(table[PIXEL_STEP_0] * line * height1), cast(table[PIXEL_STEP_1] * line)
        start = cast(((pixel0 - low0) * height1 + pixel1 - low1) * line + thread % across * lanes)

        jump, jump_rows = cast(THREADS % width), cast(THREADS // width)
        cells = zeros
        for first in range(0, channels, chunk):
            count = cast(min(chunk, channels - first))
            cuda.syncthreads()
            x, r0, r1 = cast(thread % width), cast(0), cast(thread // width)
            while r0 < height0:
                while r1 >= height1:
                    r0, r1 = cast(r0 + 1), cast(r1 - height1)
                if r0 < height0:
                    i0, i1, i2 = cast(low0 + r0), cast(low1 + r1), cast(low2 + x)
                    inside = i0 >= 0 and i0 < input0 and i1 >= 0 and i1 < input1 and i2 >= 0 and i2 < input2
                    of = cast(image_at + first * source_c + i0 * source0 + i1 * source1 + i2 * source2)
                    vector = cast(x // lanes)
                    to = cast((r0 * height1 + r1) * line + vector % apart * piece + vector // apart * lanes + x % lanes)
                    for c in range(0, count, lanes):
                        if by_channels:
                            values = read(source, of + c) if inside else none
                        else:
                            kept = cast(count - c) if inside else cast(0)
                            values = some_channels((source, cast(of + c * source_c), source_c, kept), 0)
                        put(pixels, to + c * plane, plane, values)
                # The next pixel of this thread, without a division.
                x, r1 = cast(x + jump), cast(r1 + jump_rows)
                if x >= width:
                    x, r1 = cast(x - width), cast(r1 + 1)
            packed_at = cast((group * channels + first) * channel_weights)
            for i in range(thread * lanes, count * channel_weights, THREADS * lanes):
                write(weights, i, read(packed, packed_at + i))
            cuda.syncthreads()
            for c in range(part, count, parts):
                k0, at0 = tap0, cast(start + c * plane)
                while k0 < kernel0:
                    k1, at1 = tap1, at0
                    while k1 < kernel1:
                        left = read_weights(weights, cast(((c * kernel0 + k0) * kernel1 + k1) * weight_pitch))
                        cells = add(left, read_pixels((pixels, at1, piece), 0), cells)
                        k1, at1 = cast(k1 + tap_step1), cast(at1 - pixel_step1)
                    k0, at0 = cast(k0 + tap_step0), cast(at0 - pixel_step0)

        cuda.syncthreads()
        put(pixels, thread, sum_pitch, cells)
        cuda.syncthreads()
        # Lines of the output that are written side by side: one channel, or all of them where they are adjacent.
        rows = cast(rows0 * rows1)
        for i in range(warp, rows * (couts // inner), WARPS):
            place, channel = cast(i % rows), cast(i // rows)
            o0, o1 = cast(first0 + place // rows1), cast(first1 + place % rows1)
            if o0 < output0 and o1 < output1:
                at = cast(n * table[OUT_N] + o0 * table[OUT_0] + o1 * table[OUT_1])
                for e in range(lane, across * each, 32):
                    x, co = cast(e // inner), cast(channel + e % inner)
                    o2 = cast(first2 * row.stride + x)
                    if o2 < output2:
                        held = cast((channel * run + e % each) * sum_pitch + place * across + e // each)
                        total = pixels[held]
                        for other in range(1, parts):
                            total += pixels[held + other * rows * across]
                        co = cast(group * couts + co)
                        if has_bias:
                            total += bias[co]
                        out[at + o2 * table[OUT_2] + co * table[OUT_C]] = total

    return few_outputs


class Plan(NamedTuple):
    """How a layer is cut: the compiled row, threads of a row, parts of the channels, rows of a block, channels held."""

    row: Row
    lanes: int
    parts: int
    rows: tuple[int, int]
    chunk: int


def _heights(g: Geometry, rows: tuple[int, int]) -> tuple[int, ...]:
    """Return on two axes the pixels that so many rows of outputs can meet."""
    return tuple((t - 1 + d * (k - 1)) // s + 1 for t, k, s, d in zip(rows, g.kernel, g.stride, g.dilation))


def _width(row: Row, threads: int, lanes: int) -> tuple[int, int, int]:
    """Return the pixels that a row of threads reads, the elements of each of the pieces that hold them, and of all."""
    apart = row.positions // lanes
    vectors = (threads - 1) * apart + -(-(row.positions + row.reach) // lanes)
    piece = -(-vectors // apart) * lanes
    line = apart * piece
    if threads == 4:
        # Eight threads that read 128 bytes at once are of two rows, which begin 64 bytes apart in the banks.
        line += (4 * lanes - line) % (8 * lanes)
    return vectors * lanes, piece, line


def _row(g: Geometry) -> Row | None:
    """Return what is compiled, or None if the registers of a thread are too few."""
    size = np.dtype(g.dtype).itemsize
    lanes = 16 // size
    phases = axis_phases(g, 2)
    lowest = _lowest(g)
    terms = tuple((phase, k, shift - lowest) for phase, (_, _, taps) in enumerate(phases) for shift, k in taps)
    positions = -(-g.output[2] // g.stride[2])
    if not terms or g.group_out * g.kernel[2] * size > WEIGHTS:
        return None
    for wide in (2 * lanes, lanes):
        row = Row(g.group_out, g.stride[2], g.kernel[2], terms, wide)
        padded = -(-positions // (LANES[0] * wide)) * LANES[0] * wide
        if row.sums * size <= SUMS and (4 * padded <= 5 * positions or wide == lanes):
            return row
    return None


def _lowest(g: Geometry) -> int:
    """Return the first pixel that taps reach, from a position of the last axis."""
    return min((shift for _, _, taps in axis_phases(g, 2) for shift, _ in taps), default=0)


def plan(g: Geometry, target: Target) -> Plan | None:
    """Return the cut with the least work of the busiest multiprocessor, or None if none fits."""
    row = _row(g)
    if row is None:
        return None
    size = np.dtype(g.dtype).itemsize
    lanes = 16 // size
    weights = math.prod(g.kernel[:2]) * -(-row.channels * row.taps // lanes) * 16
    found: list[tuple[float, Plan]] = []
    for threads in LANES:
        for parts in (1 << i for i in range((THREADS // threads).bit_length())):
            rows = THREADS // threads // parts
            rows1 = min(rows, 1 << (g.output[1] - 1).bit_length())
            cut = rows // rows1, rows1
            width, _, line = _width(row, threads, lanes)
            height = math.prod(_heights(g, cut))
            chunk = min(
                ROOM // (height * line * size) // lanes * lanes, WEIGHT_ROOM // weights,
                -(-g.group_in // lanes) * lanes,
            )  # fmt: skip
            chunk = chunk // max(lanes, parts) * max(lanes, parts) or chunk // parts * parts
            if chunk and parts <= g.group_in:
                tiles = -(-g.output[0] // cut[0]) * -(-g.output[1] // cut[1]) * g.batch * g.groups
                tiles *= -(-g.output[2] // (threads * row.run))
                entry = Plan(row, threads, parts, cut, chunk)
                found.append((_work(g, entry, height * width, tiles, target), entry))
    return min(found, key=lambda entry: entry[0])[1] if found else None


def _work(g: Geometry, cut: Plan, pixels: int, tiles: int, target: Target) -> float:
    """Return the instructions of the busiest multiprocessor, of each of its threads.

    They are counted, not measured: forty for the place of a pixel, and five to bring a channel of it to shared memory;
    twenty around the products of a row; ten for a result, and three for each part of it. Blocks fewer than hide each
    other's latency take the time of so many.
    """
    taps = math.prod(-(-k // (s // math.gcd(s, d))) for k, s, d in zip(g.kernel[:2], g.stride, g.dilation))
    staged = (5 + 40 / cut.chunk) * g.group_in * pixels / THREADS
    products = -(-g.group_in // cut.parts) * taps * (len(cut.row.products) + 20)
    results = cut.row.sums / cut.parts * (10 + 3 * cut.parts)
    return max(_BLOCKS, -(-tiles // target.multiprocessors)) * (staged + products + results)


def steps(g: Geometry, layout: Layout, target: Target, cut: Plan | None = None) -> Steps:
    """Return the launches of the forward pass."""
    cut = cut or plan(g, target)
    assert cut is not None, "the kernel declines"
    row, lanes = cut.row, 16 // np.dtype(g.dtype).itemsize
    pitch = -(-row.channels * row.taps // lanes) * lanes
    lines = Lines(
        g.in_channels * math.prod(g.kernel[:2]), row.channels * row.taps, pitch, math.prod(g.kernel[:2]),
        row.channels * g.taps, row.taps, row.taps, g.taps, 1,
    )  # fmt: skip
    tiles = [-(-g.output[axis] // cut.rows[axis]) for axis in range(2)]
    tiles.append(-(-g.output[2] // (cut.lanes * row.run)))
    common = [math.gcd(s, d) for s, d in zip(g.stride[:2], g.dilation[:2])]
    table = [
        g.group_in, g.groups, *layout.first, *layout.second, *g.input, *g.output, *tiles, *cut.rows, cut.lanes,
        cut.parts, cut.chunk, *_heights(g, cut.rows), *_width(row, cut.lanes, lanes), _lowest(g),
        *g.kernel[:2], *g.stride[:2], *g.padding[:2], *g.dilation[:2], *(s // c for s, c in zip(g.stride, common)),
        *(d // c for d, c in zip(g.dilation, common)),
    ]  # fmt: skip
    for axis in range(2):
        s, d = g.stride[axis], g.dilation[axis]
        table += [next((k for k in range(g.kernel[axis]) if d * k % s == phase), g.kernel[axis]) for phase in range(s)]
    packed = lines.lines * pitch
    index = index_for(packed, extent(g.input_shape, layout.first), extent(g.output_shape, layout.second))
    vectors = cut.chunk % lanes == 0 and channel_vectors(g, layout, lanes)
    function = kernel(row._replace(channels_last=layout.second[1] == 1), g.dtype, index, vectors)
    pointer = f"{g.dtype}*"
    compute = Launch(
        function, (*(pointer,) * 4, "int64*", "int32"), (g.batch * g.groups * math.prod(tiles),),
        ("source", "packed", "bias", "out", "table", int(layout.bias)), THREADS,
    )  # fmt: skip
    return Steps(
        (pack(lines, g.dtype, index), compute),
        {"table": np.array(table, np.int64)},
        {"packed": Scratch(packed, g.dtype)},
    )


def _declines(g: Geometry, target: Target) -> str | None:
    if g.dtype not in ("float32", "float64"):
        return f"serves float32 and float64, not {g.dtype}"
    if g.group_out > MOST_CHANNELS:
        return f"serves up to {MOST_CHANNELS} output channels of a group, not {g.group_out}"
    if plan(g, target) is None:
        return "outputs of a stride, or taps, are too many for the registers or the shared memory of a block"
    return None


def _yields(g: Geometry, target: Target) -> str | None:
    positions = -(-g.output[2] // g.stride[2])
    row = _row(g)
    if row is not None and 4 * positions < LANES[0] * row.positions:
        return f"{positions} positions of a row leave over three quarters of the threads idle"
    return None


FORWARD = DeviceImplementation(
    "few_outputs",
    "Patches of the output in registers, all channels and phases of the last axis in a thread.",
    _declines,
    steps,
    _yields,
)
