"""What kernels of products share: weights packed to lines, tuples of places, and when channels are read in vectors."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fastdeconv.kernels.cuda.device import cuda, device_function
from fastdeconv.kernels.cuda.factory import kernel_factory
from fastdeconv.kernels.cuda.launches import Launch, Layout, blocks_for
from fastdeconv.kernels.geometry import Geometry


@cache
def tabulate(function: Any, count: int, step: int = 1) -> Any:
    """Return a device function ``(context, at)``: tuples that `function` makes at ``at + step·i``, i < `count`, as one.

    Elements of tuples are in registers whatever the compiler unrolls, and loops cannot build tuples.
    """
    if count == 1:
        return function
    some, rest = tabulate(function, count // 2, step), tabulate(function, count - count // 2, step)
    far = count // 2 * step

    @device_function
    def joined(context: Any, at: int) -> Any:
        return some(context, at) + rest(context, at + far)

    return joined


class Lines(NamedTuple):
    """How weights are packed: lines of `width` elements, `pitch` apart, zeros between; a place for lines and elements.

    Line l begins at ``l // inner · outer_step + l % inner · inner_step`` of the weights, and element j of it is
    ``j // block · block_step + j % block · step`` further.
    """

    lines: int
    width: int
    pitch: int
    inner: int
    outer_step: int
    inner_step: int
    block: int
    block_step: int
    step: int


@kernel_factory
def _pack_kernel(index: str) -> Callable[..., None]:
    """Return the kernel that packs lines of weights; a thread makes one element."""
    cast = getattr(np, index)

    def pack_lines(
        weight: Any, packed: Any, lines: int, width: int, pitch: int, inner: int, outer_step: int, inner_step: int,
        block: int, block_step: int, step: int,
    ) -> None:  # fmt: skip
        i = cast(cast(cuda.blockIdx.x) * cast(cuda.blockDim.x) + cast(cuda.threadIdx.x))
        line, j = cast(i // pitch), cast(i % pitch)
        if line >= lines:
            return
        if j < width:
            at = cast(line // inner * outer_step + line % inner * inner_step)
            packed[i] = weight[at + j // block * block_step + j % block * step]
        else:
            packed[i] = 0

    return pack_lines


def pack(lines: Lines, element: str, index: str) -> Launch:
    """Return the launch that packs "weight" to "packed"."""
    return Launch(
        _pack_kernel(index),
        (f"{element}*", f"{element}*", *(index,) * len(lines)),
        (blocks_for(lines.lines * lines.pitch),),
        ("weight", "packed", *lines),
    )


def channel_vectors(g: Geometry, layout: Layout, lanes: int) -> bool:
    """Return whether channels of the source may be read in vectors."""
    image, channel, *axes = layout.first
    steps = [step for i, step in zip((g.batch, *g.input), (image, *axes)) if i > 1]
    return layout.aligned and channel == 1 and g.group_in % lanes == 0 and not any(step % lanes for step in steps)
