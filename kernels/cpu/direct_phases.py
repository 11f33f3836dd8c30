"""Forward pass for narrow strides and few channels a group: all phases of a row in registers, interleaved when stored.

Cut the output of the last axis into blocks of one stride, ``o = s·q + r``, and let ``p = s·P + p'``. Then

``y[co, s·q + r] = Σ w[ci, co, k0, k1, r + p' + s·t] · x[ci, i0, i1, q + P - t]`` over ci, the (k0, k1, i0, i1) that
reach the row, and t.

A register tile is the s phases r × some vectors of blocks q. The phases share the reads of x, and the weights are read
where they lie. Only the first t (-1) and the last lack some phases, which are skipped.

Memory: a unit copies the part of x that it reads, zeros around, to a buffer that stays in its core's cache, so that x
is read about once and y written once, in order.
Parallel over images, groups, slices, bands of rows and of blocks of y. A NaN or Inf in the weights also meets the zeros
around x.

Ladder, measured in docs/decisions/0005-wide-strides.md:
1. Blocks of the uncropped output.
2. Blocks that begin at the first output, so that no tile is cut at its start; one output channel only.
3. Ends of rows stored by masks, not through a buffer; taps of each phase of rows listed once (0019).
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
from fastdeconv.kernels.cpu.vectors import INDEX, Vectors, index, loop, pointer, switch
from fastdeconv.kernels.geometry import Bound, Geometry, Implementation

Array = NDArray[Any]

LAYOUT = np.dtype(
    [
        ("batch", "i8"),
        ("groups", "i8"),
        ("channels", "i8"),  # input channels of a group
        ("input", "i8", (3,)),
        ("output", "i8", (3,)),
        ("kernel", "i8", (3,)),
        ("stride", "i8", (3,)),
        ("padding", "i8", (3,)),
        ("dilation", "i8", (3,)),
        ("first", "i8"),  # input of the first output, at t = 0
        ("blocks", "i8"),
        ("width", "i8"),  # blocks of a tile
        ("variant", "i8"),
        ("bands", "i8"),  # of rows
        ("pieces", "i8"),  # bands of blocks
        ("slots", "i8"),  # slices of x that one slice of y reads, at most
        ("lines", "i8"),  # rows of x that a band reads, at most
        ("pitch", "i8"),  # elements of a row of the buffer
    ]
)

# A sum longer than this is one of partial sums: a plain running total would lose more than rounding must.
_RUN = 2048
# Bytes of a unit's part of x.
_CACHED = 512 << 10
_UNITS = 16
# With more input channels, reading a unit's part of x again for each row costs more than the phases save by sharing it.
_FEW = 8
_WIDEST = 4  # stride


def _variants() -> list[tuple[int, int]]:
    """Return the tiles there is code for: (stride, vectors of blocks)."""
    shapes = []
    for stride in range(1, _WIDEST + 1):
        most = min(8, (host.REGISTERS - 1) // (stride + 1))
        shapes += [(stride, vectors) for vectors in sorted({2, -(-most // 2), most - 1, most})]
    return shapes


_VARIANTS = _variants()


@intrinsic
def phase_tile(
    typing_context: Any, variant: Any, steps: Any, early: Any, early_end: Any, shifts: Any, rest: Any,
    weight: Any, weight_at: Any, step_weight: Any,
    source: Any, source_at: Any, step_source: Any,
    out: Any, out_at: Any, present: Any, extra: Any,
) -> Any:  # fmt: skip
    """Compute ``out[s·q + r] = Σ weight[step_weight[j] + s·t + r] · source[step_source[j] + q - t] + extra``.

    j runs over `steps`. t is -1 with the phases from `early` to before `early_end`, runs from 0 over `shifts` with all
    phases, and is `shifts` with the first `rest` of them. Of all outputs the first `present` are written.
    """
    integer = types.int64
    signature = types.void(
        integer, integer, integer, integer, integer, integer, weight, integer, step_weight,
        source, integer, step_source, out, integer, integer, extra,
    )  # fmt: skip

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (variant, steps, early, early_end, shifts, rest, weight, weight_at, step_weight,
         source, source_at, step_source, out, out_at, present, extra) = arguments  # fmt: skip
        types_ = signature.args
        vectors = Vectors(builder, types_[6].dtype)
        lanes = vectors.lanes
        weight_base = pointer(context, builder, types_[6], weight, weight_at)
        step_weight_base = pointer(context, builder, types_[8], step_weight, index(0))
        source_base = pointer(context, builder, types_[9], source, source_at)
        step_source_base = pointer(context, builder, types_[11], step_source, index(0))
        out_base = pointer(context, builder, types_[12], out, out_at)

        def emit(stride: int, width: int) -> None:
            def read(pixels: Any, t: Any) -> list[Any]:
                at = builder.neg(t)
                return [vectors.load(pixels, builder.add(at, index(v * lanes))) for v in range(width)]

            def add(weights: Any, x: list[Any], t: Any, r: int, sums: list[Any]) -> list[Any]:
                w = vectors.broadcast(weights, builder.add(builder.mul(t, index(stride)), index(r)))
                updated = list(sums)
                for v in range(width):
                    updated[r * width + v] = vectors.multiply_add(w, x[v], sums[r * width + v])
                return updated

            def step(j: Any, sums: list[Any]) -> list[Any]:
                weights = builder.gep(weight_base, [builder.load(builder.gep(step_weight_base, [j]))])
                pixels = builder.gep(source_base, [builder.load(builder.gep(step_source_base, [j]))])

                def shift(t: Any, sums: list[Any]) -> list[Any]:
                    x = read(pixels, t)
                    for r in range(stride):
                        sums = add(weights, x, t, r, sums)
                    return sums

                def only(holds: Any, t: Any, r: int, sums: list[Any]) -> list[Any]:
                    once = builder.zext(holds, INDEX)
                    return loop(builder, once, sums, lambda _, sums: add(weights, read(pixels, t), t, r, sums))

                for r in range(1, stride):
                    after = builder.icmp_signed("<=", early, index(r))
                    before = builder.icmp_signed(">", early_end, index(r))
                    sums = only(builder.and_(after, before), index(-1), r, sums)
                sums = loop(builder, shifts, sums, shift)
                for r in range(stride - 1):
                    sums = only(builder.icmp_signed(">", rest, index(r)), shifts, r, sums)
                return sums

            sums = loop(builder, steps, [vectors.zero] * (stride * width), step)
            addend = vectors.splat(extra)
            for v in range(width):
                phases = [builder.fadd(sums[r * width + v], addend) for r in range(stride)]
                for i, value in enumerate(vectors.interleave(phases)):
                    vectors.store_present(present, value, out_base, index((v * stride + i) * lanes))

        switch(builder, variant, range(len(_VARIANTS)), lambda number: emit(*_VARIANTS[number]))
        return context.get_dummy_value()

    return signature, generate


@device_function
def _copy_part(p: Any, x: Any, part: Any, image: int, slices: Any, count: int, line: int, lines: int,
               begin: int) -> None:  # fmt: skip
    """Copy some rows of some slices of all channels of a group, from element `begin` on, zeros where there is none."""
    size1, size2 = p.input[1], p.input[2]
    before = min(p.pitch, max(0, -begin))
    present = max(0, min(size2 - (begin + before), p.pitch - before))
    for c in range(p.channels):
        for slot in range(count):
            for i in range(lines):
                at = ((c * p.slots + slot) * p.lines + i) * p.pitch
                row = (((image + c) * p.input[0] + slices[slot]) * size1 + line + i) * size2
                zero_row(part, at, before)
                copy_padded(part, at + before, x, row + begin + before, present, p.pitch - before)


@device_function
def _list_taps(starts: Any, taps: Any, shifts: Any, stride: int, kernel: int, dilation: int) -> None:
    """List the taps that reach rows of each phase of the output, and how far from the row's block their input is."""
    count = 0
    for phase in range(stride):
        starts[phase] = count
        for k in range(kernel):
            if (phase - dilation * k) % stride == 0:
                taps[count], shifts[count] = k, (phase - dilation * k) // stride
                count += 1
    starts[stride] = count


