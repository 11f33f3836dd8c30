"""How the outputs of each axis are cut into tiles that need few multiplications.

On one axis the outputs of one phase are a correlation of the input with that phase's taps (see `..frame`). F(m, r)
computes m outputs of r taps from a window of ``m + r - 1`` inputs with as many multiplications: F(1, 1), F(3, 2) and
F(2, 3) here (S. Winograd, Arithmetic Complexity of Computations, 1980). All phases with r taps read the same windows,
each at an output offset of its own, so one transformed window serves all of them: k4 s2 has two phases of two taps. A
phase with fewer taps can read them too: its weights are zero at the last point, and that product is left out. So k3 s2,
whose phases have one and two taps, needs one transform and as many products as with windows for each.

More than three taps fall into pieces of two, and a last one of three where their number is odd: each meets the window
of a tile further on. Five taps take 7 products for two outputs.

Where a last window would hold little, the outputs at an edge that one tap alone reaches become segments of their own:
on 4 inputs, k4 s2 p1 then takes 10 multiplications instead of 14 (direct) or 16 (windows only).

Axes combine as products: a `Group` is one segment of each axis.
"""

from __future__ import annotations

import itertools
import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from fastdeconv.kernels.cpu import host
from fastdeconv.kernels.cpu.costs import weights_of
from fastdeconv.kernels.cpu.frame import merged
from fastdeconv.kernels.geometry import Axes, Geometry

# Outputs of a tile, by the taps of a phase; one more tap, one less output than points.
OUTPUTS = {1: 1, 2: 3, 3: 2}
# Taps of a phase at most, where a few of them at a time meet windows of their own.
MOST_TAPS = 9
# More combined phases than this need tables out of proportion.
MOST_PHASES = 64
# Bytes of transformed weights, where outputs need several windows: all are read for every chunk of tiles.
_STORED = 16 << 20
# Taps of a phase that are further apart leave too much between them.
MOST_SPREAD = 8


class Phase(NamedTuple):
    """The outputs ``stride·q + residue`` of one axis in a segment."""

    residue: int
    taps: tuple[int, ...]  # indices into the kernel, in the order of the inputs they meet
    start: int  # q of the first tile's first output; tiles follow one another


