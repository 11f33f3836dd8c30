"""Copies between user arrays and what the tiles read: zero-padded planes and packed weights."""

from __future__ import annotations

from typing import Any

from fastdeconv.kernels.cpu.frame import PLANES
from fastdeconv.kernels.cpu.jit import kernel


@kernel("T[]", "T[]", PLANES, "int[]")
def fill(lo: int, hi: int, array: Any, planes: Any, layout: Any, phase: Any) -> None:
    """Copy an (N, C, D, H, W) array into planes (channel, phase, image, pitch0, pitch1, pitch2), zeros around.

    A unit is one image of one plane. ``phase`` lists three offsets a phase: the first element on each axis.
    """
    p = layout[0]
    batch, channels, phases, plane, lead = p.batch, p.channels, p.phases, p.plane, p.lead
    pitch0, pitch1, pitch2 = p.pitch[0], p.pitch[1], p.pitch[2]
    size0, size1, size2 = p.size[0], p.size[1], p.size[2]
    stride0, stride1, stride2 = p.stride[0], p.stride[1], p.stride[2]
    keep0, keep1, keep2 = p.keep[0], p.keep[1], p.keep[2]
    image = pitch0 * pitch1 * pitch2
    for unit in range(lo, hi):
        n = unit % batch
        which = unit // batch  # channel and phase
        c = which // phases
        a = 3 * (which % phases)
        first = which * plane
        at = first + lead + n * image
        if n == 0:
            for i in range(first, at):
                planes[i] = 0
        for i0 in range(pitch0):
            o0 = stride0 * i0 + phase[a]
            for i1 in range(pitch1):
                o1 = stride1 * i1 + phase[a + 1]
                copied = 0
                if o0 < size0 and o1 < size1 and i0 < keep0 and i1 < keep1:
                    copied = min(keep2, (size2 - phase[a + 2] + stride2 - 1) // stride2)
                    start = (((n * channels + c) * size0 + o0) * size1 + o1) * size2 + phase[a + 2]
                    if stride2 == 1:
                        for i2 in range(copied):
                            planes[at + i2] = array[start + i2]
                    else:
                        for i2 in range(copied):
                            planes[at + i2] = array[start + i2 * stride2]
                for i2 in range(copied, pitch2):
                    planes[at + i2] = 0
                at += pitch2
        if n == batch - 1:
            for i in range(at, first + plane):
                planes[i] = 0


@kernel("T[]", "T[]", "int", "int", "int", "int", "int", "int", "int", "int", "int[]", "int[]")
def pack(
    lo: int, hi: int, weight: Any, packed: Any,
    blocks: int, rows: int, block_rows: int, channels: int,
    group_step: int, channel_step: int, row_step: int, total_taps: int, tap_start: Any, tap_index: Any,
) -> None:  # fmt: skip
    """Reorder weights to (group, block of rows, output phase, channel, tap, row), zeros for missing rows.

    A unit is one block of one group. The ``*_step`` are the strides of the weight array in this pass.
    """
    for unit in range(lo, hi):
        at = unit * channels * total_taps * block_rows
        block = unit % blocks
        base = unit // blocks * group_step
        first = block * block_rows
        present = min(block_rows, rows - first)
        for phase in range(tap_start.size - 1):
            for c in range(channels):
                for t in range(tap_start[phase], tap_start[phase + 1]):
                    start = base + c * channel_step + first * row_step + tap_index[t]
                    for m in range(present):
                        packed[at + m] = weight[start + m * row_step]
                    for m in range(present, block_rows):
                        packed[at + m] = 0
                    at += block_rows
