"""Forward pass and input gradient of arrays with channels last: register tiles of pixels × channels.

``y[o, m] = b[m] + Σ x[i(o, t), c] · w[c, m, t]`` over channels c of a group and the taps t of the phase that o belongs
to; in the input gradient with x and y, and both axes of w, exchanged. See `places` for where taps read.

Memory: the source as it is, one element for all lanes; zeros and copies of what lies across its border beside it ·
weights packed (group, block of m, tap in the order of phases, c, m), of which some `_TERMS` pairs of tap and channel,
as many as the first cache holds, are used for all pixels of a chunk before the next ones. Parallel over chunks of
pixels, groups and ranges of blocks. Sums run over some `_TERMS` products, and these sums are added in the result's own
elements. A NaN or Inf in the weights meets the zeros that stand for pixels outside the source.

Measured in docs/decisions/0022-channels-last.md.
"""

from __future__ import annotations

import math
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdeconv.kernels.cpu import frame as frames
from fastdeconv.kernels.cpu import host, planes, workspace
from fastdeconv.kernels.cpu.buffers import empty
from fastdeconv.kernels.cpu.channels_last import places
from fastdeconv.kernels.cpu.channels_last.places import LIST, list_pixels
from fastdeconv.kernels.cpu.costs import weights_of
from fastdeconv.kernels.cpu.jit import kernel
from fastdeconv.kernels.cpu.panels import UNITS
from fastdeconv.kernels.cpu.pixel_tiles import PIXELS, VECTORS, pixel_tile
from fastdeconv.kernels.cpu.rows import zero_row
from fastdeconv.kernels.geometry import Bound, Cost, Geometry, Implementation

Array = NDArray[Any]

LAYOUT = np.dtype(
    [
        *places.FIELDS,
        ("pixels", "i8"),  # of all images, as the largest phase has them
        ("chunks", "i8"),  # of pixels
        ("parts", "i8"),  # of the blocks
        ("blocks", "i8"),  # of channels, in a group
        ("shape", "i8"),  # of a register tile
        ("width", "i8"),  # channels of a block
        ("terms", "i8"),  # of all phases
        ("patches", "i8"),  # elements for copies
        ("zeros", "i8"),  # elements of zeros
    ]
)

# Pairs of a tap and a channel whose weights stay in the first cache.
_TERMS = 256
# Bytes of the source that stay in the second cache, and pixels at most whose places are in tables.
_SOURCE, _MOST = (768 << 10, 256) if host.REGISTERS == 32 else (192 << 10, 256)
_PATCHES = 256 << 10  # bytes of copies


