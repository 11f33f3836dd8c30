"""Passes over zero-padded planes, part by part: some images at a time or a band of one, which a cache has room for."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdeconv.kernels.cpu import frame as frames
from fastdeconv.kernels.cpu import planes, workspace
from fastdeconv.kernels.geometry import Bound, Geometry, Run

Array = NDArray[Any]


class Part(NamedTuple):
    """What computes some images, or a band of one, from packed weights: elements of planes and of a thread's buffer."""

    run: Run
    planes: int
    buffer: int
    units: int


def bind_parts(
    g: Geometry, forward: bool, images: int, source_planes: int,
    part: Callable[[Geometry, frames.Bands | None, int], Part],
    pack: Callable[[Array, Array], None], packed_elements: int,
) -> Bound:  # fmt: skip
    """Return the function that packs weights and computes some images after the others, or bands of large ones.

    `part` prepares the computation of a whole batch, or of a band of so many rows.
    """
    frame = frames.scatter_frame(g) if forward else frames.gather_frame(g)
    cut = frames.bands(frame, g, source_planes, forward) if images == 1 else None
    if cut is None:
        compute = {n: part(g._replace(batch=n), None, 0) for n in frames.part_sizes(g, images)}
    else:
        compute = {n: part(g._replace(batch=1), cut, n) for n in cut.sizes}
    source_image, out_image = (math.prod(shape[1:]) for shape in (g.input_shape, g.output_shape))
    if not forward:
        source_image, out_image = out_image, source_image
    no_bias = np.empty(0, g.dtype)

    def run_packed(source: Array, packed: Array, bias: Array | None, out: Array) -> None:
        for first, count in frames.parts(g, images):
            end = first + count
            arrays = (
                source[first * source_image : end * source_image], packed, no_bias if bias is None else bias,
                out[first * out_image : end * out_image],
            )  # fmt: skip
            for row, rows in cut or ((0, count),):
                compute[rows].run(*arrays, row)

    itemsize = np.dtype(g.dtype).itemsize
    scratch = max(
        workspace.total((packed_elements + part.planes) * itemsize, part.buffer * itemsize, part.units)
        for part in compute.values()
    )
    return planes.with_packed_weights(g.dtype, packed_elements, pack, run_packed, scratch)
