"""From products to an array: tiles transformed back, their columns turned to rows.

The mirror of `tiles`: a strip's products for one block of channels become the rows under it, all phases of the stride
beside each other, and rows that are complete are written as whole vectors.
"""

from __future__ import annotations

from typing import Any

from fastdeconv.kernels.cpu.columns import to_rows, write_pixels
from fastdeconv.kernels.cpu.jit import device_function
from fastdeconv.kernels.cpu.rows import zero_row
from fastdeconv.kernels.cpu.winograd.transforms import OVERLAPPING, combine


@device_function
def mark(p: Any, axis: int, origins: Any, at: int, count: int, lattices: int, marks: Any) -> None:
    """Mark what `count` tiles of each lattice write on one axis, from the tile on that is `at` from the first."""
    lead = p.first[axis] + at
    for i in range(marks.size):
        marks[i] = 0
    for f in range(p.phases[axis]):
        for t in range(count * lattices):
            start = origins[p.table[axis] + f] + at + t // lattices * p.hop[axis] + t % lattices * p.shift[axis]
            for e in range(p.elements[axis]):
                i = start + e * p.stride[axis]
                if 0 <= i < p.size[axis]:
                    marks[i - lead] = 1


@device_function
def zero_pixels(p: Any, array: Any, n: int, channel: int, channels: int, first: int, count: int) -> None:
    """Set `count` pixels of some channels of an image to zero, counted from those of all groups and slices."""
    at = n * p.image + channel * p.channel + first * p.pixel
    if (p.channel == 1 and channels == p.pixel) or (p.pixel == 1 and count == p.channel):
        zero_row(array, at, channels * count)
    elif p.channel == 1:
        for i in range(count):
            zero_row(array, at + i * p.pixel, channels)
    else:
        for c in range(channels):
            zero_row(array, at + c * p.channel, count)


@device_function
def write_rows(
    p: Any, array: Any, base: int, channels: int, slice_: int, row: int, column: int, begin: int, end: int,
    row_marks: Any, column_marks: Any, source: Any, at: int, extra: Any, extra_at: int, add: bool,
) -> None:  # fmt: skip
    """Write what is marked of the rows under a strip, whose vectors hold the columns ``begin .. end - 1``."""
    lanes, width, height = p.lanes, p.size[2], p.span[1]
    pitch = (end - begin) * lanes
    start = base + (slice_ * p.size[1] + row) * width * p.pixel
    i = 0
    while i < height:
        if not row_marks[i]:
            i += 1
            continue
        many = 1
        j = begin - column
        while j < end - column:
            if not column_marks[j]:
                j += 1
                continue
            run = 1
            while j + run < end - column and column_marks[j + run]:
                run += 1
            if run == width:  # complete rows, one after the other
                while i + many < height and row_marks[i + many]:
                    many += 1
            to, of = start + (i * width + column + j) * p.pixel, at + i * pitch + (column + j - begin) * lanes
            if p.channel == 1:
                write_pixels(array, to, p.pixel, channels, source, of, lanes, extra, extra_at, run * many, add)
            elif run * many > 2:
                to_rows(array, to, p.channel, channels, source, of, lanes, extra, extra_at, run * many, add)
            else:  # phases of other groups lie between
                for v in range(run * many):
                    for c in range(channels):
                        value = source[of + v * lanes + c] + extra[extra_at + c]
                        if add:
                            value += array[to + v + c * p.channel]
                        array[to + v + c * p.channel] = value
            j += run
        i += many


@device_function
def transform_back(
    p: Any, products: Any, at: int, point_step: int, tile_step: int,
    n: int, at0: int, at1: int, at2: int, count: int, g: int, block: int,
    array: Any, origins: Any, extra: Any, extra_at: int, add: bool,
    lines: Any, mixed: Any, rows: Any, row_marks: Any, column_marks: Any,
) -> None:  # fmt: skip
    """Transform the products of one block of channels in the strip at a tile back, and write them to the array."""
    lanes = p.lanes
    points0, points1, points2 = p.points[0], p.points[1], p.points[2]
    column, row = p.first[2] + at2, p.first[1] + at1
    begin = min(max(0, column), p.size[2])
    end = max(begin, min(p.size[2], column + p.columns))
    inside, size, pitch = (end - begin) * lanes, p.span[1] * (end - begin) * lanes, p.columns * lanes
    base = n * p.image + (g * p.channels + block * lanes) * p.channel
    present = min(lanes, p.channels - block * lanes)
    overlapping = OVERLAPPING if add and p.transform[2] else 0
    for f0 in range(p.phases[0]):
        target = mixed if p.transform[0] else rows
        for p0 in range(points0):
            for f1 in range(p.phases[1]):
                for p1 in range(points1):
                    if overlapping:
                        zero_row(lines, p1 * pitch, pitch)
                    for f2 in range(p.phases[2]):
                        f = (f0 * p.phases[1] + f1) * p.phases[2] + f2
                        of = at + f * p.phase_step * lanes + (p0 * points1 + p1) * points2 * point_step
                        to = p1 * pitch + (origins[p.table[2] + f2] - p.first[2]) * lanes
                        for c in range(p.lattices[2]):
                            combine(p.transform[2] + overlapping, products, of + c * p.wide * tile_step,
                                    point_step, tile_step, lines, to + c * p.shift[2] * lanes,
                                    p.stride[2] * lanes, p.hop[2] * lanes, count)  # fmt: skip
                to = p0 * size + (origins[p.table[1] + f1] - p.first[1]) * inside
                combine(p.transform[1], lines, begin * lanes - column * lanes, pitch, lanes,
                        target, to, p.stride[1] * inside, lanes, end - begin)  # fmt: skip
        if p.transform[0]:
            combine(p.transform[0], mixed, 0, size, lanes, rows, 0, size, lanes, size // lanes)
        for e0 in range(p.elements[0]):
            i0 = origins[p.table[0] + f0] + at0 + e0 * p.stride[0]
            if 0 <= i0 < p.size[0]:
                write_rows(p, array, base, present, i0, row, column, begin, end, row_marks, column_marks,
                           rows, e0 * size, extra, extra_at, add)  # fmt: skip
