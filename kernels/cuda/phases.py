"""A pass as sums over taps: what the gathering kernels get, as tables of integers.

Forward, phase r of the output on each axis (``o = s·q + r``) sums the taps k with ``o + p - d·k`` divisible by s, which
read input ``q + shift``. The input gradient has one phase of all taps; input i reads ``s·i + d·k - p`` of the output's
gradient. In both ``out[n, row, q] = Σ weight[channel, row, k] · source[n, channel, hop·q + shift_k]`` over channels and
the taps of the phase.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

from fastdeconv.kernels.geometry import Axes, Geometry


class Tap(NamedTuple):
    """One tap: what it adds to the place in the source, and which element of the kernel it is."""

    shift: Axes
    weight: int


class Phase(NamedTuple):
    """Outputs ``step·q + first`` for q below `size`, and the taps they sum."""

    first: Axes
    size: Axes
    taps: tuple[Tap, ...]


class Sums(NamedTuple):
    """One pass: source and output, and the phases."""

    rows: int  # of a group: channels of the output
    channels: int  # of a group: those that are summed over
    source: Axes
    hop: Axes  # in the source, from one output of a phase to the next
    step: Axes  # in the output
    phases: tuple[Phase, ...]


def sums(g: Geometry, forward: bool) -> Sums:
    """Return what a pass sums."""
    if not forward:
        taps = tuple(
            Tap(tuple(d * k - p for d, k, p in zip(g.dilation, at, g.padding)), _index(g, at))  # type: ignore[arg-type]
            for at in itertools.product(*map(range, g.kernel))
        )
        one = (1, 1, 1)
        return Sums(g.group_in, g.group_out, g.output, g.stride, one, (Phase((0, 0, 0), g.input, taps),))
    axes = [axis_phases(g, axis) for axis in range(3)]
    phases = []
    for (r0, size0, taps0), (r1, size1, taps1), (r2, size2, taps2) in itertools.product(*axes):
        taps = tuple(
            Tap((a, b, c), _index(g, (k0, k1, k2)))
            for (a, k0), (b, k1), (c, k2) in itertools.product(taps0, taps1, taps2)
        )
        phases.append(Phase((r0, r1, r2), (size0, size1, size2), taps))
    return Sums(g.group_out, g.group_in, g.input, (1, 1, 1), g.stride, tuple(phases))


def _index(g: Geometry, at: tuple[int, ...]) -> int:
    return (at[0] * g.kernel[1] + at[1]) * g.kernel[2] + at[2]


def axis_phases(g: Geometry, axis: int) -> list[tuple[int, int, list[tuple[int, int]]]]:
    """Return first output, outputs and (shift, k) of each phase of an axis."""
    s, outputs = g.stride[axis], g.output[axis]
    found = []
    for r in range(min(s, outputs)):
        taps = []
        for k in range(g.kernel[axis]):
            shift, phase = divmod(g.dilation[axis] * k - g.padding[axis], s)
            if phase == r:
                taps.append((-shift, k))
        found.append((r, -(-(outputs - r) // s), taps))
    return found
