"""Forward pass as one matrix product of all taps at all pixels, whose sums are added up where taps meet.

``y[m, s·(i + shift(t)) + phase(t)] += Σ_k w[k, (m, t)] · x[k, i]`` over input channels k: for every input pixel i one
sum for each pair of an output channel m and a tap t, the rows of the product, with no zeros among them and none around
x. A window of some rows of the input slides down a strip of columns: the sums of its rows stay in a core's cache until
the rows of the output that they meet in are complete (``col2im`` in the literature: K. Chellapilla et al., High
Performance Convolutional Neural Networks for Document Processing, 2006).

Memory: x as it is, copied to panels (see `panels`) · weights packed (group, block of rows, k, row) · sums (row, pixel
of the window) · one row of some channels of the output, phase by phase. Parallel over images, groups, blocks of output
channels, bands of rows and strips; sums that two of these share are computed twice. Sums run over k in blocks, then
over taps in their order. NaN and Inf reach what they touch and no more.

Ladder, in docs/decisions/0016-col2im.md:
1. Panels filled tile by tile, for as many as the first cache holds.
2. As many as the second holds, what comes after them fetched meanwhile.
3. Terms of a sum four at a time, their addresses constants of the loop.
4. Windows of 1 MB where the second cache has 2; what comes next fetched by the tiles (0023).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from fastdeconv.kernels.cpu import frame as frames
from fastdeconv.kernels.cpu import host, planes, workspace
from fastdeconv.kernels.cpu.buffers import empty
from fastdeconv.kernels.cpu.costs import weights_of
from fastdeconv.kernels.cpu.fetching import LINES, ask_bytes, spread
from fastdeconv.kernels.cpu.gather import copy_tile
from fastdeconv.kernels.cpu.jit import device_function, kernel
from fastdeconv.kernels.cpu.panels import COLUMNS, DEPTH, FAR, HEIGHT, NEAR, multiply_packed, row_packing
from fastdeconv.kernels.cpu.product_tiles import CHANNEL_TERMS, channel_step
from fastdeconv.kernels.cpu.rows import (
    MOST_INTERLEAVED,
    accumulate_rows,
    add_row,
    interleave_rows,
    zero_row,
)
from fastdeconv.kernels.cpu.vectors import LINE
from fastdeconv.kernels.geometry import Bound, Cost, Geometry, Implementation

Array = NDArray[Any]

LAYOUT = np.dtype(
    [
        ("channels", "i8"),  # input channels of a group
        ("groups", "i8"),
        ("group_out", "i8"),
        ("taps", "i8"),
        ("size", "i8", (2,)),  # of the input
        ("out_size", "i8", (2,)),
        ("stride", "i8", (2,)),
        ("low", "i8", (2,)),  # the least shift of a tap
        ("high", "i8", (2,)),  # and the most
        ("block", "i8"),  # output channels of a unit
        ("blocks", "i8"),
        ("rows", "i8"),  # of a unit's product, whole register tiles
        ("left_step", "i8"),  # rows of a block of packed weights
        ("left_rows", "i8"),  # of all those of a group
        ("bands", "i8"),
        ("strips", "i8"),
        ("own", "i8"),  # outputs of a phase in a row of a strip
        ("window", "i8"),  # rows
        ("pitch", "i8"),  # pixels of each
        ("step", "i8"),  # elements of a row of the product
        ("line", "i8"),  # elements of a row of one phase
        ("width", "i8"),  # pixels of a register tile
        ("depth", "i8"),  # channels of a panel
        ("panel", "i8"),  # elements of one
        ("near", "i8"),  # panels that the first cache has room for
        ("beside", "i8"),  # and the second
    ]
)

# Bytes of the sums that are used, which share the second cache with panels and weights.
_WINDOW = 1 << 20 if host.REGISTERS == 32 else 192 << 10
# Rows of a product at most, and taps of a kernel: a window has sums for all of them.
_ROWS = 512
# Tiles in a row of a strip.
_TILES = (4, 8, 16, 32)
# Units for each thread: enough to share.
_UNITS = 4
_THREADS = int(numba.config.NUMBA_NUM_THREADS)


@device_function
def _place(p: Any, tile: int, row: int, begin: int, present: int) -> tuple[int, int]:
    """Return where the pixels of a register tile are in a channel, and how many; tiles are counted from `row` on."""
    at, width = tile * p.width, p.size[1]
    if p.strips == 1:  # tiles run across rows
        start = row * width + at
        return start, min(p.width, p.size[0] * width - start)
    line, column = at // p.pitch, at % p.pitch
    return (row + line) * width + begin + column, max(0, min(p.width, present - column))


@device_function
def _multiply(
    sums: Any, x: Any, packed: Any, panels: Any, edge: Any, places: Any, lines: Any, asked: Any, p: Any,
    first: int, left_at: int, top: int, row: int, count: int, begin: int, present: int, to: int,
) -> None:  # fmt: skip
    """Compute the sums of `count` rows from `row` on; a strip's rows begin at `begin` and have `present` pixels."""
    plane = p.size[0] * p.size[1]
    tiles = (count * p.pitch + p.width - 1) // p.width
    for tile in range(0, tiles, p.beside):
        some = min(p.beside, tiles - tile)
        for n in range(some):
            places[n, 0], places[n, 1] = _place(p, tile + n, row, begin, present)
            places[n, 2], _ = _place(p, tile + n + p.beside, row, begin, present)
        for c in range(0, p.channels, p.depth):
            depth = min(p.depth, p.channels - c)
            for i in range(depth):
                source = (first + c + i) * plane
                for n in range(some):
                    copy_tile(panels, n * p.panel + i * p.width, x, source + places[n, 0], places[n, 1])
            # Channels lie pages apart: what comes after these tiles is fetched while they are multiplied.
            after = c + depth >= p.channels
            found = 0
            for n in range(some):
                for j in range(0, p.width, LINE // x.itemsize):
                    lines[found] = places[n, 2 if after else 0] + j
                    found += 1
            channels = min(p.depth, p.channels if after else p.channels - c - depth)
            share = channels * found // (p.rows // HEIGHT * some) + 1
            slots = (depth + CHANNEL_TERMS - 1) // CHANNEL_TERMS * LINES
            once = spread(asked, 0, slots, lines, found, channels, plane, share, x.itemsize)
            # What a last tile computes behind its rows is overwritten by those that follow.
            multiply_packed(
                packed, left_at + c * p.left_step, top, p.channels, panels, p.panel, depth, p.near,
                sums, to + tile * p.width, p.step, p.rows, some * p.width, p.width, edge, c > 0, False,
                x, (first if after else first + c + depth) * plane, plane, channels, once, asked,
            )  # fmt: skip


@device_function
def _put_together(
    y: Any, bias: Any, sums: Any, line: Any, p: Any, row_taps: Any, column_taps: Any,
    image: int, channel: int, many: int, j: int, b: int, base: int, begin: int, left: int, right: int,
) -> None:  # fmt: skip
    """Add up the row ``stride·j + b`` of the output in a strip, for some channels, and put its phases side by side."""
    o, stride, width = p.stride[0] * j + b, p.stride[1], p.size[1]
    step, kernel = stride * p.line, column_taps.size // 2
    zero_row(line, 0, many * step)
    for t1 in range(row_taps.size // 2):
        i = j - row_taps[2 * t1 + 1]
        if row_taps[2 * t1] == b and 0 <= i < p.size[0]:
            for t2 in range(kernel):
                phase, shift = column_taps[2 * t2], column_taps[2 * t2 + 1]
                first, stop = max(left, shift), min(right, width + shift)
                accumulate_rows(line, phase * p.line + first - left, step,
                                sums, (t1 * kernel + t2) * p.step + (i - base) * p.pitch + first - shift - begin,
                                p.taps * p.step, many, stop - first)  # fmt: skip
    plane, at = p.out_size[0] * p.out_size[1], o * p.out_size[1] + stride * left
    interleave_rows(y, (image * p.group_out + channel) * plane + at, plane, line, 0, step, p.line, stride,
                    bias, image % p.groups * p.group_out + channel, many,
                    min(stride * right, p.out_size[1]) - stride * left)  # fmt: skip


@kernel("T[]", "T[]", "T[]", "T[]", LAYOUT, "int[]", "int[]")
def window_units(
    lo: int, hi: int, x: Any, packed: Any, bias: Any, y: Any, layout: Any, row_taps: Any, column_taps: Any
) -> None:
    """Compute some output channels of one image in one band of one strip."""
    p = layout[0]
    panels = empty(p.beside * p.panel + p.width, x.dtype)
    places = np.empty((p.beside, 3), np.int64)
    slots = (p.depth + CHANNEL_TERMS - 1) // CHANNEL_TERMS * LINES
    lines, asked = np.empty(p.beside * (p.width // (LINE // x.itemsize) + 1), np.int64), np.empty(slots, np.int64)
    edge = empty(HEIGHT * p.width, x.dtype)
    # What adds rows up and puts them together reads past their end.
    sums = empty(p.rows * p.step + p.width, x.dtype)
    line = empty((p.block * p.stride[1] + 1) * p.line + p.width, x.dtype)
    rows_out = (p.out_size[0] + p.stride[0] - 1) // p.stride[0]
    columns_out = (p.out_size[1] + p.stride[1] - 1) // p.stride[1]
    for unit in range(lo, hi):
        block, rest = unit % p.blocks, unit // p.blocks
        strip, rest = rest % p.strips, rest // p.strips
        band, image = rest % p.bands, rest // p.bands
        many = min(p.block, p.group_out - block * p.block)
        left_at = image % p.groups * p.left_rows * p.channels
        left, right = strip * p.own, min((strip + 1) * p.own, columns_out)
        begin = min(max(0, left - p.high[1]), p.size[1]) if p.strips > 1 else 0
        present = min(p.size[1], right - p.low[1]) - begin
        j, end = rows_out * band // p.bands, rows_out * (band + 1) // p.bands
        # The window holds the rows from `base` to `done`.
        base = min(max(0, j - p.high[0]), p.size[0])
        done, stop = base, min(p.size[0], end - p.low[0])
        while j < end:
            over = min(max(base, j - p.high[0]), done) - base
            if over > 0:
                for m in range(p.rows if base + over < done else 0):
                    add_row(sums, m * p.step, sums, m * p.step + over * p.pitch, x.dtype.type(0),
                            (done - base - over) * p.pitch)  # fmt: skip
                base += over
            count = min(p.window - (done - base), stop - done)
            if count > 0:
                _multiply(sums, x, packed, panels, edge, places, lines, asked, p, image * p.channels, left_at,
                          block * p.rows, done, count, begin, present, (done - base) * p.pitch)  # fmt: skip
                done += count
            complete = end if done >= stop else min(end, done + p.low[0])
            while j < complete:
                for b in range(min(p.stride[0], p.out_size[0] - p.stride[0] * j)):
                    _put_together(y, bias, sums, line, p, row_taps, column_taps, image, block * p.block, many,
                                  j, b, base, begin, left, right)  # fmt: skip
                j += 1


class _Way(NamedTuple):
    """How a problem is cut: output channels of a unit, rows of its product; bands, strips and their window."""

    block: int
    rows: int
    bands: int
    strips: int
    own: int
    window: int
    pitch: int
    counts: dict[str, float]


def _taps(g: Geometry, axis: int) -> list[tuple[int, int]]:
    """Return the phase and the shift of each tap on an axis."""
    pairs = (divmod(g.dilation[axis] * k - g.padding[axis], g.stride[axis]) for k in range(g.kernel[axis]))
    return [(phase, shift) for shift, phase in pairs]


def _ways(g: Geometry) -> Iterator[_Way]:
    lanes, itemsize = host.lanes(g.dtype), np.dtype(g.dtype).itemsize
    width = COLUMNS * lanes
    images = g.batch * g.groups
    shifts = [[shift for _, shift in _taps(g, axis)] for axis in (1, 2)]
    halo = [max(each) - min(each) for each in shifts]
    rows_out, columns_out = (-(-g.output[axis] // g.stride[axis]) for axis in (1, 2))
    height, across = g.input[1], g.input[2]
    for block in sorted({*(1 << i for i in range(g.group_out.bit_length())), g.group_out}):
        if block < g.group_out and block * g.taps % HEIGHT:
            continue
        rows = -(-block * g.taps // HEIGHT) * HEIGHT
        if rows > _ROWS:
            break
        blocks = -(-g.group_out // block)
        pixels = _WINDOW // (rows * itemsize)
        for tiles in (0, *_TILES):
            # Without strips, tiles of pixels run across rows.
            pitch = tiles * width or across
            own = pitch - halo[1] if tiles else columns_out
            window = min(pixels // pitch, height)
            if own < 1 or window < min(height, halo[0] + 1) or (tiles and pitch >= across + width):
                continue
            if block * g.stride[2] * own * itemsize > _WINDOW:  # a row of the output, phase by phase
                continue
            strips = -(-columns_out // own)
            if (strips > 1) != (tiles > 0):
                continue
            wanted = -(-_UNITS * _THREADS // max(1, images * blocks * strips))
            bands = max(1, min(wanted, rows_out // (1 + 4 * halo[0])))
            inputs = min(height * bands, height + (bands - 1) * halo[0])
            first = min(window, inputs)
            slides, rest = divmod(inputs - first, max(1, window - halo[0]))
            parts = ((1, first), (slides, window - halo[0]), (1, rest))
            tiles_in = (n * -(-many * pitch // width) for n, many in parts)
            cut = images * blocks * strips
            all_tiles = cut * sum(tiles_in)
            yield _Way(block, rows, bands, strips, own, window, pitch, {
                "product": float(all_tiles * width * rows * g.group_in),
                "piece": all_tiles * g.group_in,
                "tile": all_tiles * rows / HEIGHT * -(-g.group_in // DEPTH),
                "moved": cut * slides * halo[0] * pitch * rows,
                "line": cut * rows_out * g.taps * block,
                "result": math.prod(g.output_shape),
                "row": math.prod(g.output_shape) / g.output[2],
                "weight": math.prod(g.weight_shape),
                "call": 1,
            })  # fmt: skip


@lru_cache(maxsize=256)
def _way(g: Geometry) -> _Way | None:
    """Return the way with the least work, or None if sums of no window fit a cache."""
    weights = weights_of("direct_col2im", "forward")
    return min(_ways(g), key=lambda way: sum(weights.get(kind, 0) * n for kind, n in way.counts.items()), default=None)


def _declines(g: Geometry) -> str | None:
    if g.dtype not in ("float32", "float64"):
        return f"vector code is for float32 and float64, not {g.dtype}"
    if g.input[0] > 1 or g.output[0] > 1 or g.kernel[0] > 1 or g.padding[0] > 0:
        return "serves one and two axes, not three"
    if g.stride[2] > MOST_INTERLEAVED:
        return f"puts up to {MOST_INTERLEAVED} phases of the last axis side by side, not {g.stride[2]}"
    if g.taps > _ROWS:
        return f"a window has no room for the sums of {g.taps} taps, only for {_ROWS}"
    if _way(g) is None:
        return "there are no channels whose taps, and no rows whose shifts, a core's cache has room for"
    return None


def _counts(g: Geometry) -> dict[str, float]:
    way = _way(g)
    assert way is not None
    return way.counts


def _bind(g: Geometry) -> Bound:
    way = _way(g)
    assert way is not None
    lanes, itemsize = host.lanes(g.dtype), np.dtype(g.dtype).itemsize
    width, blocks = COLUMNS * lanes, -(-g.group_out // way.block)
    row_taps, column_taps = _taps(g, 1), _taps(g, 2)
    depth = min(g.group_in, DEPTH)
    panel = depth * width + lanes
    near, beside = (max(1, room // (panel * itemsize)) for room in (NEAR, FAR))
    # Rows a power of two apart would share cache sets.
    step = -(-(way.window * way.pitch + width) // (16 * lanes)) * 16 * lanes + 2 * lanes
    line = -(-way.own // lanes) * lanes
    pack, packed_elements = row_packing(g, blocks * way.rows // HEIGHT)
    layout = np.zeros(1, LAYOUT)
    for name, value in {
        "left_step": channel_step(lanes), "left_rows": packed_elements // (g.groups * g.group_in),
        "channels": g.group_in, "groups": g.groups, "group_out": g.group_out, "taps": g.taps,
        "size": g.input[1:], "out_size": g.output[1:], "stride": g.stride[1:],
        "low": [min(shift for _, shift in taps) for taps in (row_taps, column_taps)],
        "high": [max(shift for _, shift in taps) for taps in (row_taps, column_taps)],
        "block": way.block, "blocks": blocks, "rows": way.rows, "bands": way.bands, "strips": way.strips,
        "own": way.own, "window": way.window, "pitch": way.pitch, "step": step, "line": line,
        "width": width, "depth": depth, "panel": panel, "near": near, "beside": beside,
    }.items():  # fmt: skip
        layout[name] = value
    units = g.batch * g.groups * blocks * way.bands * way.strips
    compute = window_units.launcher(g.dtype, units, 2 * g.multiplications + 8 * g.elements)
    tables = [frames.ints([number for tap in taps for number in tap]) for taps in (row_taps, column_taps)]

    no_bias = np.empty(0, g.dtype)

    def run_packed(x: Array, packed: Array, bias: Array | None, y: Array) -> None:
        compute(x, packed, no_bias if bias is None else bias, y, layout, *tables)

    private = beside * panel + (3 + HEIGHT) * width + way.rows * step + (way.block * g.stride[2] + 1) * line
    lists = 24 * beside + ask_bytes(-(-depth // CHANNEL_TERMS), 0, 0) + 8 * beside * (width * itemsize // LINE + 1)
    scratch = workspace.total(packed_elements * itemsize, private * itemsize + lists, units)
    return planes.with_packed_weights(g.dtype, packed_elements, pack, run_packed, scratch)


FORWARD = Implementation(
    "direct_col2im", "one matrix product of all taps at all pixels, whose sums meet in a core's cache",
    _declines, _bind, cost=Cost(_counts, weights_of("direct_col2im", "forward")),
)  # fmt: skip