@kernel("T[]", "T[]", "T[]", "T[]", LAYOUT)
def phase_units(lo: int, hi: int, x: Any, w: Any, bias: Any, y: Any, layout: Any) -> None:
    """Compute one band of rows and of blocks of one slice of the output of one group, one image."""
    p = layout[0]
    stride0, stride1, stride2 = p.stride[0], p.stride[1], p.stride[2]
    size0, size1, size2 = p.output[0], p.output[1], p.output[2]
    taps = p.kernel[0] * p.kernel[1] * p.kernel[2]
    # The taps of phase r begin at r + offset.
    offset = p.padding[2] % stride2
    early, early_end = stride2 - offset, min(stride2, stride2 - offset + p.kernel[2])
    shifts, rest = max(0, p.kernel[2] - offset) // stride2, max(0, p.kernel[2] - offset) % stride2
    reach = shifts + 1
    length = p.width * stride2
    run = max(1, _RUN // (reach + 1))
    part = empty(p.channels * p.slots * p.lines * p.pitch, x.dtype)
    tile = empty(2 * length + 64, x.dtype)
    slices, taps0 = empty(p.slots, np.int64), empty(p.slots, np.int64)
    most = p.channels * p.slots * p.kernel[1]
    step_weight, step_source = empty(most, np.int64), empty(most, np.int64)
    row_starts = empty(stride1 + 1, np.int64)
    row_taps, row_shifts = empty(p.kernel[1], np.int64), empty(p.kernel[1], np.int64)
    _list_taps(row_starts, row_taps, row_shifts, stride1, p.kernel[1], p.dilation[1])
    for unit in range(lo, hi):
        piece = unit % p.pieces
        left = unit // p.pieces
        band = left % p.bands
        left //= p.bands
        o0 = left % size0
        left //= size0
        g, n = left % p.groups, left // p.groups
        extra = bias[g] if bias.size else y.dtype.type(0)
        tiles = (p.blocks + p.width - 1) // p.width
        first_tile, end_tile = tiles * piece // p.pieces, tiles * (piece + 1) // p.pieces
        begin = p.first + first_tile * p.width - reach
        first_row, end_row = size1 * band // p.bands, size1 * (band + 1) // p.bands
        count = 0
        for k0 in range(p.kernel[0]):
            distance = o0 + p.padding[0] - p.dilation[0] * k0
            if distance % stride0 == 0 and 0 <= distance // stride0 < p.input[0]:
                slices[count], taps0[count] = distance // stride0, k0
                count += 1
        first_line = max(0, -(-(first_row + p.padding[1] - p.dilation[1] * (p.kernel[1] - 1)) // stride1))
        end_line = min(p.input[1], (end_row - 1 + p.padding[1]) // stride1 + 1)
        image = (n * p.groups + g) * p.channels
        _copy_part(p, x, part, image, slices, count, first_line, max(0, end_line - first_line), begin)
        row, phase = (first_row + p.padding[1]) // stride1, (first_row + p.padding[1]) % stride1
        for o1 in range(first_row, end_row):
            steps = 0
            for c in range(p.channels):
                for slot in range(count):
                    for j in range(row_starts[phase], row_starts[phase + 1]):
                        i1 = row + row_shifts[j]
                        if 0 <= i1 < p.input[1]:
                            step_weight[steps] = c * taps + (taps0[slot] * p.kernel[1] + row_taps[j]) * p.kernel[2]
                            step_source[steps] = ((c * p.slots + slot) * p.lines + i1 - first_line) * p.pitch
                            steps += 1
            phase += 1
            if phase == stride1:
                row, phase = row + 1, 0
            weight_at = g * p.channels * taps + offset
            y_row = (((n * p.groups + g) * size0 + o0) * size1 + o1) * size2
            for number in range(first_tile, end_tile):
                o2, source_at = length * number, (number - first_tile) * p.width + reach
                if o2 + length > size2 and number > first_tile and size2 % stride2 == 0:
                    # So many blocks back it ends with the row, and computes some outputs again.
                    back = (o2 + length - size2) // stride2
                    o2, source_at = o2 - back * stride2, source_at - back
                if steps <= run:
                    phase_tile(p.variant, steps, early, early_end, shifts, rest, w, weight_at, step_weight,
                               part, source_at, step_source, y, y_row + o2, size2 - o2, extra)  # fmt: skip
                    continue
                for j in range(0, max(1, steps), run):
                    phase_tile(p.variant, min(run, steps - j), early, early_end, shifts, rest,
                               w, weight_at, step_weight[j:], part, source_at, step_source[j:],
                               tile, length if j else 0, length, y.dtype.type(0))  # fmt: skip
                    if j:
                        for i in range(length):
                            tile[i] += tile[length + i]
                add_row(y, y_row + o2, tile, 0, extra, min(length, size2 - o2))


def _declines(g: Geometry) -> str | None:
    if g.dtype not in ("float32", "float64"):
        return f"vector code is for float32 and float64, not {g.dtype}"
    if g.dilation[2] > 1 and g.kernel[2] > 1:
        return "the taps of the last axis are dilated, so those of one phase are not side by side"
    if g.stride[2] > _WIDEST:
        return f"a stride of {g.stride[2]} along the last axis has more phases than registers hold"
    if g.kernel[2] > _RUN:
        return f"a kernel of {g.kernel[2]} along the last axis needs sums longer than {_RUN}"
    if g.group_out > 1:
        return f"{g.group_out} output channels of a group share reads of x better in tiles of channels"
    if g.group_in > _FEW:
        return f"{g.group_in} input channels of a group leave a core's cache before they are summed"
    if -(-g.output[2] // g.stride[2]) < host.lanes(g.dtype):
        return f"rows of {g.output[2]} outputs fill no vector of each phase"
    return None


def _bind(g: Geometry) -> Bound:
    lanes = host.lanes(g.dtype)
    stride = g.stride[2]
    first = g.padding[2] // stride
    blocks = -(-g.output[2] // stride)

    def waste(vectors: int) -> tuple[int, int]:
        return -(-blocks // (vectors * lanes)) * vectors, -vectors

    vectors = min((v for s, v in _VARIANTS if s == stride), key=waste)
    width = vectors * lanes
    reach = max(0, g.kernel[2] - g.padding[2] % stride) // stride + 1
    tiles = -(-blocks // width)
    slots = min(g.input[0], -(-g.kernel[0] // (g.stride[0] // math.gcd(g.stride[0], g.dilation[0]))))

    def lines(rows: int) -> int:
        return min(g.input[1], (rows - 1 + g.dilation[1] * (g.kernel[1] - 1)) // g.stride[1] + 2)

    def elements(bands: int, pieces: int) -> int:
        return g.group_in * slots * lines(-(-g.output[1] // bands)) * (-(-tiles // pieces) * width + reach + 1)

    # Bands of whole rows if few rows fit, else of as many rows as the kernel is high or more.
    most = _CACHED // np.dtype(g.dtype).itemsize
    bands = pieces = 1
    images = g.batch * g.groups * g.output[0]
    while elements(bands, pieces) > most or images * bands * pieces < _UNITS:
        if bands * 2 * g.kernel[1] * g.dilation[1] <= g.output[1] or (pieces == tiles and bands < g.output[1]):
            bands = min(bands * 2, g.output[1])
        elif pieces < tiles:
            pieces += 1
        else:
            break
    layout = np.zeros(1, LAYOUT)
    for name, value in {
        "batch": g.batch, "groups": g.groups, "channels": g.group_in, "input": g.input,
        "output": g.output, "kernel": g.kernel, "stride": g.stride, "padding": g.padding, "dilation": g.dilation,
        "first": first, "blocks": blocks, "width": width, "variant": _VARIANTS.index((stride, vectors)),
        "bands": bands, "pieces": pieces, "slots": slots, "lines": lines(-(-g.output[1] // bands)),
        "pitch": -(-tiles // pieces) * width + reach + 1,
    }.items():  # fmt: skip
        layout[name] = value
    compute = phase_units.launcher(g.dtype, images * bands * pieces, 2 * g.multiplications)
    no_bias = np.empty(0, g.dtype)

    def run(x: Array, w: Array, bias: Array | None, y: Array) -> None:
        compute(x, w, no_bias if bias is None else bias, y, layout)

    private = (elements(bands, pieces) + 2 * width * stride + 64) * np.dtype(g.dtype).itemsize
    private += 16 * slots * (1 + g.group_in * g.kernel[1]) + 8 * (g.stride[1] + 1 + 2 * g.kernel[1])
    return Bound(run, workspace.total(0, private, images * bands * pieces))


FORWARD = Implementation(
    "direct_phases", "all phases of a row in registers, interleaved on the way out", _declines, _bind
)
