"""Both gradients of layers with few channels a group: as `direct_tile` and `direct_dot`, one group's planes at a time.

``gx[m, q] = Σ w[c, t, m] · plane[c, q + offset(t)]`` and ``gw[m, (c, t)] = Σ_q x[m, q] · plane[c, q + offset(t)]`` over
the planes of the output's gradient; see `frame`. With few channels each element is used a few times, and planes of all
of them go through a far cache between filling and use. Here a unit fills the planes of one image of one group, and uses
them while they are in its core's cache.

Parallel over images and groups; in the weight gradient over groups, and over ranges of images where groups are few,
whose sums are added in their order. A NaN or Inf in the weights meets the zeros around the gradient, and one in x
those around it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdeconv.kernels.cpu import direct_dot, direct_tile, host, planes, workspace
from fastdeconv.kernels.cpu import frame as frames
from fastdeconv.kernels.cpu.buffers import empty
from fastdeconv.kernels.cpu.costs import weights_of
from fastdeconv.kernels.cpu.direct_dot import collect
from fastdeconv.kernels.cpu.direct_tile import LAYOUT, store, tile_rows
from fastdeconv.kernels.cpu.frame import PLANES
from fastdeconv.kernels.cpu.jit import kernel
from fastdeconv.kernels.cpu.planes import fill_lines
from fastdeconv.kernels.cpu.tiles import INNER_ROWS, inner_columns, inner_tile, outer_columns, outer_tile
from fastdeconv.kernels.geometry import Axes, Bound, Cost, Geometry, Implementation

Array = NDArray[Any]

# Planes of one group, in bytes: a core's second-level cache has room for them.
_CACHED = 512 << 10
# With more channels in a group, weights that every image reads again do not leave room for its planes.
_CHANNELS = 64
# Products of a running total.
_RUN = 2048
# Enough units to share among threads.
_UNITS = 16
# Vectors of pixels of a running total in the weight gradient.
_BLOCK = 128


@kernel("T[]", "T[]", "T[]", LAYOUT, PLANES, "int[]", "int[]", "int[]")
def input_units(
    lo: int, hi: int, gy: Any, weight: Any, gx: Any, layout: Any, filling: Any, phase: Any, kinds: Any,
    tap_offset: Any,
) -> None:  # fmt: skip
    """Compute the input gradient of one group in one image."""
    p, f = layout[0], filling[0]
    height = p.block_rows
    local = empty(p.channels * p.channel_step, gy.dtype)
    tile = empty(height * p.width, gy.dtype)
    no_bias = empty(0, gy.dtype)
    for unit in range(lo, hi):
        g = unit % p.groups
        for c in range(p.channels):
            fill_lines(
                local, c * p.channel_step, gy, unit * p.channels + c, f, phase, kinds, 0, f.pitch[0] * f.pitch[1]
            )
        for q0 in range(0, p.total, p.width):
            for block in range(p.blocks):
                outer_tile(height, p.channels, p.taps, weight, (g * p.blocks + block) * p.channels * p.taps * height,
                           local, p.lead + q0, p.channel_step, tap_offset, 0, tile, 0)  # fmt: skip
                first = block * height
                store(tile, 0, gx, no_bias, p, q0, min(q0 + p.width, p.total), unit * p.rows + first, 0,
                      min(height, p.rows - first), 0, 0, 0, 1, False)  # fmt: skip


SHARES = np.dtype(
    [
        ("batch", "i8"),
        ("splits", "i8"),  # ranges of images
        ("groups", "i8"),
        ("rows", "i8"),  # input channels of a group
        ("channels", "i8"),  # output channels of a group
        ("columns", "i8"),  # pairs of those and taps
        ("height", "i8"),  # of a register tile
        ("width", "i8"),
        ("lead", "i8"),
        ("vectors", "i8"),  # of pixels
        ("lanes", "i8"),
        ("channel_step", "i8"),
        ("elements", "i8"),  # of the sums of one range of images
    ]
)


@kernel("T[]", "T[]", "T[]", SHARES, PLANES, PLANES, "int[]", "int[]", "int[]", "int[]", "int[]")
def weight_units(
    lo: int, hi: int, x: Any, gy: Any, sums: Any, layout: Any, x_filling: Any, gy_filling: Any, x_phase: Any,
    x_kinds: Any, phase: Any, kinds: Any, column_at: Any,
) -> None:  # fmt: skip
    """Sum the products of one group in one range of images."""
    p, fx, fy = layout[0], x_filling[0], gy_filling[0]
    height, width = p.height, p.width
    x_local = empty(p.rows * fx.plane, x.dtype)
    local = empty(p.channels * p.channel_step, x.dtype)
    tile = empty(height * width, x.dtype)
    row_offset, column_offset = empty(height, np.int64), empty(width, np.int64)
    for unit in range(lo, hi):
        g, split = unit % p.groups, unit // p.groups
        at = split * p.elements + g * p.rows * p.columns
        for k in range(at, at + p.rows * p.columns):
            sums[k] = 0
        for n in range(p.batch * split // p.splits, p.batch * (split + 1) // p.splits):
            image = n * p.groups + g
            for m in range(p.rows):
                fill_lines(x_local, m * fx.plane, x, image * p.rows + m, fx, x_phase, x_kinds, 0,
                           fx.pitch[0] * fx.pitch[1])  # fmt: skip
            for c in range(p.channels):
                fill_lines(local, c * p.channel_step, gy, image * p.channels + c, fy, phase, kinds, 0,
                           fy.pitch[0] * fy.pitch[1])  # fmt: skip
            for begin in range(0, p.vectors, _BLOCK):
                for first in range(0, p.rows, height):
                    # A tile with missing rows or columns reads its last one again.
                    rows = min(height, p.rows - first)
                    for m in range(height):
                        row_offset[m] = (first + min(m, rows - 1)) * fx.plane + p.lead
                    for column in range(0, p.columns, width):
                        present = min(width, p.columns - column)
                        for j in range(width):
                            column_offset[j] = p.lead + column_at[column + min(j, present - 1)]
                        inner_tile(height, min(_BLOCK, p.vectors - begin), x_local, row_offset, local, column_offset,
                                   begin * p.lanes, tile)  # fmt: skip
                        for m in range(rows):
                            for j in range(present):
                                sums[at + (first + m) * p.columns + column + j] += tile[m * width + j]


class _Planes(NamedTuple):
    """The planes of one group in one image: their frame, taps, numbers, and elements of one."""

    frame: frames.Frame
    taps: list[frames.Tap]
    number: dict[Axes, int]
    plane: int


def _planes(g: Geometry, reach: int) -> _Planes:
    frame = frames.gather_frame(g._replace(batch=1))
    taps = sorted(frame.taps, key=lambda t: (t.phase, t.weight))
    return _Planes(frame, taps, frames.planes_of(taps), frame.plane(reach))


def declines(g: Geometry) -> str | None:
    """Return why planes of one group do not suit a problem, or None."""
    g = frames.merged(g)
    if (reason := frames.too_large(g, forward=False)) is not None:
        return reason
    made = _planes(g, 8 * host.lanes(g.dtype))
    needed = (g.group_in + g.group_out * len(made.number)) * made.plane * np.dtype(g.dtype).itemsize
    if needed > _CACHED:
        return f"planes of one group take {needed} bytes, more than the {_CACHED} that a core's cache has for them"
    if g.group_out * len(made.taps) > _RUN:
        return f"a sum of {g.group_out * len(made.taps)} products is longer than the {_RUN} of a running total"
    return None


def yields(g: Geometry) -> str | None:
    """Return why planes of all groups should be faster, or None."""
    if max(g.group_in, g.group_out) > _CHANNELS:
        return f"{g.group_in} and {g.group_out} channels of a group have weights too large to share a core's cache"
    if g.batch * g.groups < _UNITS:
        return f"{g.batch * g.groups} images of groups are too few for all threads"
    return None


def bind_input(g: Geometry) -> Bound:
    """Return the function that runs the input gradient."""
    g = frames.merged(g)
    lanes, itemsize = host.lanes(g.dtype), np.dtype(g.dtype).itemsize
    height = tile_rows(g.group_in, frames.gather_frame(g._replace(batch=1)).total, lanes)
    width = outer_columns(height) * lanes
    frame, taps, number, plane = _planes(g, width)
    blocks, step = -(-g.group_in // height), len(number) * plane
    layout = np.zeros(1, LAYOUT)
    for name, value in {
        "groups": g.groups, "rows": g.group_in, "channels": g.group_out, "block_rows": height, "blocks": blocks,
        "width": width, "taps": len(taps), "plane": plane, "channel_step": step, "lead": frame.lead,
        "total": frame.total, "pitch": frame.pitch, "size": g.input, "stride": (1, 1, 1), "phases": (1, 1, 1),
    }.items():  # fmt: skip
        layout[name] = value
    filling = frames.filling(frame, 1, 1, g.output, frame.stride, list(number), plane, True)
    tap_offset = frames.ints([number[t.phase] * plane + frame.flat(t.shift) for t in taps])
    tap_start, tap_weight = frames.ints([0, len(taps)]), frames.ints([t.weight for t in taps])
    packed_elements = g.groups * blocks * g.group_out * len(taps) * height
    pack = planes.pack.launcher(g.dtype, g.groups, 4 * packed_elements)
    input_step = g.group_out * g.taps
    units = g.batch * g.groups
    work = 2 * units * blocks * height * g.group_out * len(taps) * frame.total
    compute = input_units.launcher(g.dtype, units, work)

    def run(gy: Array, w: Array, gx: Array) -> None:
        packed = workspace.take("packed", packed_elements, g.dtype)
        pack(
            w, packed, 1, blocks, g.group_in, height, g.group_out, g.group_in * input_step, g.taps, input_step,
            len(taps), tap_start, tap_weight,
        )  # fmt: skip
        compute(gy, packed, gx, layout, filling.layout, filling.phase, filling.kinds, tap_offset)
        workspace.keep("packed", packed)

    private = (g.group_out * step + height * width) * itemsize
    return Bound(run, workspace.total(packed_elements * itemsize, private, units))


def bind_weight(g: Geometry) -> Bound:
    """Return the function that runs the weight gradient."""
    g = frames.merged(g)
    lanes, itemsize = host.lanes(g.dtype), np.dtype(g.dtype).itemsize
    frame, taps, number, plane = _planes(g, lanes)
    columns, step = g.group_out * len(taps), len(number) * plane
    height = min(INNER_ROWS, g.group_in)
    width = inner_columns(height)
    splits = max(1, min(g.batch, -(-_UNITS // g.groups)))
    elements = g.in_channels * columns
    layout = np.zeros(1, SHARES)
    for name, value in {
        "batch": g.batch, "splits": splits, "groups": g.groups, "rows": g.group_in, "channels": g.group_out,
        "columns": columns, "height": height, "width": width, "lead": frame.lead, "lanes": lanes,
        "vectors": -(-frame.total // lanes), "channel_step": step, "elements": elements,
    }.items():  # fmt: skip
        layout[name] = value
    x_filling = frames.filling(frame, 1, 1, g.input, (1, 1, 1), [(0, 0, 0)], plane, False)
    gy_filling = frames.filling(frame, 1, 1, g.output, frame.stride, list(number), plane, True)
    tap_offset = frames.ints([number[t.phase] * plane + frame.flat(t.shift) for t in taps])
    column_at = (np.arange(g.group_out)[:, None] * step + tap_offset).reshape(-1)
    column_index = (np.arange(g.group_out)[:, None] * g.taps + frames.ints([t.weight for t in taps])).reshape(-1)
    units = g.groups * splits
    compute = weight_units.launcher(g.dtype, units, 2 * g.batch * g.in_channels * columns * frame.total)
    gather = collect.launcher(g.dtype, g.in_channels, 4 * splits * elements)

    def run(x: Array, gy: Array, gw: Array) -> None:
        if len(taps) < g.taps:
            gw[:] = 0
        if not taps:
            return
        sums = workspace.take("sums", splits * elements, g.dtype)
        compute(
            x, gy, sums, layout, x_filling.layout, gy_filling.layout, x_filling.phase, x_filling.kinds,
            gy_filling.phase, gy_filling.kinds, column_at,
        )  # fmt: skip
        gather(sums, gw, splits, columns, elements, column_index)
        workspace.keep("sums", sums)

    private = (g.group_in * plane + g.group_out * step + height * width) * itemsize + 8 * (height + width)
    return Bound(run, workspace.total(splits * elements * itemsize if taps else 0, private, units))


_IDEA = "planes of one group of one image at a time, used while they are in a core's cache"
INPUT_GRAD = Implementation(
    "direct_local", _IDEA, declines, bind_input, yields,
    Cost(lambda g: direct_tile.counts(g, forward=False), weights_of("direct_local", "input_grad")),
)  # fmt: skip
WEIGHT_GRAD = Implementation(
    "direct_local", _IDEA, declines, bind_weight, yields,
    Cost(direct_dot.counts, weights_of("direct_local", "weight_grad")),
)  # fmt: skip
