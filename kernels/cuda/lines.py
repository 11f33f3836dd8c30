"""Which products one result sums on one axis, in closed form: no table of taps, and no test within the loop.

All pairs of a tap k and a pixel i that meet in output o satisfy ``o + p = s·i + d·k``. On each axis they lie on a line:

- of one output (forward pass), the taps of its phase: with ``g = gcd(s, d)`` and ``m = s/g`` every m-th, where g
  divides o + p, the first from the inverse of d/g modulo m; the input advances by d/g from each to the one before;
- of one input (input gradient), all taps: the output advances by d;
- of one tap (weight gradient), all inputs: the output advances by s.

Those inside the array are an interval of the line.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np

from fastdeconv.kernels.cuda.device import device_function
from fastdeconv.kernels.geometry import Geometry

# What a table holds of each axis: sizes; of the forward pass g, m and the inverse; what to add to k and to the place in
# the source from one tap to the next.
(STRIDE, PADDING, DILATION, TAPS, SIZE, COMMON, PERIOD, INVERSE, TAP_STEP, SOURCE_STEP) = range(10)
AXIS = 10


def axes(g: Geometry, forward: bool) -> list[int]:
    """Return the entries of a table for the three axes of the forward pass or of the input gradient."""
    found: list[int] = []
    for s, p, d, taps, i, o in zip(g.stride, g.padding, g.dilation, g.kernel, g.input, g.output):
        common = math.gcd(s, d)
        period, advance = s // common, d // common
        inverse = pow(advance, -1, period)
        found += [s, p, d, taps, i if forward else o, common, period, inverse]
        found += [-period, advance] if forward else [1, d]
    return found


def reach(g: Geometry) -> int:
    """Return more than any number that lines are computed from."""
    steps = zip(g.input, g.stride, g.kernel, g.dilation, g.output, g.padding)
    ends: list[int] = [max(s * s, s * i + d * k + o + 2 * p) for i, s, k, d, o, p in steps]
    return 1 + max(ends)


@cache
def interval(index: str) -> Any:
    """Return a device function: the first j from 0 with ``0 <= base + step·j < size``, and how many below `count`."""
    cast = getattr(np, index)

    @device_function
    def found(base: int, step: int, count: int, size: int) -> Any:
        low = cast(0) if base >= 0 else cast(cast(step - 1 - base) // step)
        high = cast(0) if base >= size else min(cast(count), cast(cast(size - base + step - 1) // step))
        return low, max(cast(0), cast(high - low))

    return found


@cache
def line(forward: bool, index: str) -> Any:
    """Return a device function ``(table, axis's entries, place in the output)``: first tap, its source, how many."""
    cast = getattr(np, index)
    inside = interval(index)

    @device_function
    def taps_of_output(table: Any, at: int, o: int) -> Any:
        period, advance = cast(table[at + PERIOD]), cast(table[at + SOURCE_STEP])
        taps, common = cast(table[at + TAPS]), cast(table[at + COMMON])
        place = cast(o + cast(table[at + PADDING]))
        unit = cast(place // common)
        first = cast(cast(cast(unit % period) * cast(table[at + INVERSE])) % period)
        if cast(unit * common) != place or first >= taps:
            return cast(0), cast(0), cast(0)
        # From the last tap, whose input is the first.
        last = cast(first + cast(cast(taps - 1 - first) // period) * period)
        base = cast(cast(unit - advance * last) // period)
        skipped, count = inside(base, advance, cast(cast(last - first) // period + 1), cast(table[at + SIZE]))
        return cast(last - skipped * period), cast(base + skipped * advance), count

    @device_function
    def taps_of_input(table: Any, at: int, i: int) -> Any:
        dilation = cast(table[at + DILATION])
        base = cast(i * cast(table[at + STRIDE]) - cast(table[at + PADDING]))
        first, count = inside(base, dilation, cast(table[at + TAPS]), cast(table[at + SIZE]))
        return first, cast(base + first * dilation), count

    return taps_of_output if forward else taps_of_input
