"""Kernels for channels first, as they serve arrays with channels last: by copies of input and output."""

from __future__ import annotations

import math
from typing import Any

from numpy.typing import NDArray

from fastdeconv import memory
from fastdeconv.kernels.geometry import Bound, Cost, Geometry, Implementation, Prepared, Run
from fastdeconv.layouts import interchange
from fastdeconv.problem import Pass

Array = NDArray[Any]
Shape = tuple[int, int, int]  # images, channels, pixels

# What a copied element takes, in multiplications at the machine's peak: see `fastdeconv.kernels.cpu.costs`.
_MOVED = 130.0
# Those for problems in which copies do not matter, or for proofs.
_TINY = ("direct_loops", "reference")


def interchanged(implementation: Implementation, pass_: Pass, depthwise: Implementation) -> Implementation:
    """Return an implementation that takes channels first as one that takes channels last.

    One that does not tell its cost yields to that of depthwise layers, which takes arrays as they lie.
    """
    cost = implementation.cost
    yields_too = cost is None and implementation.name not in _TINY

    def yields(g: Geometry) -> str | None:
        if (reason := implementation.yields(_first(g))) is not None or not yields_too:
            return reason
        return None if depthwise.declines(g) else f"copies the arrays, which {depthwise.name} does not"

    if cost is not None:
        counts = cost.counts
        cost = Cost(
            lambda g: {**counts(_first(g)), "interchanged": sum(map(math.prod, (g.input_shape, g.output_shape)))},
            {**cost.weights, "interchanged": _MOVED},
        )
    return implementation._replace(
        declines=lambda g: implementation.declines(_first(g)),
        yields=yields,
        bind=lambda g: _bind(implementation, pass_, g),
        cost=cost,
    )


def _first(g: Geometry) -> Geometry:
    return g._replace(channels_last=False)


def _bind(implementation: Implementation, pass_: Pass, g: Geometry) -> Bound:
    bound = implementation.bind(_first(g))
    x, y = (g.batch, g.in_channels, math.prod(g.input)), (g.batch, g.out_channels, math.prod(g.output))
    scratch = bound.workspace if isinstance(bound, Bound) else 0
    if pass_ == "weight_grad":
        return Bound(lambda left, right, gw: bound(_to_first(left, *x), _to_first(right, *y), gw), scratch)
    if pass_ == "input_grad":
        return Bound(_on_copies(bound, y, x), scratch)
    prepare = bound.prepare if isinstance(bound, Bound) else None
    if prepare is None:
        return Bound(_on_copies(bound, x, y), scratch)

    def prepared(w: Array) -> Prepared:
        held = prepare(w)
        return held._replace(run=_on_copies(held.run, x, y))

    return Bound(_on_copies(bound, x, y), scratch, prepared)


def _on_copies(run: Run, source_shape: Shape, out_shape: Shape) -> Run:
    """Return a function of ``(source, *others, out)`` for channels first as one of such with channels last."""
    batch, channels, pixels = out_shape

    def run_on_copies(source: Array, *others_and_out: Any) -> None:
        *others, out = others_and_out
        source = _to_first(source, *source_shape)
        if min(channels, pixels) == 1:
            run(source, *others, out)
            return
        copy = memory.empty(out.shape, out.dtype)
        run(source, *others, copy)
        interchange(copy, out, batch, channels, pixels)

    return run_on_copies


def _to_first(array: Array, batch: int, channels: int, pixels: int) -> Array:
    if min(channels, pixels) == 1:
        return array
    copy = memory.empty(array.shape, array.dtype)
    interchange(array, copy, batch, pixels, channels)
    return copy
