"""Forward pass for wide strides: vectors along the phases of the last axis, inputs broadcast.

Cut the uncropped output of the last axis into blocks of one stride, ``o + p = s·q + r``. Then

``y[co, s·q + r - p] = Σ w[ci, co, k0, k1, r + s·t] · x[ci, i0, i1, q - t]`` over ci, the (k0, k1, i0, i1) that reach
the row, and t,

in which w and y are contiguous along r and x is one number. A register tile is some blocks × some vectors of r: the
phases need no interleaving, and neither x nor y is cut into phases.

Memory: rows of x with zeros at both ends · the weights of one output channel and one phase of the other two axes as a
panel (vectors of r, ci, tap, t, r), zeros where the kernel ends within a stride · y written once, straight from
registers, save for the blocks that the output cuts.
Parallel over (group, output channel, phase of the other axes), then ranges of rows. A NaN or Inf in the weights also
meets the zeros at the ends of rows, and one in the input those at the end of the kernel.

Ladder, measured in docs/decisions/0005-wide-strides.md:
1. Panels of the weights of one phase, tiles stored through a buffer.
2. Whole tiles stored from registers; up to 8 vectors wide, so that y is written in longer runs.
3. Taps listed once a phase, one loop over all products; tiles of a row chosen by their cost.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from fastdeconv.kernels.cpu import host, workspace
from fastdeconv.kernels.cpu.buffers import empty
from fastdeconv.kernels.cpu.jit import device_function, kernel
from fastdeconv.kernels.cpu.rows import add_row, copy_padded, zero_row
from fastdeconv.kernels.cpu.vectors import Vectors, index, loop, pointer, switch
from fastdeconv.kernels.geometry import Bound, Geometry, Implementation

Array = NDArray[Any]

LAYOUT = np.dtype(
    [
        ("batch", "i8"),
        ("groups", "i8"),
        ("channels", "i8"),  # input channels of a group
        ("rows", "i8"),  # output channels of a group
        ("input", "i8", (3,)),
        ("output", "i8", (3,)),
        ("kernel", "i8", (3,)),
        ("stride", "i8", (3,)),
        ("padding", "i8", (3,)),
        ("dilation", "i8", (3,)),
        ("phases", "i8", (2,)),  # of the first two axes
        ("splits", "i8"),  # ranges of rows
        ("shifts", "i8"),  # t runs over so many
        ("first", "i8"),  # block of the first output
        ("blocks", "i8"),
        ("lead", "i8"),  # zeros in front of a row of x
        ("pitch", "i8"),  # elements of a padded row of x
        ("lanes", "i8"),
        ("vectors", "i8"),  # of a tile
        ("pieces", "i8"),  # tiles to a block
        ("width", "i8"),  # blocks of a tile
        ("variant", "i8"),
        ("panel", "i8"),  # elements
        ("steps", "i8"),  # products of one output
    ]
)

# A sum longer than this is one of partial sums: a plain running total would lose more than rounding must.
_RUN = 2048
# With more input channels than this, tiles of direct_tile do more work for each number they read.
_MANY = 64
# Enough units to share among threads.
_UNITS = 16


def _variants() -> list[tuple[int, int, int]]:
    """Return the tiles there is code for: (fraction of a register a vector fills, vectors, blocks)."""
    tiles = []
    for part, vectors in ((2, 1), (1, 1), (1, 2), (1, 4), (1, 8)):
        most = min(12, (host.REGISTERS - 1 - vectors) // vectors)
        tiles += [(part, vectors, blocks) for blocks in sorted({most // 2, most} - {0})]
    return tiles


_VARIANTS = _variants()


@intrinsic
def stride_tile(
    typing_context: Any, variant: Any, steps: Any,
    panel: Any, panel_at: Any, step_panel: Any, source: Any, source_at: Any, step_source: Any,
    out: Any, out_at: Any, out_step: Any, extra: Any,
) -> Any:  # fmt: skip
    """Compute ``out[q·out_step + r] = Σ panel[step_panel[j] + r] · source[step_source[j] + q] + extra`` over `steps`.

    q runs over the blocks and r over the vectors of the variant; the ``*_at`` arguments are where arrays start.
    """
    integer = types.int64
    signature = types.void(
        integer, integer, panel, integer, step_panel, source, integer, step_source, out, integer, integer, extra
    )

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (variant, steps, panel, panel_at, step_panel, source, source_at, step_source,
         out, out_at, out_step, extra) = arguments  # fmt: skip
        types_ = signature.args
        panel_base = pointer(context, builder, types_[2], panel, panel_at)
        step_panel_base = pointer(context, builder, types_[4], step_panel, index(0))
        source_base = pointer(context, builder, types_[5], source, source_at)
        step_source_base = pointer(context, builder, types_[7], step_source, index(0))
        out_base = pointer(context, builder, types_[8], out, out_at)

        def emit(part: int, columns: int, rows: int) -> None:
            vectors = Vectors(builder, types_[2].dtype, part)
            lanes = vectors.lanes

            def body(j: Any, sums: list[Any]) -> list[Any]:
                weights = builder.gep(panel_base, [builder.load(builder.gep(step_panel_base, [j]))])
                x = builder.gep(source_base, [builder.load(builder.gep(step_source_base, [j]))])
                w = [vectors.load(weights, index(v * lanes)) for v in range(columns)]
                updated = []
                for m in range(rows):
                    value = vectors.broadcast(x, index(m))
                    updated += [vectors.multiply_add(w[v], value, sums[m * columns + v]) for v in range(columns)]
                return updated

            sums = loop(builder, steps, [vectors.zero] * (rows * columns), body)
            addend = vectors.splat(extra)
            for m in range(rows):
                at = builder.mul(out_step, index(m))
                for v in range(columns):
                    value = builder.fadd(sums[m * columns + v], addend)
                    vectors.store(value, out_base, builder.add(at, index(v * lanes)))

        switch(builder, variant, range(len(_VARIANTS)), lambda number: emit(*_VARIANTS[number]))
        return context.get_dummy_value()

    return signature, generate


@kernel("T[]", "T[]", LAYOUT)
def pad_rows(lo: int, hi: int, x: Any, padded: Any, layout: Any) -> None:
    """Copy rows of x, zeros around each."""
    p = layout[0]
    size = p.input[2]
    for row in range(lo, hi):
        zero_row(padded, row * p.pitch, p.lead)
        copy_padded(padded, row * p.pitch + p.lead, x, row * size, size, p.pitch - p.lead)


@device_function
def _taps_of(p: Any, axis: int, phase: int, taps: Any, shifts: Any) -> int:
    """List the taps that reach outputs of one phase, and how far from the output's block their input is."""
    count = 0
    for k in range(p.kernel[axis]):
        distance = phase + p.padding[axis] - p.dilation[axis] * k
        if distance % p.stride[axis] == 0:
            taps[count] = k
            shifts[count] = distance // p.stride[axis]
            count += 1
    return count