@kernel("T[]", "T[]", "T[]", "T[]", LAYOUT, "int[]", "int[]", "int[]", "int[]", "int[]", "int[]")
def product_units(
    lo: int, hi: int, source: Any, weight: Any, start: Any, out: Any, layout: Any, lists: Any, runs: Any,
    phase_outs: Any, phase_steps: Any, steps: Any, segments: Any,
) -> None:  # fmt: skip
    """Compute some channels of one chunk of the pixels of one group, all phases."""
    p = layout[0]
    outs, table = np.empty(p.most, np.int64), np.empty(p.runs * p.most, np.int64)
    zeros, patches = empty(p.zeros, source.dtype), empty(p.patches, source.dtype)
    zero_row(zeros, 0, p.zeros)
    for unit in range(lo, hi):
        part, chunk, g = unit % p.parts, unit // p.parts % p.chunks, unit // (p.parts * p.chunks)
        begin, end = p.pixels * chunk // p.chunks, p.pixels * (chunk + 1) // p.chunks
        for number in range(lists.size // LIST):
            count = list_pixels(table, outs, zeros, patches, source, p, lists, number, runs, g, begin, end)
            first_phase, end_phase = lists[LIST * number + 5], lists[LIST * number + 6]
            first_block = p.blocks * part // p.parts
            for block in range(first_block, p.blocks * (part + 1) // p.parts):
                packed, channel = g * p.blocks + block, block * p.width
                channels = min(p.width, p.group_channels - channel)
                for phase in range(first_phase, end_phase):
                    first = phase_steps[phase]
                    for step in range(first, phase_steps[phase + 1]):
                        segment, term = steps[2 * step], steps[2 * step + 1]
                        many = steps[2 * step + 2] - segment
                        for i in range(0, count, p.tile):
                            pixel_tile(p.shape, source, table, i, p.most, segments, segment, many,
                                       weight, (packed * p.terms + term) * p.width, start, packed * p.width,
                                       out, outs, i, phase_outs[phase] + channel, min(p.tile, count - i), channels,
                                       step > first, block == first_block and i + p.tile < count)  # fmt: skip


class _Cut(NamedTuple):
    """How a problem is cut."""

    lists: list[places.PhaseList]
    shape: int
    width: int  # channels of a block
    blocks: int
    chunks: int
    parts: int
    most: int  # pixels of a chunk, whole tiles
    longest: int  # run, in elements
    joined: bool  # runs of several taps


def _sides(g: Geometry, forward: bool) -> tuple[int, int]:
    """Return the channels of a group of the result and of the source."""
    return (g.group_out, g.group_in) if forward else (g.group_in, g.group_out)


@lru_cache(maxsize=256)
def _cut(g: Geometry, forward: bool) -> _Cut:
    lanes, itemsize = host.lanes(g.dtype), np.dtype(g.dtype).itemsize
    channels, from_channels = _sides(g, forward)
    vectors = -(-channels // lanes)
    # A tile multiplies, or it loads where it has one vector only.
    shape = min(
        range(len(VECTORS)),
        key=lambda i: (-(-vectors // VECTORS[i]) * max(VECTORS[i] * PIXELS, VECTORS[i] + PIXELS), -VECTORS[i]),
    )
    width = VECTORS[shape] * lanes
    blocks = -(-channels // width)
    lists = places.phase_lists(g, forward, join=True)
    longest = places.longest_run(lists) * from_channels
    joined = longest > from_channels
    pixels = g.batch * math.prod(places.extent(lists))
    reach = 1 if forward else math.prod(min(s, k) for s, k in zip(g.stride, g.kernel))
    most = min(_MOST, _SOURCE // (from_channels * reach * itemsize))
    if joined:
        most = min(most, _PATCHES // (max(len(each.runs) for each in lists) * longest * itemsize))
    chunks, most = places.chunks_of(lists, pixels, PIXELS, most)
    parts = min(blocks, -(-UNITS // (g.groups * chunks)))
    return _Cut(lists, shape, width, blocks, chunks, parts, most, longest, joined)


def declines(g: Geometry, forward: bool) -> str | None:
    """Return why these kernels, and that of the weight gradient, cannot serve a problem, or None."""
    if not g.channels_last:
        return "serves arrays with channels last"
    if g.dtype not in ("float32", "float64"):
        return f"vector code is for float32 and float64, not {g.dtype}"
    if g.group_in == g.group_out == 1:
        return "leaves groups of one channel to kernels for depthwise layers"
    return places.too_many(g, forward)


def _counts(g: Geometry, forward: bool) -> dict[str, float]:
    cut = _cut(g, forward)
    channels, from_channels = _sides(g, forward)
    pixels = [(g.batch * math.prod(each.pixels), each) for each in cut.lists]
    taps = sum(n * sum(len(taps) for phase in each.phases for _, taps in phase.runs) for n, each in pixels)
    runs = sum(n * sum(len(phase.runs) for phase in each.phases) for n, each in pixels)
    results = g.batch * math.prod(g.output if forward else g.input)
    tiles = g.groups * cut.blocks / PIXELS
    return {
        "product": float(taps * g.groups * from_channels * cut.blocks * cut.width),
        "place": sum(n * (1 + len(each.runs)) for n, each in pixels) * g.groups * cut.parts,
        "tile": (results + taps * from_channels / _TERMS) * tiles,
        "segment": runs * tiles,
        "result": results * g.groups * channels,
        "source": g.batch * g.groups * from_channels * math.prod(g.input if forward else g.output),
        "weight": math.prod(g.weight_shape),
        "call": 1,
    }


class _Tables(NamedTuple):
    """What the kernel reads beside arrays; see its arguments."""

    layout: NDArray[np.void]
    places: places.Tables
    phase_steps: frames.Ints
    steps: frames.Ints
    segments: frames.Ints


def _tables(g: Geometry, forward: bool, cut: _Cut) -> _Tables:
    _, from_channels = _sides(g, forward)
    phase_steps, term = [0], 0
    steps: list[tuple[int, int]] = []
    segments: list[tuple[int, int, int, int]] = []
    lanes = host.lanes(g.dtype)
    for some in cut.lists:
        fresh = places.foremost(g, forward, some)
        for phase in some.phases:
            steps.append((len(segments), term))
            terms = 0  # of this step
            for run, taps in phase.runs:
                for first in range(0, len(taps) * from_channels, _TERMS):
                    count = min(_TERMS, len(taps) * from_channels - first)
                    if terms and terms + count > _TERMS:
                        steps.append((len(segments), term))
                        terms = 0
                    segments.append((run, first, count, -(-count // lanes) if run in fresh else 0))
                    terms += count
                    term += count
            phase_steps.append(len(steps))
            fresh -= {run for run, _ in phase.runs}
    steps.append((len(segments), term))
    layout = np.zeros(1, LAYOUT)
    for name, value in {
        **places.fields(g, forward, cut.lists), "most": cut.most, "tile": PIXELS, "longest": cut.longest,
        "pixels": g.batch * math.prod(places.extent(cut.lists)), "chunks": cut.chunks, "parts": cut.parts,
        "blocks": cut.blocks, "shape": cut.shape, "width": cut.width, "terms": term, "zeros": cut.longest,
    }.items():  # fmt: skip
        layout[name] = value
    if cut.joined:
        layout["patches"] = layout["runs"] * cut.most * cut.longest
    return _Tables(layout, places.tables(g, forward, cut.lists), *map(places.flat, (phase_steps, steps, segments)))


def _bind(g: Geometry, forward: bool) -> Bound:
    cut, itemsize = _cut(g, forward), np.dtype(g.dtype).itemsize
    tables = _tables(g, forward, cut)
    channels, from_channels = _sides(g, forward)
    layout = tables.layout[0]
    elements = int(g.groups * cut.blocks * layout["terms"] * cut.width)
    ranges = min(cut.blocks, -(-UNITS // g.groups))
    launch_pack = planes.pack.launcher(g.dtype, g.groups * ranges, 4 * elements)
    taps = tables.places.weights
    tap_start = np.arange(taps.size + 1)
    outer, inner = g.group_out * g.taps, g.taps
    row_step, channel_step = (inner, outer) if forward else (outer, inner)

    def pack(w: Array, packed: Array) -> None:
        launch_pack(w, packed, ranges, cut.blocks, channels, cut.width, from_channels, g.group_in * outer, channel_step,
                    row_step, taps.size, tap_start, taps)  # fmt: skip

    units = g.groups * cut.chunks * cut.parts
    compute = product_units.launcher(g.dtype, units, 2 * g.multiplications)
    no_bias = np.zeros(g.groups * cut.blocks * cut.width, g.dtype)

    def run_packed(source: Array, packed: Array, bias: Array | None, out: Array) -> None:
        start = no_bias
        if bias is not None:
            start = np.zeros((g.groups, cut.blocks * cut.width), g.dtype)
            start[:, :channels] = bias.reshape(g.groups, channels)
            start = start.reshape(-1)
        lists, runs, outs, _ = tables.places
        compute(source, packed, start, out, tables.layout, lists, runs, outs, tables.phase_steps, tables.steps,
                tables.segments)  # fmt: skip

    private = 8 * cut.most * (int(layout["runs"]) + 1) + itemsize * int(layout["patches"] + layout["zeros"])
    scratch = workspace.total(elements * itemsize, private, units)
    bound = planes.with_packed_weights(g.dtype, elements, pack, run_packed, scratch)
    if forward:
        return bound
    return Bound(lambda gy, w, gx: bound.run(gy, w, None, gx), scratch)


def _bind_forward(g: Geometry) -> Bound:
    return _bind(g, True)


def _bind_input_grad(g: Geometry) -> Bound:
    return _bind(g, False)


_IDEA = "register tiles of pixels × channels of arrays with channels last, as they lie"
FORWARD = Implementation(
    "direct_nhwc", _IDEA, partial(declines, forward=True), _bind_forward,
    cost=Cost(partial(_counts, forward=True), weights_of("direct_nhwc", "forward", True)),
    channels_last=(True,),
)  # fmt: skip
INPUT_GRAD = Implementation(
    "direct_nhwc", _IDEA, partial(declines, forward=False), _bind_input_grad,
    cost=Cost(partial(_counts, forward=False), weights_of("direct_nhwc", "input_grad", True)),
    channels_last=(True,),
)  # fmt: skip
