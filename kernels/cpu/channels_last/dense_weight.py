"""Weight gradient of arrays with channels last: register tiles of the products of two pixels' channels.

``gw[ci, co, t] = Σ_i x[i, ci] · gy[o(i, t), co]`` over pixels i of all images. Vectors run along the channels of one of
the arrays, whichever leaves fewer lanes without work; of the other, taps that follow one another on the last axis are
one run if they have few channels each. See `places` for where taps read.

Memory: arrays as they are, zeros and copies of what lies across the border of gy beside it · pixels of x, and of gy for
one run at a time, packed (block of channels, pixel, channel) · sums of each range of pixels (group, tap in the order of
runs, channel, channel), which are added up and brought into the order of weights. Parallel over groups, ranges of
pixels and parts of the runs, as many for any number of threads. Sums run over the pixels of a chunk, then over chunks,
then over ranges. A NaN or Inf in x meets the zeros that stand for pixels outside gy.

Measured in docs/decisions/0022-channels-last.md.
"""

from __future__ import annotations

import itertools
import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdeconv.kernels.cpu import host, workspace
from fastdeconv.kernels.cpu.buffers import empty
from fastdeconv.kernels.cpu.channels_last import dense, places
from fastdeconv.kernels.cpu.channels_last.places import LIST, list_pixels
from fastdeconv.kernels.cpu.costs import weights_of
from fastdeconv.kernels.cpu.jit import device_function, kernel
from fastdeconv.kernels.cpu.pixel_tiles import WEIGHT_SHAPES, gather_pixels, weight_tile
from fastdeconv.kernels.cpu.rows import zero_row
from fastdeconv.kernels.geometry import Bound, Cost, Geometry, Implementation

Array = NDArray[Any]

LAYOUT = np.dtype(
    [
        *places.FIELDS,
        ("pixels", "i8"),  # of all images
        ("groups", "i8"),
        ("chunks", "i8"),  # of pixels
        ("ranges", "i8"),  # of those
        ("parts", "i8"),  # of the runs
        ("input_rows", "i8"),  # 1 if the channels of x are rows of register tiles, 0 if they are columns
        ("rows", "i8"),  # channels of a group that are rows
        ("columns", "i8"),  # and that are columns
        ("shape", "i8"),  # of a register tile
        ("height", "i8"),
        ("width", "i8"),  # of one, in elements
        ("taps", "i8"),  # that reach something
        ("all_taps", "i8"),
        ("patches", "i8"),  # elements for copies
        ("zeros", "i8"),  # elements of zeros
        ("x_packed", "i8"),  # elements of a chunk's pixels of x,
        ("gy_packed", "i8"),  # and of one run
    ]
)

# Pixels of a chunk: their channels in one tile stay in the first cache.
_MOST = 256 if host.REGISTERS == 32 else 128
_PATCHES = 256 << 10  # bytes of copies
# Enough units to share among threads.
_UNITS = 16


@device_function
def _pack(packed: Any, array: Any, table: Any, table_at: int, channels: int, width: int, count: int, most: int) -> None:
    """Bring some channels of a chunk's pixels into blocks of a register tile's, (block, pixel, channel)."""
    for first in range(0, channels, width):
        gather_pixels(packed, first * most, width, array, table, table_at, first, min(width, channels - first), count)


