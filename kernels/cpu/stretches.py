"""Pixels of the input as stretches of rows, and the elements of the output's gradient that taps connect them with.

A unit lists the stretches that its pixels fall into once, and for each tap where they begin in a plane of the gradient
and which of their elements are there. Then each channel is gathered by one loop over them for each tap.
"""

from __future__ import annotations

import math
from typing import Any

from fastdeconv.kernels.cpu import host
from fastdeconv.kernels.cpu.gather import MOST_APART, gather_stretches
from fastdeconv.kernels.cpu.jit import device_function
from fastdeconv.kernels.geometry import Geometry

# What a kernel's layout has for these functions.
FIELDS: list[Any] = [
    ("taps", "i8"),
    ("lanes", "i8"),
    ("width", "i8"),  # pixels of a tile
    ("panel", "i8"),  # elements of one's panel
    ("most", "i8"),  # stretches of a unit, at most
    ("kernel", "i8", (3,)),
    ("stride", "i8", (3,)),
    ("padding", "i8", (3,)),
    ("dilation", "i8", (3,)),
    ("size", "i8", (3,)),  # of the input
    ("from_size", "i8", (3,)),  # of the output
]

# Taps of a kernel at most: there is a list for each.
_TAPS = 1024


@device_function
def list_stretches(table: Any, p: Any, begin: int, end: int) -> int:
    """List the stretches of rows, none longer than a vector, that some pixels of an image fall into; return how many.

    Rows of the table: where a stretch is in the panels; the index in a plane of the gradient, then on each axis, of its
    first pixel with the first tap; how many elements of the gradient there are from its first pixel to its last.
    """
    size1, size2 = p.size[1], p.size[2]
    last, at = 0, begin
    while at < end:
        row = at // size2
        i2 = at - row * size2
        tile = (at - begin) // p.width
        to = begin + tile * p.width
        count = min(size2 - i2, min(end, to + p.width) - at)
        o0, o1 = p.stride[0] * (row // size1) - p.padding[0], p.stride[1] * (row % size1) - p.padding[1]
        for j in range(0, count, p.lanes):
            o2 = p.stride[2] * (i2 + j) - p.padding[2]
            table[0, last] = tile * p.panel + at - to + j
            table[1, last] = (o0 * p.from_size[1] + o1) * p.from_size[2] + o2
            table[2, last], table[3, last], table[4, last] = o0, o1, o2
            table[5, last] = p.stride[2] * (min(p.lanes, count - j) - 1) + 1
            last += 1
        at += count
    return last


@device_function
def list_sources(taps: Any, places: Any, masks: Any, table: Any, count: int, p: Any) -> None:
    """Tell for each tap and stretch where in a plane of the gradient it is, and which of its elements are there.

    Taps by which all pixels have elements share a row of the tables: `taps` has the number of each tap's row, and how
    much further on its elements are than the row says.
    """
    size0, size1, size2 = p.from_size[0], p.from_size[1], p.from_size[2]
    last = count - 1
    left, right = table[4, 0], table[4, 0]
    for i in range(count):
        places[p.taps, i], masks[p.taps, i] = table[1, i], (1 << table[5, i]) - 1
        left, right = min(left, table[4, i]), max(right, table[4, i] + table[5, i] - 1)
    top, bottom = table[3, 0], table[3, last]
    if table[2, 0] != table[2, last]:
        top, bottom = -p.padding[1], p.stride[1] * (p.size[1] - 1) - p.padding[1]
    tap = 0
    for t0 in range(p.kernel[0]):
        shift0 = p.dilation[0] * t0
        slices_there = table[2, 0] + shift0 >= 0 and table[2, last] + shift0 < size0
        for t1 in range(p.kernel[1]):
            shift1 = p.dilation[1] * t1
            rows_there = slices_there and top + shift1 >= 0 and bottom + shift1 < size1
            for t2 in range(p.kernel[2]):
                shift2 = p.dilation[2] * t2
                shift = (shift0 * size1 + shift1) * size2 + shift2
                if rows_there and left + shift2 >= 0 and right + shift2 < size2:
                    taps[tap, 0], taps[tap, 1] = p.taps, shift
                else:
                    taps[tap, 0], taps[tap, 1] = tap, 0
                    for i in range(count):
                        o0, o1, o2 = table[2, i] + shift0, table[3, i] + shift1, table[4, i] + shift2
                        row_there = o0 >= 0 and o0 < size0 and o1 >= 0 and o1 < size1
                        stop = min(table[5, i], max(0, size2 - o2)) if row_there else 0
                        mask = ((1 << stop) - 1) & -(1 << min(max(-o2, 0), 62))
                        places[tap, i], masks[tap, i] = table[1, i] + shift if mask != 0 else 0, mask
                tap += 1


@device_function
def list_lines(lines: Any, table: Any, count: int, p: Any, line: int) -> int:
    """List where lines of so many elements begin that a channel's stretches fall into; return how many there are.

    Rows that pixels of the row before have read are left out, also for the first row of a slice. There is room for
    `lines.size` at most.
    """
    size0, size1, size2 = p.from_size[0], p.from_size[1], p.from_size[2]
    known = max(0, p.kernel[1] - p.stride[1]) if p.dilation[1] == 1 else 0
    last = 0
    for t0 in range(p.kernel[0]):
        for t1 in range(known, p.kernel[1]):
            after = 0
            for i in range(count):
                o0, o1, o2 = table[2, i] + p.dilation[0] * t0, table[3, i] + p.dilation[1] * t1, table[4, i]
                if o0 < 0 or o0 >= size0 or o1 < 0 or o1 >= size1:
                    continue
                row = (o0 * size1 + o1) * size2
                end = row + min(size2, o2 + table[5, i] + p.dilation[2] * (p.kernel[2] - 1))
                at = max(row + max(0, o2), after)
                while at < end and last < lines.size:
                    lines[last] = at
                    last += 1
                    at += line
                after = max(after, at)
    return last


@device_function
def gather_channel(
    panels: Any, to: int, source: Any, plane: int, ahead: int, p: Any, taps: Any, table: Any, places: Any, masks: Any,
    count: int,
) -> None:  # fmt: skip
    """Gather the rows of one channel, which starts at `plane` in the source, into the panels of all tiles."""
    for tap in range(p.taps):
        gather_stretches(panels, to + tap * p.width, source, plane + taps[tap, 1], table, places, masks,
                      taps[tap, 0] * p.most, count, p.stride[2], ahead)  # fmt: skip


def declines(g: Geometry) -> str | None:
    """Return why the gradient of a problem cannot be gathered by stretches, or None."""
    if g.dtype not in ("float32", "float64"):
        return f"vector code is for float32 and float64, not {g.dtype}"
    if g.stride[2] > MOST_APART:
        return f"serves strides up to {MOST_APART} on the last axis, not {g.stride[2]}"
    if g.taps > _TAPS:
        return f"has lists for {_TAPS} taps at most, not for {g.taps}"
    return None


def most_stretches(length: int, tiles: int, width: int, lanes: int) -> int:
    """Return into how many stretches tiles of so many pixels fall at most: their vectors, and ends of rows within."""
    return tiles * -(-width // lanes) + (tiles * width // length + 1 if length % width else 0)


def list_bytes(taps: int, most: int) -> int:
    """Return the bytes of the lists of a unit with so many stretches, and of its taps."""
    return 8 * ((8 + 2 * taps) * most + 2 * taps)


def gathering(g: Geometry, stretches: int) -> dict[str, int]:
    """Count the work of gathering all channels, if an image has so many stretches: those, vectors read, elements."""
    depth = g.batch * g.groups * g.group_out * g.taps
    rows = math.prod(min(g.output[a], g.input[a] * min(g.stride[a], g.kernel[a])) for a in range(2))
    return {
        "stretch": depth * stretches,
        "load": depth * stretches * g.stride[2],
        "gradient": g.batch * g.out_channels * rows * g.output[2],
    }


def fields(g: Geometry) -> dict[str, Any]:
    """Return the fields that the geometry alone tells."""
    return {
        "taps": g.taps, "lanes": host.lanes(g.dtype), "kernel": g.kernel, "stride": g.stride, "padding": g.padding,
        "dilation": g.dilation, "size": g.input, "from_size": g.output,
    }  # fmt: skip
