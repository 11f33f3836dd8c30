"""Forward pass for few output channels: register tiles of (phase, channel) × pixels, so that phases share reads of x.

``out[(phase, m), q] = Σ w[c, t, (phase, m)] · plane[c, q + offset(t)]`` over channels c and the shifts t that any of
the joint phases has; see `frame`. A weight is zero where a phase lacks the shift: k9 s2 has 5 shifts on an axis, of
which its phases use 5 and 4. A tile of one channel alone needs a read of x for every product, which takes longer than
the product.

Joint are the phases of the last axis, of the last two or of all, whichever takes least work.
Memory: planes as in `direct_tile` · weights packed (group, other phases, channel, shift, (joint phase, m)) · tile
((joint phase, m), pixel). Parallel over tiles of pixels, then groups. A NaN or Inf in the weights meets the zeros
around x, and one in x the zeros among the weights: it reaches outputs beside those that it touches.

Ladder, measured in docs/decisions/0004-direct-kernels.md:
1. One phase at a time (`direct_tile`).
2. Phases of the last axes joint.
3. The newest row of the next tile fetched ahead.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdeconv.kernels.cpu import frame as frames
from fastdeconv.kernels.cpu import host, planes, workspace
from fastdeconv.kernels.cpu.buffers import empty
from fastdeconv.kernels.cpu.costs import weights_of
from fastdeconv.kernels.cpu.direct_tile import LAYOUT, RUN, store, tile_products, tile_work
from fastdeconv.kernels.cpu.jit import device_function, kernel
from fastdeconv.kernels.cpu.parts import Part, bind_parts
from fastdeconv.kernels.cpu.tiles import OUTER_ROWS, outer_columns, outer_tile
from fastdeconv.kernels.geometry import Axes, Bound, Cost, Geometry, Implementation

Array = NDArray[Any]


@kernel("T[]", "T[]", "int", "int", "int[]")
def pack_units(lo: int, hi: int, weight: Any, packed: Any, step: int, channels: int, table: Any) -> None:
    """Copy the weights of one input channel to (group, other phases, channel, shift, row); zeros where a table is -1.

    ``table`` has an element of a channel's weights for each packed one, after where it goes for the first channel.
    """
    count = table.size // 3
    for unit in range(lo, hi):
        g, c = unit // channels, unit % channels
        for i in range(count):
            at = g * channels * count + table[3 * i] + c * table[3 * i + 1]
            packed[at] = weight[unit * step + table[3 * i + 2]] if table[3 * i + 2] >= 0 else 0


@device_function
def _compute_tile(
    buffer: Any, source: Any, weight: Any, bias: Any, out: Any, p: Any, tap_start: Any, tap_offset: Any, joint: int,
    g: int, q0: int,
) -> None:  # fmt: skip
    """Compute all phases of one tile of pixels of one group, `joint` of them at a time."""
    height = joint * p.rows
    depth = height * p.width
    inner = joint // p.phases[2]
    pixels = g * p.channels * p.channel_step + p.lead + q0
    end, first = min(q0 + p.width, p.total), g * p.rows
    for outer in range(tap_start.size - 1):
        start = tap_start[outer]
        taps = tap_start[outer + 1] - start
        at = (g * p.taps + start) * p.channels * height
        step = max(1, RUN // max(1, taps))
        for c in range(0, p.channels, step):
            outer_tile(height, min(step, p.channels - c), taps, weight, at + c * taps * height,
                       source, pixels + c * p.channel_step, p.channel_step,
                       tap_offset, start, buffer, depth if c else 0)  # fmt: skip
            if c:
                for i in range(depth):
                    buffer[i] += buffer[depth + i]
        for i in range(inner):
            phase = outer * inner + i
            store(buffer, i * p.phases[2] * p.rows * p.width, out, bias, p, q0, end, first, first, p.rows,
                  phase // p.phases[1], phase % p.phases[1], 0, p.phases[2] if taps else 0, False)  # fmt: skip


@kernel("T[]", "T[]", "T[]", "T[]", LAYOUT, "int[]", "int[]", "int")
def joint_units(
    lo: int, hi: int, source: Any, weight: Any, bias: Any, out: Any, layout: Any, tap_start: Any, tap_offset: Any,
    joint: int,
) -> None:  # fmt: skip
    """Compute one tile of pixels of one group."""
    p = layout[0]
    buffer = empty(2 * joint * p.rows * p.width, source.dtype)
    for unit in range(lo, hi):
        _compute_tile(buffer, source, weight, bias, out, p, tap_start, tap_offset, joint,
                      unit % p.groups, unit // p.groups * p.width)  # fmt: skip


class _Joint(NamedTuple):
    """Which phases are computed together: how many, the shifts of each set, and the work of a vector of pixels."""

    phases: int
    shifts: list[list[Axes]]
    taps: list[dict[tuple[int, Axes], int]]  # the weight of a joint phase at a shift
    work: float


def _ways(g: Geometry) -> list[_Joint]:
    """Return the ways to join phases whose tiles fit the registers."""
    frame = frames.scatter_frame(g)
    counts = [min(s, o) for s, o in zip(frame.stride, g.output)]
    ways = []
    for axis in (2, 1, 0):
        joint = math.prod(counts[axis:])
        if joint * g.group_out > OUTER_ROWS:
            break
        taps: list[dict[tuple[int, Axes], int]] = [{} for _ in range(math.prod(counts[:axis]))]
        for tap in frame.taps:
            number = (tap.phase[0] * counts[1] + tap.phase[1]) * counts[2] + tap.phase[2]
            taps[number // joint][number % joint, tap.shift] = tap.weight
        shifts = [sorted({shift for _, shift in each}) for each in taps]  # the newest row first, see `outer_sums`
        ways.append(_Joint(joint, shifts, taps, sum(map(len, shifts)) * tile_work(joint * g.group_out)))
    return ways


def declines(g: Geometry) -> str | None:
    """Return why phases cannot be joint, or None."""
    g = frames.merged(g)
    if (reason := frames.too_large(g, forward=True)) is not None:
        return reason
    phases = min(frames.scatter_frame(g).stride[2], g.output[2])
    if phases < 2:
        return "one phase on the last axis has none to share reads with"
    if phases * g.group_out > OUTER_ROWS:
        return f"{phases} phases of {g.group_out} channels are more than the {OUTER_ROWS} rows of a register tile"
    return None


def counts(g: Geometry) -> dict[str, float]:
    """Count what the kernel does, as `direct_tile` does; zeros among joint phases are products too."""
    g = frames.merged(g)
    frame = frames.scatter_frame(g)
    way = min(_ways(g), key=lambda way: way.work)
    shape = g.output_shape
    height = way.phases * g.group_out
    return {
        "product": g.in_channels * sum(map(len, way.shifts)) * tile_products(height) * frame.total,
        "result": math.prod(shape),
        "row": math.prod(shape) / shape[-1] * min(frame.stride[2], shape[-1]),
        "plane": g.in_channels * frame.total,
        "weight": math.prod(g.weight_shape),
        "call": 1,
    }


def bind(g: Geometry) -> Bound:
    """Return the function that runs the pass."""
    g = frames.merged(g)
    frame = frames.scatter_frame(g)
    way = min(_ways(g), key=lambda way: way.work)
    height = way.phases * g.group_out
    images = frames.images_at_once(frame, g, g.in_channels)
    total = sum(map(len, way.shifts))
    table = []
    for number, (shifts, taps) in enumerate(zip(way.shifts, way.taps)):
        first = sum(map(len, way.shifts[:number])) * g.group_in * height
        for t, shift in enumerate(shifts):
            for row in range(height):
                phase, channel = divmod(row, g.group_out)
                tap = taps.get((phase, shift), -1)
                weight = -1 if tap < 0 else channel * g.taps + tap
                table += [first + t * height + row, len(shifts) * height, weight]
    packed_elements = g.groups * g.group_in * total * height
    launch_pack = pack_units.launcher(g.dtype, g.in_channels, 4 * packed_elements)
    pack_table = frames.ints(table)
    tap_start = frames.ints([sum(map(len, way.shifts[:i])) for i in range(len(way.shifts) + 1)])

    def pack(w: Array, packed: Array) -> None:
        launch_pack(w, packed, g.group_out * g.taps, g.group_in, pack_table)

    def part(g: Geometry, cut: frames.Bands | None, band: int) -> Part:
        return _part(g, way, tap_start, cut, band)

    return bind_parts(g, True, images, g.in_channels, part, pack, packed_elements)


def _part(g: Geometry, way: _Joint, tap_start: frames.Ints, cut: frames.Bands | None, band: int) -> Part:
    """Prepare the computation of a batch of this size, or of a band of so many rows, from packed weights."""
    frame = frames.scatter_frame(g)
    if cut:
        frame = cut.frame(frame, band)
    height = way.phases * g.group_out
    width = outer_columns(height) * host.lanes(g.dtype)
    plane = frame.plane(width)
    tiles = -(-frame.total // width)
    layout = np.zeros(1, LAYOUT)
    for name, value in {
        "groups": g.groups, "rows": g.group_out, "channels": g.group_in, "block_rows": g.group_out, "width": width,
        "taps": sum(map(len, way.shifts)), "plane": plane, "channel_step": plane, "lead": frame.start,
        "total": frame.total, "pitch": frame.pitch, "size": g.output, "stride": frame.stride,
        "phases": [min(s, o) for s, o in zip(frame.stride, g.output)],
    }.items():  # fmt: skip
        layout[name] = value
    filling = frames.filling(frame, g.batch, g.in_channels, g.input, (1, 1, 1), [(0, 0, 0)], plane, True, cut, True)
    tap_offset = frames.ints([-frame.flat(shift) for shifts in way.shifts for shift in shifts])
    units = tiles * g.groups
    work = 2 * g.in_channels * int(layout["taps"][0]) * height * tiles * width
    fill = planes.filler("planes", g.dtype, filling, cut)
    compute = joint_units.launcher(g.dtype, units, work)

    def run(x: Array, packed: Array, bias: Array, y: Array, row: int) -> None:
        filled = fill(x, row)
        here = cut.moved(layout, row) if cut else layout
        compute(filled, packed, bias, y, here, tap_start, tap_offset, way.phases)
        workspace.keep("planes", filled)

    return Part(run, filling.elements, 2 * height * width, units)


FORWARD = Implementation(
    "direct_joint",
    "register tiles of (phase, channel) × pixels over zero-padded planes: phases share reads of x",
    declines,
    bind,
    cost=Cost(counts, weights_of("direct_joint", "forward")),
)