@kernel("T[]", "T[]", "T[]", LAYOUT, "int[]", "int[]", "int[]")
def weight_units(
    lo: int, hi: int, x: Any, gy: Any, sums: Any, layout: Any, lists: Any, runs: Any, run_taps: Any
) -> None:
    """Sum the products of some runs of one group over one range of pixels."""
    p = layout[0]
    outs, table = np.empty(p.most, np.int64), np.empty(p.runs * p.most, np.int64)
    zeros, patches = empty(p.zeros, x.dtype), empty(p.patches, x.dtype)
    zero_row(zeros, 0, p.zeros)
    x_packed, gy_packed = empty(p.x_packed, x.dtype), empty(p.gy_packed, x.dtype)
    # Columns behind the last channel are multiplied, too: what is there by chance may be slow to multiply.
    zero_row(x_packed, 0, p.x_packed)
    zero_row(gy_packed, 0, p.gy_packed)
    x_width, gy_width = (p.height, p.width) if p.input_rows else (p.width, p.height)
    some = np.empty(LIST, np.int64)
    for i in range(LIST):
        some[i] = lists[i]
    for unit in range(lo, hi):
        part, g, r = unit % p.parts, unit // p.parts % p.groups, unit // (p.parts * p.groups)
        first, stop = lists[4] * part // p.parts, lists[4] * (part + 1) // p.parts
        some[3], some[4] = first, stop
        into = (r * p.groups + g) * p.taps * p.rows * p.columns
        first_chunk, end_chunk = p.chunks * r // p.ranges, p.chunks * (r + 1) // p.ranges
        for chunk in range(first_chunk, end_chunk):
            begin, end = p.pixels * chunk // p.chunks, p.pixels * (chunk + 1) // p.chunks
            count = list_pixels(table, outs, zeros, patches, gy, p, some, 0, runs, g, begin, end)
            _pack(x_packed, x, outs, 0, p.group_channels, x_width, count, p.most)
            for run in range(first, stop):
                taps = run_taps[run + 1] - run_taps[run]
                _pack(
                    gy_packed, gy, table, (run - first) * p.most, taps * p.from_group_channels, gy_width, count, p.most
                )
                rows = p.rows if p.input_rows else taps * p.rows
                for column in range(0, p.columns, p.width):
                    for row in range(0, rows, p.height):
                        to = into + (run_taps[run] * p.rows + row) * p.columns + column
                        there, columns = min(p.height, rows - row), min(p.width, p.columns - column)
                        if p.input_rows:
                            weight_tile(p.shape, count, x_packed, row * p.most, gy_packed, column * p.most,
                                       sums, to, p.columns, there, columns, chunk > first_chunk)  # fmt: skip
                        else:
                            weight_tile(p.shape, count, gy_packed, row * p.most, x_packed, column * p.most,
                                       sums, to, p.columns, there, columns, chunk > first_chunk)  # fmt: skip


@kernel("T[]", "T[]", LAYOUT, "int[]")
def collect_units(lo: int, hi: int, sums: Any, gw: Any, layout: Any, weights: Any) -> None:
    """Add up the ranges' sums of one channel among the rows, all taps, and put them where its weights lie."""
    p = layout[0]
    row_step = p.all_taps * (p.columns if p.input_rows else 1)
    column_step = p.all_taps * (1 if p.input_rows else p.rows)
    size = p.groups * p.taps * p.rows * p.columns
    for unit in range(lo, hi):
        g, row = unit // p.rows, unit % p.rows
        to = g * p.rows * p.columns * p.all_taps + row * row_step
        if p.taps < p.all_taps:
            for column in range(p.columns):
                for t in range(p.all_taps):
                    gw[to + column * column_step + t] = 0
        for t in range(p.taps):
            at = ((g * p.taps + t) * p.rows + row) * p.columns
            for column in range(p.columns):
                total = sums[at + column]
                for r in range(1, p.ranges):
                    total += sums[at + r * size + column]
                gw[to + column * column_step + weights[t]] = total


class _Cut(NamedTuple):
    """How a problem is cut."""

    lists: list[places.PhaseList]
    input_rows: bool  # the channels of x are rows of register tiles, those of gy are columns; or the other way
    rows: int  # channels of a group
    columns: int
    shape: int
    height: int  # of a register tile
    width: int  # of one, in elements
    chunks: int
    most: int  # pixels of a chunk
    ranges: int
    parts: int
    longest: int  # run, in elements
    joined: bool  # runs of several taps


