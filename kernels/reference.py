"""The three passes in plain NumPy, one tap at a time: the oracle of every test, and the last row of every table.

A NaN or Inf also reaches results that touch it only through what padding crops. NumPy's warnings about such values
are off, as no other kernel gives them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.kernels.geometry import Bound, Geometry, Implementation, Run, never

Array = NDArray[Any]


def taps(g: Geometry) -> Iterator[tuple[Any, Any]]:
    """Yield each tap with the part of the uncropped output that it reaches, one element for each input element."""
    for tap in np.ndindex(g.kernel):
        yield (
            tap,
            tuple(slice(d * k, d * k + s * (i - 1) + 1, s) for k, d, s, i in zip(tap, g.dilation, g.stride, g.input)),
        )


def full_shape(g: Geometry) -> tuple[int, ...]:
    """Return the shape of the output before it is cropped, as large as every tap needs."""
    size = (
        max(s * (i - 1) + d * (k - 1) + 1, p + o)
        for s, i, d, k, p, o in zip(g.stride, g.input, g.dilation, g.kernel, g.padding, g.output)
    )
    return (g.batch, g.out_channels, *size)


def _uncropped(g: Geometry) -> tuple[Array, Array]:
    """Return zeros as large as every tap needs, and a view of the part that is the output."""
    full = np.zeros(full_shape(g), g.dtype)
    return full, full[:, :, *(slice(p, p + o) for p, o in zip(g.padding, g.output))]


def _forward(g: Geometry) -> Run:
    def run(x: Array, w: Array, bias: Array | None, y: Array) -> None:
        full, inside = _uncropped(g)
        x = x.reshape(g.batch, g.groups, g.group_in, -1)
        w = w.reshape(g.groups, g.group_in, g.group_out, *g.kernel).swapaxes(1, 2)
        for tap, at in taps(g):
            full[:, :, *at] += (w[:, :, :, *tap] @ x).reshape(g.batch, g.out_channels, *g.input)
        y[:] = (inside if bias is None else inside + bias.reshape(-1, 1, 1, 1)).reshape(-1)

    return run


def _input_grad(g: Geometry) -> Run:
    def run(gy: Array, w: Array, gx: Array) -> None:
        full, inside = _uncropped(g)
        inside[...] = gy.reshape(g.output_shape)
        w = w.reshape(g.groups, g.group_in, g.group_out, *g.kernel)
        gx[:] = 0
        for tap, at in taps(g):
            reached = full[:, :, *at].reshape(g.batch, g.groups, g.group_out, -1)
            gx += (w[:, :, :, *tap] @ reached).reshape(-1)

    return run


def _weight_grad(g: Geometry) -> Run:
    def run(x: Array, gy: Array, gw: Array) -> None:
        full, inside = _uncropped(g)
        inside[...] = gy.reshape(g.output_shape)
        gw = gw.reshape(g.weight_shape)
        x = x.reshape(g.batch, g.groups, g.group_in, -1)
        for tap, at in taps(g):
            reached = full[:, :, *at].reshape(g.batch, g.groups, g.group_out, -1)
            gw[:, :, *tap] = (x @ reached.swapaxes(2, 3)).sum(0).reshape(g.in_channels, g.group_out)

    return run


def _quietly(bind: Callable[[Geometry], Run], operands: int) -> Callable[[Geometry], Run]:
    """Turn NumPy's warnings off; `operands` are the arrays that a tap's product copies."""

    def bind_quiet(g: Geometry) -> Run:
        run = bind(g)

        def run_quiet(*arrays: Array | None) -> None:
            with np.errstate(all="ignore"):
                run(*arrays)

        channels = max(g.in_channels, g.out_channels)
        copies = max(g.batch * channels * math.prod(g.input), math.prod(g.output_shape))
        product = g.batch * g.in_channels * g.group_out
        elements = math.prod(full_shape(g)) + operands * copies + product + 3 * np.getbufsize()  # NumPy's own
        return Bound(run_quiet, elements * np.dtype(g.dtype).itemsize)

    return bind_quiet


_IDEA = "plain NumPy, one tap at a time"
FORWARD = Implementation("reference", _IDEA, never, _quietly(_forward, 1))
INPUT_GRAD = Implementation("reference", _IDEA, never, _quietly(_input_grad, 2))
WEIGHT_GRAD = Implementation("reference", _IDEA, never, _quietly(_weight_grad, 1))
