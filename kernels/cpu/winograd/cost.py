"""Whether transforms and products should take less time than the direct kernels.

All costs are in multiplications of one core at its peak. The constants were fitted to float32 runs on a Zen 4
(docs/decisions/0006-winograd.md); only their ratios matter, and they decide between kernels that both are right.
"""

from __future__ import annotations

import math

from fastdeconv.kernels.cpu.frame import merged
from fastdeconv.kernels.cpu.winograd.axes import groups, plan_cost
from fastdeconv.kernels.geometry import Geometry

# A multiplication of `direct_tile`, a weight that it packs, an element of the output that it stores.
_TILE, _PACKED, _STORED = 1.15, 130, 25
# A multiplication of `direct_dot`, a sum over its lanes, an element of the output's gradient.
_DOT, _LANES, _COPIED = 1.35, 250, 12


def forward_yields(g: Geometry) -> str | None:
    """Return why `direct_tile` should be faster in the forward pass, or None."""
    stores = _STORED * math.prod(g.output_shape)
    return _slower(g, True, _TILE * _direct(g) + _PACKED * math.prod(g.weight_shape) + stores)


def input_grad_yields(g: Geometry) -> str | None:
    """Return why `direct_tile` should be faster in the input gradient, or None."""
    return _slower(g, False, _TILE * _direct(g) + _PACKED * math.prod(g.weight_shape))


def weight_grad_yields(g: Geometry) -> str | None:
    """Return why `direct_dot` should be faster in the weight gradient, or None."""
    copies = _COPIED * math.prod(g.output_shape)
    return _slower(g, False, _DOT * _direct(g) + _LANES * math.prod(g.weight_shape) + copies)


def _direct(g: Geometry) -> float:
    """Return the multiplications of a direct kernel, those in the zeros between rows and images included."""
    waste = math.prod(1 + (-(-k // s) - 1) / i for k, s, i in zip(g.kernel, g.stride, g.input) if i > 1)
    return waste * g.multiplications


def _slower(g: Geometry, forward: bool, direct: float) -> str | None:
    g = merged(g)
    plan = groups(g)
    assert not isinstance(plan, str)
    cost = plan_cost(g, plan, forward)
    if cost < direct:
        return None
    return f"transforms and products would cost as much as {cost:.2g} multiplications, direct sums {direct:.2g}"