def _whole(count: int, of: int) -> int:
    """Return the least multiple that is not smaller."""
    return -(-count // of) * of


def _sides(g: Geometry, input_rows: bool) -> tuple[int, int]:
    """Return the channels of a group that are rows, and that are columns."""
    return (g.group_in, g.group_out) if input_rows else (g.group_out, g.group_in)


def _computed(runs: list[tuple[Any, int]], rows: int, columns: int, height: int, width: int) -> int:
    """Return the elements of all register tiles of a group."""
    return sum(_whole(taps * rows, height) for _, taps in runs) * _whole(columns, width)


@lru_cache(maxsize=256)
def _cut(g: Geometry) -> _Cut:
    lanes, itemsize = host.lanes(g.dtype), np.dtype(g.dtype).itemsize

    def work(input_rows: bool, shape: int) -> float:
        height, vectors = WEIGHT_SHAPES[shape]
        computed = _computed(each_way[input_rows][0].runs, *_sides(g, input_rows), height, vectors * lanes)
        # A tile that reads more than it multiplies waits for that.
        return computed * max(1.0, (height + vectors + 2) / (height * vectors))

    each_way = {way: places.phase_lists(g, False, join=not way) for way in (True, False)}
    input_rows, shape = min(itertools.product((True, False), range(len(WEIGHT_SHAPES))), key=lambda s: work(*s))
    lists = each_way[input_rows]
    runs = lists[0].runs
    longest = places.longest_run(lists) * g.group_out
    joined = longest > g.group_out
    pixels = g.batch * math.prod(g.input)
    most = _MOST
    if joined:
        most = min(most, _PATCHES // (len(runs) * longest * itemsize))
    chunks, most = places.chunks_of(lists, pixels, 1, most)
    # Ranges have sums of their own, which are written and added; parts of the runs pack pixels again.
    weights, arrays = math.prod(g.weight_shape), math.prod(g.input_shape) + math.prod(g.output_shape)
    needed = -(-_UNITS // g.groups)
    ways = [(-(-needed // parts), parts) for parts in range(1, min(needed, max(1, len(runs))) + 1)]
    ways = [(min(ranges, chunks), parts) for ranges, parts in ways]
    enough = max(ranges * parts for ranges, parts in ways)
    ranges, parts = min(
        (way for way in ways if way[0] * way[1] >= min(needed, enough)),
        key=lambda way: 3 * way[0] * weights + way[1] * arrays,
    )
    height, vectors = WEIGHT_SHAPES[shape]
    return _Cut(lists, input_rows, *_sides(g, input_rows), shape, height, vectors * lanes, chunks, most, ranges, parts,
                longest, joined)  # fmt: skip


def _declines(g: Geometry) -> str | None:
    if (reason := dense.declines(g, forward=False)) is not None:
        return reason
    return None if _cut(g).lists[0].runs else "has no tap that reaches the output"


def _counts(g: Geometry) -> dict[str, float]:
    cut = _cut(g)
    runs, pixels = cut.lists[0].runs, g.batch * math.prod(g.input)
    computed = g.groups * _computed(runs, cut.rows, cut.columns, cut.height, cut.width)
    return {
        "product": float(pixels * computed),
        "place": g.groups * pixels * (len(runs) + cut.parts),
        "packed": pixels * (cut.parts * g.in_channels + g.taps * g.out_channels),
        "tile": cut.chunks * computed / (cut.height * cut.width),
        "source": math.prod(g.input_shape) + math.prod(g.output_shape),
        "weight": (1 + cut.ranges) * math.prod(g.weight_shape),
        "call": 1,
    }


def _bind(g: Geometry) -> Bound:
    cut, itemsize = _cut(g), np.dtype(g.dtype).itemsize
    tables = places.tables(g, False, cut.lists)
    runs = cut.lists[0].runs
    taps = tables.weights.size
    x_width, gy_width = (cut.height, cut.width) if cut.input_rows else (cut.width, cut.height)
    lanes = host.lanes(g.dtype)
    layout = np.zeros(1, LAYOUT)
    for name, value in {
        **places.fields(g, False, cut.lists), "most": cut.most, "tile": 1, "longest": cut.longest,
        "pixels": g.batch * math.prod(g.input), "groups": g.groups, "chunks": cut.chunks, "ranges": cut.ranges,
        "parts": cut.parts, "input_rows": cut.input_rows, "rows": cut.rows,
        "columns": cut.columns, "shape": cut.shape, "height": cut.height, "width": cut.width,
        "taps": taps, "all_taps": g.taps, "zeros": cut.longest,
        "patches": len(runs) * cut.most * cut.longest if cut.joined else 0,
        "x_packed": cut.most * _whole(g.group_in, x_width) + lanes,
        "gy_packed": cut.most * _whole(cut.longest, gy_width) + lanes,
    }.items():  # fmt: skip
        layout[name] = value
    run_taps = places.flat([0, *itertools.accumulate(taps for _, taps in runs)])
    units = g.groups * cut.ranges * cut.parts
    elements = cut.ranges * g.groups * taps * cut.rows * cut.columns
    compute = weight_units.launcher(g.dtype, units, 2 * g.multiplications)
    collect = collect_units.launcher(g.dtype, g.groups * cut.rows, 4 * elements)

    def run(x: Array, gy: Array, gw: Array) -> None:
        sums = workspace.take("sums", elements, g.dtype)
        compute(x, gy, sums, layout, tables.lists, tables.runs, run_taps)
        collect(sums, gw, layout, tables.weights)
        workspace.keep("sums", sums)

    private = 8 * cut.most * (len(runs) + 1)
    private += itemsize * sum(int(layout[name][0]) for name in ("patches", "zeros", "x_packed", "gy_packed"))
    return Bound(run, workspace.total(elements * itemsize, private, units))


WEIGHT_GRAD = Implementation(
    "direct_nhwc", "register tiles of products of two pixels' channels, arrays with channels last as they lie",
    _declines, _bind, cost=Cost(_counts, weights_of("direct_nhwc", "weight_grad", True)),
    channels_last=(True,),
)  # fmt: skip
