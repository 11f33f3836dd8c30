"""Weight gradient: matrix products of the input as it lies and panels of windows of the output's gradient.

``gw[ci, k] = Σ_q x[ci, q] · panel[q, k]`` with k over the pairs of an output channel and a tap, and the panel's row q
the elements of the gradient that pixel q is connected with: its window (``im2col`` in the literature). A panel has the
columns of one register tile for some pixels, one row after another, and is used for all input channels while it is in
the core's cache.

Memory: all arrays as they are · panels (block of columns, pixel, column) of some pixels at a time · sums of each range
of pixels, where there are several. Parallel over groups, blocks of columns and ranges of images' pixels, as many for
any number of threads. Sums run over pixels in blocks, then over ranges, in their order. A NaN or Inf in x meets the
zeros that stand for pixels outside the gradient.

Measured in docs/decisions/0017-im2col.md.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdeconv.kernels.cpu import frame as frames
from fastdeconv.kernels.cpu import host, workspace
from fastdeconv.kernels.cpu.buffers import empty
from fastdeconv.kernels.cpu.costs import weights_of
from fastdeconv.kernels.cpu.gather import gather_windows
from fastdeconv.kernels.cpu.jit import device_function, kernel
from fastdeconv.kernels.cpu.panels import COLUMNS, DEPTH, FAR, HEIGHT, NEAR, multiply_panels
from fastdeconv.kernels.cpu.range_sums import by_ranges
from fastdeconv.kernels.cpu.rows import zero_row
from fastdeconv.kernels.geometry import Bound, Cost, Geometry, Implementation

Array = NDArray[Any]

LAYOUT = np.dtype(
    [
        ("groups", "i8"),
        ("rows", "i8"),  # input channels of a group
        ("row_blocks", "i8"),  # parts of those whose pixels the second cache has room for
        ("columns", "i8"),  # pairs of an output channel and a tap of a group
        ("panels", "i8"),
        ("sets", "i8"),  # of panels that are filled together
        ("beside", "i8"),  # panels of a set, at most
        ("near", "i8"),  # panels that the first cache has room for
        ("blocks", "i8"),  # of an image's pixels
        ("all_blocks", "i8"),  # of all images
        ("ranges", "i8"),  # of those
        ("width", "i8"),  # columns of a panel
        ("panel", "i8"),  # elements of one
        ("pixels", "i8"),  # of an image
        ("stride", "i8", (3,)),
        ("size", "i8", (3,)),  # of the input
        ("from_size", "i8", (3,)),  # of the output
        ("channels", "i8"),  # output channels of a group
        ("first", "i8"),  # pixels of a row whose whole window is in the row, from this one on
        ("stop", "i8"),
        ("lanes", "i8"),
    ]
)

# For each column: where its channel starts, and what its tap adds to the output index on each axis.
_COLUMN = 4
# Bytes of pixels of x that are read for a set of panels before the next channels' turn.
_ROWS = 128 << 10
# Enough units to share among threads.
_UNITS = 16


@device_function
def _fill(
    panels: Any, at: int, gy: Any, start: int, p: Any, table: Any, first: int, columns: int, chunk_table: Any,
    chunk: int, chunks: int, places: Any, rows: Any, begin: int, end: int,
) -> None:  # fmt: skip
    """Fill one panel with the windows of some pixels of an image whose channels begin at `start`."""
    size1, size2 = p.size[1], p.size[2]
    from0, from1, from2 = p.from_size[0], p.from_size[1], p.from_size[2]
    stride = p.stride[2]
    q = begin
    while q < end:
        line = q // size2
        i2 = q - line * size2
        i0, i1 = line // size1, line % size1
        last = min(size2, i2 + end - q)
        whole, top = True, 0
        for j in range(columns):
            c = _COLUMN * (first + j)
            o0, o1 = p.stride[0] * i0 + table[c + 1], p.stride[1] * i1 + table[c + 2]
            if 0 <= o0 < from0 and 0 <= o1 < from1:
                rows[j] = start + table[c] + (o0 * from1 + o1) * from2
                top = max(top, rows[j] + table[c + 3])
            else:
                rows[j], whole = -1, False
        # Whole vectors are read where they stay in the array.
        low = min(last, max(i2, p.first))
        high = max(low, min(last, min(p.stop, (gy.size - p.lanes - top) // stride + 1)))
        for k in range(chunks):
            j = chunk_table[chunk + k]
            at_low = rows[j] + stride * low + table[_COLUMN * (first + j) + 3]
            places[2 * k], places[2 * k + 1] = at_low if rows[j] >= 0 else -1, j
        while i2 < last:
            if i2 == low and high > low:
                gather_windows(panels, at, p.width, gy, places, chunks, stride, high - low, whole)
                at += (high - low) * p.width
                i2 = high
                continue
            for j in range(columns):
                o2 = stride * i2 + table[_COLUMN * (first + j) + 3]
                panels[at + j] = gy[rows[j] + o2] if rows[j] >= 0 and 0 <= o2 < from2 else gy.dtype.type(0)
            at += p.width
            i2 += 1
        q += last - (q - line * size2)


@kernel("T[]", "T[]", "T[]", LAYOUT, "int[]", "int[]", "int[]")
def window_units(
    lo: int, hi: int, x: Any, gy: Any, sums: Any, layout: Any, table: Any, chunk_start: Any, chunk_table: Any
) -> None:
    """Sum one range of pixels for one set of panels of one group."""
    p = layout[0]
    panels = empty(p.beside * p.panel, x.dtype)
    # Columns behind the last are multiplied, too.
    zero_row(panels, 0, p.beside * p.panel)
    edge = empty(HEIGHT * p.width, x.dtype)
    places, rows = empty(2 * p.width, np.int64), empty(p.width, np.int64)
    plane = p.from_size[0] * p.from_size[1] * p.from_size[2]
    weights = p.groups * p.rows * p.columns
    for unit in range(lo, hi):
        set_, rest = unit % p.sets, unit // p.sets
        g, range_ = rest % p.groups, rest // p.groups
        first, stop = p.panels * set_ // p.sets, p.panels * (set_ + 1) // p.sets
        column = first * p.width
        columns = min(stop * p.width, p.columns) - column
        start = p.all_blocks * range_ // p.ranges
        for block in range(start, p.all_blocks * (range_ + 1) // p.ranges):
            n, part = block // p.blocks, block % p.blocks
            begin, end = p.pixels * part // p.blocks, p.pixels * (part + 1) // p.blocks
            for panel in range(first, stop):
                chunk = chunk_start[panel]
                _fill(panels, (panel - first) * p.panel, gy, (n * p.groups + g) * p.channels * plane, p,
                      table, panel * p.width, min(p.width, p.columns - panel * p.width),
                      chunk_table, chunk, chunk_start[panel + 1] - chunk, places, rows, begin, end)  # fmt: skip
            for b in range(p.row_blocks):
                row, next_row = p.rows * b // p.row_blocks, p.rows * (b + 1) // p.row_blocks
                multiply_panels(
                    x, ((n * p.groups + g) * p.rows + row) * p.pixels + begin, p.pixels, p.pixels, 1,
                    panels, p.panel, end - begin, p.near,
                    sums, range_ * weights + (g * p.rows + row) * p.columns + column, p.columns,
                    next_row - row, columns, p.width, edge, block > start, False,
                )  # fmt: skip


def _declines(g: Geometry) -> str | None:
    if g.dtype not in ("float32", "float64"):
        return f"vector code is for float32 and float64, not {g.dtype}"
    if g.group_in < HEIGHT:
        return f"{g.group_in} input channels a group are fewer than the {HEIGHT} rows of a register tile"
    return None


def _chunks(g: Geometry, width: int) -> tuple[frames.Ints, frames.Ints]:
    """Return where each panel's chunks begin in the list of their first columns in the panel, and that list.

    A chunk is what lies side by side in the gradient: taps of one row of the kernel, at most a vector.
    """
    columns = np.arange(g.group_out * g.taps)
    # They begin with rows of the kernel and with panels, and follow one another by whole vectors.
    since = np.minimum(columns % g.kernel[2], columns % width)
    firsts = columns[since % (host.lanes(g.dtype) if g.dilation[2] == 1 else 1) == 0]
    starts = np.searchsorted(firsts, np.append(np.arange(0, columns.size, width), columns.size))
    return starts.astype(np.int64), (firsts % width).astype(np.int64)


def _columns(g: Geometry) -> frames.Ints:
    """Return for each column where its channel starts, and what its tap adds to the output index on each axis."""
    taps = np.indices(g.kernel).reshape(3, -1).T * np.array(g.dilation) - np.array(g.padding)
    table = np.empty((g.group_out, g.taps, _COLUMN), np.int64)
    table[..., 0] = np.arange(g.group_out)[:, None] * math.prod(g.output)
    table[..., 1:] = taps
    return table.reshape(-1)


class _Cut(NamedTuple):
    """How pixels and columns are cut: blocks of an image, pixels of one; panels, sets of them; ranges of all blocks."""

    blocks: int
    depth: int
    panels: int
    sets: int
    ranges: int


def _cut(g: Geometry) -> _Cut:
    lanes, itemsize = host.lanes(g.dtype), np.dtype(g.dtype).itemsize
    width, pixels = COLUMNS * lanes, math.prod(g.input)
    blocks = -(-pixels // DEPTH)
    depth = -(-pixels // blocks)
    panels = -(-g.group_out * g.taps // width)
    sets = -(-panels // max(1, min(panels, FAR // ((depth * width + lanes) * itemsize))))
    # The sums of all ranges take no more memory than the arrays.
    most = min(g.batch * blocks, 1 + g.elements // math.prod(g.weight_shape))
    return _Cut(blocks, depth, panels, sets, max(1, min(most, -(-_UNITS // (g.groups * sets)))))


def _counts(g: Geometry) -> dict[str, float]:
    width, pixels = COLUMNS * host.lanes(g.dtype), math.prod(g.input)
    columns, cut = g.group_out * g.taps, _cut(g)
    row_tiles = -(-g.group_in // HEIGHT)
    together = min(host.lanes(g.dtype), g.kernel[2]) if g.dilation[2] == 1 else 1
    lines = g.batch * max(cut.blocks, pixels // g.input[2])
    first, stop = _whole_windows(g)
    return {
        "product": float(g.groups * g.batch * pixels * row_tiles * HEIGHT * cut.panels * width),
        "chunk": g.groups * g.batch * pixels * columns / together,
        "tile": g.groups * g.batch * cut.blocks * row_tiles * cut.panels,
        "line": g.groups * columns * lines,
        "border": g.groups * columns * lines * (g.input[2] - max(0, stop - first)),
        "weight": math.prod(g.weight_shape) * (1 if cut.ranges == 1 else 1 + cut.ranges),
        "call": 1,
    }


def _whole_windows(g: Geometry) -> tuple[int, int]:
    """Return the pixels of a row whose windows do not leave the output's row: the first, and where they end."""
    stride, padding = g.stride[2], g.padding[2]
    first = -(-padding // stride)
    stop = (g.output[2] - 1 - g.dilation[2] * (g.kernel[2] - 1) + padding) // stride + 1
    return min(first, g.input[2]), min(max(0, stop), g.input[2])


def _bind(g: Geometry) -> Bound:
    lanes, itemsize = host.lanes(g.dtype), np.dtype(g.dtype).itemsize
    width, cut = COLUMNS * lanes, _cut(g)
    panel = cut.depth * width + lanes
    beside = -(-cut.panels // cut.sets)
    row_blocks = max(1, min(g.group_in // (2 * HEIGHT), -(-g.group_in * cut.depth * itemsize // _ROWS)))
    first, stop = _whole_windows(g)
    layout = np.zeros(1, LAYOUT)
    for name, value in {
        "groups": g.groups, "rows": g.group_in, "row_blocks": row_blocks, "columns": g.group_out * g.taps,
        "panels": cut.panels, "sets": cut.sets, "beside": beside, "near": max(1, NEAR // (panel * itemsize)),
        "blocks": cut.blocks, "all_blocks": g.batch * cut.blocks, "ranges": cut.ranges,
        "width": width, "panel": panel, "pixels": math.prod(g.input), "stride": g.stride, "size": g.input,
        "from_size": g.output, "channels": g.group_out, "first": first, "stop": stop, "lanes": lanes,
    }.items():  # fmt: skip
        layout[name] = value
    table, (starts, firsts) = _columns(g), _chunks(g, width)
    units = g.groups * cut.sets * cut.ranges
    compute = window_units.launcher(g.dtype, units, 2 * g.multiplications)
    run, shared = by_ranges(g, cut.ranges, compute, layout, table, starts, firsts)
    private = (beside * panel + HEIGHT * width) * itemsize + 24 * width
    return Bound(run, workspace.total(shared, private, units))


WEIGHT_GRAD = Implementation(
    "direct_im2col", "matrix products of the input as it lies and windows of the gradient, in a core's cache",
    _declines, _bind, cost=Cost(_counts, weights_of("direct_im2col", "weight_grad")),
)  # fmt: skip
