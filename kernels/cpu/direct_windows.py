"""Forward pass: register tiles of channels × pixels, from windows of the input gathered in a core's cache.

``y[m, s·q + phase] = b[m] + Σ w[c, t, m] · panel[c, window(t), q]`` over input channels c and the taps t of the phase;
the panel has, for the pixels q of a tile, the elements of x that a tap connects with them. Taps of several phases find
theirs at the same distance, so that all phases share the windows, one for each such distance. See `frame` for phases.

Memory: x as it is · panels (tile of pixels, c, window, pixel) of some channels at a time · weights packed (group, block
of m, phase, c, tap, m) · sums (phase, block of m, tile, phase of the last axis, m, pixel), copied to the output row by
row with the phases of the last axis side by side. Parallel over images, groups, pieces of planes and ranges of blocks.
Sums run over c, then taps, in blocks of channels. A NaN or Inf in the weights meets the zeros that stand for pixels
outside the input.

Measured in docs/decisions/0021-windows.md.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdeconv.kernels.cpu import frame as frames
from fastdeconv.kernels.cpu import host, planes, stretches, workspace
from fastdeconv.kernels.cpu.buffers import empty
from fastdeconv.kernels.cpu.costs import weights_of
from fastdeconv.kernels.cpu.direct_tile import output_phases, store, tap_starts
from fastdeconv.kernels.cpu.jit import device_function, kernel
from fastdeconv.kernels.cpu.panels import UNITS, pieces_of
from fastdeconv.kernels.cpu.product_tiles import WINDOW_SHAPES, window_tile
from fastdeconv.kernels.cpu.rows import MOST_INTERLEAVED, zero_row
from fastdeconv.kernels.cpu.stretches import FIELDS, gather_channel, list_sources, list_stretches
from fastdeconv.kernels.cpu.sweep import part_of
from fastdeconv.kernels.geometry import Axes, Bound, Cost, Geometry, Implementation

Array = NDArray[Any]

LAYOUT = np.dtype(
    [
        ("groups", "i8"),
        ("rows", "i8"),  # output channels of a group
        ("channels", "i8"),  # input channels of a group
        ("block", "i8"),  # of those, in a panel
        ("shape", "i8"),  # of a register tile
        ("blocks", "i8"),  # of rows in a group
        ("block_rows", "i8"),  # rows of one
        ("row_chunks", "i8"),  # of blocks
        ("taps", "i8"),  # of all phases
        ("pixels", "i8"),  # of one phase of an image
        ("image_tiles", "i8"),
        ("pieces", "i8"),  # of those
        ("width", "i8"),  # pixels of a tile
        ("pitch", "i8", (3,)),  # pixels of a phase
        ("first", "i8", (3,)),
        ("size", "i8", (3,)),  # of the output
        ("stride", "i8", (3,)),  # between outputs of one phase
        ("phases", "i8", (3,)),
        ("outer_sums", "i8"),  # elements from the sums of one phase of the first axes to the next,
        ("block_sums", "i8"),  # of one block of rows,
        ("tile_sums", "i8"),  # and of one tile; 0 where they are stored before the next ones are computed
        ("sums", "i8"),
    ]
)
WINDOWS = np.dtype(FIELDS)

# Rows of a panel, and bytes of sums that wait for other channels.
_DEPTH, _SUMS = 1024, (512 << 10 if host.REGISTERS == 32 else 128 << 10)
# Windows at most: there is a list for each.
_WINDOWS = 1024


@device_function
def _multiply(
    panels: Any, weight: Any, bias: Any, y: Any, sums: Any, p: Any, panel: int, tap_start: Any, rows_at: Any,
    image: int, begin: int, end: int, start_block: int, stop_block: int, c: int,
) -> None:  # fmt: skip
    """Add the products of the channels in the panels, and store sums that are complete."""
    width, height, last_phases = p.width, p.block_rows, p.phases[2]
    some = min(p.block, p.channels - c)
    complete = c + some == p.channels
    n, g = image // p.groups, image % p.groups
    for tile in range((end - begin + width - 1) // width):
        q0 = begin + tile * width
        for block in range(start_block, stop_block):
            rows, channel = min(height, p.rows - block * height), g * p.rows + block * height
            packed = (g * p.blocks + block) * p.taps * p.channels
            for outer in range(p.phases[0] * p.phases[1]):
                phase = outer * last_phases
                count = last_phases if tap_start[phase] < tap_start[phase + last_phases] else 0
                at = outer * p.outer_sums + (block - start_block) * p.block_sums + tile * p.tile_sums
                for b in range(count):
                    start = tap_start[phase + b]
                    many = tap_start[phase + b + 1] - start
                    window_tile(p.shape, some * many, weight, (packed + start * p.channels + c * many) * height,
                                panels, tile * panel, rows_at, start * p.block,
                                sums, at + b * height * width, c > 0)  # fmt: skip
                if complete:
                    store(sums, at, y, bias, p, q0, min(q0 + width, end), channel + n * p.groups * p.rows,
                          channel, rows, outer // p.phases[1], outer % p.phases[1], 0, count, False)  # fmt: skip


@kernel("T[]", "T[]", "T[]", "T[]", LAYOUT, WINDOWS, "int[]", "int[]")
def window_units(
    lo: int, hi: int, x: Any, weight: Any, bias: Any, y: Any, layout: Any, windows: Any, tap_start: Any, rows_at: Any
) -> None:
    """Compute some channels of one piece of the pixels of one group in one image, all phases."""
    p, s = layout[0], windows[0]
    panels = empty(-(-p.image_tiles // p.pieces) * s.panel + s.lanes, x.dtype)
    # Columns behind the last pixel are multiplied, too: what is there by chance may be slow to multiply.
    zero_row(panels, 0, panels.size)
    sums = empty(p.sums, x.dtype)
    table = np.empty((6, s.most), np.int64)
    taps = np.empty((s.taps, 2), np.int64)
    places, masks = np.empty((s.taps + 1, s.most), np.int64), np.empty((s.taps + 1, s.most), np.int64)
    plane = s.from_size[0] * s.from_size[1] * s.from_size[2]
    for unit in range(lo, hi):
        chunk = unit % p.row_chunks
        image, first, stop = part_of(unit // p.row_chunks, p.pieces, p.image_tiles)
        begin, end = first * p.width, min(stop * p.width, p.pixels)
        count = list_stretches(table, s, begin, end)
        list_sources(taps, places, masks, table, count, s)
        for c in range(0, p.channels, p.block):
            for i in range(min(p.block, p.channels - c)):
                ahead = plane if c + i + 1 < p.channels else 0
                gather_channel(panels, i * s.taps * p.width, x, (image * p.channels + c + i) * plane, ahead, s,
                               taps, table, places, masks, count)  # fmt: skip
            _multiply(panels, weight, bias, y, sums, p, s.panel, tap_start, rows_at, image, begin, end,
                      p.blocks * chunk // p.row_chunks, p.blocks * (chunk + 1) // p.row_chunks, c)  # fmt: skip


class _Cut(NamedTuple):
    """How a problem is cut: its windows and phases on each axis, the fields of `LAYOUT`, most stretches of a unit."""

    frame: frames.Frame
    windows: Axes  # on each axis
    apart: Axes  # pixels from one to the next
    extent: Axes  # pixels of a phase
    phases: Axes
    shape: int
    height: int
    width: int
    block: int
    panel: int
    waits: bool  # for more channels
    tiles: int
    row_chunks: int
    pieces: int
    most_tiles: int
    most: int


def _work(rows: int, pixels: int, lanes: int, height: int, vectors: int) -> float:
    """Return what tiles of so many rows and vectors take: their multiplications, and loads beside them."""
    products = -(-rows // height) * height * -(-pixels // (vectors * lanes)) * vectors
    return products * (1 + 0.25 * (height + vectors) / (height * vectors))


def _axes(values: Iterable[int]) -> Axes:
    first, second, third = values
    return first, second, third


@lru_cache(maxsize=256)
def _cut(g: Geometry) -> _Cut:
    lanes, itemsize = host.lanes(g.dtype), np.dtype(g.dtype).itemsize
    frame = frames.scatter_frame(g)
    shifts = [sorted({tap.shift[axis] for tap in frame.taps}) or [0] for axis in range(3)]
    apart = _axes(math.gcd(*(shift - each[0] for shift in each)) or 1 for each in shifts)
    windows = _axes((each[-1] - each[0]) // step + 1 for each, step in zip(shifts, apart))
    extent = _axes(-(-o // s) for o, s in zip(g.output, frame.stride))
    phases = output_phases(frame, g)
    images, pixels = g.batch * g.groups, math.prod(extent)
    shape = min(range(len(WINDOW_SHAPES)), key=lambda shape: _work(g.group_out, pixels, lanes, *WINDOW_SHAPES[shape]))
    height, width = WINDOW_SHAPES[shape][0], WINDOW_SHAPES[shape][1] * lanes
    blocks = -(-g.group_out // height)
    parts = -(-g.group_in * math.prod(windows) // _DEPTH)
    block = -(-g.group_in // parts) if parts < g.group_in else 1
    # A row that is gathered may run over its end by a vector.
    panel = block * math.prod(windows) * width + 2 * lanes
    waits = block < g.group_in
    sums = math.prod(phases) * blocks * height * width * itemsize if waits else 0
    tiles = -(-pixels // width)
    pieces, most_tiles = pieces_of(tiles, images, panel * itemsize)
    row_chunks = min(blocks, max(-(-sums // _SUMS), -(-UNITS // max(1, images * pieces))))
    most = stretches.most_stretches(extent[2], most_tiles, width, lanes)
    return _Cut(frame, windows, apart, extent, phases, shape, height, width, block, panel, waits, tiles, row_chunks,
                pieces, most_tiles, most)  # fmt: skip


def _declines(g: Geometry) -> str | None:
    if g.dtype not in ("float32", "float64"):
        return f"vector code is for float32 and float64, not {g.dtype}"
    g = frames.merged(g)
    phases = math.prod(min(s, o) for s, o in zip(g.stride, g.output))
    if phases > frames.MOST_PHASES or g.taps > _WINDOWS:
        return f"has tables for {frames.MOST_PHASES} phases and {_WINDOWS} taps at most, not for {phases} and {g.taps}"
    cut = _cut(g)
    if cut.phases[2] > MOST_INTERLEAVED:
        return f"puts up to {MOST_INTERLEAVED} phases of the last axis side by side, not {cut.phases[2]}"
    if not cut.frame.taps or math.prod(cut.windows) > _WINDOWS:
        return f"has lists for 1 to {_WINDOWS} windows, not for {math.prod(cut.windows) if cut.frame.taps else 0}"
    return None


def _counts(g: Geometry) -> dict[str, float]:
    g = frames.merged(g)
    cut = _cut(g)
    images, windows = g.batch * g.groups, math.prod(cut.windows)
    blocks = -(-g.group_out // cut.height)
    computed = cut.tiles * cut.width
    # Pieces of rows of the result, which tiles cut.
    rows = images * g.group_out * cut.phases[0] * cut.phases[1] * cut.extent[0] * cut.extent[1]
    stretches_ = stretches.most_stretches(cut.extent[2], cut.tiles, cut.width, host.lanes(g.dtype))
    return {
        "product": float(images * g.group_in * len(cut.frame.taps) * blocks * cut.height * computed),
        "stretch": images * g.group_in * windows * cut.row_chunks * stretches_,
        "input": math.prod(g.input_shape) * cut.row_chunks,
        "list": images * cut.pieces * cut.row_chunks * windows,
        "tile": images * blocks * cut.tiles * math.prod(cut.phases) * -(-g.group_in // cut.block),
        "result": math.prod(g.output_shape),
        "row": rows * (1 + cut.tiles / (cut.extent[0] * cut.extent[1])),
        "weight": math.prod(g.weight_shape),
        "call": 1,
    }


class _Tables(NamedTuple):
    """What the kernel reads beside arrays; see its arguments. Which weight each tap is, and elements of sums."""

    layout: NDArray[np.void]
    windows: NDArray[np.void]
    tap_start: frames.Ints
    rows_at: frames.Ints
    tap_weight: frames.Ints
    sums: int


def _tables(g: Geometry, cut: _Cut) -> _Tables:
    taps = sorted(cut.frame.taps, key=lambda t: t.phase)
    tap_start = tap_starts(taps, cut.phases)
    high = _axes(max(tap.shift[axis] for tap in taps) for axis in range(3))
    places = ([(high[a] - tap.shift[a]) // cut.apart[a] for a in range(3)] for tap in taps)
    number = frames.ints([(i0 * cut.windows[1] + i1) * cut.windows[2] + i2 for i0, i1, i2 in places])
    windows = math.prod(cut.windows)
    # The rows of a panel that a phase reads, channel by channel.
    rows_at = [
        cut.width * np.add.outer(np.arange(cut.block) * windows, number[start:stop]).reshape(-1)
        for start, stop in itertools.pairwise(tap_start.tolist())
    ]
    blocks = -(-g.group_out // cut.height)
    tile_sums = cut.phases[2] * cut.height * cut.width
    block_sums = cut.most_tiles * tile_sums
    outer_sums = -(-blocks // cut.row_chunks) * block_sums
    layout, lists = np.zeros(1, LAYOUT), np.zeros(1, WINDOWS)
    for name, value in {
        "groups": g.groups, "rows": g.group_out, "channels": g.group_in, "block": cut.block, "shape": cut.shape,
        "blocks": blocks, "block_rows": cut.height, "row_chunks": cut.row_chunks, "taps": len(taps),
        "pixels": math.prod(cut.extent), "image_tiles": cut.tiles, "pieces": cut.pieces, "width": cut.width,
        "pitch": cut.extent, "size": g.output, "stride": cut.frame.stride, "phases": cut.phases,
    }.items():  # fmt: skip
        layout[name] = value
    if cut.waits:
        layout["outer_sums"], layout["block_sums"], layout["tile_sums"] = outer_sums, block_sums, tile_sums
    layout["sums"] = cut.phases[0] * cut.phases[1] * outer_sums if cut.waits else tile_sums
    for name, value in {
        "taps": windows, "lanes": host.lanes(g.dtype), "width": cut.width, "panel": cut.panel, "most": cut.most,
        "kernel": cut.windows, "stride": 1, "padding": high, "dilation": cut.apart, "size": cut.extent,
        "from_size": g.input,
    }.items():  # fmt: skip
        lists[name] = value
    return _Tables(layout, lists, tap_start, np.concatenate(rows_at), frames.ints([t.weight for t in taps]),
                   int(layout["sums"][0]))  # fmt: skip


def _bind(g: Geometry) -> Bound:
    g = frames.merged(g)
    cut, itemsize = _cut(g), np.dtype(g.dtype).itemsize
    tables, taps, blocks = _tables(g, cut), len(cut.frame.taps), -(-g.group_out // cut.height)
    packed_elements = g.groups * blocks * g.group_in * taps * cut.height
    chunks = min(blocks, -(-UNITS // g.groups))
    launch_pack = planes.pack.launcher(g.dtype, g.groups * chunks, 4 * packed_elements)

    def pack(w: Array, packed: Array) -> None:
        step = g.group_out * g.taps
        launch_pack(w, packed, chunks, blocks, g.group_out, cut.height, g.group_in, g.group_in * step, step, g.taps,
                    taps, tables.tap_start, tables.tap_weight)  # fmt: skip

    units = g.batch * g.groups * cut.pieces * cut.row_chunks
    compute = window_units.launcher(g.dtype, units, 2 * g.multiplications)
    no_bias = np.empty(0, g.dtype)

    def run_packed(x: Array, packed: Array, bias: Array | None, y: Array) -> None:
        compute(x, packed, no_bias if bias is None else bias, y, tables.layout, tables.windows, tables.tap_start,
                tables.rows_at)  # fmt: skip

    private = (cut.most_tiles * cut.panel + tables.sums) * itemsize
    private += stretches.list_bytes(math.prod(cut.windows), cut.most)
    scratch = workspace.total(packed_elements * itemsize, private, units)
    return planes.with_packed_weights(g.dtype, packed_elements, pack, run_packed, scratch)


FORWARD = Implementation(
    "direct_windows", "register tiles of channels × pixels over windows gathered in a core's cache", _declines, _bind,
    cost=Cost(_counts, weights_of("direct_windows", "forward")),
)  # fmt: skip
