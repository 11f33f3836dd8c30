"""Sums of several ranges of pixels, added up in their order."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdeconv.kernels.cpu import host, workspace
from fastdeconv.kernels.cpu.jit import kernel
from fastdeconv.kernels.cpu.rows import add_row
from fastdeconv.kernels.cpu.sweep import sweep
from fastdeconv.kernels.geometry import Geometry

Array = NDArray[Any]

# Enough units to share among threads.
_UNITS = 16

_add = sweep(2, 1, 0, lambda vectors, read, _: ([vectors.builder.fadd(*read)], []))


@kernel("T[]", "T[]", "int", "int")
def add_units(lo: int, hi: int, sums: Any, out: Any, ranges: int, units: int) -> None:
    """Add up the sums of all ranges for one part of the weights."""
    size = out.size
    for unit in range(lo, hi):
        begin, end = size * unit // units, size * (unit + 1) // units
        add_row(out, begin, sums, begin, out.dtype.type(0), end - begin)
        for r in range(1, ranges):
            _add(sums[r * size :], out, out, begin, end - begin)


class Cut(NamedTuple):
    """How pixels and channels are cut: blocks of an image, pixels of one; sets of channels, the largest; ranges."""

    blocks: int
    depth: int
    sets: int
    largest: int
    ranges: int


def cut_ranges(g: Geometry, most: int, room: int, beside: int = 0) -> Cut:
    """Cut pixels into blocks of at most so many, output channels into sets, and all images' blocks into ranges.

    In the `room` bytes for a set, each pair of a channel and a tap takes a block's pixels and so many vectors `beside`.
    """
    lanes, itemsize = host.lanes(g.dtype), np.dtype(g.dtype).itemsize
    vectors = -(-math.prod(g.input) // lanes)
    blocks = -(-vectors * lanes // most)
    depth = -(-vectors // blocks) * lanes
    sets = -(-g.group_out // max(1, room // (g.taps * (depth + beside * lanes) * itemsize)))
    # The sums of all ranges take no more memory than the arrays.
    bound = min(g.batch * blocks, 1 + g.elements // math.prod(g.weight_shape))
    return Cut(blocks, depth, sets, -(-g.group_out // sets), max(1, min(bound, -(-_UNITS // (g.groups * sets)))))


def by_ranges(
    g: Geometry, ranges: int, compute: Callable[..., None], *tables: Array
) -> tuple[Callable[[Array, Array, Array], None], int]:
    """Return the function of a weight gradient, and the bytes of sums that it takes.

    ``compute(x, gy, sums, *tables)`` sums each range of pixels; ``sums[r, i]`` are added up for each weight i, in the
    order of the ranges r. A single range is summed in the result itself.
    """
    weights = math.prod(g.weight_shape)
    elements = ranges * weights if ranges > 1 else 0
    units = max(1, min(_UNITS, weights >> 10))
    add = add_units.launcher(g.dtype, units, elements)

    def run(x: Array, gy: Array, gw: Array) -> None:
        if g.batch == 0:
            gw[:] = 0
        elif ranges == 1:
            compute(x, gy, gw, *tables)
        else:
            sums = workspace.take("sums", elements, g.dtype)
            compute(x, gy, sums, *tables)
            add(sums, gw, ranges, units)
            workspace.keep("sums", sums)

    return run, elements * np.dtype(g.dtype).itemsize
