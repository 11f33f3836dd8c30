"""Whether transforms and products should take less time than the direct kernels.

All costs are in multiplications of one core at its peak. The constants were fitted to float32 runs on a Zen 4
(docs/decisions/0006-winograd.md); only their ratios matter, and they decide between kernels that both are right.
"""

from __future__ import annotations

import math

from fastdeconv.kernels.cpu.frame import merged
from fastdeconv.kernels.cpu.winograd.axes import WEIGHT, groups
from fastdeconv.kernels.geometry import Geometry

# A multiplication between transforms; a transformed element of the input or the output's gradient, and one that is
# transposed too, as the weight gradient has them.
_PRODUCT, _OPERAND, _TRANSPOSED = 1.05, 55, 67
# An element of the products on its way back, and one of the result whose cache line holds other phases too.
_RESULT, _STORE = 40, 20
# A multiplication of `direct_tile` and of `direct_dot`; a weight that the first packs for the input gradient, far from
# its neighbours; a sum over lanes of the second.
_TILE, _DOT, _PACKED, _LANES = 1.15, 1.35, 100, 250


def forward_yields(g: Geometry) -> str | None:
    """Return why `direct_tile` should be faster in the forward pass, or None."""
    return _slower(_gathered(g, True), _TILE * _direct(g))


def input_grad_yields(g: Geometry) -> str | None:
    """Return why `direct_tile` should be faster in the input gradient, or None."""
    return _slower(_gathered(g, False), _TILE * _direct(g) + _PACKED * math.prod(g.weight_shape))


def weight_grad_yields(g: Geometry) -> str | None:
    """Return why `direct_dot` should be faster in the weight gradient, or None."""
    cost = 0.0
    for points, phases, tiles, _ in _groups(g):
        rows, columns = g.group_in, g.group_out * phases
        cost += points * (
            tiles * (_PRODUCT * rows * columns + _TRANSPOSED * (rows + columns)) + WEIGHT * rows * columns
        )
    return _slower(g.groups * cost, _DOT * _direct(g) + _LANES * math.prod(g.weight_shape))


def _gathered(g: Geometry, forward: bool) -> float:
    cost = 0.0
    plan = _groups(g)
    all_phases = sum(phases for _, phases, _, _ in plan)
    for points, phases, tiles, outputs in plan:
        depth, rows = (g.group_in, g.group_out * phases) if forward else (g.group_out * phases, g.group_in)
        cost += points * (tiles * (_PRODUCT * depth * rows + _OPERAND * depth + _RESULT * rows) + WEIGHT * depth * rows)
        if forward:  # phases of other groups lie in the same cache lines of the output
            cost += _STORE * tiles * outputs * g.group_out * all_phases
        elif len(plan) > 1:  # every group reads and writes the input's gradient again
            cost += 2 * _STORE * tiles * points * g.group_in
    return g.groups * cost


def _groups(g: Geometry) -> list[tuple[int, int, int, int]]:
    """Return points, phases, tiles and outputs of a tile for each group."""
    g = merged(g)
    plan = groups(g)
    assert not isinstance(plan, str)
    return [
        (
            math.prod(s.points for s in group),
            math.prod(len(s.phases) for s in group),
            g.batch * math.prod(s.tiles for s in group),
            math.prod(s.outputs for s in group),
        )
        for group in plan
    ]


def _direct(g: Geometry) -> float:
    """Return the multiplications of a direct kernel, those in the zeros between rows and images included."""
    waste = math.prod(1 + (-(-k // s) - 1) / i for k, s, i in zip(g.kernel, g.stride, g.input) if i > 1)
    return waste * g.multiplications


def _slower(cost: float, direct: float) -> str | None:
    if cost < direct:
        return None
    return f"transforms and products would cost as much as {cost:.2g} multiplications, direct sums {direct:.2g}"
