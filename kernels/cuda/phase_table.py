"""What kernels that gather pixels read about a pass: one table of integers, and functions that look things up in it.

A header of sizes and strides, then `PHASE` entries for each phase, then `TAP` for each tap: its shifts, which element
of the kernel it is, and what the shifts add to a place in the source. A block serves one tile of pixels of one phase.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fastdeconv.kernels.cuda.device import device_function, unravel
from fastdeconv.kernels.cuda.phases import Sums

(ROWS, CHANNELS, PADDED, ROW_BLOCKS, GROUPS, BATCH, PHASES,
 SOURCE_N, SOURCE_C, SOURCE_0, SOURCE_1, SOURCE_2, OUT_N, OUT_C, OUT_0, OUT_1, OUT_2,
 SIZE_0, SIZE_1, SIZE_2, HOP_0, HOP_1, HOP_2, STEP_0, STEP_1, STEP_2, GROUP_WEIGHTS) = range(27)  # fmt: skip
HEADER = 27
(FIRST_TILE, FIRST_TAP, TAPS, DEPTH_AT, FIRST_0, FIRST_1, FIRST_2, COUNT_0, COUNT_1, COUNT_2) = range(10)
PHASE = 10
(SHIFT_0, SHIFT_1, SHIFT_2, NUMBER, DELTA) = range(5)
TAP = 5


class PhaseTable(NamedTuple):
    """The table, the tiles of all phases, and the packed weights of one group."""

    integers: list[int]
    tiles: int
    group_weights: int


def phase_table(
    s: Sums, batch: int, groups: int, source: tuple[int, ...], out: tuple[int, ...],
    *, rows: int, columns: int, padded: int, depth: int,
) -> PhaseTable:  # fmt: skip
    """Return the table of a pass.

    Parameters
    ----------
    source, out : tuple of int
        Strides on (batch, channel, three spatial axes).
    rows, columns, depth : int
        Of a tile.
    padded : int
        Channels of a tap among the depth, in the same units as `depth`.
    """
    row_blocks = -(-s.rows // rows)
    head: list[int] = []
    taps: list[int] = []
    tiles = deep = 0
    for phase in s.phases:
        first_tap = HEADER + PHASE * len(s.phases) + len(taps)
        head += [tiles, first_tap, len(phase.taps), deep, *phase.first, *phase.size]
        for tap in phase.taps:
            taps += [*tap.shift, tap.weight, sum(n * step for n, step in zip(tap.shift, source[2:]))]
        tiles += -(-batch * math.prod(phase.size) // columns)
        deep += -(-len(phase.taps) * padded // depth) * depth
    group_weights = deep * row_blocks * rows
    front = [
        s.rows, s.channels, padded, row_blocks, groups, batch, len(s.phases), *source, *out, *s.source, *s.hop, *s.step,
        group_weights,
    ]  # fmt: skip
    return PhaseTable(front + head + taps, tiles, group_weights)


@cache
def phase_of(index: str) -> Any:
    """Return a device function ``(table, entry, value)``: where the last phase is whose entry is not over a value."""
    cast = getattr(np, index)

    @device_function
    def found(table: Any, entry: int, value: int) -> Any:
        low, high = cast(0), cast(table[PHASES])
        while high - low > 1:
            middle = cast((low + high) // 2)
            if table[HEADER + middle * PHASE + entry] <= value:
                low = middle
            else:
                high = middle
        return cast(HEADER + low * PHASE)

    return found


@cache
def phase_counts(index: str) -> Any:
    """Return a device function ``(table, phase)``: the pixels of a phase on each axis."""
    cast = getattr(np, index)

    @device_function
    def counts(table: Any, phase: int) -> Any:
        return cast(table[phase + COUNT_0]), cast(table[phase + COUNT_1]), cast(table[phase + COUNT_2])

    return counts


@cache
def pixel_place(index: str) -> Any:
    """Return a device function ``(table, phase, pixel, pixels)``: where a pixel of a phase is in the output, or -1."""
    cast, unraveled, counts = getattr(np, index), unravel(index), phase_counts(index)

    @device_function
    def place(table: Any, phase: int, pixel: int, pixels: int) -> Any:
        if pixel >= pixels:
            return cast(-1)
        count0, count1, count2 = counts(table, phase)
        n, q0, q1, q2 = unraveled(pixel, count0, count1, count2)
        return cast(
            n * table[OUT_N]
            + (q0 * table[STEP_0] + table[phase + FIRST_0]) * table[OUT_0]
            + (q1 * table[STEP_1] + table[phase + FIRST_1]) * table[OUT_1]
            + (q2 * table[STEP_2] + table[phase + FIRST_2]) * table[OUT_2]
        )

    return place