class Segment(NamedTuple):
    """Tiles along one axis; tile t reads inputs from ``first + outputs·t`` on.

    Where dilation spreads the taps of a phase, the axis falls into as many lattices, each with tiles of its own: tile t
    of lattice c reads every `spread`-th input from ``first + c + spread·outputs·t`` on, and its outputs lie as far
    apart.
    """

    taps: int  # that a window serves
    tiles: int  # of one lattice
    first: int
    phases: tuple[Phase, ...]
    spread: int = 1

    @property
    def outputs(self) -> int:
        """Outputs of a tile in each phase, and the distance of tiles."""
        return OUTPUTS[self.taps]

    @property
    def points(self) -> int:
        """Points of a tile in each phase; also the inputs of its window."""
        return self.outputs + self.taps - 1

    @property
    def pieces(self) -> int:
        """Windows that a tile's outputs need: those of as many tiles from its own on."""
        return max(1, max(len(p.taps) for p in self.phases) // 2)

    def taps_of(self, piece: int, phase: Phase) -> int:
        """Return the taps of a phase that meet one window: two, and what is left the last."""
        return len(phase.taps) - 2 * piece if piece + 1 == self.pieces else 2

    @property
    def all_tiles(self) -> int:
        """Tiles of all lattices."""
        return self.tiles * self.spread


Group = tuple[Segment, Segment, Segment]


class Used(NamedTuple):
    """Where weights of some pieces, one an axis, are not zero: the first phase and the one after the last, by point."""

    pieces: Axes
    phases: tuple[tuple[int, int], ...]


def combinations(group: Group) -> list[Used]:
    """Return the pieces of all axes, in the order of sums."""
    found = []
    every = (0, math.prod(len(s.phases) for s in group))
    for a, b, c in itertools.product(*(range(s.pieces) for s in group)):
        short = [[s.taps_of(piece, phase) < s.taps for phase in s.phases] for s, piece in zip(group, (a, b, c))]
        if not any(itertools.chain(*short)):
            found.append(Used((a, b, c), (every,) * math.prod(s.points for s in group)))
            continue
        ranges = []
        for point in itertools.product(*(range(s.points) for s in group)):
            last = [at + 1 == s.points for at, s in zip(point, group)]
            used = [
                f for f, phases in enumerate(itertools.product(*short))
                if not any(few and ends for few, ends in zip(phases, last))
            ]  # fmt: skip
            ranges.append((used[0], used[-1] + 1) if used else (0, 0))
        found.append(Used((a, b, c), tuple(ranges)))
    return found


def plans(g: Geometry) -> list[tuple[Group, ...]] | str:
    """Return the ways to cover every output of a problem once, or why these tiles do not."""
    if g.dtype not in ("float32", "float64"):
        return f"vector code is for float32 and float64, not {g.dtype}"
    axes: list[list[list[Segment]]] = []
    for axis in range(3):
        ways = _ways(g.input[axis], g.output[axis], g.kernel[axis], g.stride[axis], g.padding[axis], g.dilation[axis])
        if isinstance(ways, str):
            return ways
        axes.append(ways)
    if (phases := math.prod(sum(len(s.phases) for s in ways[0]) for ways in axes)) > MOST_PHASES:
        return f"{phases} phases are more than {MOST_PHASES}, and need tables out of proportion"
    found = [tuple((a, b, c) for a, b, c in itertools.product(*ways)) for ways in itertools.product(*axes)]
    return [plan for plan in found if too_far(g, plan) is None] or found


@lru_cache(maxsize=256)
def groups(g: Geometry, forward: bool) -> tuple[Group, ...] | str:
    """Return the plan that should take least time in a pass, or why there is none."""
    every = plans(g)
    if isinstance(every, str):
        return every
    weights = weights_of("winograd", "forward" if forward else "input_grad")  # for both layouts

    def cost(plan: tuple[Group, ...]) -> float:
        return sum(weights.get(kind, 0) * n for kind, n in plan_counts(g, plan, forward).items())

    return min(every, key=cost)


def lines(g: Geometry, group: Group) -> tuple[int, int]:
    """Return the elements of input and output that a group transforms on the second axis, for all columns under it."""
    a, b, last = group
    windows = g.batch * math.prod(s.all_tiles * s.points for s in (a, b))
    phases = len(a.phases) * len(b.phases)
    inputs, outputs = last.all_tiles * last.outputs + last.taps - 1, g.stride[2] * last.all_tiles * last.outputs
    return (
        windows * min(g.input[2], inputs) * g.in_channels,
        windows * phases * min(g.output[2], outputs) * g.out_channels,
    )


def single_elements(g: Geometry, group: Group) -> tuple[int, int]:
    """Return the elements of input and output that a group of tiles reaches where these are one in a row, or else 0."""
    if not group[2].taps == group[2].all_tiles == 1:
        return 0, 0
    tiles = g.batch * math.prod(s.all_tiles for s in group)
    points, outputs = (math.prod(n) for n in zip(*((s.points, s.outputs * len(s.phases)) for s in group)))
    return tiles * points * g.in_channels, tiles * outputs * g.out_channels


def plan_counts(g: Geometry, plan: tuple[Group, ...], forward: bool) -> dict[str, float]:
    """Count what a pass does with a plan; forward, groups write between each other's outputs.

    Products between transforms, transformed elements of the input and the output's gradient ("operand"), products on
    their way back ("result"), weights, vectors of channels in strips of tiles; "many" are those of tiles that need
    several windows. With several groups: parts of rows of the output, and elements that lie "apart": with others' in
    between or, in the input gradient, one in a row.
    """
    lanes = host.lanes(g.dtype)
    counts = dict.fromkeys(("product", "operand", "result", "weight", "strip", "row", "apart"), 0.0)
    counts |= dict.fromkeys(("many_products", "many_operands", "many_results", "many_weights", "many_strips"), 0.0)
    for group in plan:
        points, phases, tiles, outputs = (
            math.prod(values) for values in zip(*((s.points, len(s.phases), s.all_tiles, s.outputs) for s in group))
        )
        tiles *= g.batch
        rows, channels = (-(-n // lanes) * lanes for n in (g.group_in, g.group_out))
        columns, pieces = channels * phases, math.prod(s.pieces for s in group)
        last = group[2]
        work = {
            "product": multiplications(group) * g.batch * rows * channels,
            "operand": points * tiles * rows,
            "result": points * tiles * columns,
            "weight": points * rows * columns * pieces,
            "strip": tiles / last.all_tiles * (rows + channels) / lanes,
        }
        for kind, n in work.items():
            counts[kind if pieces == 1 else f"many_{kind}s"] += g.groups * n
        if forward and len(plan) > 1:
            parts = tiles * outputs * columns / (last.all_tiles * last.outputs)
            counts["row"] += g.groups * parts / len(last.phases)
            if len(last.phases) < min(g.stride[2], g.output[2]):
                counts["apart"] += g.groups * tiles * outputs * columns
        elif len(plan) > 1:
            counts["apart"] += single_elements(g, group)[0]
    return {**counts, "launch": len(plan)}


def counts(g: Geometry, forward: bool) -> dict[str, float]:
    """Count what a pass does with the best plan, where one serves."""
    g = merged(g)
    plan = groups(g, forward)
    assert not isinstance(plan, str)
    return plan_counts(g, plan, forward)


def declines(g: Geometry, transformed: bool) -> str | None:
    """Return why tiles cannot serve a problem: those that are `transformed`, or those of plain products."""
    g = merged(g)
    plan = groups(g, forward=True)
    if isinstance(plan, str):
        return plan
    for each in (plan, groups(g, forward=False)):
        assert not isinstance(each, str)
        if (reason := too_far(g, each)) is not None:
            return reason
    if transformed != any(s.taps > 1 for group in plan for s in group):
        return "every phase has one tap: it is a plain product" if transformed else "a phase has more than one tap"
    return None


def too_far(g: Geometry, plan: tuple[Group, ...]) -> str | None:
    """Return why windows of several tiles cannot serve, if a plan has some: chunks of tiles are rows of one slice."""
    pieces = max(math.prod(s.pieces for s in group) for group in plan)
    if pieces == 1:
        return None
    slices, rows, _ = plan[0]
    if len(plan) > 1 or g.input[0] > 1 or slices.pieces > 1 or slices.all_tiles > 1:
        return "a phase has more than 3 taps on an axis, and there are three"
    if rows.spread > 1:
        return "a phase has more than 3 taps on one axis, and dilation spreads the taps of the other"
    stored = math.prod(s.points for s in plan[0]) * pieces * math.prod(g.weight_shape) // g.taps
    if stored > _STORED // np.dtype(g.dtype).itemsize:
        return f"{pieces} windows a tile need {stored} transformed weights"
    return None


def multiplications(group: Group) -> int:
    """Return the products of one group for a pair of channels and one image."""
    each = sum(end - begin for used in combinations(group) for begin, end in used.phases)
    return each * math.prod(s.all_tiles for s in group)


def _ways(
    inputs: int, outputs: int, kernel: int, stride: int, padding: int, dilation: int
) -> list[list[Segment]] | str:
    """Return the ways to cover an axis: windows alone, with single outputs if that takes fewer products, and shared."""
    stride = outputs if inputs == 1 else stride
    if (count := min(stride, outputs)) > MOST_PHASES:
        return f"{count} phases on an axis are more than {MOST_PHASES}, and need tables out of proportion"
    by_taps: dict[int, list[_Phase]] = {}
    for residue in range(count):
        taps = []
        for k in range(kernel):
            shift, of = divmod(dilation * k - padding, stride)
            if of == residue:
                taps.append((shift, k))
        taps.sort(reverse=True)  # the largest shift meets the first input
        if not 1 <= len(taps) <= MOST_TAPS:
            return f"a phase has {len(taps)} taps on an axis, and tiles are for 1 to {MOST_TAPS}"
        in_phase = -(-(outputs - residue) // stride)
        by_taps.setdefault(len(taps), []).append(_Phase(residue, tuple(k for _, k in taps), taps[0][0], in_phase))
    # The taps of a phase are all as far apart.
    spread = dilation // math.gcd(dilation, stride) if max(by_taps) > 1 else 1
    if spread > MOST_SPREAD:
        return f"taps {spread} inputs apart would have {spread - 1} of {spread} rows read for nothing"
    if spread > 1 and max(by_taps) > 3:
        return f"a phase has {max(by_taps)} taps that lie {spread} inputs apart"
    if spread > 1:
        return [[_lattices(phases, spread if taps > 1 else 1) for taps, phases in by_taps.items()]]
    if max(by_taps) > 3:
        return [[_lattices([p for phases in by_taps.values() for p in phases], 1)]]
    windows = [_cheapest(phases, inputs, False) for phases in by_taps.values()]
    if max(by_taps) == 1:  # single outputs would save little, and what is chosen would depend on the batch
        return [[segment for segments in windows for segment in segments]]
    mixed = [_cheapest(phases, inputs, True) for phases in by_taps.values()]
    ways = [[segment for segments in way for segment in segments] for way in (windows, mixed)]
    ways = ways if len(ways[0]) < len(ways[1]) else ways[:1]
    if len(by_taps) == 2:
        ways.append([_lattices(sorted(p for phases in by_taps.values() for p in phases), 1)])
    return ways


class _Phase(NamedTuple):
    residue: int
    taps: tuple[int, ...]
    shift: int  # of the first tap
    outputs: int


def _lattices(phases: list[_Phase], spread: int) -> Segment:
    """Return windows for phases whose taps lie `spread` inputs apart, those for as many as the largest has."""
    taps = min(3, max(len(p.taps) for p in phases))
    first = -max(p.shift for p in phases)
    tiles = max(-(-(p.outputs - first - p.shift) // (OUTPUTS[taps] * spread)) for p in phases)
    return Segment(taps, tiles, first, tuple(Phase(p.residue, p.taps, first + p.shift) for p in phases), spread)


def _cheapest(phases: list[_Phase], inputs: int, mixed: bool) -> list[Segment]:
    """Return windows for phases of equally many taps, and single outputs if `mixed` and they are cheaper."""
    r = len(phases[0].taps)
    best: tuple[int, list[Segment]] | None = None
    for first in range(-max(p.shift for p in phases), -min(p.shift for p in phases) + 1):
        longest = max(-(-(p.outputs - first - p.shift) // OUTPUTS[r]) for p in phases)
        for count in range(max(1, longest - 1), max(1, longest) + 1):
            windows = Segment(r, count, first, tuple(Phase(p.residue, p.taps, first + p.shift) for p in phases))
            singles = _singles(windows, phases, inputs)
            if singles is None or (singles and not mixed):
                continue
            cost = windows.points * count * len(phases) + len(singles)
            if best is None or cost < best[0]:
                best = cost, [windows, *singles]
    assert best is not None  # the first window start with the most windows leaves no single output
    return best[1]


def _singles(windows: Segment, phases: list[_Phase], inputs: int) -> list[Segment] | None:
    """Return a segment for each output that the windows leave, or None if one has more than a single tap."""
    singles = []
    for phase, tiles in zip(phases, windows.phases):
        stop = tiles.start + windows.outputs * windows.tiles
        for q in [*range(min(tiles.start, phase.outputs)), *range(max(0, stop), phase.outputs)]:
            # Tap j has shift ``phase.shift - j``.
            reached = [(q - phase.shift + j, k) for j, k in enumerate(phase.taps) if 0 <= q - phase.shift + j < inputs]
            if len(reached) > 1:
                return None
            i, k = reached[0] if reached else (inputs, phase.taps[0])  # no input there: reads as zero
            singles.append(Segment(1, 1, i, (Phase(phase.residue, (k,), q),)))
    return singles
