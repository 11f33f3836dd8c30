"""Input gradient: matrix products of the weights and panels of the output's gradient.

``gx[ci, q] = Σ_k w[ci, k] · panel[k, q]`` with k over the pairs of an output channel and a tap, and the panel's row k
the elements of the gradient that this tap connects with pixels q. A panel holds the pixels of one register tile, so the
tile reads it line after line, and it is used for all input channels while it is in the core's cache.

Memory: arrays as they are · panels (tile of pixels, k, pixel) of some output channels at a time · large weights packed
(group, block of a vector of input channels, k, channel): as they lie, rows are apart by powers of two.
Parallel over images, groups and pieces of planes. Sums run over k in its order, in blocks of output channels. A NaN or
Inf in the weights meets the zeros that stand for pixels outside the gradient.

Ladder, in docs/decisions/0015-panels.md:
1. Panels copied from zero-padded planes, several tiles' pixels in a row.
2. Gathered from the gradient where it lies.
3. A panel for each tile; the rows that the next channel's panels need fetched ahead.
4. Panels that fit the first cache together used for one block of input channels after the other.
5. Addresses of rows once for all taps of a row of the kernel.
6. Large weights packed to vectors of input channels.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from fastdeconv.kernels.cpu import host, workspace
from fastdeconv.kernels.cpu.buffers import empty
from fastdeconv.kernels.cpu.columns import to_columns
from fastdeconv.kernels.cpu.costs import weights_of
from fastdeconv.kernels.cpu.gather import MOST_APART, gather_row, gather_tile
from fastdeconv.kernels.cpu.jit import device_function, kernel
from fastdeconv.kernels.cpu.panels import (
    COLUMNS,
    DEPTH,
    HEIGHT,
    NEAR,
    UNITS,
    multiply_packed,
    multiply_panels,
    pieces_of,
)
from fastdeconv.kernels.cpu.rows import read_ahead
from fastdeconv.kernels.cpu.sweep import part_of
from fastdeconv.kernels.geometry import Bound, Cost, Geometry, Implementation

Array = NDArray[Any]

LAYOUT = np.dtype(
    [
        ("groups", "i8"),
        ("step", "i8"),  # rows of a block of packed weights
        ("blocks", "i8"),  # of those in a group
        ("rows", "i8"),  # input channels of a group
        ("channels", "i8"),  # output channels of a group
        ("taps", "i8"),
        ("block", "i8"),  # output channels of a panel
        ("tiles", "i8"),  # of a unit, at most
        ("near", "i8"),  # tiles whose panels fit the first cache together
        ("width", "i8"),  # pixels of a tile
        ("panel", "i8"),  # elements of one
        ("pixels", "i8"),  # of an image
        ("image_tiles", "i8"),
        ("pieces", "i8"),  # of those
        ("kernel", "i8", (3,)),
        ("stride", "i8", (3,)),
        ("padding", "i8", (3,)),
        ("dilation", "i8", (3,)),
        ("size", "i8", (3,)),  # of the input
        ("from_size", "i8", (3,)),  # of the output
    ]
)

# A stretch of pixels of one row and one tile: the output index of its first pixel and tap on each axis, how many there
# are, where they are in the panels, and for one row of the kernel where their row is in the source, or -1.
_STRETCH = 6
# Weights of more bytes are packed, if there are so many panels to multiply with them.
_PACKED, _PANELS = 64 << 10, 4
# Few units beside those weights, as each reads all of them.
_UNITS = min(UNITS, 2 * int(numba.config.NUMBA_NUM_THREADS))
# Taps of a kernel at most: a panel has rows for all of them.
_TAPS = 1024


@device_function
def _stretches(table: Any, p: Any, begin: int, end: int) -> int:
    """List the stretches that some pixels of an image fall into; return the end of the list."""
    size1, size2 = p.size[1], p.size[2]
    last, at = 0, begin
    while at < end:
        row = at // size2
        i2 = at - row * size2
        i0, i1 = row // size1, row % size1
        tile = (at - begin) // p.width
        to = begin + tile * p.width
        count = min(size2 - i2, min(end, to + p.width) - at)
        table[last] = p.stride[0] * i0 - p.padding[0]
        table[last + 1] = p.stride[1] * i1 - p.padding[1]
        table[last + 2] = p.stride[2] * i2 - p.padding[2]
        table[last + 3] = count
        table[last + 4] = tile * p.panel + at - to
        last += _STRETCH
        at += count
    return last


@device_function
def _gather(panels: Any, to: int, source: Any, plane: int, p: Any, table: Any, last: int) -> None:
    """Gather the rows of one channel, which starts at `plane` in the source, into the panels of all tiles."""
    size0, size1, size2 = p.from_size[0], p.from_size[1], p.from_size[2]
    stride = p.stride[2]
    ahead = size0 * size1 * size2
    for t0 in range(p.kernel[0]):
        for t1 in range(p.kernel[1]):
            for s in range(0, last, _STRETCH):
                o0, o1 = table[s] + p.dilation[0] * t0, table[s + 1] + p.dilation[1] * t1
                table[s + 5] = -1
                if 0 <= o0 < size0 and 0 <= o1 < size1:
                    table[s + 5] = plane + (o0 * size1 + o1) * size2
                    read_ahead(source, table[s + 5] + table[s + 2] + ahead, stride * table[s + 3])
            for t2 in range(p.kernel[2]):
                shift = p.dilation[2] * t2
                for s in range(0, last, _STRETCH):
                    o2, count, at, row = table[s + 2] + shift, table[s + 3], to + table[s + 4], table[s + 5]
                    if row >= 0 and count == p.width and o2 >= 0 and o2 + stride * count <= size2:
                        gather_tile(panels, at, source, row + o2, stride)
                        continue
                    first, stop = 0, 0
                    if row >= 0:
                        stop = count
                        if o2 < 0:
                            first = min(count, (stride - 1 - o2) // stride)
                        if o2 + stride * (count - 1) >= size2:
                            stop = max(first, (size2 - o2 + stride - 1) // stride)
                    gather_row(panels, at, source, row + o2, stride, first, stop, count)
                to += p.width


@kernel("T[]", "T[]", LAYOUT)
def pack_units(lo: int, hi: int, weight: Any, packed: Any, layout: Any) -> None:
    """Pack one block of rows of the weights to vectors of them, one for each k."""
    p = layout[0]
    depth = p.channels * p.taps
    for unit in range(lo, hi):
        g, row = unit // p.blocks, unit % p.blocks * p.step
        to_columns(packed, unit * (depth + p.step) * p.step, weight, (g * p.rows + row) * depth, depth,
                   min(p.step, p.rows - row), depth)  # fmt: skip


@kernel("T[]", "T[]", "T[]", "T[]", LAYOUT)
def product_units(lo: int, hi: int, source: Any, weight: Any, packed: Any, out: Any, layout: Any) -> None:
    """Compute one piece of the planes of one group in one image."""
    p = layout[0]
    width, pixels = p.width, p.pixels
    # A row that is gathered may run over its end by a vector.
    panels = empty(p.tiles * p.panel + width, source.dtype)
    edge = empty(HEIGHT * width, source.dtype)
    table = empty(_STRETCH * (p.tiles * width + 1), np.int64)
    plane = p.from_size[0] * p.from_size[1] * p.from_size[2]
    depth = p.channels * p.taps
    for unit in range(lo, hi):
        image, first, stop = part_of(unit, p.pieces, p.image_tiles)
        begin, end = first * width, min(stop * width, pixels)
        g = image % p.groups
        last = _stretches(table, p, begin, end)
        for c in range(0, p.channels, p.block):
            some = min(p.block, p.channels - c)
            for i in range(some):
                _gather(panels, i * p.taps * width, source, (image * p.channels + c + i) * plane, p, table, last)
            at, of = image * p.rows * pixels + begin, c * p.taps
            if packed.size:
                block = (depth + p.step) * p.step
                multiply_packed(packed, g * p.blocks * block + of * p.step, block, p.step, panels, p.panel,
                                some * p.taps, p.near, out, at, pixels, p.rows, end - begin, width, edge,
                                c > 0)  # fmt: skip
            else:
                multiply_panels(weight, g * p.rows * depth + of, depth, depth, 1, panels, p.panel, some * p.taps,
                                p.near, out, at, pixels, p.rows, end - begin, width, edge, c > 0, True)  # fmt: skip


def declines(g: Geometry) -> str | None:
    """Return why panels do not suit a problem, or None."""
    if g.dtype not in ("float32", "float64"):
        return f"vector code is for float32 and float64, not {g.dtype}"
    if g.stride[2] > MOST_APART:
        return f"serves strides up to {MOST_APART} on the last axis, not {g.stride[2]}"
    if g.taps > _TAPS:
        return f"a panel has no room for {g.taps} taps, only for {_TAPS}"
    if g.group_in < HEIGHT:
        return f"{g.group_in} input channels a group are fewer than the {HEIGHT} rows of a register tile"
    return None


def counts(g: Geometry) -> dict[str, float]:
    """Count what the kernel does: products, those of whole tiles, stretches of rows that it gathers, register tiles."""
    width, pixels = COLUMNS * host.lanes(g.dtype), math.prod(g.input)
    images, depth, tiles = g.batch * g.groups, g.group_out * g.taps, -(-pixels // width)
    blocks, ends = -(-g.group_in // HEIGHT), pixels // g.input[2] if g.input[2] % width else 0
    return {
        "product": float(images * depth * blocks * HEIGHT * tiles * width),
        "piece": images * depth * (tiles + ends),
        "tile": images * blocks * tiles * -(-depth // DEPTH),
        "call": 1,
    }


def bind(g: Geometry) -> Bound:
    """Return the function that runs the input gradient."""
    itemsize = np.dtype(g.dtype).itemsize
    width, pixels = COLUMNS * host.lanes(g.dtype), math.prod(g.input)
    block = min(g.group_out, max(1, DEPTH // g.taps))
    panel = block * g.taps * width + host.lanes(g.dtype)
    images, most = g.batch * g.groups, -(-pixels // width)
    lanes, depth, weights = host.lanes(g.dtype), g.group_out * g.taps, math.prod(g.weight_shape) * itemsize
    packs = lanes >= HEIGHT and weights > _PACKED and images * most >= _PANELS
    pieces, tiles = pieces_of(most, images, panel * itemsize, _UNITS if packs else UNITS)
    blocks = -(-g.group_in // lanes)
    elements = g.groups * blocks * (depth + lanes) * lanes if packs else 0
    layout = np.zeros(1, LAYOUT)
    for name, value in {
        "groups": g.groups, "step": lanes, "blocks": blocks,
        "rows": g.group_in, "channels": g.group_out, "taps": g.taps, "block": block,
        "tiles": tiles, "near": max(1, NEAR // (panel * itemsize)), "width": width, "panel": panel, "pixels": pixels,
        "image_tiles": most, "pieces": pieces, "kernel": g.kernel, "stride": g.stride,
        "padding": g.padding, "dilation": g.dilation, "size": g.input, "from_size": g.output,
    }.items():  # fmt: skip
        layout[name] = value
    units = images * pieces
    launch = product_units.launcher(g.dtype, units, 2 * g.multiplications)
    private = (tiles * panel + (1 + HEIGHT) * width) * itemsize + 8 * _STRETCH * (tiles * width + 1)
    nothing = np.empty(0, g.dtype)
    pack = pack_units.launcher(g.dtype, g.groups * blocks, 4 * elements)

    def run(gy: Array, w: Array, gx: Array) -> None:
        if not packs:
            launch(gy, w, nothing, gx, layout)
            return
        packed = workspace.take("packed", elements, g.dtype)
        pack(w, packed, layout)
        launch(gy, w, packed, gx, layout)
        workspace.keep("packed", packed)

    return Bound(run, workspace.total(elements * itemsize, private, units))


INPUT_GRAD = Implementation(
    "direct_panels", "matrix products over panels of gathered pixels, in a core's cache", declines, bind,
    cost=Cost(counts, weights_of("direct_panels", "input_grad")),
)  # fmt: skip
