"""Weight gradient of depthwise layers with channels last: vectors of channels, tap by tap.

``gw[c, t] = Σ_i x[i, c] · gy[o(i, t), c]`` over pixels i of all images. See `places` for where taps read.

Memory: arrays as they are, zeros beside them for what lies outside gy · sums of each range of pixels (tap, channel),
which are added up and brought into the order of weights. Parallel over ranges of pixels, as many for any number of
threads. Sums run over the pixels of a chunk, then over chunks, then over ranges. A NaN or Inf in x meets the zeros that
stand for pixels outside gy.

Measured in docs/decisions/0022-channels-last.md.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdeconv.kernels.cpu import workspace
from fastdeconv.kernels.cpu.buffers import empty
from fastdeconv.kernels.cpu.channels_last import dense_weight, depthwise, places
from fastdeconv.kernels.cpu.channels_last.places import list_pixels
from fastdeconv.kernels.cpu.costs import weights_of
from fastdeconv.kernels.cpu.jit import kernel
from fastdeconv.kernels.cpu.panels import UNITS
from fastdeconv.kernels.cpu.pixel_tiles import CHANNELWISE, channelwise_sums
from fastdeconv.kernels.cpu.rows import zero_row
from fastdeconv.kernels.geometry import Bound, Cost, Geometry, Implementation

Array = NDArray[Any]

# Bytes of both arrays that stay in the second cache, and pixels at most whose places are in tables.
_ARRAYS, _MOST = 128 << 10, 512


@kernel("T[]", "T[]", "T[]", dense_weight.LAYOUT, "int[]", "int[]")
def depthwise_weight_units(lo: int, hi: int, x: Any, gy: Any, sums: Any, layout: Any, lists: Any, runs: Any) -> None:
    """Sum the products of one range of pixels."""
    p = layout[0]
    outs, table = np.empty(p.most, np.int64), np.empty(p.runs * p.most, np.int64)
    zeros = empty(p.zeros, x.dtype)
    zero_row(zeros, 0, p.zeros)
    for r in range(lo, hi):
        first_chunk, end_chunk = p.chunks * r // p.ranges, p.chunks * (r + 1) // p.ranges
        for chunk in range(first_chunk, end_chunk):
            begin, end = p.pixels * chunk // p.chunks, p.pixels * (chunk + 1) // p.chunks
            count = list_pixels(table, outs, zeros, zeros, gy, p, lists, 0, runs, 0, begin, end)
            for tap in range(0, p.taps, p.height):
                channelwise_sums(count, x, outs, gy, table, tap * p.most, p.most, min(p.height, p.taps - tap),
                                 sums, (r * p.taps + tap) * p.columns, p.columns, chunk > first_chunk)  # fmt: skip


class _Cut(NamedTuple):
    """How a problem is cut."""

    lists: list[places.PhaseList]
    pixels: int
    chunks: int
    most: int  # pixels of a chunk
    ranges: int


@lru_cache(maxsize=256)
def _cut(g: Geometry) -> _Cut:
    lists = places.phase_lists(g, False, join=False)
    pixels = g.batch * math.prod(g.input)
    reach = 1 + math.prod(min(s, k) for s, k in zip(g.stride, g.kernel))
    most = min(_MOST, _ARRAYS // (g.in_channels * reach * np.dtype(g.dtype).itemsize), -(-pixels // UNITS))
    chunks, most = places.chunks_of(lists, pixels, 1, most)
    return _Cut(lists, pixels, chunks, most, min(UNITS, chunks))


def _declines(g: Geometry) -> str | None:
    if (reason := depthwise.declines(g, forward=False)) is not None:
        return reason
    return None if _cut(g).lists[0].runs else "has no tap that reaches the output"


def _counts(g: Geometry) -> dict[str, float]:
    cut = _cut(g)
    taps = len(cut.lists[0].runs)
    return {
        "product": float(taps * cut.pixels * g.in_channels),
        "pair": taps * cut.pixels,
        "source": math.prod(g.input_shape) + math.prod(g.output_shape),
        "weight": cut.ranges * math.prod(g.weight_shape),
        "call": 1,
    }


def _bind(g: Geometry) -> Bound:
    cut, itemsize = _cut(g), np.dtype(g.dtype).itemsize
    tables = places.tables(g, False, cut.lists)
    taps, channels = tables.weights.size, g.in_channels
    layout = np.zeros(1, dense_weight.LAYOUT)
    for name, value in {
        **places.fields(g, False, cut.lists), "most": cut.most, "tile": 1, "longest": 1, "pixels": cut.pixels,
        "groups": 1, "chunks": cut.chunks, "ranges": cut.ranges, "rows": 1, "columns": channels,
        "height": CHANNELWISE[0], "taps": taps, "all_taps": g.taps, "zeros": channels,
    }.items():  # fmt: skip
        layout[name] = value
    elements = cut.ranges * taps * channels
    compute = depthwise_weight_units.launcher(g.dtype, cut.ranges, 2 * g.multiplications + 8 * g.elements)
    collect = dense_weight.collect_units.launcher(g.dtype, 1, 4 * elements)

    def run(x: Array, gy: Array, gw: Array) -> None:
        sums = workspace.take("sums", elements, g.dtype)
        compute(x, gy, sums, layout, tables.lists, tables.runs)
        collect(sums, gw, layout, tables.weights)
        workspace.keep("sums", sums)

    private = 8 * cut.most * (taps + 1) + itemsize * channels
    return Bound(run, workspace.total(elements * itemsize, private, cut.ranges))


WEIGHT_GRAD = Implementation(
    "direct_depthwise_nhwc", depthwise.IDEA, _declines, _bind,
    cost=Cost(_counts, weights_of("direct_depthwise_nhwc", "weight_grad", True)),
    channels_last=(True,),
)  # fmt: skip
