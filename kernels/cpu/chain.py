"""A chain of convolutions without padding, one row at a time: for networks of small layers on large planes.

    z[m, i, j] = bias[m] + Σ w[c, u, v, m] · source[c, i + u, j + v],   result[m, i, j] = z if z > 0 else slope[m]·z

is a layer; its result is the next one's source. The first source is a plane. The last layer has scale² channels, which
are the phases of the plane that comes out: ``y[scale·i + a, scale·j + b] = result[scale·a + b, i, j]``. That is a
transposed convolution of this stride, if its kernel is as large as the stride times a number of taps.

A layer alone is bound by memory: it has few products for each value that it reads and writes. Here every layer holds
just the rows that the next one's kernel spans. Each row that comes in gives every layer one more row, so that a value
is computed once and read while it is in a core's cache.

Memory: a ring of rows (channel, row modulo the kernel's height, column) for each layer's source, all in one buffer of
the unit · weights packed (block of m, channel, tap, m). Parallel over tiles of the plane; a tile computes what its
neighbours compute too only in the margin that the kernels reach over. A pixel's sums run in the same order wherever its
tile begins, so the result does not depend on how the plane is cut.

A layer's columns past the last that its kernel can give hold whatever was there; nothing that is written to y reads
them.

Ladder:
1. Each layer by itself through `direct_tile` and `direct_joint`, and one pass for the rectifier.
2. All layers row by row, tiles stored with bias and rectifier applied.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from fastdeconv.kernels.cpu import host, threads
from fastdeconv.kernels.cpu.buffers import empty
from fastdeconv.kernels.cpu.direct_tile import tile_rows
from fastdeconv.kernels.cpu.jit import kernel
from fastdeconv.kernels.cpu.rows import MOST_INTERLEAVED, copy_padded, interleave_rows
from fastdeconv.kernels.cpu.tiles import OUTER_ROWS, outer_columns, outer_sums
from fastdeconv.kernels.cpu.vectors import Vectors, call_once_compiled, index, pointer, switch

Array = NDArray[Any]

LAYER = np.dtype(
    [
        ("channels", "i8"),  # of the source
        ("size", "i8"),  # rows and columns of the kernel
        ("rows", "i8"),  # of a register tile
        ("blocks", "i8"),
        ("width", "i8"),  # pixels of a register tile
        ("weight", "i8"),  # where the packed weights begin
        ("bias", "i8"),  # where the bias begins; the slopes follow
        ("offsets", "i8"),  # where the offsets of taps begin
        ("source_rows", "i8"),  # the ring of the source, and below where that begins, in rows of pixels
        ("source", "i8"),
    ]
)

_DTYPE = "float32"
# The widest tile: its rows of all layers are to stay in a core's cache.
_WIDTH, _HEIGHT = 256, 192
# Tiles for each thread, if they are not lower than this for it: then too much is computed twice.
_EACH, _LOWEST = 2, 32


@intrinsic
def _layer_tile(
    typing_context: Any,
    rows: Any, channels: Any, taps: Any,
    weight: Any, weight_at: Any, bias: Any, bias_at: Any, slope_at: Any,
    buffer: Any, source_at: Any, channel_step: Any, tap_offset: Any, tap_at: Any,
    out_at: Any, out_step: Any,
) -> Any:  # fmt: skip
    """Compute an `outer_tile` from the buffer, add the bias, rectify, and write row m to ``out_at + m·out_step``."""
    integer = types.int64
    signature = types.void(
        integer, integer, integer, weight, integer, bias, integer, integer,
        buffer, integer, integer, tap_offset, integer, integer, integer,
    )  # fmt: skip

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rows, channels, taps, weight, weight_at, bias, bias_at, slope_at = arguments[:8]
        buffer, source_at, step, offsets, tap_at, out_at, out_step = arguments[8:]
        types_ = signature.args
        values = [
            rows, channels, taps,
            pointer(context, builder, types_[3], weight, weight_at),
            pointer(context, builder, types_[8], buffer, source_at),
            step,
            pointer(context, builder, types_[11], offsets, tap_at),
            pointer(context, builder, types_[5], bias, bias_at),
            pointer(context, builder, types_[5], bias, slope_at),
            pointer(context, builder, types_[8], buffer, out_at),
            out_step,
        ]  # fmt: skip
        call_once_compiled(builder, "layer_tile", types_[3].dtype, values, _emit_layer_tile)
        return context.get_dummy_value()

    return signature, generate


def _emit_layer_tile(vectors: Vectors, arguments: list[Any]) -> None:
    rows, *operands, bias, slope, out, out_step = arguments
    builder = vectors.builder

    def emit(count: int) -> None:
        sums, columns = outer_sums(vectors, count, *operands), outer_columns(count)
        for m in range(count):
            b, s = vectors.broadcast(bias, index(m)), vectors.broadcast(slope, index(m))
            row = builder.gep(out, [builder.mul(out_step, index(m))])
            for r in range(columns):
                z = builder.fadd(sums[m * columns + r], b)
                positive = builder.fcmp_ordered(">", z, vectors.zero)
                vectors.store(builder.select(positive, z, builder.fmul(s, z)), row, index(r * vectors.lanes))

    switch(builder, rows, range(1, OUTER_ROWS + 1), emit)


@kernel(
    "T[]", "T[]", "T[]", "T[]", LAYER, "int[]", "int", "int", "int", "int", "int", "int", "int", "int", "int", "int"
)  # fmt: skip
def chain_units(
    lo: int, hi: int, x: Any, weight: Any, bias: Any, y: Any, layers: Any, fixed_offset: Any,
    height: int, width: int, margin: int, scale: int, tiles_down: int, tiles_across: int,
    pitch: int, buffer_rows: int, slack: int, y_pitch: int,
) -> None:  # fmt: skip
    """Compute one tile."""
    buffer = empty(buffer_rows * pitch + slack, x.dtype)
    offset = empty(fixed_offset.size, np.int64)
    for t in range(fixed_offset.size):
        offset[t] = fixed_offset[t] * pitch
    result = buffer_rows - scale * scale  # of the last layer
    for unit in range(lo, hi):
        down, across = unit // tiles_across, unit % tiles_across
        top, bottom = height * down // tiles_down, height * (down + 1) // tiles_down
        left, right = width * across // tiles_across, width * (across + 1) // tiles_across
        columns = right - left + margin
        for step in range(bottom - top + margin):
            ring = step % layers[0].size
            copy_padded(buffer, ring * pitch, x, (top + step) * (width + margin) + left, columns, columns)
            row, count = step, columns
            for number in range(layers.size):
                p = layers[number]
                row -= p.size - 1
                count -= p.size - 1
                if row < 0:
                    break
                source, channel_step = p.source * pitch, p.source_rows * pitch
                if number + 1 < layers.size:
                    after = layers[number + 1]
                    out = (after.source + row % after.source_rows) * pitch
                    out_step = after.source_rows * pitch
                else:
                    out, out_step = result * pitch, pitch
                channels, taps = p.channels, p.size * p.size
                if taps == 1:  # a loop over channels alone, at offsets that never change
                    channels, taps = 1, channels
                else:
                    for u in range(p.size):
                        ring = (row + u) % p.size
                        for v in range(p.size):
                            offset[p.offsets + u * p.size + v] = ring * pitch + v
                panel = p.rows * channels * taps
                for q in range(0, count, p.width):
                    for block in range(p.blocks):
                        first = block * p.rows
                        _layer_tile(p.rows, channels, taps, weight, p.weight + block * panel,
                                    bias, p.bias + first, p.bias + p.blocks * p.rows + first,
                                    buffer, source + q, channel_step, offset, p.offsets,
                                    out + first * out_step + q, out_step)  # fmt: skip
            if row >= 0:
                interleave_rows(y, scale * ((top + row) * y_pitch + left), y_pitch, buffer, result * pitch,
                                scale * pitch, pitch, scale, x[:0], 0, scale, scale * count)  # fmt: skip


class Layer(NamedTuple):
    """One layer.

    Attributes
    ----------
    weight : ndarray, shape (C_out, C_in, k, k)
    bias, slope : ndarray, shape (C_out,)
    """

    weight: Array
    bias: Array
    slope: Array


class Chain:
    """Layers of float32 packed for the kernel.

    Parameters
    ----------
    layers : list of Layer
        The first has one input channel, the last has scale² output channels.
    scale : int
        At most `MOST_INTERLEAVED`.
    """

    def __init__(self, layers: list[Layer], scale: int) -> None:
        assert layers[0].weight.shape[1] == 1
        assert len(layers[-1].weight) == scale * scale
        assert scale <= MOST_INTERLEAVED
        self.scale = scale
        self.margin = sum(layer.weight.shape[-1] - 1 for layer in layers)
        lanes = host.lanes(_DTYPE)
        table = np.zeros(len(layers), LAYER)
        weights: list[Array] = []
        biases: list[Array] = []
        offsets: list[int] = []
        source = held = 0  # where the next source begins; channels of it that the layer before writes
        for p, (weight, bias, slope) in zip(table, layers):
            c_out, c_in, size, _ = weight.shape
            rows = tile_rows(c_out, _WIDTH, lanes)
            blocks = -(-c_out // rows)
            p["channels"], p["size"], p["rows"], p["blocks"] = c_in, size, rows, blocks
            p["width"] = outer_columns(rows) * lanes
            p["weight"], p["bias"] = (sum(part.size for part in parts) for parts in (weights, biases))
            p["offsets"], p["source"], p["source_rows"] = len(offsets), source, size
            offsets += [c * size for c in range(c_in)] if size == 1 else [0] * (size * size)
            source += max(held, c_in) * size
            held = blocks * rows
            extra = held - c_out
            packed = np.pad(weight, ((0, extra), (0, 0), (0, 0), (0, 0))).reshape(blocks, rows, c_in, size * size)
            weights.append(np.ascontiguousarray(packed.transpose(0, 2, 3, 1)).ravel())
            biases += [np.pad(bias, (0, extra)), np.pad(slope, (0, extra))]
        # The phases come last; rows beyond them, which a last block writes, are in what follows the buffer.
        self._buffer_rows = source + scale * scale
        self._beyond = held - scale * scale
        self._slack = int(table["width"].max()) + int(table["size"].max())
        self._layers = table
        self._weight, self._bias = np.concatenate(weights), np.concatenate(biases)
        self._offset = np.array(offsets, np.int64)
        self.multiplications = self._weight.size

    def run(self, x: Array, y: Array) -> None:
        """Compute a plane.

        Parameters
        ----------
        x : ndarray of float32, shape (H + margin, W + margin)
            Contiguous.
        y : ndarray of float32, shape (scale·H, scale·W)
            Contiguous; takes the result.
        """
        height, width = (n - self.margin for n in x.shape)
        assert y.shape == (self.scale * height, self.scale * width)
        down, across = -(-height // _HEIGHT), -(-width // _WIDTH)
        down = max(down, min(-(-height // _LOWEST), -(-_EACH * threads.expected() // across)))
        # So that what is written past a row's last column is not the next row's.
        pitch = -(-width // across) + self.margin + self._slack
        launch = chain_units.launcher(_DTYPE, down * across, 2 * self.multiplications * height * width)
        launch(
            x.ravel(), self._weight, self._bias, y.ravel(), self._layers, self._offset, height, width, self.margin,
            self.scale, down, across, pitch, self._buffer_rows, self._beyond * pitch + self._slack, self.scale * width,
        )  # fmt: skip
