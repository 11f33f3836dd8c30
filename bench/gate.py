"""The gate before the clock: our result against the definition, and every peer's against ours.

A sum of n products in floats has an error of at most about eps times the sum of the products' magnitudes; of normal
operands it is about a small multiple of eps·√n. The first bound holds for each element that is compared with the
definition in float64, the second for whole arrays of two libraries.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import numpy as np

from fastdeconv.bench.operands import LEARNING_RATE, Array, Operands, TimedPass
from fastdeconv.problem import Pass, Problem

_SAMPLES = 128  # elements beside the corners


class Accuracy(NamedTuple):
    """How exact a result must be.

    Attributes
    ----------
    products : float
        Error of an element as a share of Σ|products|.
    result : float
        Error of the rounding to the result's type, as a share of the element.
    """

    products: float
    result: float

    @classmethod
    def of(cls, dtype: str) -> Accuracy:
        """Return that of sums in the result's own type."""
        return cls(16 * float(np.finfo(dtype).eps), 0.0)


class _Part(NamedTuple):
    """One array of a result: of which pass, and what a step does with it."""

    pass_: Pass
    is_update: bool = False


def _parts(pass_: TimedPass) -> tuple[_Part, ...]:
    if pass_ != "step":
        return (_Part(pass_),)
    return _Part("forward"), _Part("input_grad"), _Part("weight_grad", is_update=True)


def against_definition(
    operands: Operands, pass_: TimedPass, arrays: tuple[Array, ...], accuracy: Accuracy | None = None, seed: int = 0
) -> str | None:
    """Compare the corners and some drawn elements with the sum that defines them; return what is wrong, or None."""
    problem = operands.problem
    accuracy = accuracy or Accuracy.of(problem.dtype)
    for part, array in zip(_parts(pass_), arrays):
        shape = _shape(problem, part.pass_)
        if array.shape != shape:
            return f"{part.pass_} has the shape {array.shape}, not {shape}"
        for place in _places(shape, seed):
            value, magnitude = _element(operands, part.pass_, place)
            allowed = accuracy.products * magnitude + accuracy.result * abs(value)
            if part.is_update:
                start = float(operands.w[place])
                value = start - LEARNING_RATE * value
                allowed = LEARNING_RATE * allowed + accuracy.products / 8 * (abs(start) + abs(value))
            if not abs(float(array[place]) - value) <= allowed:  # also true for NaN
                at = ", ".join(map(str, place))
                return f"{part.pass_}[{at}] is {float(array[place]):.9g}, by definition {value:.9g} ± {allowed:.1g}"
    return None


def against_ours(
    problem: Problem,
    pass_: TimedPass,
    ours: tuple[Array, ...],
    theirs: tuple[Array, ...],
    accuracy: Accuracy | None = None,
) -> str | None:
    """Compare a peer's whole result with ours; return what is wrong, or None. Arrays may be on a device, both there."""
    accuracy = accuracy or Accuracy.of(problem.dtype)
    eps = accuracy.products / 16 + accuracy.result
    for part, a, b in zip(_parts(pass_), ours, theirs):
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"{part.pass_} is {b.dtype} of shape {b.shape}, not {a.dtype} of {a.shape}"
        length = problem.accumulation_length(part.pass_)
        allowed = 64 * eps * math.sqrt(length) * max(1.0, math.log2(length))
        if part.is_update:
            allowed = LEARNING_RATE * allowed + 4 * eps * float(abs(a).max())
        difference = float(abs(a - b).max())
        if not difference <= allowed:
            return f"{part.pass_} differs by up to {difference:.2g}, allowed {allowed:.2g}"
    return None


def _shape(problem: Problem, pass_: Pass) -> tuple[int, ...]:
    return {
        "forward": problem.output_shape, "input_grad": problem.input_shape, "weight_grad": problem.weight_shape,
    }[pass_]  # fmt: skip


def _places(shape: tuple[int, ...], seed: int) -> list[tuple[int, ...]]:
    rng = np.random.default_rng(seed)
    corners = itertools.product(*({0, size - 1} for size in shape))
    drawn = zip(*(rng.integers(size, size=_SAMPLES).tolist() for size in shape))
    return [*corners, *drawn]


def _element(operands: Operands, pass_: Pass, place: tuple[int, ...]) -> tuple[float, float]:
    """Return one element of a pass by definition in float64, and the sum of its products' magnitudes.

    Every product joins x[n, ci, i], w[ci, co, k] and gy[n, co, o] with ``o = stride·i + dilation·k - padding``.
    """
    p = operands.problem
    group_in, group_out = p.in_channels // p.groups, p.out_channels // p.groups
    position = place[2:]
    triples = [_triples(p, axis, pass_, at) for axis, at in enumerate(position)]
    # Of every channel, or of every image.
    i, k, o = ((slice(None), *_grid([triple[which] for triple in triples])) for which in range(3))
    if pass_ == "forward":
        n, co = place[:2]
        group = co // group_out
        channels = slice(group * group_in, (group + 1) * group_in)
        a = operands.x[n, channels][i]
        b = operands.w[channels, co % group_out][k]
    elif pass_ == "input_grad":
        n, ci = place[:2]
        group = ci // group_in
        a = operands.gy[n, group * group_out : (group + 1) * group_out][o]
        b = operands.w[ci][k]
    else:
        ci, co = place[:2]
        a = operands.x[:, ci][i]
        b = operands.gy[:, ci // group_in * group_out + co][o]
    products = a.astype(np.float64) * b.astype(np.float64)
    return float(products.sum()), float(np.abs(products).sum())


def _grid(positions: list[Array]) -> tuple[Any, ...]:
    return np.ix_(*positions)


def _triples(p: Problem, axis: int, pass_: Pass, at: int) -> tuple[Array, Array, Array]:
    """Return all (i, k, o) of one axis that take part in the element at position `at`."""
    stride, dilation, padding = p.stride[axis], p.dilation[axis], p.padding[axis]
    inputs, taps = np.arange(p.input_size[axis]), np.arange(p.kernel_size[axis])
    if pass_ == "forward":
        i, rest = inputs, at + padding - stride * inputs
        k = rest // dilation
        valid = (rest % dilation == 0) & (k >= 0) & (k < len(taps))
        o = np.full_like(i, at)
    elif pass_ == "input_grad":
        i, k = np.full_like(taps, at), taps
        o = stride * i + dilation * k - padding
        valid = (o >= 0) & (o < p.output_size[axis])
    else:
        i, k = inputs, np.full_like(inputs, at)
        o = stride * i + dilation * k - padding
        valid = (o >= 0) & (o < p.output_size[axis])
    return i[valid], k[valid], o[valid]
