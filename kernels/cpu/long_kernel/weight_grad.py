"""Weight gradient for kernels that are long on the last axis: outer products of pixels of x and vectors of gy.

``gw[ci, co, k0, k1, k] = Σ x[ci, i0, i1, i] · gy[co, o0, o1, s·i + k - p]`` over images and inputs. A register tile is
input channels × vectors of k, each pixel of x broadcast.

Memory: all arrays as they are; pixels whose row of the kernel the output cuts read a copy of it with zeros around.
Parallel over tiles of columns (co, k0, k1, vector of k) of gw, then ranges of rows of x, whose sums are added in their
order. A NaN or Inf in x also meets zeros around gy.

Ladder, measured in docs/decisions/0005-wide-strides.md:
1. Tiles of outer products, pixels that the output cuts by themselves.
2. The columns of a row listed once for all input channels.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from fastdeconv.kernels.cpu import host
from fastdeconv.kernels.cpu.buffers import empty
from fastdeconv.kernels.cpu.jit import device_function, kernel
from fastdeconv.kernels.cpu.long_kernel.layout import IDEA, LAYOUT, NAME, RUN, UNITS, declines, describe, yields
from fastdeconv.kernels.cpu.long_kernel.splits import summed
from fastdeconv.kernels.cpu.rows import copy_padded, zero_row
from fastdeconv.kernels.cpu.vectors import Vectors, index, loop, pointer, switch
from fastdeconv.kernels.geometry import Bound, Geometry, Implementation

Array = NDArray[Any]

# (input channels, columns) of a tile.
_SHAPES = [(6, 4), (2, 4), (1, 4), (2, 8), (1, 8)] if host.REGISTERS == 32 else [(2, 4), (1, 4), (1, 8)]
_TABLE = np.array(_SHAPES, np.int64).reshape(-1)


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

            for i, value in enumerate(loop(builder, pixels, begin, body, unroll=False)):
                vectors.store(value, sums_base, index(i * vectors.lanes))

        switch(builder, variant, range(len(_SHAPES)), lambda number: emit(*_SHAPES[number]))
        return context.get_dummy_value()

    return signature, generate


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
    zeros = empty(stride * size2 + lanes, gy.dtype)
    zero_row(zeros, 0, zeros.size)
    edge = empty(width * lanes, gy.dtype)
    length = p.group_in * width * lanes
    sums, totals = empty(length, gy.dtype), empty(length, gy.dtype)
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
            for i in range(begin, end, RUN):
                some = min(RUN, end - i)
                _outer_rows(p, shapes, some, x, x_at + i, inputs, gy, column_at, stride, zeros, sums)
                for b in range(width):
                    if column_at[b] >= 0:
                        column_at[b] += some * stride
                summed += some
                if summed >= RUN:
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


def bind(g: Geometry) -> Bound:
    """Return the function that runs the pass."""
    vectors = -(-g.kernel[2] // host.lanes(g.dtype))
    width = 4 if g.group_in >= 4 else 8
    columns = g.group_out * g.kernel[0] * g.kernel[1] * vectors
    tiles = g.groups * -(-columns // width)
    rows = g.batch * g.input[0] * g.input[1]
    splits = min(rows, -(-UNITS // tiles))
    elements = math.prod(g.weight_shape)
    layout = describe(g, splits=splits, width=width, elements=elements)
    compute = weight_units.launcher(g.dtype, tiles * splits, 2 * g.multiplications)
    lanes, itemsize = host.lanes(g.dtype), np.dtype(g.dtype).itemsize
    private = (g.stride[2] * g.input[2] + lanes + width * lanes * (1 + 2 * g.group_in)) * itemsize + 48 * width

    def run(x: Array, gy: Array, sums: Array) -> None:
        compute(x, gy, sums, layout, _TABLE)

    return summed(run, g.dtype, elements, splits, private, tiles * splits)


WEIGHT_GRAD = Implementation(NAME, IDEA, declines, bind, yields)
