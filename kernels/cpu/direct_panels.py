"""Input gradient: matrix products of the weights and panels of the output's gradient.

``gx[ci, q] = Σ_k w[ci, k] · panel[k, q]`` with k over the pairs of an output channel and a tap, and the panel's row k
the elements of the gradient that this tap connects with pixels q. A panel holds the pixels of one register tile, so the
tile reads it line after line, and it is used for all input channels while it is in the core's cache.

Memory: arrays as they are · panels (tile of pixels, k, pixel) of some output channels at a time · weights packed
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
7. Stretches of rows listed once for all channels, gathered by masked vectors without a call or a branch for each.
8. All weights packed; what is gathered next fetched by the tiles meanwhile (0023).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from fastdeconv.kernels.cpu import host, stretches, workspace
from fastdeconv.kernels.cpu.buffers import empty
from fastdeconv.kernels.cpu.columns import to_columns
from fastdeconv.kernels.cpu.costs import weights_of
from fastdeconv.kernels.cpu.fetching import LINES, ask_bytes, spread
from fastdeconv.kernels.cpu.jit import device_function, kernel
from fastdeconv.kernels.cpu.panels import COLUMNS, DEPTH, HEIGHT, NEAR, UNITS, multiply_packed, pieces_of
from fastdeconv.kernels.cpu.product_tiles import CHANNEL_TERMS, channel_step
from fastdeconv.kernels.cpu.rows import zero_row
from fastdeconv.kernels.cpu.stretches import FIELDS, gather_channel, list_lines, list_sources, list_stretches
from fastdeconv.kernels.cpu.sweep import part_of
from fastdeconv.kernels.cpu.vectors import LINE
from fastdeconv.kernels.geometry import Bound, Cost, Geometry, Implementation

Array = NDArray[Any]

LAYOUT = np.dtype(
    [
        ("groups", "i8"),
        ("step", "i8"),  # rows of a block of packed weights
        ("pitch", "i8"),  # elements of each
        ("blocks", "i8"),  # of those in a group
        ("rows", "i8"),  # input channels of a group
        ("channels", "i8"),  # output channels of a group
        ("block", "i8"),  # output channels of a panel
        ("tiles", "i8"),  # of a unit, at most
        ("near", "i8"),  # tiles whose panels fit the first cache together
        ("pixels", "i8"),  # of an image
        ("image_tiles", "i8"),
        ("pieces", "i8"),  # of those
        ("units", "i8"),  # of all images
        *FIELDS,
    ]
)

# Weights of more bytes are read from the second cache: then few units beside them, as each reads all of them.
_LARGE, _UNITS = 64 << 10, min(UNITS, 2 * int(numba.config.NUMBA_NUM_THREADS))
# Terms of a sum from which on a tile has time to fetch more than the lines of its result.
_LONG = 192


@kernel("T[]", "T[]", LAYOUT)
def pack_units(lo: int, hi: int, weight: Any, packed: Any, layout: Any) -> None:
    """Pack one block of rows of the weights to vectors of them, one for each k."""
    p = layout[0]
    depth = p.channels * p.taps
    for unit in range(lo, hi):
        g, row = unit // p.blocks, unit % p.blocks * p.step
        for m in range(0, p.step, p.lanes):
            to_columns(packed, unit * p.pitch * p.step + m, p.step, weight, (g * p.rows + row + m) * depth,
                       depth, min(p.lanes, p.rows - row - m), depth)  # fmt: skip


@device_function
def _place_of(unit: int, p: Any) -> tuple[int, int, int]:
    """Return the image and group of a unit, as one number, its first pixel there and the end."""
    image, first, stop = part_of(unit, p.pieces, p.image_tiles)
    return image, first * p.width, min(stop * p.width, p.pixels)


@kernel("T[]", "T[]", "T[]", LAYOUT)
def product_units(lo: int, hi: int, source: Any, packed: Any, out: Any, layout: Any) -> None:
    """Compute one piece of the planes of one group in one image."""
    p = layout[0]
    width = p.width
    # A row that is gathered may run over its end by a vector.
    panels = empty(p.tiles * p.panel + width, source.dtype)
    # Columns behind the last pixel are multiplied, too: what is there by chance may be slow to multiply.
    zero_row(panels, 0, panels.size)
    edge = empty(HEIGHT * width, source.dtype)
    table, coming = np.empty((6, p.most), np.int64), np.empty((6, p.most), np.int64)
    taps = np.empty((p.taps, 2), np.int64)
    places, masks = np.empty((p.taps + 1, p.most), np.int64), np.empty((p.taps + 1, p.most), np.int64)
    # What is gathered next: for some channels, the lines of one tile.
    slots = (p.block * p.taps + CHANNEL_TERMS - 1) // CHANNEL_TERMS * LINES
    lines, asked = np.empty(slots, np.int64), np.zeros(slots, np.int64)
    plane = p.from_size[0] * p.from_size[1] * p.from_size[2]
    depth, row_tiles = p.channels * p.taps, (p.rows + HEIGHT - 1) // HEIGHT
    count, found, once = -1, 0, 1
    for unit in range(lo, hi):
        image, begin, end = _place_of(unit, p)
        g = image % p.groups
        if count < 0:
            count = list_stretches(table, p, begin, end)
        list_sources(taps, places, masks, table, count, p)
        for c in range(0, p.channels, p.block):
            some = min(p.block, p.channels - c)
            for i in range(some):
                ahead = plane if c + i + 1 < p.channels else 0
                gather_channel(panels, i * p.taps * width, source, (image * p.channels + c + i) * plane, ahead, p,
                               taps, table, places, masks, count)  # fmt: skip
            of, next_, channels = 0, c + p.block, 0
            if depth < _LONG:
                count = -1
            elif next_ < p.channels:
                of, channels = (image * p.channels + next_) * plane, min(p.block, p.channels - next_)
                if c == 0:
                    found = list_lines(lines, table, count, p, LINE // source.itemsize)
            elif unit + 1 < p.units:
                image2, begin2, end2 = _place_of(unit + 1, p)
                of, channels = image2 * p.channels * plane, min(p.block, p.channels)
                count = list_stretches(coming, p, begin2, end2)
                table, coming = coming, table
                found = list_lines(lines, table, count, p, LINE // source.itemsize)
            if channels > 0 and (c == 0 or next_ >= p.channels):
                share = channels * found // (row_tiles * ((end - begin + width - 1) // width)) + 1
                once = spread(asked, 0, slots, lines, found, channels, plane, share, source.itemsize)
            multiply_packed(
                packed, (g * p.blocks * p.pitch + c * p.taps) * p.step, 0, p.pitch,
                panels, p.panel, some * p.taps, p.near, out, image * p.rows * p.pixels + begin, p.pixels, p.rows,
                end - begin, width, edge, c > 0, True, source, of, plane, channels, once, asked,
            )  # fmt: skip


class _Cut(NamedTuple):
    """How a problem is cut: channels and elements of a panel, units of an image, their tiles and stretches at most."""

    block: int
    panel: int
    tiles: int  # of an image
    units: int
    most_tiles: int
    most: int


def _cut(g: Geometry) -> _Cut:
    lanes, itemsize = host.lanes(g.dtype), np.dtype(g.dtype).itemsize
    width, images = COLUMNS * lanes, g.batch * g.groups
    block = min(g.group_out, max(1, DEPTH // g.taps))
    panel = block * g.taps * width + lanes
    tiles = -(-math.prod(g.input) // width)
    large = math.prod(g.weight_shape) * itemsize > _LARGE
    units, most = pieces_of(tiles, images, panel * itemsize, _UNITS if large else UNITS)
    return _Cut(block, panel, tiles, units, most, stretches.most_stretches(g.input[2], most, width, lanes))


def counts(g: Geometry) -> dict[str, float]:
    """Count what the kernel does: products, stretches and the vectors read for them, lists of them, register tiles."""
    cut, images, depth = _cut(g), g.batch * g.groups, g.group_out * g.taps
    lanes, row_blocks = host.lanes(g.dtype), -(-g.group_in // HEIGHT)
    width = COLUMNS * lanes
    return {
        "product": float(images * depth * row_blocks * HEIGHT * cut.tiles * width),
        **stretches.gathering(g, stretches.most_stretches(g.input[2], cut.tiles, width, lanes)),
        "list": images * cut.units * g.taps,
        "tile": images * row_blocks * cut.tiles * -(-depth // DEPTH),
        "call": 1,
    }


def bind(g: Geometry) -> Bound:
    """Return the function that runs the input gradient."""
    cut, lanes, itemsize = _cut(g), host.lanes(g.dtype), np.dtype(g.dtype).itemsize
    width, depth, images = COLUMNS * lanes, g.group_out * g.taps, g.batch * g.groups
    step = channel_step(lanes)
    blocks = -(-g.group_in // step)
    # Transposing writes whole vectors of k.
    pitch = depth + lanes
    elements = g.groups * blocks * pitch * step
    layout = np.zeros(1, LAYOUT)
    for name, value in {
        "groups": g.groups, "step": step, "pitch": pitch, "blocks": blocks, "rows": g.group_in, "channels": g.group_out,
        "block": cut.block, "tiles": cut.most_tiles, "most": cut.most, "near": max(1, NEAR // (cut.panel * itemsize)),
        "width": width, "panel": cut.panel, "pixels": math.prod(g.input), "image_tiles": cut.tiles,
        "pieces": cut.units, "units": images * cut.units, **stretches.fields(g),
    }.items():  # fmt: skip
        layout[name] = value
    units = images * cut.units
    launch = product_units.launcher(g.dtype, units, 2 * g.multiplications)
    private = (cut.most_tiles * cut.panel + (1 + HEIGHT) * width) * itemsize + stretches.list_bytes(g.taps, cut.most)
    private += ask_bytes(-(-cut.block * g.taps // CHANNEL_TERMS), 1, cut.most)
    pack = pack_units.launcher(g.dtype, g.groups * blocks, 4 * elements)

    def run(gy: Array, w: Array, gx: Array) -> None:
        packed = workspace.take("packed", elements, g.dtype)
        pack(w, packed, layout)
        launch(gy, packed, gx, layout)
        workspace.keep("packed", packed)

    return Bound(run, workspace.total(elements * itemsize, private, units))


INPUT_GRAD = Implementation(
    "direct_panels", "matrix products over panels of gathered pixels, in a core's cache", stretches.declines, bind,
    cost=Cost(counts, weights_of("direct_panels", "input_grad")),
)  # fmt: skip
