"""Copies between user arrays and what the tiles read: zero-padded planes and packed weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from fastdeconv.kernels.cpu import workspace
from fastdeconv.kernels.cpu.frame import PLANES, Bands, Filling
from fastdeconv.kernels.cpu.gather import gather_row
from fastdeconv.kernels.cpu.jit import device_function, kernel
from fastdeconv.kernels.cpu.rows import AHEAD, split_row, zero_row
from fastdeconv.kernels.geometry import Bound, Prepared, Run

# Channels of a block of weights that are packed before the next block's: rows of them lie pages apart.
_CHANNELS = 8


@device_function
def _split_row(
    planes: Any, at: int, plane: int, array: Any, row: int, stride: int, keep: int, pitch: int, size: int, phase: Any,
    begin: int, end: int,
) -> None:  # fmt: skip
    """Split one row of the array into one row of each of the planes ``begin .. end - 1``, and zeros after it."""
    first = phase[3 * begin + 2]
    # What every phase has is read once, in the array's order; the rest one phase at a time.
    common = 0
    if end - begin > 2:
        common = max(0, min(keep, (size - phase[3 * end - 1] + stride - 1) // stride))
        if phase[3 * end - 1] - first == end - begin - 1:
            for i in range(common):
                for f in range(end - begin):
                    planes[at + f * plane + i] = array[row + i * stride + first + f]
        else:
            for i in range(common):
                for f in range(end - begin):
                    planes[at + f * plane + i] = array[row + i * stride + phase[3 * (begin + f) + 2]]
    for f in range(begin, end):
        start = row + phase[3 * f + 2]
        present = min(keep, (size - phase[3 * f + 2] + stride - 1) // stride)
        for i in range(common, present):
            planes[at + i] = array[start + i * stride]
        zero_row(planes, at + present, pitch - present)
        at += plane


@device_function
def fill_lines(
    planes: Any, top: int, array: Any, channel: int, p: Any, phase: Any, kinds: Any, begin: int, end: int
) -> None:  # fmt: skip
    """Copy some lines of all images of one channel to the planes of all phases, in the order in which these have them.

    The channel is that of the first image, and its first plane starts at `top`; zeros go around.
    """
    pitch1, pitch2, plane = p.pitch[1], p.pitch[2], p.plane
    size0, size1, size2 = p.size[0], p.size[1], p.size[2]
    stride0, stride1, stride2 = p.stride[0], p.stride[1], p.stride[2]
    keep0, keep1, keep2 = p.keep[0], p.keep[1], p.keep[2]
    first0, first1 = p.first[0], p.first[1]
    lines = p.pitch[0] * pitch1
    side_by_side = p.batch > 1 and p.steps[0] < p.steps[2]
    for f in range(p.phases):
        if begin == 0:
            zero_row(planes, top + f * plane, p.lead)
        if end == lines * p.batch:
            zero_row(planes, top + f * plane + p.used, plane - p.used)
    read = min(stride2 * keep2, size2)
    ahead = AHEAD if stride1 == 1 else max(1, AHEAD // (stride1 * size2)) * stride1 * size2
    for number in range(begin, end):
        if side_by_side:
            n, line = number % p.batch, number // p.batch
        else:
            n, line = number // lines, number % lines
        i0, i1 = line // pitch1, line % pitch1
        start = top + p.lead + n * p.steps[0] + i0 * p.steps[1] + i1 * p.steps[2]
        # Rows that lie side by side are read one after the other, whatever phases they belong to.
        for k in range(0, kinds.size - 1, 2):
            begin_phase, wanted, end_phase = kinds[k], kinds[k + 1], kinds[k + 2]
            o0 = phase[3 * begin_phase] + (i0 + first0) * stride0
            o1 = phase[3 * begin_phase + 1] + (i1 + first1) * stride1
            at = start + begin_phase * plane
            inside = i0 < keep0 and 0 <= o0 < size0 and i1 < keep1 and 0 <= o1 < size1
            row = (((n * p.channels + channel) * size0 + o0) * size1 + o1) * size2
            if inside and wanted:
                split_row(planes, at, plane, array, row, ahead, stride2, wanted, read, pitch2)
            elif inside:
                _split_row(planes, at, plane, array, row, stride2, keep2, pitch2, size2, phase, begin_phase, end_phase)
            else:
                for f in range(end_phase - begin_phase):
                    zero_row(planes, at + f * plane, pitch2)


@kernel("T[]", "T[]", PLANES, "int[]", "int[]")
def fill(lo: int, hi: int, array: Any, planes: Any, layout: Any, phase: Any, kinds: Any) -> None:
    """Copy an (N, C, D, H, W) array into planes (channel, phase, …the frame's order), zeros around.

    A unit is one part of the lines of one channel. For `phase` and `kinds` see `frame.Filling`.
    """
    p = layout[0]
    lines = p.pitch[0] * p.pitch[1] * p.batch
    for unit in range(lo, hi):
        # The part is slowest: the thread that computes some pixels has them in its cache.
        part, c = unit // p.channels, unit % p.channels
        fill_lines(planes, c * p.phases * p.plane, array, c, p, phase, kinds,
                   lines * part // p.parts, lines * (part + 1) // p.parts)  # fmt: skip


def filler(
    slot: str, dtype: str, filling: Filling, bands: Bands | None = None
) -> Callable[[NDArray[Any], int], NDArray[Any]]:
    """Return a function that copies an array, or a band from one index on, into planes from a slot of the workspace."""
    launch = fill.launcher(dtype, filling.units, 4 * filling.elements)

    def filled(array: NDArray[Any], first: int) -> NDArray[Any]:
        planes = workspace.take(slot, filling.elements, dtype)
        layout = bands.moved(filling.layout, first - bands.before) if bands else filling.layout
        launch(array, planes, layout, filling.phase, filling.kinds)
        return planes

    return filled


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
        # A few channels of each block in turn: what lies side by side is read while it is in the cache, and written in
        # runs of some lines.
        for first in range(0, channels, _CHANNELS):
            for block in range(blocks * chunk // chunks, blocks * (chunk + 1) // chunks):
                panel = (g * blocks + block) * channels * total_taps * block_rows
                present = max(0, min(block_rows, rows - block * block_rows))
                for c in range(first, min(first + _CHANNELS, channels)):
                    base = g * group_step + c * channel_step + block * block_rows * row_step
                    for phase in range(tap_start.size - 1):
                        begin, end = tap_start[phase], tap_start[phase + 1]
                        at = panel + (begin * channels + c * (end - begin)) * block_rows
                        for t in range(begin, end):
                            gather_row(packed, at, weight, base + tap_index[t], row_step, present)
                            for m in range(present, block_rows):
                                packed[at + m] = 0
                            at += block_rows


def with_packed_weights(
    dtype: str, elements: int, pack: Callable[[NDArray[Any], NDArray[Any]], None], run_packed: Run, scratch: int
) -> Bound:
    """Return what packs weights for each run, or once for many.

    ``pack(w, packed)`` fills so many elements, ``run_packed(source, packed, bias or None, out)`` computes from them.
    """

    def run(source: NDArray[Any], w: NDArray[Any], bias: NDArray[Any] | None, out: NDArray[Any]) -> None:
        packed = workspace.take("packed", elements, dtype)
        pack(w, packed)
        run_packed(source, packed, bias, out)
        workspace.keep("packed", packed)

    def prepare(w: NDArray[Any]) -> Prepared:
        packed = workspace.new(elements, dtype)
        pack(w, packed)
        return Prepared(lambda x, bias, y: run_packed(x, packed, bias, y), packed.nbytes)

    return Bound(run, scratch, prepare)
