"""Forward pass of layers whose taps fill the output side by side, kernel = stride: one matrix product a group.

``y[m, s·q + t] = b[m] + Σ_k w[k, (m, t)] · x[k, q]`` over input channels k: every pixel q has a block of outputs of its
own, one for each pair of an output channel m and a tap t, the rows of the product. Sums of a piece of pixels stay in a
core's cache until all k are in them; then the rows of the last axis' taps are put side by side in y.

Memory: x as it is, copied to panels (see `panels`) · weights packed (group, block of rows, k, row) · sums (row, pixel).
Parallel over images, groups and pieces of pixels. NaN and Inf reach what they touch and no more.

Measured in docs/decisions/0015-panels.md; what comes next is fetched by the tiles (0023).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.kernels.cpu import host, planes, workspace
from fastdeconv.kernels.cpu.buffers import empty
from fastdeconv.kernels.cpu.costs import weights_of
from fastdeconv.kernels.cpu.fetching import LINES, ask_bytes, spread
from fastdeconv.kernels.cpu.jit import kernel
from fastdeconv.kernels.cpu.panels import (
    COLUMNS,
    DEPTH,
    HEIGHT,
    NEAR,
    copy_to_panels,
    multiply_packed,
    pieces_of,
    row_packing,
)
from fastdeconv.kernels.cpu.product_tiles import CHANNEL_TERMS, channel_step
from fastdeconv.kernels.cpu.rows import MOST_INTERLEAVED, interleave_rows
from fastdeconv.kernels.cpu.sweep import part_of
from fastdeconv.kernels.cpu.vectors import LINE
from fastdeconv.kernels.geometry import Bound, Cost, Geometry, Implementation

Array = NDArray[Any]

LAYOUT = np.dtype(
    [
        ("groups", "i8"),
        ("channels", "i8"),  # input channels of a group
        ("group_out", "i8"),
        ("rows", "i8"),  # those times taps
        ("left_step", "i8"),  # rows of a block of packed weights
        ("left_rows", "i8"),  # of all those of a group
        ("kernel", "i8", (3,)),
        ("size", "i8", (3,)),  # of the input
        ("pixels", "i8"),  # of an image
        ("tiles", "i8"),  # of an image
        ("pieces", "i8"),  # of those
        ("units", "i8"),  # of all images
        ("most", "i8"),  # tiles of a piece, at most
        ("near", "i8"),  # tiles whose panels fit the first cache together
        ("width", "i8"),  # pixels of a tile
        ("block", "i8"),  # rows of a panel
        ("panel", "i8"),  # elements of one
    ]
)


@kernel("T[]", "T[]", "T[]", "T[]", LAYOUT)
def product_units(lo: int, hi: int, x: Any, packed: Any, bias: Any, y: Any, layout: Any) -> None:
    """Compute the outputs of one piece of the pixels of one group in one image."""
    p = layout[0]
    width, pixels, size1, size2 = p.width, p.pixels, p.size[1], p.size[2]
    k0, k1, k2 = p.kernel[0], p.kernel[1], p.kernel[2]
    step = p.most * width
    panels = empty(p.most * p.panel + width, x.dtype)
    edge = empty(HEIGHT * width, x.dtype)
    sums = empty(p.rows * step + width, x.dtype)  # what puts rows together reads past their end
    plane = pixels * k0 * k1 * k2
    # What is copied next: for some channels, the lines of one tile.
    slots = (p.block + CHANNEL_TERMS - 1) // CHANNEL_TERMS * LINES
    found, line = (step * x.itemsize + LINE - 1) // LINE, LINE // x.itemsize
    lines, asked = np.empty(found, np.int64), np.zeros(slots, np.int64)
    for i in range(found):
        lines[i] = i * line
    for unit in range(lo, hi):
        image, first, stop = part_of(unit, p.pieces, p.tiles)
        begin, end = first * width, min(stop * width, pixels)
        g = image % p.groups
        for c in range(0, p.channels, p.block):
            some = min(p.block, p.channels - c)
            for i in range(some):
                row = (image * p.channels + c + i) * pixels
                copy_to_panels(panels, p.panel, i * width, x, row + begin, end - begin, width)
            next_, of, channels = c + p.block, 0, 0
            if next_ < p.channels:
                of, channels = (image * p.channels + next_) * pixels + begin, min(p.block, p.channels - next_)
            elif unit + 1 < p.units:
                image2, first2, _ = part_of(unit + 1, p.pieces, p.tiles)
                of, channels = image2 * p.channels * pixels + first2 * width, min(p.block, p.channels)
            once = 1
            if channels > 0:
                share = channels * found // (p.rows // HEIGHT * ((end - begin + width - 1) // width)) + 1
                once = spread(asked, 0, slots, lines, found, channels, pixels, share, x.itemsize)
            multiply_packed(
                packed, g * p.left_rows * p.channels + c * p.left_step, 0, p.channels, panels, p.panel, some, p.near,
                sums, 0, step, p.rows, end - begin, width, edge, c > 0, False,
                x, of, pixels, channels, once, asked,
            )  # fmt: skip
        at = begin
        while at < end:
            line = at // size2
            i2 = at - line * size2
            i0, i1 = line // size1, line % size1
            count = min(size2 - i2, end - at)
            for t in range(k0 * k1):
                o0, o1 = i0 * k0 + t // k1, i1 * k1 + t % k1
                base = image * p.group_out * plane + (o0 * size1 * k1 + o1) * size2 * k2 + i2 * k2
                interleave_rows(y, base, plane, sums, t * k2 * step + at - begin, k0 * k1 * k2 * step, step, k2,
                                bias, g * p.group_out, p.group_out, count * k2)  # fmt: skip
            at += count


def _declines(g: Geometry) -> str | None:
    if g.dtype not in ("float32", "float64"):
        return f"vector code is for float32 and float64, not {g.dtype}"
    whole = tuple(i * k for i, k in zip(g.input, g.kernel))
    if any(g.padding) or g.output != whole or any(k != s for k, s, i in zip(g.kernel, g.stride, g.input) if i > 1):
        return "serves layers whose kernel is their stride, without padding and output_padding"
    if any(d > 1 for d, k in zip(g.dilation, g.kernel) if k > 1):
        return "dilated taps do not lie side by side"
    if g.kernel[2] > MOST_INTERLEAVED:
        return f"puts up to {MOST_INTERLEAVED} taps of the last axis side by side, not {g.kernel[2]}"
    if g.group_out * g.taps % HEIGHT:
        return f"{g.group_out * g.taps} outputs of a pixel are no multiple of the {HEIGHT} rows of a register tile"
    return None


def _counts(g: Geometry) -> dict[str, float]:
    width, pixels = COLUMNS * host.lanes(g.dtype), math.prod(g.input)
    images, tiles, rows = g.batch * g.groups, -(-pixels // width), g.group_out * g.taps
    return {
        "product": float(images * rows * g.group_in * tiles * width),
        "piece": images * tiles * g.group_in,
        "tile": images * tiles * rows // HEIGHT * -(-g.group_in // DEPTH),
        "result": math.prod(g.output_shape),
        "row": math.prod(g.output_shape) / g.output[2],
        "weight": math.prod(g.weight_shape),
        "call": 1,
    }


def _bind(g: Geometry) -> Bound:
    lanes, itemsize = host.lanes(g.dtype), np.dtype(g.dtype).itemsize
    width, pixels, rows = COLUMNS * lanes, math.prod(g.input), g.group_out * g.taps
    block = min(g.group_in, DEPTH)
    panel = block * width + lanes
    images, tiles = g.batch * g.groups, -(-pixels // width)
    pieces, most = pieces_of(tiles, images, (panel + rows * width) * itemsize // 2)
    pack, packed_elements = row_packing(g, rows // HEIGHT)
    layout = np.zeros(1, LAYOUT)
    for name, value in {
        "left_step": channel_step(lanes), "left_rows": packed_elements // (g.groups * g.group_in),
        "groups": g.groups, "channels": g.group_in, "group_out": g.group_out, "rows": rows, "kernel": g.kernel,
        "size": g.input, "pixels": pixels, "tiles": tiles, "pieces": pieces, "units": images * pieces, "most": most,
        "near": max(1, NEAR // (panel * itemsize)), "width": width, "block": block, "panel": panel,
    }.items():  # fmt: skip
        layout[name] = value
    units = images * pieces
    compute = product_units.launcher(g.dtype, units, 2 * g.multiplications + 8 * g.elements)
    no_bias = np.empty(0, g.dtype)

    def run_packed(x: Array, packed: Array, bias: Array | None, y: Array) -> None:
        compute(x, packed, no_bias if bias is None else bias, y, layout)

    private = (most * panel + (2 + HEIGHT) * width + rows * most * width) * itemsize
    private += ask_bytes(-(-block // CHANNEL_TERMS), 1, 0) + 8 * -(-most * width * itemsize // LINE)
    scratch = workspace.total(packed_elements * itemsize, private, units)
    return planes.with_packed_weights(g.dtype, packed_elements, pack, run_packed, scratch)


FORWARD = Implementation(
    "direct_blocks", "one matrix product, where taps fill the output side by side, put in place from a core's cache",
    _declines, _bind, cost=Cost(_counts, weights_of("direct_blocks", "forward")),
)  # fmt: skip