@device_function
def _pack(p: Any, w: Any, panel: Any, kernel_at: int, taps0: Any, count0: int, taps1: Any, count1: int) -> None:
    """Copy the weights of one output channel that reach one phase: (piece, channel, tap, t, r)."""
    length = p.vectors * p.lanes
    stride = p.stride[2]
    taps = p.kernel[0] * p.kernel[1]
    at = 0
    for piece in range(p.pieces):
        for c in range(p.channels):
            for a in range(count0):
                for b in range(count1):
                    row = kernel_at + (c * p.rows * taps + taps0[a] * p.kernel[1] + taps1[b]) * p.kernel[2]
                    for t in range(p.shifts):
                        first = stride * t + piece * length
                        present = min(stride - piece * length, p.kernel[2] - first)
                        copy_padded(panel, at, w, row + first, present, length)
                        at += length


@kernel("T[]", "T[]", "T[]", "T[]", LAYOUT, "int[]")
def stride_units(lo: int, hi: int, padded: Any, w: Any, bias: Any, y: Any, layout: Any, tiles: Any) -> None:
    """Compute one range of the rows of one phase, one output channel; `tiles` are those of every row, see `_tiles`."""
    p = layout[0]
    length = p.vectors * p.lanes
    panel = empty(p.panel, padded.dtype)
    tile = empty(2 * p.width * length + 64, padded.dtype)
    scratch = p.width * length + 32
    step_panel, step_source = empty(p.steps, np.int64), empty(p.steps, np.int64)
    taps0, shifts0 = empty(p.kernel[0], np.int64), empty(p.kernel[0], np.int64)
    taps1, shifts1 = empty(p.kernel[1], np.int64), empty(p.kernel[1], np.int64)
    count0 = count1 = 0
    stride0, stride1, stride2 = p.stride[0], p.stride[1], p.stride[2]
    size0, size1, size2 = p.output[0], p.output[1], p.output[2]
    source_step = p.input[0] * p.input[1] * p.pitch
    packed = listed = -1
    steps = 0
    for unit in range(lo, hi):
        split = unit % p.splits
        kind = unit // p.splits
        phase1 = kind % p.phases[1]
        rest = kind // p.phases[1]
        phase0 = rest % p.phases[0]
        channel = rest // p.phases[0]
        g, co = channel // p.rows, channel % p.rows
        if packed != kind:
            count0 = _taps_of(p, 0, phase0, taps0, shifts0)
            count1 = _taps_of(p, 1, phase1, taps1, shifts1)
            kernel_at = (g * p.channels * p.rows + co) * p.kernel[0] * p.kernel[1] * p.kernel[2]
            _pack(p, w, panel, kernel_at, taps0, count0, taps1, count1)
            packed = kind
            listed = -1
        piece_step = p.channels * count0 * count1 * p.shifts * length
        extra = bias[channel] if bias.size else y.dtype.type(0)
        rows0 = (size0 - phase0 + stride0 - 1) // stride0
        rows1 = (size1 - phase1 + stride1 - 1) // stride1
        rows = p.batch * rows0 * rows1
        for row in range(rows * split // p.splits, rows * (split + 1) // p.splits):
            n = row // (rows0 * rows1)
            block0, block1 = row // rows1 % rows0, row % rows1
            o0, o1 = phase0 + stride0 * block0, phase1 + stride1 * block1
            # Taps are in the order of falling inputs, so those inside are side by side.
            begin0 = begin1 = end0 = end1 = 0
            for a in range(count0):
                begin0 += block0 + shifts0[a] >= p.input[0]
                end0 += block0 + shifts0[a] >= 0
            for b in range(count1):
                begin1 += block1 + shifts1[b] >= p.input[1]
                end1 += block1 + shifts1[b] >= 0
            inside = ((begin0 * p.kernel[0] + end0) * p.kernel[1] + begin1) * p.kernel[1] + end1
            if inside != listed:
                listed = inside
                steps = 0
                for c in range(p.channels):
                    for a in range(begin0, end0):
                        for b in range(begin1, end1):
                            for t in range(p.shifts):
                                step_panel[steps] = (((c * count0 + a) * count1 + b) * p.shifts + t) * length
                                step_source[steps] = (
                                    c * source_step + (shifts0[a] * p.input[1] + shifts1[b]) * p.pitch - t
                                )
                                steps += 1
            y_row = ((n * p.groups * p.rows + channel) * size0 + o0) * size1 * size2 + o1 * size2
            source_at = (n * p.groups + g) * p.channels * source_step + p.lead + p.first
            source_at += (block0 * p.input[1] + block1) * p.pitch
            for at in range(0, tiles.size, 3):
                block, present, whole = tiles[at], tiles[at + 1], tiles[at + 2]
                start = stride2 * (p.first + block) - p.padding[2]
                for piece in range(p.pieces):
                    begin = start + piece * length
                    panel_at = piece * piece_step
                    if whole and steps <= _RUN and (p.pieces == 1 or (piece + 1) * length <= stride2):
                        stride_tile(p.variant, steps, panel, panel_at, step_panel,
                                    padded, source_at + block, step_source,
                                    y, y_row + begin, stride2, extra)  # fmt: skip
                        continue
                    for first in range(0, max(1, steps), _RUN):
                        stride_tile(p.variant, min(_RUN, steps - first), panel, panel_at, step_panel[first:],
                                    padded, source_at + block, step_source[first:],
                                    tile, scratch if first else 0, length, y.dtype.type(0))  # fmt: skip
                        if first:
                            for i in range(p.width * length):
                                tile[i] += tile[scratch + i]
                    for m in range(present):
                        o2 = begin + m * stride2
                        low = max(0, -o2)
                        high = min(min(length, stride2 - piece * length), size2 - o2)
                        add_row(y, y_row + o2 + low, tile, m * length + low, extra, high - low)


def _tiles(g: Geometry, first: int, blocks: int, length: int, width: int, steps: int) -> tuple[float, list[int]]:
    """Return the cost of a row in steps, and (first block, how many to store, whole or not) for each of its tiles.

    Whole tiles are stored straight away; where a block is not a whole number of vectors, one also writes the start of
    the next block, which comes later. Others pass through a buffer, which takes as long as some steps.
    """
    stride, padding, size = g.stride[2], g.padding[2], g.output[2]
    begin = 0 if stride * first >= padding else 1
    end = (size + padding - max(length, stride)) // stride + 1 - first

    def row(starts: list[int]) -> tuple[float, list[int]]:
        tiles = []
        cost = 0.0
        for start, upto in zip(starts, [*starts[1:], blocks]):
            whole = begin <= start and start + width <= end
            present = min(width, upto - start)
            tiles += [start, width if whole else present, int(whole)]
            cost += steps * width + (0 if whole else 10 * present)
        return cost, tiles

    options = [row(list(range(0, blocks, width)))]
    if end - begin >= width:
        inside = [min(block, end - width) for block in range(begin, end, width)]
        options.append(row([*[0] * begin, *inside, *range(end, blocks, width)]))
    return min(options)


def _declines(g: Geometry) -> str | None:
    if g.dtype not in ("float32", "float64"):
        return f"vector code is for float32 and float64, not {g.dtype}"
    if g.dilation[2] > 1 and g.kernel[2] > 1:
        return "the taps of the last axis are dilated, so those of one phase are not side by side"
    lanes = host.lanes(g.dtype)
    if g.stride[2] < max(4, lanes // 2):
        return f"a stride of {g.stride[2]} along the last axis is too narrow for vectors along it"
    if g.group_in > _MANY and g.stride[2] < 2 * lanes:
        return f"{g.group_in} input channels of a group, where strides under two vectors leave this kernel behind"
    return None


def _yields(g: Geometry) -> str | None:
    if host.REGISTERS == 16 and g.stride[2] < host.lanes(g.dtype):
        return f"a stride of {g.stride[2]} along the last axis leaves vectors half empty"
    return None


def _bind(g: Geometry) -> Bound:
    lanes = host.lanes(g.dtype)
    part = 2 if g.stride[2] <= lanes // 2 else 1
    lanes //= part
    filled = -(-g.stride[2] // lanes)
    # A tile of few vectors multiplies less past the end of the stride, one of many loads less.
    vectors = min({v for p, v, _ in _VARIANTS if p == part}, key=lambda v: -(-filled // v) * (v + 0.5))
    pieces = -(-filled // vectors)
    first = g.padding[2] // g.stride[2]
    blocks = (g.output[2] + g.padding[2] - 1) // g.stride[2] - first + 1
    shifts = -(-g.kernel[2] // g.stride[2])
    widths = [w for p, v, w in _VARIANTS if (p, v) == (part, vectors)]
    phases = [min(s, o) for s, o in zip(g.stride[:2], g.output[:2])]
    reach = [
        max(sum((r + p - d * k) % s == 0 for k in range(kernel)) for r in range(phase))
        for phase, kernel, s, p, d in zip(phases, g.kernel, g.stride, g.padding, g.dilation)
    ]
    steps = g.group_in * math.prod(reach) * shifts
    length = vectors * lanes if pieces == 1 else g.stride[2]
    (_, tiles), width = min((_tiles(g, first, blocks, length, w, steps), w) for w in widths)
    lead = max(0, shifts - 1 - first)
    pitch = lead + max(g.input[2], first + blocks + width)

    kinds = g.out_channels * math.prod(phases)
    rows = g.batch * math.prod(-(-o // s) for o, s in zip(g.output[:2], g.stride))
    layout = np.zeros(1, LAYOUT)
    for name, value in {
        "batch": g.batch, "groups": g.groups, "channels": g.group_in, "rows": g.group_out, "input": g.input,
        "output": g.output, "kernel": g.kernel, "stride": g.stride, "padding": g.padding, "dilation": g.dilation,
        "phases": phases, "splits": min(rows, -(-_UNITS // kinds)), "shifts": shifts, "first": first,
        "blocks": blocks, "lead": lead, "pitch": pitch, "lanes": lanes, "vectors": vectors, "pieces": pieces,
        "width": width, "variant": _VARIANTS.index((part, vectors, width)),
        "panel": pieces * steps * vectors * lanes, "steps": steps,
    }.items():  # fmt: skip
        layout[name] = value
    padded_rows = g.batch * g.in_channels * g.input[0] * g.input[1]
    pad = pad_rows.launcher(g.dtype, padded_rows, 4 * padded_rows * pitch)
    compute = stride_units.launcher(g.dtype, kinds * int(layout["splits"][0]), 2 * g.multiplications)
    no_bias = np.empty(0, g.dtype)
    tile_table = np.array(tiles, np.int64)

    def run(x: Array, w: Array, bias: Array | None, y: Array) -> None:
        padded = workspace.take("planes", padded_rows * pitch, g.dtype)
        pad(x, padded, layout)
        compute(padded, w, no_bias if bias is None else bias, y, layout, tile_table)
        workspace.keep("planes", padded)

    itemsize = np.dtype(g.dtype).itemsize
    private = (int(layout["panel"][0]) + 2 * width * vectors * lanes + 64) * itemsize
    private += 16 * (steps + sum(g.kernel[:2]))
    units = kinds * int(layout["splits"][0])
    return Bound(run, workspace.total(padded_rows * pitch * itemsize, private, units))


FORWARD = Implementation(
    "direct_wide_stride", "vectors along the phases of a wide stride, inputs broadcast", _declines, _bind, _yields
)
