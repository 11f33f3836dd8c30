"""Copies between user arrays and what the tiles read: zero-padded planes and packed weights."""

from __future__ import annotations

from typing import Any

from fastdeconv.kernels.cpu.frame import PLANES
from fastdeconv.kernels.cpu.jit import kernel
from fastdeconv.kernels.cpu.rows import copy_every_second, copy_row, zero_row


@kernel("T[]", "T[]", PLANES, "int[]")
def fill(lo: int, hi: int, array: Any, planes: Any, layout: Any, phase: Any) -> None:
    """Copy an (N, C, D, H, W) array into planes (channel, phase, image, pitch0, pitch1, pitch2), zeros around.

    A unit is one image of one plane. ``phase`` lists three offsets a phase: the first element on each axis.
    """
    p = layout[0]
    pitch0, pitch1, pitch2 = p.pitch[0], p.pitch[1], p.pitch[2]
    size0, size1, size2 = p.size[0], p.size[1], p.size[2]
    step = p.stride[2]
    for unit in range(lo, hi):
        # Channel after channel of one image, so that the array is read from front to back.
        n = unit // (p.channels * p.phases)
        which = unit % (p.channels * p.phases)  # channel and phase
        c = which // p.phases
        first = 3 * (which % p.phases)
        a0, a1, a2 = phase[first], phase[first + 1], phase[first + 2]
        start = which * p.plane
        at = start + p.lead + n * pitch0 * pitch1 * pitch2
        if n == 0:
            zero_row(planes, start, at - start)
        present = min(p.keep[2], (size2 - a2 + step - 1) // step)
        for i0 in range(pitch0):
            o0 = a0 + i0 * p.stride[0]
            inside = o0 < size0 and i0 < p.keep[0]
            for i1 in range(pitch1):
                o1 = a1 + i1 * p.stride[1]
                copied = 0
                if inside and o1 < size1 and i1 < p.keep[1]:
                    copied = present
                    row = (((n * p.channels + c) * size0 + o0) * size1 + o1) * size2 + a2
                    if step == 1:
                        copy_row(planes, at, array, row, copied)
                    elif step == 2:
                        copy_every_second(planes, at, array, row, copied)
                    else:
                        for i2 in range(copied):
                            planes[at + i2] = array[row + i2 * step]
                zero_row(planes, at + copied, pitch2 - copied)
                at += pitch2
        if n == p.batch - 1:
            zero_row(planes, at, start + p.plane - at)


@kernel("T[]", "T[]", "int", "int", "int", "int", "int", "int", "int", "int", "int", "int[]", "int[]")
def pack(
    lo: int, hi: int, weight: Any, packed: Any,
    chunks: int, blocks: int, rows: int, block_rows: int, channels: int,
    group_step: int, channel_step: int, row_step: int, total_taps: int, tap_start: Any, tap_index: Any,
) -> None:  # fmt: skip
    """Reorder weights to (group, block of rows, output phase, channel, tap, row), zeros for missing rows.

    A unit is one of `chunks` ranges of blocks of one group. The ``*_step`` are the strides of the weight array in this
    pass.
    """
    for unit in range(lo, hi):
        g, chunk = unit // chunks, unit % chunks
        # Channel by channel, so that what lies side by side is read while it is in the cache.
        for c in range(channels):
            for block in range(blocks * chunk // chunks, blocks * (chunk + 1) // chunks):
                panel = (g * blocks + block) * channels * total_taps * block_rows
                present = min(block_rows, rows - block * block_rows)
                base = g * group_step + c * channel_step + block * block_rows * row_step
                for phase in range(tap_start.size - 1):
                    begin, end = tap_start[phase], tap_start[phase + 1]
                    at = panel + (begin * channels + c * (end - begin)) * block_rows
                    for t in range(begin, end):
                        start = base + tap_index[t]
                        for m in range(present):
                            packed[at + m] = weight[start + m * row_step]
                        for m in range(present, block_rows):
                            packed[at + m] = 0
                        at += block_rows
