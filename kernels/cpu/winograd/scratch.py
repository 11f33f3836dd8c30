"""The scratch memory of the weight gradient's products."""

from __future__ import annotations

import functools
import math

import numpy as np

from fastdeconv.kernels.cpu import host, workspace
from fastdeconv.kernels.cpu.frame import merged
from fastdeconv.kernels.cpu.winograd import transforms, weight
from fastdeconv.kernels.cpu.winograd.axes import Group, groups
from fastdeconv.kernels.cpu.winograd.panels import side
from fastdeconv.kernels.cpu.winograd.products import PANELS, buffers
from fastdeconv.kernels.geometry import Bound, Geometry, Implementation


def measured(implementation: Implementation) -> Implementation:
    """Return the same implementation, telling what its runs take."""

    @functools.wraps(implementation.bind)
    def bind(g: Geometry) -> Bound:
        return Bound(implementation.bind(g), weight_gradient(g))

    return implementation._replace(bind=bind)


def weight_gradient(g: Geometry) -> int:
    """Return the bytes that a weight gradient takes."""
    g = merged(g)
    parts = groups(g)
    assert not isinstance(parts, str)
    x, gy, private = (max(values) for values in zip(*(_group(g, group) for group in parts)))
    return workspace.total(x + gy, private, g.in_channels * g.out_channels)


def _group(g: Geometry, group: Group) -> tuple[int, int, int]:
    """Return the bytes of transformed tiles of x and of gy, and of what each thread has."""
    phases, points, taps = (math.prod(v) for v in zip(*((len(s.phases), s.points, s.taps) for s in group)))
    lanes, itemsize = host.lanes(g.dtype), np.dtype(g.dtype).itemsize
    shape = weight._shape(g.group_in, g.group_out, phases, points, g.groups, g.dtype)
    rows = -(-g.group_in // shape.pack) * shape.pack
    columns = shape.block * phases
    all_columns = -(-g.group_out // shape.block) * columns
    vectors = -(-g.batch * math.prod(s.tiles for s in group) // lanes)
    most = max(1, min(vectors, PANELS // (points * (rows + all_columns) * g.groups * itemsize * lanes)))
    most = -(-vectors // -(-vectors // most))
    x, gy = (g.groups * points * (most * lanes * beside + 5 * lanes) * itemsize for beside in (rows, all_columns))
    product = points * (shape.pack * columns + 2 * shape.width) + taps * shape.width
    tables = 8 * columns * taps
    layouts = (
        side(g, group, False, transforms.INPUT, lanes, lanes)[0],
        side(g, group, True, transforms.transposed(transforms.OUTPUT), lanes, lanes)[0],
    )
    transform = max(buffers(layout, itemsize) for layout in layouts) + points * lanes * lanes * itemsize
    return x, gy, max(product * itemsize + tables, transform)
