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
7. Stretches of rows listed once for all channels, gathered by masked vectors without a call or a branch for each.
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
from fastdeconv.kernels.cpu.jit import kernel
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
from fastdeconv.kernels.cpu.rows import zero_row
from fastdeconv.kernels.cpu.stretches import FIELDS, gather_channel, list_sources, list_stretches
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
        ("block", "i8"),  # output channels of a panel
        ("tiles", "i8"),  # of a unit, at most
        ("near", "i8"),  # tiles whose panels fit the first cache together
        ("pixels", "i8"),  # of an image
        ("image_tiles", "i8"),
        ("pieces", "i8"),  # of those
        *FIELDS,
    ]
)

# Weights of more bytes are packed, if there are so many panels to multiply with them.
_PACKED, _PANELS = 64 << 10, 4
# Few units beside those weights, as each reads all of them.
_UNITS = min(UNITS, 2 * int(numba.config.NUMBA_NUM_THREADS))


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
    # Columns behind the last pixel are multiplied, too: what is there by chance may be slow to multiply.
    zero_row(panels, 0, panels.size)
    edge = empty(HEIGHT * width, source.dtype)
    table = np.empty((6, p.most), np.int64)
    taps = np.empty((p.taps, 2), np.int64)
    places, masks = np.empty((p.taps + 1, p.most), np.int64), np.empty((p.taps + 1, p.most), np.int64)
    plane = p.from_size[0] * p.from_size[1] * p.from_size[2]
    depth = p.channels * p.taps
    for unit in range(lo, hi):
        image, first, stop = part_of(unit, p.pieces, p.image_tiles)
        begin, end = first * width, min(stop * width, pixels)
        g = image % p.groups
        count = list_stretches(table, p, begin, end)
        list_sources(taps, places, masks, table, count, p)
        for c in range(0, p.channels, p.block):
            some = min(p.block, p.channels - c)
            for i in range(some):
                ahead = plane if c + i + 1 < p.channels else 0
                gather_channel(panels, i * p.taps * width, source, (image * p.channels + c + i) * plane, ahead, p,
                        taps, table, places, masks, count)  # fmt: skip
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
    reason = stretches.declines(g)
    if reason is not None:
        return reason
    if g.group_in < HEIGHT and host.lanes(g.dtype) < HEIGHT:  # weights that are not packed have no rows of zeros
        return f"{g.group_in} input channels a group are too few for the {HEIGHT} rows of a register tile"
    return None


class _Cut(NamedTuple):
    """How a problem is cut: channels and elements of a panel, units of an image, their tiles and stretches at most."""

    block: int
    panel: int
    tiles: int  # of an image
    packs: bool
    units: int
    most_tiles: int
    most: int


def _cut(g: Geometry) -> _Cut:
    lanes, itemsize = host.lanes(g.dtype), np.dtype(g.dtype).itemsize
    width, images = COLUMNS * lanes, g.batch * g.groups
    block = min(g.group_out, max(1, DEPTH // g.taps))
    panel = block * g.taps * width + lanes
    tiles = -(-math.prod(g.input) // width)
    large = math.prod(g.weight_shape) * itemsize > _PACKED and images * tiles >= _PANELS
    packs = g.group_in < HEIGHT or (lanes >= HEIGHT and large)
    units, most = pieces_of(tiles, images, panel * itemsize, _UNITS if packs else UNITS)
    return _Cut(block, panel, tiles, packs, units, most, stretches.most_stretches(g.input[2], most, width, lanes))


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
    blocks = -(-g.group_in // lanes)
    elements = g.groups * blocks * (depth + lanes) * lanes if cut.packs else 0
    layout = np.zeros(1, LAYOUT)
    for name, value in {
        "groups": g.groups, "step": lanes, "blocks": blocks, "rows": g.group_in, "channels": g.group_out,
        "block": cut.block, "tiles": cut.most_tiles, "most": cut.most, "near": max(1, NEAR // (cut.panel * itemsize)),
        "width": width, "panel": cut.panel, "pixels": math.prod(g.input), "image_tiles": cut.tiles,
        "pieces": cut.units, **stretches.fields(g),
    }.items():  # fmt: skip
        layout[name] = value
    units = images * cut.units
    launch = product_units.launcher(g.dtype, units, 2 * g.multiplications)
    private = (cut.most_tiles * cut.panel + (1 + HEIGHT) * width) * itemsize + stretches.list_bytes(g.taps, cut.most)
    nothing = np.empty(0, g.dtype)
    pack = pack_units.launcher(g.dtype, g.groups * blocks, 4 * elements)

    def run(gy: Array, w: Array, gx: Array) -> None:
        if not cut.packs:
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
