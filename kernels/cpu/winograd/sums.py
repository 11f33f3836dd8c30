"""From sums of products to the gradient of kernels: how both ways of the weight gradient end."""

from __future__ import annotations

from typing import Any

from fastdeconv.kernels.cpu.columns import to_rows
from fastdeconv.kernels.cpu.jit import device_function
from fastdeconv.kernels.cpu.rows import zero_row
from fastdeconv.kernels.cpu.winograd.transforms import combine


@device_function
def _transform_sums(shape: Any, sums: Any, at: int, point_step: int, planes: Any, rows: Any, kernels: Any) -> None:
    """Transform the sums of one input channel and one vector of output channels to a vector for each tap.

    Those of several pieces of the kernels follow one another, points after points.
    """
    p = shape[0]
    lanes = p.lanes
    k1, k2 = p.kernel[1], p.kernel[2]
    points0, points1, points2 = p.points[0], p.points[1], p.points[2]
    zero_row(kernels, 0, p.kernel[0] * k1 * k2 * lanes)
    for f0 in range(p.phases[0]):
        zero_row(planes, 0, points0 * k1 * k2 * lanes)
        for piece in range(shape.size):
            w, of_piece = shape[piece], at + piece * points0 * points1 * points2 * point_step
            for p0 in range(points0):
                for f1 in range(p.phases[1]):
                    for f2 in range(p.phases[2]):
                        f = (f0 * p.phases[1] + f1) * p.phases[2] + f2
                        combine(w.transform[2, f2], sums, of_piece + f * lanes + p0 * points1 * points2 * point_step,
                                point_step, points2 * point_step, rows, 0, lanes, p.taps[2] * lanes,
                                points1)  # fmt: skip
                        to = (p0 * k1 + w.first_tap[1, f1]) * k2 + w.first_tap[2, f2]
                        combine(w.transform[1, f1], rows, 0, p.taps[2] * lanes, lanes,
                                planes, to * lanes, w.tap_step[1] * k2 * lanes, w.tap_step[2] * lanes,
                                w.some[2, f2])  # fmt: skip
        combine(p.transform[0, f0], planes, 0, k1 * k2 * lanes, lanes, kernels, p.first_tap[0, f0] * k1 * k2 * lanes,
                p.tap_step[0] * k1 * k2 * lanes, lanes, k1 * k2)  # fmt: skip


@device_function
def write_kernels(
    shape: Any, sums: Any, sums_at: int, pitch: int, point_step: int, out: Any, row: int, rows: int, channels: int,
    first: int, many: int, add: bool, planes: Any, lines: Any, kernels: Any, zeros: Any,
) -> None:  # fmt: skip
    """Write the kernels of some rows of input channels, or add them, for `many` vectors of output channels.

    `row` is the first of all groups' input channels, `first` the first vector of a group's output `channels`. Of the
    buffers, three have room for `kernel_elements`, and `zeros` is a vector of them.
    """
    p = shape[0]
    lanes, taps = p.lanes, p.kernel[0] * p.kernel[1] * p.kernel[2]
    phases = p.phases[0] * p.phases[1] * p.phases[2]
    for m in range(rows):
        for b in range(many):
            _transform_sums(shape, sums, sums_at + m * pitch + b * phases * lanes, point_step, planes, lines, kernels)
            at = ((row + m) * channels + (first + b) * lanes) * taps
            to_rows(out, at, taps, min(lanes, channels - (first + b) * lanes), kernels, 0, lanes, zeros, 0,
                    taps, add)  # fmt: skip
