"""Forward pass and input gradient of depthwise layers with channels last: vectors of channels, tap by tap.

``y[o, c] = b[c] + Σ_t x[i(o, t), c] · w[c, t]`` over the taps t of the phase that o belongs to; in the input gradient
with x and y exchanged. See `places` for where taps read.

Memory: arrays as they are, zeros beside them for what lies outside the source · weights packed (tap in the order of
phases, channel). Parallel over chunks of pixels, of which all phases are computed while the source's are in a core's
cache. Sums run over the taps. A NaN or Inf in the weights meets the zeros that stand for pixels outside the source.

Measured in docs/decisions/0022-channels-last.md.
"""

from __future__ import annotations

import itertools
import math
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdeconv.kernels.cpu import host, planes, workspace
from fastdeconv.kernels.cpu.buffers import empty
from fastdeconv.kernels.cpu.channels_last import places
from fastdeconv.kernels.cpu.channels_last.places import LIST, list_pixels
from fastdeconv.kernels.cpu.costs import weights_of
from fastdeconv.kernels.cpu.jit import kernel
from fastdeconv.kernels.cpu.panels import UNITS
from fastdeconv.kernels.cpu.pixel_tiles import CHANNELWISE, channelwise_tile
from fastdeconv.kernels.cpu.rows import zero_row
from fastdeconv.kernels.geometry import Bound, Cost, Geometry, Implementation

Array = NDArray[Any]

LAYOUT = np.dtype(
    [
        *places.FIELDS,
        ("pixels", "i8"),  # of all images, as the largest phase has them
        ("chunks", "i8"),  # of pixels
        ("width", "i8"),  # channels, whole vectors
    ]
)

# Bytes of the source that stay in the second cache, and pixels at most whose places are in tables.
_SOURCE, _MOST = 128 << 10, 512


