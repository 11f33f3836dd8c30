"""Where the pixels lie that each pixel of a result is a sum over, for arrays with channels last.

In both passes over pixels, a result's pixel ``first + step·j`` of one phase sums taps, each at the source's pixel
``offset + source_step·j``: in the forward pass the phases are those of the stride and the source advances by 1, in the
input gradient there is one phase and the source advances by the stride. Taps whose pixels follow one another on the
last axis, with few channels each, are one run, whose elements lie side by side.

A table has, for each run and each pixel j of a chunk, the element of the source where the run begins. Phases with
equally many pixels share one: their taps are at a few offsets, and their results a constant distance apart. For what
lies outside the source the table tells an element of a row of zeros, for a run that is partly outside one of a copy.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import numpy as np

from fastdeconv.kernels.cpu.frame import Ints
from fastdeconv.kernels.cpu.jit import device_function
from fastdeconv.kernels.cpu.pixel_tiles import distance
from fastdeconv.kernels.geometry import Axes, Geometry

# Fields of the kernels' layout that `list_pixels` reads; sizes and steps are on the three axes.
FIELDS: list[tuple[Any, ...]] = [
    ("extent", "i8", (3,)),  # pixels j of the largest phase
    ("size", "i8", (3,)),  # of the result
    ("step", "i8", (3,)),
    ("channels", "i8"),  # of the result, all groups
    ("group_channels", "i8"),
    ("from_size", "i8", (3,)),  # of the source
    ("from_step", "i8", (3,)),
    ("from_channels", "i8"),
    ("from_group_channels", "i8"),
    ("most", "i8"),  # pixels of a chunk
    ("tile", "i8"),  # pixels of a register tile, to a multiple of which tables are filled
    ("runs", "i8"),  # of the list with the most
    ("longest", "i8"),  # run, in elements
]

# Columns of the tables of lists and of runs.
LIST = 7  # number of pixels on each axis; first run and the end, first phase and the end
RUN = 4  # offset on each axis, taps

# Elements of a tap that are worth a run with others: a copy for pixels at the border must not cost more.
_FEW = 16
# Larger tables take longer to make than what they serve.
_PHASES, _TAPS = 4096, 4096
# Bytes of tables.
_TABLE = 128 << 10


class Phase(NamedTuple):
    """One phase of the result: its first pixel, and its runs: a number in the list, and which weights its taps are."""

    first: Axes
    runs: list[tuple[int, list[int]]]


class PhaseList(NamedTuple):
    """Phases with equally many pixels, and what their runs have in common.

    Attributes
    ----------
    pixels : tuple of int
        On each axis.
    runs : list of (offset, taps)
        The source's pixel of the first tap for j = 0, and how many taps there are.
    phases : list of Phase
    """

    pixels: Axes
    runs: list[tuple[Axes, int]]
    phases: list[Phase]


def _axis_taps(
    kernel: int, stride: int, padding: int, dilation: int, size: int, source: int, forward: bool
) -> list[list[tuple[int, int]]]:
    """Return the (offset, tap) of one axis by phase, and in each by offset; the input gradient has one phase.

    A tap that reaches no pixel of the source for any j is left out.
    """
    step, from_step = (stride, 1) if forward else (1, stride)
    phases: list[list[tuple[int, int]]] = [[] for _ in range(min(step, size))]
    for t in range(kernel):
        if forward:
            phase = (dilation * t - padding) % stride
            offset = (phase + padding - dilation * t) // stride
        else:
            phase, offset = 0, dilation * t - padding
        if phase < len(phases) and offset < source and offset + from_step * ((size - 1 - phase) // step) >= 0:
            phases[phase].append((offset, t))
    return [sorted(taps) for taps in phases]


def phase_lists(g: Geometry, forward: bool, join: bool) -> list[PhaseList]:
    """Return the phases of a pass over pixels, those without pixels left out; with taps in runs if `join`."""
    size, source = (g.output, g.input) if forward else (g.input, g.output)
    join = join and g.groups == 1 and (g.group_in if forward else g.group_out) < _FEW
    step = g.stride if forward else (1, 1, 1)
    axes = [
        _axis_taps(k, s, p, d, m, n, forward)
        for k, s, p, d, m, n in zip(g.kernel, g.stride, g.padding, g.dilation, size, source)
    ]
    found: dict[Axes, PhaseList] = {}
    numbers: dict[Axes, dict[tuple[Axes, int], int]] = {}  # of the runs of a list
    for first in itertools.product(*(range(len(phases)) for phases in axes)):
        pixels: Any = tuple(-(-(n - f) // s) for n, f, s in zip(size, first, step))
        shared, number = found.setdefault(pixels, PhaseList(pixels, [], [])), numbers.setdefault(pixels, {})
        runs = _runs(g.kernel, [phases[f] for phases, f in zip(axes, first)], join)
        for run in runs:
            number.setdefault((run[0], len(run[1])), len(number))
        shared.runs.extend(itertools.islice(number, len(shared.runs), None))
        shared.phases.append(
            Phase(first, [(number[offset, len(taps)], taps) for offset, taps in runs])  # type: ignore[arg-type]
        )
    return list(found.values())


def _runs(kernel: Axes, axes: list[list[tuple[int, int]]], join: bool) -> list[tuple[Axes, list[int]]]:
    """Return the (offset, taps) of the runs of one phase, whose taps on each axis are given."""
    runs: list[tuple[Axes, list[int]]] = []
    for (o0, t0), (o1, t1), (o2, t2) in itertools.product(*axes):
        tap = (t0 * kernel[1] + t1) * kernel[2] + t2
        if join and runs and runs[-1][0] == (o0, o1, o2 - len(runs[-1][1])):
            runs[-1][1].append(tap)
        else:
            runs.append(((o0, o1, o2), [tap]))
    return runs


def foremost(g: Geometry, forward: bool, each: PhaseList) -> set[int]:
    """Return the runs of a list whose pixels of the source no run has read for results before."""
    step = (1, 1, 1) if forward else g.stride
    ends = [max(offset[axis] for offset, _ in each.runs) for axis in range(3)] if each.runs else []
    return {
        number for number, (offset, _) in enumerate(each.runs)
        if all(o + s > end for o, s, end in zip(offset, step, ends))
    }  # fmt: skip


def extent(lists: list[PhaseList]) -> Axes:
    """Return the number of pixels of the largest phase on each axis."""
    return tuple(max(each.pixels[axis] for each in lists) for axis in range(3))  # type: ignore[return-value]


def too_many(g: Geometry, forward: bool) -> str | None:
    """Return why a problem has too many phases or taps for tables, or None."""
    phases = math.prod(min(s, o) for s, o in zip(g.stride, g.output)) if forward else 1
    if phases > _PHASES or g.taps > _TAPS:
        return f"has tables for {_PHASES} phases and {_TAPS} taps at most, not for {phases} and {g.taps}"
    return None


def longest_run(lists: list[PhaseList]) -> int:
    """Return the most taps of a run."""
    return max((taps for each in lists for _, taps in each.runs), default=1)


def chunks_of(lists: list[PhaseList], pixels: int, tile: int, most: int) -> tuple[int, int]:
    """Return in how many chunks pixels are cut, and how many whole tiles of them one has, counted in pixels, at most.

    That is not more than `most`, nor than tables of places have room for.
    """
    rows = 1 + max(len(each.runs) for each in lists)
    chunks = max(1, -(-pixels // max(tile, min(most, _TABLE // (8 * rows)) // tile * tile)))
    return chunks, max(1, -(-pixels // (chunks * tile))) * tile


def fields(g: Geometry, forward: bool, lists: list[PhaseList]) -> dict[str, Any]:
    """Return those of `FIELDS` that a problem alone tells."""
    size, source = (g.output, g.input) if forward else (g.input, g.output)
    channels, from_channels = (g.out_channels, g.in_channels) if forward else (g.in_channels, g.out_channels)
    return {
        "extent": extent(lists), "size": size, "step": g.stride if forward else 1,
        "channels": channels, "group_channels": channels // g.groups,
        "from_size": source, "from_step": 1 if forward else g.stride,
        "from_channels": from_channels, "from_group_channels": from_channels // g.groups,
        "runs": max(1, *(len(each.runs) for each in lists)),
    }  # fmt: skip


class Tables(NamedTuple):
    """What kernels read; the last two are of phases and of their taps, in the order of lists.

    Attributes
    ----------
    lists, runs : ndarray of int
        As `list_pixels` reads them.
    outs : ndarray of int
        Elements from the result of each list's pixel to that of each phase.
    weights : ndarray of int
        Which weight each tap is.
    """

    lists: Ints
    runs: Ints
    outs: Ints
    weights: Ints


def tables(g: Geometry, forward: bool, lists: list[PhaseList]) -> Tables:
    """Return the tables of a pass over pixels."""
    size, channels = (g.output, g.out_channels) if forward else (g.input, g.in_channels)
    rows, run, phase = [], 0, 0
    for each in lists:
        rows.append((*each.pixels, run, run + len(each.runs), phase, phase + len(each.phases)))
        run, phase = run + len(each.runs), phase + len(each.phases)
    phases = [phase for each in lists for phase in each.phases]
    return Tables(
        flat(rows),
        flat([(*offset, taps) for each in lists for offset, taps in each.runs]),
        flat([((p.first[0] * size[1] + p.first[1]) * size[2] + p.first[2]) * channels for p in phases]),
        flat([tap for phase in phases for _, taps in phase.runs for tap in taps]),
    )


def flat(values: Any) -> Ints:
    """Return a table's rows as one vector."""
    return np.array(values, np.int64).reshape(-1)


