"""Transformed weights, as the products of the forward pass and the input gradient read them.

The kernels between one channel and a block of others, as many as a vector has lanes, lie a constant step apart: they
are turned to one vector for each tap, and these are transformed. Lanes are channels of the result.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.kernels.cpu import host
from fastdeconv.kernels.cpu.columns import to_columns
from fastdeconv.kernels.cpu.jit import device_function
from fastdeconv.kernels.cpu.rows import read_ahead
from fastdeconv.kernels.cpu.winograd.axes import MOST_PHASES, Group, combinations
from fastdeconv.kernels.cpu.winograd.transforms import WEIGHTS, combine, transposed
from fastdeconv.kernels.geometry import Geometry

# Kernels of so many channels ahead are fetched: they lie pages apart, where no processor looks ahead by itself.
_AHEAD = 4

_OF_SUMS = transposed(WEIGHTS)

KERNELS = np.dtype(
    [
        ("lanes", "i8"),
        ("rows", "i8"),  # channels of the result, of one group
        ("depth", "i8"),  # channels that are summed over, of one group
        ("rows_have_phases", "i8"),
        ("group_step", "i8"),  # strides of the weight array
        ("row_step", "i8"),
        ("depth_step", "i8"),
        ("kernel", "i8", (3,)),
        ("phases", "i8", (3,)),
        ("taps", "i8", (3,)),  # of a phase
        ("points", "i8", (3,)),
        ("transform", "i8", (3, MOST_PHASES)),
        ("tap_step", "i8", (3,)),  # from one tap of a phase to the next
        ("first_tap", "i8", (3, MOST_PHASES)),  # of each phase
        ("some", "i8", (3, MOST_PHASES)),  # taps of each phase
    ]
)


def kernels(g: Geometry, group: Group, forward: bool, of_weights: bool = True) -> NDArray[np.void]:
    """Describe the weights of one group of tiles, those of each combination of pieces of the axes.

    Their transforms are those `of_weights`, or those of sums to gradients of weights.
    """
    layout = np.zeros(math.prod(s.pieces for s in group), KERNELS)
    input_step, output_step = g.group_out * g.taps, g.taps
    for name, value in {
        "lanes": host.lanes(g.dtype), "rows_have_phases": forward,
        "rows": g.group_out if forward else g.group_in, "depth": g.group_in if forward else g.group_out,
        "group_step": g.group_in * input_step, "row_step": output_step if forward else input_step,
        "depth_step": input_step if forward else output_step, "kernel": g.kernel,
        "phases": [len(s.phases) for s in group], "taps": [s.taps for s in group], "points": [s.points for s in group],
    }.items():  # fmt: skip
        layout[name] = value
    for number, used in enumerate(combinations(group)):
        for axis, (segment, piece) in enumerate(zip(group, used.pieces)):
            for f, phase in enumerate(segment.phases):
                layout["first_tap"][number, axis, f] = phase.taps[2 * piece]
                layout["some"][number, axis, f] = some = segment.taps_of(piece, phase)
                layout["transform"][number, axis, f] = (WEIGHTS if of_weights else _OF_SUMS)[segment.taps, some]
            if segment.taps > 1:
                taps = max((phase.taps for phase in segment.phases), key=len)
                layout["tap_step"][number, axis] = taps[1] - taps[0]
    return layout


@device_function
def kernel_elements(p: Any) -> int:
    """Return the elements of the largest buffer between weights and their transform."""
    taps = p.kernel[0] * p.kernel[1] * p.kernel[2]
    vectors: int = max(taps + p.lanes, p.points[0] * p.kernel[1] * p.kernel[2], p.points[1] * max(p.kernel[2], 4))
    return vectors * int(p.lanes)


@device_function
def transform_kernels(
    p: Any, weight: Any, g: int, first: int, many: int, part: int, parts: int,
    target: Any, target_at: int, depth: int, width: int, pitch: int, kernels: Any, planes: Any, rows: Any,
) -> None:  # fmt: skip
    """Transform the weights of `many` vectors of rows to (point, panel of `width` columns, depth, column).

    Those of one of so many `parts` of the channels that are summed over. The last three are buffers, with room for
    `kernel_elements`.
    """
    lanes = p.lanes
    k1, k2 = p.kernel[1], p.kernel[2]
    points0, points1, points2 = p.points[0], p.points[1], p.points[2]
    phases = p.phases[0] * p.phases[1] * p.phases[2]
    taps = p.kernel[0] * k1 * k2
    # Channels that only fill the last vector have zeros for weights.
    channels = depth if p.rows_have_phases else depth // phases
    for b in range(many):
        present = max(0, min(lanes, p.rows - (first + b) * lanes))
        for d in range(channels * part // parts, channels * (part + 1) // parts):
            at = g * p.group_step + (first + b) * lanes * p.row_step + d * p.depth_step
            inside = present if d < p.depth else 0
            ahead = at + _AHEAD * p.depth_step
            if p.row_step == taps:
                read_ahead(weight, ahead, inside * taps)
            else:
                for c in range(inside):
                    read_ahead(weight, ahead + c * p.row_step, taps)
            to_columns(kernels, 0, lanes, weight, at if inside else 0, p.row_step, inside, taps)
            for f0 in range(p.phases[0]):
                # An axis whose taps stay as they are, one to a phase, is not copied.
                slices, top = kernels, p.first_tap[0, f0] * k1 * k2 * lanes
                if p.transform[0, f0]:
                    combine(p.transform[0, f0], kernels, top, p.tap_step[0] * k1 * k2 * lanes,
                            lanes, planes, 0, k1 * k2 * lanes, lanes, k1 * k2)  # fmt: skip
                    slices, top = planes, 0
                for p0 in range(points0):
                    for f1 in range(p.phases[1]):
                        lines, first_row = slices, top + (p0 * k1 + p.first_tap[1, f1]) * k2 * lanes
                        if p.transform[1, f1]:
                            combine(p.transform[1, f1], slices, first_row,
                                    p.tap_step[1] * k2 * lanes, lanes, rows, 0, k2 * lanes, lanes, k2)  # fmt: skip
                            lines, first_row = rows, 0
                        for f2 in range(p.phases[2]):
                            f = (f0 * p.phases[1] + f1) * p.phases[2] + f2
                            if p.rows_have_phases:
                                column, k = (f * many + b) * lanes, d
                            else:
                                column, k = b * lanes, f * channels + d
                            to = (target_at + p0 * points1 * points2 * pitch
                                  + column // width * depth * width + k * width + column % width)  # fmt: skip
                            combine(p.transform[2, f2], lines, first_row + p.first_tap[2, f2] * lanes,
                                    p.tap_step[2] * lanes, k2 * lanes, target, to, pitch, points2 * pitch,
                                    points1)  # fmt: skip
