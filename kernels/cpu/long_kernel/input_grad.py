"""Input gradient for kernels that are long on the last axis: dot products of rows of w and of gy.

``gx[ci, i] = Σ w[ci, co, k0, k1, k] · gy[co, o0, o1, s·i + k - p]`` over co and the taps. A register tile is some input
channels × some pixels, its lanes added up at the end. Pixels whose row of the kernel the output cuts are done by
themselves, on what is left of the row.

Memory: all arrays as they are.
Parallel over rows of gx, then blocks of input channels. NaN and Inf reach what they touch and no more.

Measured in docs/decisions/0005-wide-strides.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from fastdeconv.kernels.cpu import host, workspace
from fastdeconv.kernels.cpu.buffers import empty
from fastdeconv.kernels.cpu.jit import device_function, kernel
from fastdeconv.kernels.cpu.long_kernel.layout import IDEA, LAYOUT, NAME, UNITS, declines, describe, yields
from fastdeconv.kernels.cpu.rows import zero_row
from fastdeconv.kernels.cpu.vectors import INDEX, Vectors, index, loop, pointer, switch
from fastdeconv.kernels.geometry import Bound, Geometry, Implementation

Array = NDArray[Any]

# Vectors of a row summed between reductions: what several channels read again should still be in the cache.
_CHUNK = 384

_WIDE = host.REGISTERS == 32
# (input channels, pixels) of a tile; the first with so many channels is the largest.
_SHAPES = [(c, m) for c, most in ((4, 6 if _WIDE else 2), (2, 8 if _WIDE else 4), (1, 8 if _WIDE else 6))
           for m in sorted({most, -(-most // 2), 1}, reverse=True)]  # fmt: skip
_TABLE = np.array([*_SHAPES, (0, 0)], np.int64).reshape(-1)


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

        switch(builder, variant, range(len(_SHAPES)), lambda number: emit(*_SHAPES[number]))
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
    tile = empty((24 + p.lanes) * p.lanes, gy.dtype)
    zero_row(tile, 0, tile.size)
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


def bind(g: Geometry) -> Bound:
    """Return the function that runs the pass."""
    rows = g.batch * g.groups * g.input[0] * g.input[1]
    splits = min(-(-g.group_in // _SHAPES[0][0]), -(-UNITS // rows))
    chunk = max(1, _CHUNK // -(-g.kernel[2] // host.lanes(g.dtype)))
    layout = describe(g, splits=splits, chunk=chunk)
    compute = input_units.launcher(g.dtype, rows * splits, 2 * g.multiplications)

    def run(gy: Array, w: Array, gx: Array) -> None:
        compute(gy, w, gx, layout, _TABLE)

    lanes = host.lanes(g.dtype)
    private = (24 + lanes) * (lanes + 1) * np.dtype(g.dtype).itemsize + 16 * (sum(g.kernel[:2]) + chunk)
    return Bound(run, workspace.total(0, private, rows * splits))


INPUT_GRAD = Implementation(NAME, IDEA, declines, bind, yields)
