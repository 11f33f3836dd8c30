"""Both gradients for kernels that are long on the last axis: vectors along that axis of the kernel.

``gx[ci, i] = Σ w[ci, co, k0, k1, k] · gy[co, o0, o1, s·i + k - p]`` over co and the taps, and
``gw[ci, co, k0, k1, k] = Σ x[ci, i0, i1, i] · gy[co, o0, o1, s·i + k - p]`` over images and inputs.

Along k both w and gy are contiguous, whatever the stride. The input gradient is dot products of rows of w and of gy: a
register tile is some input channels × some pixels, its lanes added up at the end. The weight gradient is an outer
product: input channels × vectors of k, each pixel of x broadcast. Nothing is copied to planes.

Memory: all arrays as they are. Pixels whose row of the kernel the output cuts are done by themselves, on what is left
of the row, or for the weight gradient from a copy with zeros around.
Parallel over rows of gx, then blocks of input channels; over tiles of columns (co, k0, k1, vector of k) of gw, then
ranges of rows of x, whose sums are added in their order. A NaN or Inf in x also meets zeros around gy.

Ladder, measured in docs/decisions/0005-wide-strides.md:
1. Tiles of dot products and of outer products, pixels that the output cuts by themselves.
2. Weight gradient: the columns of a row listed once for all input channels.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from fastdeconv.kernels.cpu import host, workspace
from fastdeconv.kernels.cpu.buffers import empty
from fastdeconv.kernels.cpu.jit import device_function, kernel
from fastdeconv.kernels.cpu.rows import copy_padded, zero_row
from fastdeconv.kernels.cpu.vectors import INDEX, Vectors, index, loop, pointer
from fastdeconv.kernels.geometry import Bound, Geometry, Implementation

Array = NDArray[Any]

LAYOUT = np.dtype(
    [
        ("batch", "i8"),
        ("groups", "i8"),
        ("group_in", "i8"),
        ("group_out", "i8"),
        ("input", "i8", (3,)),
        ("output", "i8", (3,)),
        ("kernel", "i8", (3,)),
        ("stride", "i8", (3,)),
        ("padding", "i8", (3,)),
        ("dilation", "i8", (3,)),
        ("lanes", "i8"),
        ("begin", "i8"),  # inputs of the last axis whose whole row of the kernel lies in the output
        ("end", "i8"),
        ("splits", "i8"),
        ("chunk", "i8"),  # rows of the kernel that are summed before lanes are added up
        ("vectors", "i8"),  # of a row of the kernel
        ("width", "i8"),  # columns of a tile
        ("elements", "i8"),  # of the weight gradient
    ]
)

# A sum longer than this is one of partial sums: a plain running total would lose more than rounding must.
_RUN = 2048
# Vectors of a row summed between reductions: what several channels read again should still be in the cache.
_CHUNK = 384
# With more input channels than this, tiles over planes do more work for each number they read.
_MANY = 64
# Enough units to share among threads.
_UNITS = 16

_WIDE = host.REGISTERS == 32
# (input channels, pixels) of a tile of dot products; the first with so many channels is the largest.
_DOTS = [(c, m) for c, most in ((4, 6 if _WIDE else 2), (2, 8 if _WIDE else 4), (1, 8 if _WIDE else 6))
         for m in sorted({most, -(-most // 2), 1}, reverse=True)]  # fmt: skip
# (input channels, columns) of a tile of outer products.
_OUTERS = [(6, 4), (2, 4), (1, 4), (2, 8), (1, 8)] if _WIDE else [(2, 4), (1, 4), (1, 8)]
_DOT_TABLE = np.array([*_DOTS, (0, 0)], np.int64)
_OUTER_TABLE = np.array(_OUTERS, np.int64)


def _choose(builder: Any, variant: Any, shapes: list[tuple[int, int]], emit: Any) -> None:
    """Emit the code of every shape and a jump to the right one."""
    after = builder.append_basic_block("tiled")
    choice = builder.switch(variant, after)
    for number, shape in enumerate(shapes):
        block = builder.append_basic_block(f"variant{number}")
        choice.add_case(ir.Constant(INDEX, number), block)
        builder.position_at_end(block)
        emit(*shape)
        builder.branch(after)
    builder.position_at_end(after)


@intrinsic
def dot_tile(
    typing_context: Any, variant: Any, rows: Any,
    weight: Any, weight_at: Any, channel_step: Any, row_weight: Any,
    source: Any, source_at: Any, pixel_step: Any, row_source: Any,
    length: Any, tile: Any,
) -> Any:  # fmt: skip
    """Sum products of rows, lane by lane, in vectors ``tile[c, m]``, over rows and their `length` elements k.

    A product is ``weight[c·channel_step + row_weight[j] + k] · source[m·pixel_step + row_source[j] + k]``.
    """
    integer = types.int64
    signature = types.void(
        integer, integer, weight, integer, integer, row_weight, source, integer, integer, row_source, integer, tile
    )

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (variant, rows, weight, weight_at, channel_step, row_weight,
         source, source_at, pixel_step, row_source, length, tile) = arguments  # fmt: skip
        types_ = signature.args
        vectors = Vectors(builder, types_[2].dtype)
        lanes = index(vectors.lanes)
        weight_base = pointer(context, builder, types_[2], weight, weight_at)
        row_weight_base = pointer(context, builder, types_[5], row_weight, index(0))
        source_base = pointer(context, builder, types_[6], source, source_at)
        row_source_base = pointer(context, builder, types_[9], row_source, index(0))
        tile_base = pointer(context, builder, types_[11], tile, index(0))
        whole = builder.sdiv(length, lanes)
        done = builder.mul(whole, lanes)
        rest = builder.sub(length, done)

        def emit(channels: int, pixels: int) -> None:
            def add(w: list[Any], x: list[Any], at: Any, part: Any, sums: list[Any]) -> list[Any]:
                def read(base: Any) -> Any:
                    return vectors.load(base, at) if part is None else vectors.load_first(part, base, at)

                a = [read(base) for base in w]
                updated = list(sums)
                for m in range(pixels):
                    b = read(x[m])
                    for c in range(channels):
                        updated[c * pixels + m] = vectors.multiply_add(a[c], b, sums[c * pixels + m])
                return updated

            def row_body(j: Any, sums: list[Any]) -> list[Any]:
                w_row = builder.gep(weight_base, [builder.load(builder.gep(row_weight_base, [j]))])
                x_row = builder.gep(source_base, [builder.load(builder.gep(row_source_base, [j]))])
                w = [builder.gep(w_row, [builder.mul(channel_step, index(c))]) for c in range(channels)]
                x = [builder.gep(x_row, [builder.mul(pixel_step, index(m))]) for m in range(pixels)]
                sums = loop(
                    builder, whole, sums, lambda v, sums: add(w, x, builder.mul(v, lanes), None, sums)
                )  # fmt: skip
                some = builder.zext(builder.icmp_signed(">", rest, index(0)), INDEX)
                return loop(builder, some, sums, lambda _, sums: add(w, x, done, rest, sums))

            sums = loop(builder, rows, [vectors.zero] * (channels * pixels), row_body)
            for i, value in enumerate(sums):
                vectors.store(value, tile_base, index(i * vectors.lanes))

        _choose(builder, variant, _DOTS, emit)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def add_lanes(typing_context: Any, tile: Any, groups: Any, sums: Any) -> Any:
    """Do ``sums[i] = Σ lanes of vector i of tile``, for `groups` times as many vectors as one has lanes."""
    signature = types.void(tile, types.int64, sums)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        tile, groups, sums = arguments
        vectors = Vectors(builder, signature.args[0].dtype)
        tile_base = pointer(context, builder, signature.args[0], tile, index(0))
        sums_base = pointer(context, builder, signature.args[2], sums, index(0))

        def body(i: Any, carried: list[Any]) -> list[Any]:
            first = builder.mul(i, index(vectors.lanes**2))
            parts = [
                vectors.load(tile_base, builder.add(first, index(v * vectors.lanes))) for v in range(vectors.lanes)
            ]
            vectors.store(vectors.sums(parts), sums_base, builder.mul(i, index(vectors.lanes)))
            return carried

        loop(builder, groups, [], body)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def outer_row(
    typing_context: Any, variant: Any, pixels: Any,
    source: Any, source_at: Any, channel_step: Any,
    gradient: Any, column_at: Any, pixel_step: Any, zeros: Any, sums: Any, sums_at: Any,
) -> Any:  # fmt: skip
    """Do ``sums[c, b] += Σ source[c·channel_step + i] · gradient[column_at[b] + i·pixel_step + lane]`` over `pixels`.

    Columns at a negative place read zeros.
    """
    integer = types.int64
    signature = types.void(
        integer, integer, source, integer, integer, gradient, column_at, integer, zeros, sums, integer
    )

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (variant, pixels, source, source_at, channel_step,
         gradient, column_at, pixel_step, zeros, sums, sums_at) = arguments  # fmt: skip
        types_ = signature.args
        vectors = Vectors(builder, types_[2].dtype)
        zero = index(0)
        source_base = pointer(context, builder, types_[2], source, source_at)
        gradient_base = pointer(context, builder, types_[5], gradient, zero)
        column_base = pointer(context, builder, types_[6], column_at, zero)
        zeros_base = pointer(context, builder, types_[8], zeros, zero)
        sums_base = pointer(context, builder, types_[9], sums, sums_at)

        def emit(channels: int, columns: int) -> None:
            places = [builder.load(builder.gep(column_base, [index(b)])) for b in range(columns)]
            y = []
            for place in places:
                outside = builder.icmp_signed("<", place, zero)
                y.append(builder.select(outside, zeros_base, builder.gep(gradient_base, [place])))
            x = [builder.gep(source_base, [builder.mul(channel_step, index(c))]) for c in range(channels)]
            begin = [vectors.load(sums_base, index(i * vectors.lanes)) for i in range(channels * columns)]

            def body(i: Any, sums: list[Any]) -> list[Any]:
                at = builder.mul(i, pixel_step)
                b = [vectors.load(base, at) for base in y]
                updated = []
                for c in range(channels):
                    value = vectors.broadcast(x[c], i)
                    updated += [vectors.multiply_add(b[v], value, sums[c * columns + v]) for v in range(columns)]
                return updated

            for i, value in enumerate(loop(builder, pixels, begin, body)):
                vectors.store(value, sums_base, index(i * vectors.lanes))

        _choose(builder, variant, _OUTERS, emit)
        return context.get_dummy_value()

    return signature, generate


@device_function
def _reached(p: Any, axis: int, i: int, taps: Any, outputs: Any) -> int:
    """List the taps whose output from input i exists, and that output."""
    count = 0
    for k in range(p.kernel[axis]):
        o = p.stride[axis] * i + p.dilation[axis] * k - p.padding[axis]
        if 0 <= o < p.output[axis]:
            taps[count] = k
            outputs[count] = o
            count += 1
    return count


@kernel("T[]", "T[]", "T[]", LAYOUT, "int[]")
def input_units(lo: int, hi: int, gy: Any, w: Any, gx: Any, layout: Any, shapes: Any) -> None:
    """Compute one range of the channels of one row of the input's gradient, one group."""
    p = layout[0]
    size2, outputs = p.input[2], p.output[0] * p.output[1] * p.output[2]
    inputs = p.input[0] * p.input[1] * size2
    taps = p.kernel[0] * p.kernel[1] * p.kernel[2]
    channel_step = p.group_out * taps
    tile = np.zeros((24 + p.lanes) * p.lanes, gy.dtype)
    sums = empty(24 + p.lanes, gy.dtype)
    taps0, outputs0 = empty(p.kernel[0], np.int64), empty(p.kernel[0], np.int64)
    taps1, outputs1 = empty(p.kernel[1], np.int64), empty(p.kernel[1], np.int64)
    row_weight, row_source = empty(p.chunk, np.int64), empty(p.chunk, np.int64)
    for unit in range(lo, hi):
        split = unit % p.splits
        rest = unit // p.splits
        g = rest % p.groups
        rest //= p.groups
        i1, i0, n = rest % p.input[1], rest // p.input[1] % p.input[0], rest // (p.input[1] * p.input[0])
        count0 = _reached(p, 0, i0, taps0, outputs0)
        count1 = _reached(p, 1, i1, taps1, outputs1)
        rows = p.group_out * count0 * count1
        first_channel, end_channel = p.group_in * split // p.splits, p.group_in * (split + 1) // p.splits
        gx_at = (n * p.groups + g) * p.group_in * inputs + (i0 * p.input[1] + i1) * size2
        source_at = (n * p.groups + g) * p.group_out * outputs - p.padding[2]
        for c in range(first_channel, end_channel):
            zero_row(gx, gx_at + c * inputs, size2)
        for first_row in range(0, rows, p.chunk):
            some = min(p.chunk, rows - first_row)
            for j in range(some):
                row = first_row + j
                b, a, co = row % count1, row // count1 % count0, row // (count1 * count0)
                row_weight[j] = co * taps + (taps0[a] * p.kernel[1] + taps1[b]) * p.kernel[2]
                row_source[j] = co * outputs + (outputs0[a] * p.output[1] + outputs1[b]) * p.output[2]
            c = first_channel
            while c < end_channel:
                shape = 0
                while shapes[2 * shape] > end_channel - c:
                    shape += 1
                channels = shapes[2 * shape]
                weight_at = (g * p.group_in + c) * channel_step
                i = 0
                while i < size2:
                    variant, k, length, start = shape, 0, p.kernel[2], i
                    if p.begin <= i < p.end:
                        # The smallest tile for what is left; it may begin earlier, and adds nothing to pixels done.
                        while shapes[2 * variant + 2] == channels and shapes[2 * variant + 3] >= p.end - i:
                            variant += 1
                        while shapes[2 * variant + 1] > p.end - p.begin:
                            variant += 1
                        start = min(i, p.end - shapes[2 * variant + 1])
                    else:
                        while shapes[2 * variant + 1] > 1:
                            variant += 1
                        k = max(0, p.padding[2] - p.stride[2] * i)
                        length = max(0, min(p.kernel[2], p.output[2] + p.padding[2] - p.stride[2] * i) - k)
                    pixels = shapes[2 * variant + 1]
                    dot_tile(variant, some, w, weight_at + k, channel_step, row_weight,
                             gy, source_at + p.stride[2] * start + k, p.stride[2], row_source,
                             length, tile)  # fmt: skip
                    add_lanes(tile, (channels * pixels + p.lanes - 1) // p.lanes, sums)
                    for m in range(channels):
                        for j in range(i - start, pixels):
                            gx[gx_at + (c + m) * inputs + start + j] += sums[m * pixels + j]
                    i = start + pixels
                c += channels


@device_function
def _outer_rows(p: Any, shapes: Any, pixels: int, x: Any, x_at: int, inputs: int, gradient: Any, column_at: Any,
                step: int, zeros: Any, sums: Any) -> None:  # fmt: skip
    """Add some pixels of one row for all input channels of a group."""
    c = 0
    while c < p.group_in:
        shape = 0
        while shapes[2 * shape] > p.group_in - c or shapes[2 * shape + 1] != p.width:
            shape += 1
        outer_row(shape, pixels, x, x_at + c * inputs, inputs, gradient, column_at, step, zeros,
                  sums, c * p.width * p.lanes)  # fmt: skip
        c += shapes[2 * shape]


@kernel("T[]", "T[]", "T[]", LAYOUT, "int[]")
def weight_units(lo: int, hi: int, x: Any, gy: Any, gw: Any, layout: Any, shapes: Any) -> None:
    """Compute one tile of columns of one group, over one range of the rows of x."""
    p = layout[0]
    size2, outputs = p.input[2], p.output[0] * p.output[1] * p.output[2]
    inputs = p.input[0] * p.input[1] * size2
    stride, padding = p.stride[2], p.padding[2]
    taps = p.kernel[0] * p.kernel[1] * p.kernel[2]
    lanes, width = p.lanes, p.width
    columns = p.group_out * p.kernel[0] * p.kernel[1] * p.vectors
    tiles = (columns + width - 1) // width
    column_at, edge_at = empty(width, np.int64), empty(width, np.int64)
    first_k, k0s = empty(width, np.int64), empty(width, np.int64)
    k1s, channels = empty(width, np.int64), empty(width, np.int64)
    zeros = np.zeros(stride * size2 + lanes, gy.dtype)
    edge = empty(width * lanes, gy.dtype)
    length = p.group_in * width * lanes
    sums, totals = np.empty(length, gy.dtype), np.empty(length, gy.dtype)
    rows = p.batch * p.input[0] * p.input[1]
    for b in range(width):
        edge_at[b] = b * lanes
    for unit in range(lo, hi):
        split = unit % p.splits
        first = unit // p.splits % tiles * width
        g = unit // (p.splits * tiles)
        present = min(width, columns - first)
        # A tile with missing columns reads its last one again.
        for b in range(width):
            column = min(first + b, columns - 1)
            first_k[b] = column % p.vectors * lanes
            k1s[b] = column // p.vectors % p.kernel[1]
            k0s[b] = column // (p.vectors * p.kernel[1]) % p.kernel[0]
            channels[b] = column // (p.vectors * p.kernel[1] * p.kernel[0])
        # Pixels of which no column of the tile passes the ends of a row.
        low, high = first_k.min(), first_k.max() + lanes
        begin = max(0, min(size2, (padding - low + stride - 1) // stride))
        end = max(begin, min(size2, (p.output[2] + padding - high) // stride + 1))
        zero_row(sums, 0, length)
        zero_row(totals, 0, length)
        summed = 0
        for row in range(rows * split // p.splits, rows * (split + 1) // p.splits):
            i1, i0, n = row % p.input[1], row // p.input[1] % p.input[0], row // (p.input[1] * p.input[0])
            reached = False
            for b in range(width):
                o0 = p.stride[0] * i0 + p.dilation[0] * k0s[b] - p.padding[0]
                o1 = p.stride[1] * i1 + p.dilation[1] * k1s[b] - p.padding[1]
                column_at[b] = -1
                if 0 <= o0 < p.output[0] and 0 <= o1 < p.output[1]:
                    channel = (n * p.groups + g) * p.group_out + channels[b]
                    column_at[b] = channel * outputs + (o0 * p.output[1] + o1) * p.output[2]
                    reached = True
            if not reached:
                continue
            x_at = (n * p.groups + g) * p.group_in * inputs + (i0 * p.input[1] + i1) * size2
            for i in range(size2):
                if begin <= i < end:
                    continue
                for b in range(width):
                    zero_row(edge, b * lanes, lanes)
                    if column_at[b] >= 0:
                        o2 = stride * i + first_k[b] - padding
                        skip = max(0, -o2)
                        count = min(lanes, p.output[2] - o2) - skip
                        copy_padded(edge, b * lanes + skip, gy, column_at[b] + o2 + skip, count, count)
                _outer_rows(p, shapes, 1, x, x_at + i, inputs, edge, edge_at, 0, zeros, sums)
            summed += begin + size2 - end
            for b in range(width):
                if column_at[b] >= 0:
                    column_at[b] += stride * begin + first_k[b] - padding
            for i in range(begin, end, _RUN):
                some = min(_RUN, end - i)
                _outer_rows(p, shapes, some, x, x_at + i, inputs, gy, column_at, stride, zeros, sums)
                for b in range(width):
                    if column_at[b] >= 0:
                        column_at[b] += some * stride
                summed += some
                if summed >= _RUN:
                    for j in range(length):
                        totals[j] += sums[j]
                    zero_row(sums, 0, length)
                    summed = 0
        for j in range(length):
            totals[j] += sums[j]
        for c in range(p.group_in):
            for b in range(present):
                at = split * p.elements + (g * p.group_in + c) * p.group_out * taps + first_k[b]
                at += ((channels[b] * p.kernel[0] + k0s[b]) * p.kernel[1] + k1s[b]) * p.kernel[2]
                count = min(lanes, p.kernel[2] - first_k[b])
                copy_padded(gw, at, totals, (c * width + b) * lanes, count, count)


@kernel("T[]", "T[]", "int")
def add_splits(lo: int, hi: int, sums: Any, gw: Any, splits: int) -> None:
    """Add the sums of all ranges of rows in their order; a unit is a piece of the weight."""
    size = gw.size
    for i in range(size * lo // _UNITS, size * hi // _UNITS):
        total = sums[i]
        for s in range(1, splits):
            total += sums[s * size + i]
        gw[i] = total


def _declines(g: Geometry) -> str | None:
    if g.dtype not in ("float32", "float64"):
        return f"vector code is for float32 and float64, not {g.dtype}"
    if g.dilation[2] > 1 and g.kernel[2] > 1:
        return "the taps of the last axis are dilated, so they are not side by side"
    lanes = host.lanes(g.dtype)
    if g.kernel[2] < max(8, lanes):
        return f"a kernel of {g.kernel[2]} along the last axis is too short for vectors along it"
    if g.stride[2] < max(4, lanes // 2):
        return f"a stride of {g.stride[2]} along the last axis reads each gradient once a tap, faster from planes"
    if g.group_in > _MANY and g.stride[2] < 2 * lanes:
        return f"{g.group_in} input channels of a group, where strides under two vectors leave this kernel behind"
    if g.kernel[2] > _RUN * lanes:
        return f"a kernel of {g.kernel[2]} along the last axis needs sums longer than {_RUN} in a lane"
    return None


def _layout(g: Geometry, **more: int) -> NDArray[np.void]:
    stride, padding, size = g.stride[2], g.padding[2], g.output[2]
    begin = min(g.input[2], -(-padding // stride))
    end = max(begin, min(g.input[2], (size + padding - g.kernel[2]) // stride + 1))
    lanes = host.lanes(g.dtype)
    layout = np.zeros(1, LAYOUT)
    for name, value in {
        "batch": g.batch, "groups": g.groups, "group_in": g.group_in, "group_out": g.group_out, "input": g.input,
        "output": g.output, "kernel": g.kernel, "stride": g.stride, "padding": g.padding, "dilation": g.dilation,
        "lanes": lanes, "begin": begin, "end": end, "vectors": -(-g.kernel[2] // lanes), **more,
    }.items():  # fmt: skip
        layout[name] = value
    return layout


def _bind_input(g: Geometry) -> Bound:
    rows = g.batch * g.groups * g.input[0] * g.input[1]
    splits = min(-(-g.group_in // _DOTS[0][0]), -(-_UNITS // rows))
    chunk = max(1, _CHUNK // -(-g.kernel[2] // host.lanes(g.dtype)))
    layout = _layout(g, splits=splits, chunk=chunk)
    compute = input_units.launcher(g.dtype, rows * splits, 2 * g.multiplications)
    shapes = _DOT_TABLE.reshape(-1)

    def run(gy: Array, w: Array, gx: Array) -> None:
        compute(gy, w, gx, layout, shapes)

    lanes = host.lanes(g.dtype)
    private = (24 + lanes) * (lanes + 1) * np.dtype(g.dtype).itemsize + 16 * (sum(g.kernel[:2]) + chunk)
    return Bound(run, workspace.total(0, private, rows * splits))


def _bind_weight(g: Geometry) -> Bound:
    vectors = -(-g.kernel[2] // host.lanes(g.dtype))
    width = 4 if g.group_in >= 4 else 8
    columns = g.group_out * g.kernel[0] * g.kernel[1] * vectors
    tiles = g.groups * -(-columns // width)
    rows = g.batch * g.input[0] * g.input[1]
    splits = min(rows, -(-_UNITS // tiles))
    elements = math.prod(g.weight_shape)
    layout = _layout(g, splits=splits, width=width, elements=elements)
    compute = weight_units.launcher(g.dtype, tiles * splits, 2 * g.multiplications)
    shapes = _OUTER_TABLE.reshape(-1)
    lanes, itemsize = host.lanes(g.dtype), np.dtype(g.dtype).itemsize
    private = (g.stride[2] * g.input[2] + lanes + width * lanes * (1 + 2 * g.group_in)) * itemsize + 48 * width
    if splits == 1:

        def run_whole(x: Array, gy: Array, gw: Array) -> None:
            compute(x, gy, gw, layout, shapes)

        return Bound(run_whole, workspace.total(0, private, tiles))
    add = add_splits.launcher(g.dtype, _UNITS, splits * elements)

    def run(x: Array, gy: Array, gw: Array) -> None:
        sums = workspace.take("sums", splits * elements, g.dtype)
        compute(x, gy, sums, layout, shapes)
        add(sums, gw, splits)
        workspace.keep("sums", sums)

    return Bound(run, workspace.total(splits * elements * itemsize, private, tiles * splits))


_IDEA = "vectors along the last axis of a long kernel, read where it lies"
INPUT_GRAD = Implementation("direct_long_kernel", _IDEA, _declines, _bind_input)
WEIGHT_GRAD = Implementation("direct_long_kernel", _IDEA, _declines, _bind_weight)
