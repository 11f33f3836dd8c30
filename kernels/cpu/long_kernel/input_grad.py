"""Input gradient for kernels that are long on the last axis: dot products of rows of w and of gy.

``gx[ci, i] = Σ w[ci, co, k0, k1, k] · gy[co, o0, o1, s·i + k - p]`` over co and the taps. A register tile is some input
channels × some pixels, its lanes added up at the end. Pixels whose row of the kernel the output cuts are done by
themselves, on what is left of the row.

Memory: all arrays as they are.
Parallel over slices of gx, ranges of output channels where all weights do not fit a cache (their sums are added in
their order), bands of rows, blocks of input channels. NaN and Inf reach what they touch and no more.

Measured in docs/decisions/0005-wide-strides.md.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from fastdeconv.kernels.cpu import host
from fastdeconv.kernels.cpu.buffers import empty
from fastdeconv.kernels.cpu.jit import device_function, kernel
from fastdeconv.kernels.cpu.long_kernel.layout import IDEA, LAYOUT, NAME, UNITS, declines, describe, yields
from fastdeconv.kernels.cpu.long_kernel.splits import summed
from fastdeconv.kernels.cpu.rows import zero_row
from fastdeconv.kernels.cpu.vectors import INDEX, LINE, Vectors, index, loop, pointer, switch
from fastdeconv.kernels.geometry import Bound, Geometry, Implementation

Array = NDArray[Any]

# Vectors of a row summed between reductions: what several channels read again should still be in the cache.
_CHUNK = 384
# Weights of a group, in bytes, that stay in a core's second-level cache.
_CACHED = 256 << 10
# Short rows far from one another, which the processor does not foresee, are asked for so many rows early.
_AHEAD = 4
# Rows of gx in a band, to choose from.
_ROWS = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 48, 64)

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

    A product is ``weight[c·channel_step + row_weight[j] + k] · source[m·pixel_step + row_source[j] + k]``. The rows of
    the first and the last pixel are asked for `_AHEAD` rows early: so many more are in `row_source`.
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
        lanes, line_elements = index(vectors.lanes), LINE // vectors.bytes
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

            def fetch(row: Any) -> None:
                def line(i: Any, carried: list[Any]) -> list[Any]:
                    vectors.prefetch(row, builder.mul(i, index(line_elements)))
                    return carried

                loop(builder, builder.sdiv(length, index(line_elements)), [], line, unroll=False)

            def row_body(j: Any, sums: list[Any]) -> list[Any]:
                w_row = builder.gep(weight_base, [builder.load(builder.gep(row_weight_base, [j]))])
                x_row = builder.gep(source_base, [builder.load(builder.gep(row_source_base, [j]))])
                w = [builder.gep(w_row, [builder.mul(channel_step, index(c))]) for c in range(channels)]
                x = [builder.gep(x_row, [builder.mul(pixel_step, index(m))]) for m in range(pixels)]
                ahead = builder.load(builder.gep(row_source_base, [builder.add(j, index(_AHEAD))]))
                later = builder.gep(source_base, [ahead])
                for m in {0, pixels - 1}:
                    fetch(builder.gep(later, [builder.mul(pixel_step, index(m))]))
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
    """Sum one range of output channels in one block of channels of one band of rows of gx, one slice, one group."""
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
    row_weight, row_source = empty(p.chunk, np.int64), empty(p.chunk + _AHEAD, np.int64)
    row_step = p.stride[1] * p.output[2]
    reach1 = p.dilation[1] * (p.kernel[1] - 1)
    for unit in range(lo, hi):
        block = unit % p.blocks
        rest = unit // p.blocks
        band = rest % p.bands
        rest //= p.bands
        split = rest % p.splits
        rest //= p.splits
        i0 = rest % p.input[0]
        image = rest // p.input[0]  # of a group
        g = image % p.groups
        count0 = _reached(p, 0, i0, taps0, outputs0)
        first_channel, end_channel = p.group_in * block // p.blocks, p.group_in * (block + 1) // p.blocks
        first_out = p.group_out * split // p.splits
        channels_out = p.group_out * (split + 1) // p.splits - first_out
        source_at = (image * p.group_out + first_out) * outputs - p.padding[2]
        i1, end = p.input[1] * band // p.bands, p.input[1] * (band + 1) // p.bands
        while i1 < end:
            count1 = _reached(p, 1, i1, taps1, outputs1)
            together = 1  # rows of x that meet the same taps
            while (
                count1 == p.kernel[1]
                and i1 + together < end
                and p.stride[1] * (i1 + together) - p.padding[1] + reach1 < p.output[1]
            ):
                together += 1
            rows = channels_out * count0 * count1
            gx_at = (split * p.batch * p.groups + image) * p.group_in * inputs + (i0 * p.input[1] + i1) * size2
            for c in range(first_channel, end_channel):
                zero_row(gx, gx_at + c * inputs, together * size2)
            for first_row in range(0, rows, p.chunk):
                some = min(p.chunk, rows - first_row)
                for j in range(some + _AHEAD):
                    row = min(first_row + j, rows - 1)
                    b, a, co = row % count1, row // count1 % count0, row // (count1 * count0)
                    if j < some:
                        row_weight[j] = co * taps + (taps0[a] * p.kernel[1] + taps1[b]) * p.kernel[2]
                    row_source[j] = co * outputs + (outputs0[a] * p.output[1] + outputs1[b]) * p.output[2]
                c = first_channel
                while c < end_channel:
                    shape = 0
                    while shapes[2 * shape] > end_channel - c:
                        shape += 1
                    channels = shapes[2 * shape]
                    weight_at = (g * p.group_in + c) * channel_step + first_out * taps
                    for below in range(together):
                        i = 0
                        while i < size2:
                            variant, k, length, start = shape, 0, p.kernel[2], i
                            if p.begin <= i < p.end:
                                # The smallest tile for what is left; it may begin earlier, and adds nothing to pixels
                                # done.
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
                                     gy, source_at + below * row_step + p.stride[2] * start + k, p.stride[2],
                                     row_source, length, tile)  # fmt: skip
                            add_lanes(tile, (channels * pixels + p.lanes - 1) // p.lanes, sums)
                            at = gx_at + below * size2 + start
                            for m in range(channels):
                                for j in range(i - start, pixels):
                                    gx[at + (c + m) * inputs + j] += sums[m * pixels + j]
                            i = start + pixels
                    c += channels
            i1 += together


class _Cut(NamedTuple):
    """In how many parts the work of one slice of one group is cut: output channels, rows of gx, input channels."""

    splits: int
    bands: int
    blocks: int


def _cut(g: Geometry) -> _Cut:
    """Return how to share the work.

    Bands read all weights again, and blocks all of gy. Ranges of output channels read nothing twice, but what they add
    to must be less than that, and their number is in the order of the sums: it does not depend on the threads.
    """
    slices = g.batch * g.groups * g.input[0]
    weights = math.prod(g.weight_shape) // g.groups
    splits = 1
    if weights > _CACHED // np.dtype(g.dtype).itemsize and 8 * math.prod(g.input_shape) < weights:
        splits = min(g.group_out, -(-UNITS // slices))
    wanted = 2 * int(numba.config.NUMBA_NUM_THREADS)
    row = g.group_out * g.output[2] * min(g.kernel[0], g.output[0])

    def read(cut: _Cut) -> tuple[int, int]:
        lines = g.input[1] * g.stride[1] + cut.bands * max(0, g.kernel[1] - g.stride[1])
        return max(0, wanted - slices * math.prod(cut)), cut.bands * weights + cut.blocks * lines * row

    bands = sorted({-(-g.input[1] // rows) for rows in _ROWS} | {1})
    return min((_Cut(splits, *cut) for cut in itertools.product(bands, range(1, -(-g.group_in // 4) + 1))), key=read)


def bind(g: Geometry) -> Bound:
    """Return the function that runs the pass."""
    cut = _cut(g)
    units = g.batch * g.groups * g.input[0] * math.prod(cut)
    chunk = max(1, _CHUNK // -(-g.kernel[2] // host.lanes(g.dtype)))
    layout = describe(g, chunk=chunk, **cut._asdict())
    compute = input_units.launcher(g.dtype, units, 2 * g.multiplications)

    def run(gy: Array, w: Array, sums: Array) -> None:
        compute(gy, w, sums, layout, _TABLE)

    lanes = host.lanes(g.dtype)
    private = (24 + lanes) * (lanes + 1) * np.dtype(g.dtype).itemsize + 16 * (sum(g.kernel[:2]) + chunk) + 8 * _AHEAD
    return summed(run, g.dtype, math.prod(g.input_shape), cut.splits, private, units)


INPUT_GRAD = Implementation(NAME, IDEA, declines, bind, yields)
