"""Forward pass and input gradient: register tiles of channels × pixels, straight from zero-padded planes.

``out[m, phase, q] = Σ w[c, t, m] · plane[c, q + offset(t)]`` over channels c and the taps t of the phase; see `frame` for
planes and phases. Forward: m is an output channel, planes are the input, each output phase has its own taps. Input
gradient: m is an input channel, planes are the phases of the output's gradient, there is one phase with all taps.

Memory: planes (channel, phase, image, row, column) · weights packed (group, block of m, phase, channel, tap, m) ·
tile (phase, m, pixel), copied to the output row by row with the phases of the last axis side by side.
Parallel over tiles of pixels, then groups, phases and blocks of m; no unit touches another's output.

Ladder: see docs/decisions for the measurements.
1. One phase, one tile at a time, products in the order channel, tap: this file.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.kernels.cpu import frame as frames
from fastdeconv.kernels.cpu import host, planes, workspace
from fastdeconv.kernels.cpu.jit import device_function, kernel
from fastdeconv.kernels.cpu.simd import OUTER_ROWS, outer_columns, outer_tile
from fastdeconv.kernels.geometry import Axes, Geometry, Implementation, Run

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
        ("tiles", "i8"),
        ("row_chunks", "i8"),
        ("phase_chunks", "i8"),
        ("buffer", "i8"),  # elements
    ]
)

# So many phases of the last axis are computed before their tiles are interleaved.
_SIDE_BY_SIDE = 16
# Enough units to share among threads.
_UNITS = 16


@device_function
def _store(tile: Any, out: Any, bias: Any, p: Any, tile_at: int, q0: int, channel: int, rows: int, a0: int, a1: int,
           first: int, count: int) -> None:  # fmt: skip
    """Copy the tiles of `count` phases of the last axis to the output, and add the bias."""
    pitch0, pitch1, pitch2 = p.pitch[0], p.pitch[1], p.pitch[2]
    size0, size1, size2 = p.size[0], p.size[1], p.size[2]
    stride2, width = p.stride[2], p.width
    channels = p.groups * p.rows
    depth = p.block_rows * width  # of one phase's tile
    end = min(q0 + width, p.total)
    q = q0
    while q < end:
        i2 = q % pitch2
        row = q // pitch2
        i1 = row % pitch1
        i0 = row // pitch1 % pitch0
        n = row // (pitch1 * pitch0)
        pixels = min(pitch2 - i2, end - q)
        o0 = p.stride[0] * i0 + a0
        o1 = p.stride[1] * i1 + a1
        if o0 < size0 and o1 < size1:
            for m in range(rows):
                extra = bias[channel + m] if bias.size else out.dtype.type(0)
                base = (((n * channels + channel + m) * size0 + o0) * size1 + o1) * size2 + i2 * stride2 + first
                start = tile_at + m * width + q - q0
                # Outputs of phase b are first + b + stride2·(i2 + j); those below size2 exist.
                room = size2 - first - i2 * stride2
                if stride2 == 1:
                    for j in range(min(pixels, room)):
                        out[base + j] = tile[start + j] + extra
                elif count == 2 and stride2 == 2:
                    both = max(0, min(pixels, room // 2))
                    for j in range(both):
                        out[base + 2 * j] = tile[start + j] + extra
                        out[base + 2 * j + 1] = tile[start + depth + j] + extra
                    if both < pixels and room > 0 and room % 2:
                        out[base + 2 * both] = tile[start + both] + extra
                else:
                    for b in range(count):
                        for j in range(min(pixels, (room - b + stride2 - 1) // stride2)):
                            out[base + b + stride2 * j] = tile[start + b * depth + j] + extra
        q += pixels


@kernel("T[]", "T[]", "T[]", "T[]", LAYOUT, "int[]", "int[]")
def tile_units(
    lo: int, hi: int, source: Any, weight: Any, bias: Any, out: Any, layout: Any, tap_start: Any, tap_offset: Any
) -> None:
    """Compute all rows and phases of one chunk of them, for one tile of pixels and one group."""
    p = layout[0]
    buffer = np.empty(p.buffer, source.dtype)
    depth = p.block_rows * p.width
    outer_phases = p.phases[0] * p.phases[1]
    for unit in range(lo, hi):
        row_chunk = unit % p.row_chunks
        rest = unit // p.row_chunks
        phase_chunk = rest % p.phase_chunks
        rest //= p.phase_chunks
        g = rest % p.groups
        q0 = rest // p.groups * p.width
        source_at = g * p.channels * p.channel_step + p.lead + q0
        for block in range(p.blocks * row_chunk // p.row_chunks, p.blocks * (row_chunk + 1) // p.row_chunks):
            rows = min(p.block_rows, p.rows - block * p.block_rows)
            panel = (g * p.blocks + block) * p.channels * p.taps * p.block_rows
            channel = g * p.rows + block * p.block_rows
            for outer in range(
                outer_phases * phase_chunk // p.phase_chunks, outer_phases * (phase_chunk + 1) // p.phase_chunks
            ):
                for first in range(0, p.phases[2], _SIDE_BY_SIDE):
                    count = min(_SIDE_BY_SIDE, p.phases[2] - first)
                    for b in range(count):
                        phase = outer * p.phases[2] + first + b
                        start = tap_start[phase]
                        outer_tile(
                            p.block_rows, p.channels, tap_start[phase + 1] - start,
                            weight, panel + start * p.channels * p.block_rows,
                            source, source_at, p.channel_step,
                            tap_offset, start,
                            buffer, b * depth,
                        )  # fmt: skip
                    _store(buffer, out, bias, p, 0, q0, channel, rows,
                           outer // p.phases[1], outer % p.phases[1], first, count)  # fmt: skip


def _block_rows(rows: int, pixels: int, lanes: int) -> int:
    """Return the tile height with the least work: whole tiles times the busier of multipliers and loads."""

    def cost(height: int) -> float:
        columns = outer_columns(height)
        tiles = -(-rows // height) * -(-pixels // (columns * lanes))
        # A vector load crosses cache lines, a broadcast does not; two of each and two products a cycle.
        return tiles * max(height * columns, 1.5 * columns + height)

    return min(range(1, OUTER_ROWS + 1), key=cost)


def _bind(g: Geometry, forward: bool) -> Run:
    frame = frames.scatter_frame(g) if forward else frames.gather_frame(g)
    rows, channels = (g.group_out, g.group_in) if forward else (g.group_in, g.group_out)
    source_channels = g.groups * channels
    source_size, out_size = (g.input, g.output) if forward else (g.output, g.input)
    one: Axes = (1, 1, 1)
    if forward:
        phases: Axes = tuple(min(s, o) for s, o in zip(frame.stride, g.output))  # type: ignore[assignment]
        source_phases: list[Axes] = [(0, 0, 0)]
        taps = sorted(frame.taps, key=lambda t: t.phase)
        offsets = [-frame.flat(t.shift) for t in taps]
    else:
        phases = one
        source_phases = sorted({t.phase for t in frame.taps}) or [(0, 0, 0)]
        taps = sorted(frame.taps, key=lambda t: (t.phase, t.index))
        offsets = []  # below, when the size of a plane is known

    lanes = host.lanes(g.dtype)
    block_rows = _block_rows(rows, frame.total, lanes)
    width = outer_columns(block_rows) * lanes
    plane = frame.plane(width)
    if not forward:
        number = {phase: i for i, phase in enumerate(source_phases)}
        offsets = [number[t.phase] * plane + frame.flat(t.shift) for t in taps]
    blocks = -(-rows // block_rows)
    tiles = -(-frame.total // width)
    outer_phases = phases[0] * phases[1]
    row_chunks = min(blocks, -(-_UNITS // (tiles * g.groups)))
    phase_chunks = min(outer_phases, -(-_UNITS // (tiles * g.groups * row_chunks)))

    layout = np.zeros(1, LAYOUT)
    for name, value in {
        "groups": g.groups, "rows": rows, "channels": channels, "block_rows": block_rows, "blocks": blocks,
        "width": width, "taps": len(taps), "plane": plane, "channel_step": len(source_phases) * plane,
        "lead": frame.lead, "total": frame.total, "pitch": frame.pitch, "size": out_size,
        "stride": frame.stride if forward else one, "phases": phases, "tiles": tiles,
        "row_chunks": row_chunks, "phase_chunks": phase_chunks,
        "buffer": min(_SIDE_BY_SIDE, phases[2]) * block_rows * width,
    }.items():  # fmt: skip
        layout[name] = value
    planes_layout = frames.planes_record(
        frame, g.batch, source_channels, source_size, one if forward else frame.stride, len(source_phases), plane
    )
    phase_table = frames.ints([a for phase in source_phases for a in phase])
    tap_start = _starts(taps, phases) if forward else frames.ints([0, len(taps)])
    tap_offset, tap_index = frames.ints(offsets), frames.ints([t.index for t in taps])

    input_step, output_step = g.group_out * g.taps, g.taps  # strides of the weight array
    channel_step, row_step = (input_step, output_step) if forward else (output_step, input_step)
    fill_units = source_channels * len(source_phases) * g.batch
    source_elements = source_channels * len(source_phases) * plane
    packed_elements = g.groups * blocks * channels * len(taps) * block_rows
    units = tiles * g.groups * row_chunks * phase_chunks
    work = 2 * g.groups * blocks * block_rows * channels * len(taps) * tiles * width
    no_bias = np.empty(0, g.dtype)

    def run(source: Array, w: Array, bias: Array | None, out: Array) -> None:
        packed = workspace.take("packed", packed_elements, g.dtype)
        filled = workspace.take("planes", source_elements, g.dtype)
        planes.pack.run(
            g.dtype, g.groups * blocks, 4 * packed_elements, w.reshape(-1), packed,
            blocks, rows, block_rows, channels, g.group_in * input_step, channel_step, row_step, len(taps),
            tap_start, tap_index,
        )  # fmt: skip
        planes.fill.run(
            g.dtype, fill_units, 4 * source_elements, source.reshape(-1), filled, planes_layout, phase_table
        )
        tile_units.run(
            g.dtype, units, work, filled, packed, no_bias if bias is None else bias, out.reshape(-1),
            layout, tap_start, tap_offset,
        )  # fmt: skip

    if forward:
        return run
    return lambda gy, w, gx: run(gy, w, None, gx)


def _starts(taps: list[frames.Tap], phases: Axes) -> frames.Ints:
    """Return where the taps of each output phase start in the sorted list, and where the last ends."""
    counts = np.zeros(phases, np.int64)
    for tap in taps:
        counts[tap.phase] += 1
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(counts.reshape(-1))))


_IDEA = "register tiles of channels × pixels over zero-padded planes, one phase at a time"
FORWARD = Implementation(
    "direct_tile", _IDEA, lambda g: frames.too_large(g, forward=True), lambda g: _bind(g, forward=True)
)
INPUT_GRAD = Implementation(
    "direct_tile", _IDEA, lambda g: frames.too_large(g, forward=False), lambda g: _bind(g, forward=False)
)