@device_function
def list_pixels(
    table: Any, outs: Any, zeros: Any, patches: Any, source: Any, p: Any, lists: Any, number: int, runs: Any,
    group: int, begin: int, end: int,
) -> int:  # fmt: skip
    """List the pixels ``begin .. end - 1``, counted over images and the largest phase, that the phases of a list have.

    Fills `outs` with the elements where results of a phase begin whose first pixel is 0, and each row of `table` with
    those where a run begins, seen from the source also for `zeros` and for the copies in `patches`. Both go on with
    their last pixel to the end of a register tile. Returns the number of pixels.
    """
    # Asked for in each call: Numba frees an array of which nothing but an address is used any more.
    zero_at, patch_at = distance(zeros, source), distance(patches, source)
    at = LIST * number
    extent0, extent1, extent2 = p.extent[0], p.extent[1], p.extent[2]
    channels, from_channels = p.channels, p.from_channels
    first_run, end_run = lists[at + 3], lists[at + 4]
    step2, from_step2, from_size2 = p.step[2], p.from_step[2], p.from_size[2]
    count = copies = 0
    for row in range(begin // extent2, (end - 1) // extent2 + 1):
        n, j0, j1 = row // (extent1 * extent0), row // extent1 % extent0, row % extent1
        low, high = max(begin - row * extent2, 0), min(end - row * extent2, lists[at + 2])
        if j0 >= lists[at] or j1 >= lists[at + 1] or low >= high:
            continue
        out = ((n * p.size[0] + p.step[0] * j0) * p.size[1] + p.step[1] * j1) * p.size[2] * channels
        out += group * p.group_channels
        for j in range(low, high):
            outs[count + j - low] = out + j * step2 * channels
        for run in range(first_run, end_run):
            i0 = runs[RUN * run] + p.from_step[0] * j0
            i1 = runs[RUN * run + 1] + p.from_step[1] * j1
            offset, taps = runs[RUN * run + 2], runs[RUN * run + 3]
            inside = 0 <= i0 < p.from_size[0] and 0 <= i1 < p.from_size[1]
            base = ((n * p.from_size[0] + i0) * p.from_size[1] + i1) * from_size2 * from_channels
            base += group * p.from_group_channels
            to = (run - first_run) * p.most + count - low
            # Pixels whose run is inside the source lie between those where it crosses a border or is outside.
            left, right = low, low
            if inside:
                left = min(high, max(low, -(offset // from_step2)))
                right = min(high, max(left, (from_size2 - taps - offset) // from_step2 + 1))
            for j in range(left, right):
                table[to + j] = base + (offset + from_step2 * j) * from_channels
            for edge in range(high - low - (right - left)):
                j = low + edge if low + edge < left else low + edge + right - left
                i = offset + from_step2 * j
                if not inside or i <= -taps or i >= from_size2:
                    table[to + j] = zero_at
                    continue
                copy = copies * p.longest
                for k in range(taps * from_channels):
                    here = i * from_channels + k
                    patches[copy + k] = source[base + here] if 0 <= here < from_size2 * from_channels else 0
                table[to + j] = patch_at + copy
                copies += 1
        count += high - low
    if count:
        for i in range(count, (count + p.tile - 1) // p.tile * p.tile):
            outs[i] = outs[count - 1]
            for run in range(end_run - first_run):
                table[run * p.most + i] = table[run * p.most + count - 1]
    return count
