"""Forward pass and input gradient: register tiles of channels × pixels, straight from zero-padded planes.

``out[m, phase, q] = Σ w[c, t, m] · plane[c, q + offset(t)]`` over channels c and the taps t of the phase; see `frame`
for planes and phases. Forward: m is an output channel, planes are the input, each output phase has its own taps. Input
gradient: m is an input channel, planes are the phases of the output's gradient, there is one phase with all taps.

Memory: planes (channel, phase, image, row, column) · weights packed (group, block of m, phase, channel, tap, m) ·
tile (phase, m, pixel), copied to the output row by row with the phases of the last axis side by side.
Parallel over tiles of pixels, then groups, phases and blocks of m; no unit touches another's output. A NaN or Inf in
the weights meets the zeros around the source too, so it reaches border outputs that its tap touches only there.

Ladder, measured in docs/decisions/0004-direct-kernels.md:
1. One phase, one tile at a time, products in the order channel, tap; tiles stored row by row.
2. Rows as masked vectors, phases of the last axis interleaved by shuffles when there are two.
3. Axes with a single input merged; a loop over channels alone for phases of one tap.
4. A few images at a time, so that their planes are still cached when they are read.
5. Bands of images whose planes are larger than the cache.
6. Lines of the output asked for before a tile is computed, where its rows are written whole.
7. Tiles of more rows on 256-bit vectors; the newest row of the next tile fetched ahead.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.kernels.cpu import frame as frames
from fastdeconv.kernels.cpu import host, planes, workspace
from fastdeconv.kernels.cpu.buffers import empty
from fastdeconv.kernels.cpu.costs import weights_of
from fastdeconv.kernels.cpu.jit import device_function, kernel
from fastdeconv.kernels.cpu.parts import Part, bind_parts
from fastdeconv.kernels.cpu.rows import MOST_INTERLEAVED, expect_row, fill_row, interleave_rows
from fastdeconv.kernels.cpu.tiles import OUTER_ROWS, outer_columns, outer_tile
from fastdeconv.kernels.geometry import Axes, Bound, Cost, Geometry, Implementation

Array = NDArray[Any]

LAYOUT = np.dtype(
    [
        ("groups", "i8"),
        ("rows", "i8"),  # of one group
        ("channels", "i8"),  # of one group, those that are summed over
        ("block_rows", "i8"),
        ("blocks", "i8"),
        ("width", "i8"),  # pixels of a tile
        ("taps", "i8"),  # of all phases
        ("plane", "i8"),
        ("channel_step", "i8"),
        ("lead", "i8"),
        ("total", "i8"),  # pixels of a plane
        ("pitch", "i8", (3,)),
        ("size", "i8", (3,)),  # of the output
        ("stride", "i8", (3,)),  # between outputs of one phase
        ("phases", "i8", (3,)),
        ("row_chunks", "i8"),
        ("phase_chunks", "i8"),
        ("buffer", "i8"),  # elements
        ("first", "i8", (3,)),  # index of the first pixel on each axis
    ]
)

# So many phases of the last axis are computed before their tiles are interleaved.
_SIDE_BY_SIDE = 16
# A sum longer than this is one of partial sums: a plain running total would lose more than rounding must.
RUN = 2048
# Enough units to share among threads.
_UNITS = 16


@device_function
def store(
    tile: Any, at: int, out: Any, bias: Any, p: Any, q0: int, end: int, place: int, channel: int, rows: int,
    a0: int, a1: int, first: int, count: int, early: bool,
) -> None:  # fmt: skip
    """Copy the tiles of `count` phases of the last axis to the output, and add the bias; the bias alone if it is 0.

    Tiles begin at `at`, their pixels are ``q0 .. end - 1``. Their rows belong to `channel` and those after it, which
    the first image has in the planes from `place` on. If it is `early`, the output's cache lines are asked for: they
    come while the tiles are computed.
    """
    pitch0, pitch1, pitch2 = p.pitch[0], p.pitch[1], p.pitch[2]
    size0, size1, size2 = p.size[0], p.size[1], p.size[2]
    stride2, width = p.stride[2], p.width
    plane = size0 * size1 * size2
    depth = p.block_rows * width  # of one phase's tile
    i2 = q0 % pitch2
    rest = q0 // pitch2
    i1 = rest % pitch1
    rest //= pitch1
    i0, n = rest % pitch0, rest // pitch0
    q = q0
    while q < end:
        pixels = min(pitch2 - i2, end - q)
        o0 = p.stride[0] * (i0 + p.first[0]) + a0
        o1 = p.stride[1] * (i1 + p.first[1]) + a1
        # Outputs of phase b are at first + b + stride2·i2; those below size2 exist.
        room = size2 - first - i2 * stride2
        if o0 < size0 and o1 < size1 and room > 0:
            base = (n * p.groups * p.rows + place) * plane + (o0 * size1 + o1) * size2 + i2 * stride2 + first
            start = at + q - q0
            for m in range(rows if early else 0):
                expect_row(out, base + m * plane, min(pixels * stride2, room))
            together = count == stride2 and count <= MOST_INTERLEAVED
            if together and not early:
                interleave_rows(out, base, plane, tile, start, width, depth, count, bias, channel, rows,
                                min(pixels * count, room))  # fmt: skip
            for m in range(0 if early or together else rows):
                extra = bias[channel + m] if bias.size else out.dtype.type(0)
                if count == 0:
                    fill_row(out, base, extra, min(pixels * stride2, room))
                elif pixels == 1:
                    for b in range(min(count, room)):
                        out[base + b] = tile[start + b * depth] + extra
                else:
                    for b in range(count):
                        for i in range(min(pixels, (room - b + stride2 - 1) // stride2)):
                            out[base + b + stride2 * i] = tile[start + b * depth + i] + extra
                base += plane
                start += width
        q += pixels
        i2 = 0
        i1 += 1
        if i1 == pitch1:
            i1 = 0
            i0 += 1
            if i0 == pitch0:
                i0 = 0
                n += 1


@kernel("T[]", "T[]", "T[]", "T[]", LAYOUT, "int[]", "int[]", "int[]")
def tile_units(
    lo: int, hi: int, source: Any, weight: Any, bias: Any, out: Any, layout: Any,
    tap_start: Any, tap_offset: Any, channel_offset: Any,
) -> None:  # fmt: skip
    """Compute one chunk of rows and phases for one tile of pixels and one group."""
    p = layout[0]
    buffer = empty(p.buffer, source.dtype)
    height = p.block_rows
    depth = height * p.width
    scratch = p.buffer - 2 * depth
    outer_phases = p.phases[0] * p.phases[1]
    for unit in range(lo, hi):
        row_chunk = unit % p.row_chunks
        rest = unit // p.row_chunks
        phase_chunk = rest % p.phase_chunks
        rest //= p.phase_chunks
        g = rest % p.groups
        q0 = rest // p.groups * p.width
        pixels = g * p.channels * p.channel_step + p.lead + q0
        for block in range(p.blocks * row_chunk // p.row_chunks, p.blocks * (row_chunk + 1) // p.row_chunks):
            rows = min(height, p.rows - block * height)
            panel = (g * p.blocks + block) * p.channels * p.taps * height
            channel = g * p.rows + block * height
            for outer in range(
                outer_phases * phase_chunk // p.phase_chunks, outer_phases * (phase_chunk + 1) // p.phase_chunks
            ):
                a0, a1 = outer // p.phases[1], outer % p.phases[1]
                row_start = outer * p.phases[2]
                touched = tap_start[row_start] < tap_start[row_start + p.phases[2]]
                for first in range(0, p.phases[2] if touched else 1, _SIDE_BY_SIDE):
                    count = min(_SIDE_BY_SIDE, p.phases[2] - first) if touched else 0
                    for late in range(0 if p.stride[2] == 1 else 1, 2):
                        for b in range(count * late):
                            start = tap_start[row_start + first + b]
                            taps = tap_start[row_start + first + b + 1] - start
                            at = panel + start * p.channels * height
                            to = b * depth
                            step = max(1, RUN // max(1, taps))
                            for c in range(0, p.channels, step):
                                some = min(step, p.channels - c)
                                target = scratch if c else to
                                if taps == 1:  # a loop over channels alone
                                    outer_tile(height, 1, some, weight, at + c * height,
                                               source, pixels + tap_offset[start], 0,
                                               channel_offset, c, buffer, target)  # fmt: skip
                                else:
                                    outer_tile(height, some, taps, weight, at + c * taps * height,
                                               source, pixels + c * p.channel_step, p.channel_step,
                                               tap_offset, start, buffer, target)  # fmt: skip
                                if c:
                                    for i in range(depth):
                                        buffer[to + i] += buffer[scratch + i]
                        store(buffer, 0, out, bias, p, q0, min(q0 + p.width, p.total), channel, channel, rows, a0, a1,
                              first, count, not late)  # fmt: skip


def tile_work(height: int) -> float:
    """Return the time that one column of a register tile takes for one product of each of its rows, in half cycles."""
    # Products and loads are added, not overlapped: wide tiles of few rows, which should hide their loads, take longer
    # the less of the source is in the first cache. A load across cache lines counts one and a half.
    return height + 1.5 + height / outer_columns(height)


def tile_products(height: int) -> float:
    """Return how many products of the tallest tile take the time of one column of products in a tile of this height."""
    return tile_work(height) * OUTER_ROWS / tile_work(OUTER_ROWS)


def tile_rows(rows: int, pixels: int, lanes: int) -> int:
    """Return the tile height with the least work: whole tiles times the busier of multipliers and loads."""

    def cost(height: int) -> float:
        columns = outer_columns(height)
        return -(-rows // height) * -(-pixels // (columns * lanes)) * columns * tile_work(height)

    return min(range(1, OUTER_ROWS + 1), key=cost)


def counts(g: Geometry, forward: bool) -> dict[str, float]:
    """Count what the kernel does: products, with those in padding, elements and rows of result and planes, weights."""
    g = frames.merged(g)
    frame = frames.scatter_frame(g) if forward else frames.gather_frame(g)
    rows, channels = (g.group_out, g.group_in) if forward else (g.group_in, g.group_out)
    height = tile_rows(rows, frame.total, host.lanes(g.dtype))
    *_, length = shape = g.output_shape if forward else g.input_shape
    phases = min(frame.stride[2], length) if forward else 1
    planes_of_channel = 1 if forward else len(frames.planes_of(frame.taps))
    return {
        "product": g.groups * channels * len(frame.taps) * -(-rows // height) * tile_products(height) * frame.total,
        "result": math.prod(shape),
        "row": math.prod(shape) / length * phases,
        "plane": g.groups * channels * planes_of_channel * frame.total,
        "line": g.groups * channels * planes_of_channel * frame.total // frame.pitch[2],
        "weight": math.prod(g.weight_shape),
        "call": 1,
    }


def _bind(g: Geometry, forward: bool) -> Bound:
    g = frames.merged(g)
    frame = frames.scatter_frame(g) if forward else frames.gather_frame(g)
    rows, channels = (g.group_out, g.group_in) if forward else (g.group_in, g.group_out)
    if forward:
        taps = sorted(frame.taps, key=lambda t: t.phase)
        tap_start = tap_starts(taps, output_phases(frame, g))
    else:
        # The row that no other tap has read comes first, see `outer_sums`.
        taps = sorted(frame.taps, key=lambda t: (t.phase, -t.weight))
        tap_start = frames.ints([0, len(taps)])
    source_planes = g.groups * channels * (1 if forward else len(frames.planes_of(taps)))
    images = frames.images_at_once(frame, g, source_planes)
    block_rows = tile_rows(rows, frame.total // g.batch * images, host.lanes(g.dtype))
    blocks = -(-rows // block_rows)

    input_step, output_step = g.group_out * g.taps, g.taps  # strides of the weight array
    channel_step, row_step = (input_step, output_step) if forward else (output_step, input_step)
    packed_elements = g.groups * blocks * channels * len(taps) * block_rows
    # Where rows of the weight lie closer than channels, a unit takes many at once.
    pack_chunks = blocks if row_step > channel_step else min(blocks, -(-_UNITS // g.groups))
    launch_pack = planes.pack.launcher(g.dtype, g.groups * pack_chunks, 4 * packed_elements)
    tap_weight = frames.ints([t.weight for t in taps])

    def pack(w: Array, packed: Array) -> None:
        launch_pack(
            w, packed, pack_chunks, blocks, rows, block_rows, channels,
            g.group_in * input_step, channel_step, row_step, len(taps), tap_start, tap_weight,
        )  # fmt: skip

    def part(g: Geometry, cut: frames.Bands | None, band: int) -> Part:
        return _part(g, forward, taps, tap_start, block_rows, cut, band)

    bound = bind_parts(g, forward, images, source_planes, part, pack, packed_elements)
    if forward:
        return bound
    return Bound(lambda gy, w, gx: bound.run(gy, w, None, gx), bound.workspace)


def output_phases(frame: frames.Frame, g: Geometry) -> Axes:
    """Return how many phases the output has on each axis."""
    return tuple(min(s, o) for s, o in zip(frame.stride, g.output))  # type: ignore[return-value]


def tap_starts(taps: list[frames.Tap], phases: Axes) -> frames.Ints:
    """Return where the taps of each output phase start in the sorted list, and where the last ends."""
    counts = np.zeros(phases, np.int64)
    for tap in taps:
        counts[tap.phase] += 1
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(counts.reshape(-1))))


def _part(
    g: Geometry, forward: bool, taps: list[frames.Tap], tap_start: frames.Ints, block_rows: int,
    cut: frames.Bands | None, band: int,
) -> Part:  # fmt: skip
    """Prepare the computation of a batch of this size, or of a band of so many rows, from packed weights."""
    frame = frames.scatter_frame(g) if forward else frames.gather_frame(g)
    if cut:
        frame = cut.frame(frame, band)
    rows, channels = (g.group_out, g.group_in) if forward else (g.group_in, g.group_out)
    source_size, out_size = (g.input, g.output) if forward else (g.output, g.input)
    one: Axes = (1, 1, 1)
    width = outer_columns(block_rows) * host.lanes(g.dtype)
    plane = frame.plane(width)
    if forward:
        phases = output_phases(frame, g)
        source_phases = [(0, 0, 0)]
        offsets = [-frame.flat(t.shift) for t in taps]
    else:
        phases = one
        number = frames.planes_of(taps)
        source_phases = list(number)
        offsets = [number[t.phase] * plane + frame.flat(t.shift) for t in taps]
    blocks = -(-rows // block_rows)
    tiles = -(-frame.total // width)
    row_chunks = min(blocks, -(-_UNITS // (tiles * g.groups)))
    phase_chunks = min(phases[0] * phases[1], -(-_UNITS // (tiles * g.groups * row_chunks)))
    channel_step = len(source_phases) * plane

    layout = np.zeros(1, LAYOUT)
    for name, value in {
        "groups": g.groups, "rows": rows, "channels": channels, "block_rows": block_rows, "blocks": blocks,
        "width": width, "taps": len(taps), "plane": plane, "channel_step": channel_step,
        "lead": frame.start, "total": frame.total, "pitch": frame.pitch, "size": out_size,
        "stride": frame.stride if forward else one, "phases": phases,
        "row_chunks": row_chunks, "phase_chunks": phase_chunks,
        "buffer": (min(_SIDE_BY_SIDE, phases[2]) + 2) * block_rows * width,
    }.items():  # fmt: skip
        layout[name] = value
    stride = one if forward else frame.stride
    filling = frames.filling(
        frame, g.batch, g.groups * channels, source_size, stride, source_phases, plane, True, cut, True
    )
    tap_offset, channel_offset = frames.ints(offsets), np.arange(channels) * channel_step
    units = tiles * g.groups * row_chunks * phase_chunks
    work = 2 * g.groups * blocks * block_rows * channels * len(taps) * tiles * width
    fill = planes.filler("planes", g.dtype, filling, cut)
    compute = tile_units.launcher(g.dtype, units, work)

    def run(source: Array, packed: Array, bias: Array, out: Array, row: int) -> None:
        filled = fill(source, row)
        here = cut.moved(layout, row) if cut else layout
        compute(filled, packed, bias, out, here, tap_start, tap_offset, channel_offset)
        workspace.keep("planes", filled)

    return Part(run, filling.elements, int(layout["buffer"][0]), units)


_IDEA = "register tiles of channels × pixels over zero-padded planes, one phase at a time"
FORWARD = Implementation(
    "direct_tile", _IDEA, lambda g: frames.too_large(g, forward=True), lambda g: _bind(g, forward=True),
    cost=Cost(lambda g: counts(g, forward=True), weights_of("direct_tile", "forward")),
)  # fmt: skip
INPUT_GRAD = Implementation(
    "direct_tile", _IDEA, lambda g: frames.too_large(g, forward=False), lambda g: _bind(g, forward=False),
    cost=Cost(lambda g: counts(g, forward=False), weights_of("direct_tile", "input_grad")),
)  # fmt: skip