@kernel("T[]", "T[]", "T[]", "T[]", LAYOUT, "int[]", "int[]", "int[]", "int[]", "int[]")
def depthwise_units(
    lo: int, hi: int, source: Any, weight: Any, start: Any, out: Any, layout: Any, lists: Any, runs: Any,
    phase_outs: Any, phase_taps: Any, tap_runs: Any,
) -> None:  # fmt: skip
    """Compute one chunk of the pixels, all phases."""
    p = layout[0]
    outs, table = np.empty(p.most, np.int64), np.empty(p.runs * p.most, np.int64)
    zeros = empty(p.width, source.dtype)
    zero_row(zeros, 0, p.width)
    for unit in range(lo, hi):
        begin, end = p.pixels * unit // p.chunks, p.pixels * (unit + 1) // p.chunks
        for number in range(lists.size // LIST):
            count = list_pixels(table, outs, zeros, zeros, source, p, lists, number, runs, 0, begin, end)
            for phase in range(lists[LIST * number + 5], lists[LIST * number + 6]):
                tap = phase_taps[phase]
                for i in range(0, count, p.tile):
                    channelwise_tile(source, table, i, p.most, tap_runs, tap, phase_taps[phase + 1] - tap,
                                     weight, tap * p.width, p.width, start, out, phase_outs[phase], outs, i,
                                     min(p.tile, count - i), p.channels)  # fmt: skip


class _Cut(NamedTuple):
    """How a problem is cut."""

    lists: list[places.PhaseList]
    width: int  # channels, whole vectors
    pixels: int
    chunks: int
    most: int  # pixels of a chunk, whole tiles


@lru_cache(maxsize=256)
def _cut(g: Geometry, forward: bool) -> _Cut:
    lanes, itemsize = host.lanes(g.dtype), np.dtype(g.dtype).itemsize
    lists = places.phase_lists(g, forward, join=False)
    pixels = g.batch * math.prod(places.extent(lists))
    reach = 1 if forward else math.prod(min(s, k) for s, k in zip(g.stride, g.kernel))
    most = min(_MOST, _SOURCE // (g.in_channels * reach * itemsize), -(-pixels // UNITS))
    chunks, most = places.chunks_of(lists, pixels, CHANNELWISE[0], most)
    return _Cut(lists, -(-g.in_channels // lanes) * lanes, pixels, chunks, most)


def declines(g: Geometry, forward: bool) -> str | None:
    """Return why these kernels, and that of the weight gradient, cannot serve a problem, or None."""
    if not g.channels_last:
        return "serves arrays with channels last"
    if g.dtype not in ("float32", "float64"):
        return f"vector code is for float32 and float64, not {g.dtype}"
    if g.group_in > 1 or g.group_out > 1:
        return "serves depthwise layers, with one channel in and one out for each group"
    return places.too_many(g, forward)


def _counts(g: Geometry, forward: bool) -> dict[str, float]:
    cut = _cut(g, forward)
    pixels = [(g.batch * math.prod(each.pixels), each) for each in cut.lists]
    pairs = sum(n * sum(len(phase.runs) for phase in each.phases) for n, each in pixels)
    return {
        "product": float(pairs * cut.width),
        "pair": pairs,
        "place": sum(n * (1 + len(each.runs)) for n, each in pixels),
        "result": g.in_channels * g.batch * math.prod(g.output if forward else g.input),
        "source": g.batch * g.in_channels * math.prod(g.input if forward else g.output),
        "call": 1,
    }


def _bind(g: Geometry, forward: bool) -> Bound:
    cut, itemsize = _cut(g, forward), np.dtype(g.dtype).itemsize
    layout = np.zeros(1, LAYOUT)
    for name, value in {
        **places.fields(g, forward, cut.lists), "most": cut.most, "tile": CHANNELWISE[0], "longest": 1,
        "pixels": cut.pixels, "chunks": cut.chunks, "width": cut.width,
    }.items():  # fmt: skip
        layout[name] = value
    lists, runs, outs, taps = places.tables(g, forward, cut.lists)
    phases = [phase for each in cut.lists for phase in each.phases]
    phase_taps = places.flat([0, *itertools.accumulate(len(phase.runs) for phase in phases)])
    tap_runs = places.flat([run for phase in phases for run, _ in phase.runs])
    elements = taps.size * cut.width
    launch_pack = planes.pack.launcher(g.dtype, 1, 4 * elements)
    tap_start = np.arange(taps.size + 1)
    compute = depthwise_units.launcher(g.dtype, cut.chunks, 2 * g.multiplications + 8 * g.elements)

    def pack(w: Array, packed: Array) -> None:
        launch_pack(w, packed, 1, 1, g.in_channels, cut.width, 1, 0, 0, g.taps, taps.size, tap_start, taps)

    def run_packed(source: Array, packed: Array, bias: Array | None, out: Array) -> None:
        start = np.zeros(cut.width, g.dtype)
        if bias is not None:
            start[: bias.size] = bias
        compute(source, packed, start, out, layout, lists, runs, outs, phase_taps, tap_runs)

    private = 8 * cut.most * (int(layout["runs"][0]) + 1) + itemsize * cut.width
    scratch = workspace.total(elements * itemsize, private, cut.chunks)
    bound = planes.with_packed_weights(g.dtype, elements, pack, run_packed, scratch)
    return bound if forward else Bound(lambda gy, w, gx: bound.run(gy, w, None, gx), scratch)


def _bind_forward(g: Geometry) -> Bound:
    return _bind(g, True)


def _bind_input_grad(g: Geometry) -> Bound:
    return _bind(g, False)


IDEA = "vectors of the channels of depthwise layers with channels last, as they lie"
FORWARD = Implementation(
    "direct_depthwise_nhwc", IDEA, partial(declines, forward=True), _bind_forward,
    cost=Cost(partial(_counts, forward=True), weights_of("direct_depthwise_nhwc", "forward", True)),
    channels_last=(True,),
)  # fmt: skip
INPUT_GRAD = Implementation(
    "direct_depthwise_nhwc", IDEA, partial(declines, forward=False), _bind_input_grad,
    cost=Cost(partial(_counts, forward=False), weights_of("direct_depthwise_nhwc", "input_grad", True)),
    channels_last=(True,),
)  # fmt: skip
