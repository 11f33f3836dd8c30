"""All three passes as plain loops: for problems too small to prepare anything, and for what the tiles cannot serve.

One function call, no copies, any element type and any geometry. Each tap is a loop over the inputs whose output lies
inside, so nothing is tested in the innermost loop.

Parallel over (image, channel) planes of the result, or the (input channel, output channel) kernels of the weight's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.kernels.cpu.frame import too_large
from fastdeconv.kernels.cpu.jit import Kernel, device_function, kernel
from fastdeconv.kernels.geometry import Geometry, Implementation, Run

Array = NDArray[Any]

LAYOUT = np.dtype(
    [
        ("batch", "i8"),
        ("groups", "i8"),
        ("group_in", "i8"),
        ("group_out", "i8"),
        ("input", "i8", (3,)),
        ("output", "i8", (3,)),
        ("kernel", "i8", (3,)),
        ("stride", "i8", (3,)),
        ("padding", "i8", (3,)),
        ("dilation", "i8", (3,)),
    ]
)

# Multiplications up to which preparing planes and packed weights would take longer than these loops do.
SMALL = 12_000
# A float sum longer than this would have to be one of partial sums, which take memory.
LONG = 4096


@device_function
def _inside(p: Any, axis: int, k: int) -> tuple[int, int, int]:
    """Return the first input whose product with tap k lies inside the output, the end, and the output of input 0."""
    shift = p.dilation[axis] * k - p.padding[axis]
    stride = p.stride[axis]
    first = max(0, -(shift // stride))
    end = min(p.input[axis], (p.output[axis] - 1 - shift) // stride + 1)
    return first, end, shift


@kernel("T[]", "T[]", "T[]", "T[]", LAYOUT)
def forward_units(lo: int, hi: int, x: Any, w: Any, bias: Any, y: Any, layout: Any) -> None:
    """Compute one output channel of one image."""
    p = layout[0]
    inputs, outputs = p.input[0] * p.input[1] * p.input[2], p.output[0] * p.output[1] * p.output[2]
    taps = p.kernel[0] * p.kernel[1] * p.kernel[2]
    out_channels = p.groups * p.group_out
    stride = p.stride[2]
    for unit in range(lo, hi):
        n, channel = unit // out_channels, unit % out_channels
        g, co = channel // p.group_out, channel % p.group_out
        y_at = unit * outputs
        start = bias[channel] if bias.size else y.dtype.type(0)
        for i in range(y_at, y_at + outputs):
            y[i] = start
        for ci in range(p.group_in):
            x_at = ((n * p.groups + g) * p.group_in + ci) * inputs
            w_at = ((g * p.group_in + ci) * p.group_out + co) * taps
            for k0 in range(p.kernel[0]):
                first0, end0, shift0 = _inside(p, 0, k0)
                for k1 in range(p.kernel[1]):
                    first1, end1, shift1 = _inside(p, 1, k1)
                    for k2 in range(p.kernel[2]):
                        first2, end2, shift2 = _inside(p, 2, k2)
                        weight = w[w_at + (k0 * p.kernel[1] + k1) * p.kernel[2] + k2]
                        for i0 in range(first0, end0):
                            for i1 in range(first1, end1):
                                row = x_at + (i0 * p.input[1] + i1) * p.input[2]
                                o0, o1 = i0 * p.stride[0] + shift0, i1 * p.stride[1] + shift1
                                out = y_at + (o0 * p.output[1] + o1) * p.output[2] + shift2
                                for i2 in range(first2, end2):
                                    y[out + stride * i2] += x[row + i2] * weight


@kernel("T[]", "T[]", "T[]", LAYOUT)
def input_grad_units(lo: int, hi: int, gy: Any, w: Any, gx: Any, layout: Any) -> None:
    """Compute one input channel of one image."""
    p = layout[0]
    inputs, outputs = p.input[0] * p.input[1] * p.input[2], p.output[0] * p.output[1] * p.output[2]
    taps = p.kernel[0] * p.kernel[1] * p.kernel[2]
    in_channels = p.groups * p.group_in
    stride = p.stride[2]
    for unit in range(lo, hi):
        n, channel = unit // in_channels, unit % in_channels
        g = channel // p.group_in
        x_at = unit * inputs
        for i in range(x_at, x_at + inputs):
            gx[i] = 0
        for co in range(p.group_out):
            y_at = ((n * p.groups + g) * p.group_out + co) * outputs
            w_at = (channel * p.group_out + co) * taps
            for k0 in range(p.kernel[0]):
                first0, end0, shift0 = _inside(p, 0, k0)
                for k1 in range(p.kernel[1]):
                    first1, end1, shift1 = _inside(p, 1, k1)
                    for k2 in range(p.kernel[2]):
                        first2, end2, shift2 = _inside(p, 2, k2)
                        weight = w[w_at + (k0 * p.kernel[1] + k1) * p.kernel[2] + k2]
                        for i0 in range(first0, end0):
                            for i1 in range(first1, end1):
                                row = x_at + (i0 * p.input[1] + i1) * p.input[2]
                                o0, o1 = i0 * p.stride[0] + shift0, i1 * p.stride[1] + shift1
                                out = y_at + (o0 * p.output[1] + o1) * p.output[2] + shift2
                                for i2 in range(first2, end2):
                                    gx[row + i2] += gy[out + stride * i2] * weight


@kernel("T[]", "T[]", "T[]", LAYOUT)
def weight_grad_units(lo: int, hi: int, x: Any, gy: Any, gw: Any, layout: Any) -> None:
    """Compute the kernel between one input channel and one output channel."""
    p = layout[0]
    inputs, outputs = p.input[0] * p.input[1] * p.input[2], p.output[0] * p.output[1] * p.output[2]
    taps = p.kernel[0] * p.kernel[1] * p.kernel[2]
    stride = p.stride[2]
    for unit in range(lo, hi):
        channel, co = unit // p.group_out, unit % p.group_out
        g = channel // p.group_in
        for k0 in range(p.kernel[0]):
            first0, end0, shift0 = _inside(p, 0, k0)
            for k1 in range(p.kernel[1]):
                first1, end1, shift1 = _inside(p, 1, k1)
                for k2 in range(p.kernel[2]):
                    first2, end2, shift2 = _inside(p, 2, k2)
                    total = gw.dtype.type(0)
                    for n in range(p.batch):
                        x_at = (n * p.groups * p.group_in + channel) * inputs
                        y_at = ((n * p.groups + g) * p.group_out + co) * outputs
                        for i0 in range(first0, end0):
                            for i1 in range(first1, end1):
                                row = x_at + (i0 * p.input[1] + i1) * p.input[2]
                                o0, o1 = i0 * p.stride[0] + shift0, i1 * p.stride[1] + shift1
                                out = y_at + (o0 * p.output[1] + o1) * p.output[2] + shift2
                                part = gw.dtype.type(0)  # a row at a time keeps rounding errors from adding up
                                for i2 in range(first2, end2):
                                    part += x[row + i2] * gy[out + stride * i2]
                                total += part
                    gw[unit * taps + (k0 * p.kernel[1] + k1) * p.kernel[2] + k2] = total


def _bind(g: Geometry, units: Kernel, count: int) -> tuple[Callable[..., None], Array]:
    layout = np.zeros(1, LAYOUT)
    for name in (
        "batch",
        "groups",
        "group_in",
        "group_out",
        "input",
        "output",
        "kernel",
        "stride",
        "padding",
        "dilation",
    ):
        layout[name] = getattr(g, name)
    return units.launcher(g.dtype, count, 8 * g.multiplications), layout


def _bind_forward(g: Geometry) -> Run:
    launch, layout = _bind(g, forward_units, g.batch * g.out_channels)
    no_bias = np.empty(0, g.dtype)

    def run(x: Array, w: Array, bias: Array | None, y: Array) -> None:
        launch(x, w, no_bias if bias is None else bias, y, layout)

    return run


def _bind_grad(g: Geometry, units: Kernel, count: int) -> Run:
    launch, layout = _bind(g, units, count)

    def run(a: Array, b: Array, out: Array) -> None:
        launch(a, b, out, layout)

    return run


def _reaching(g: Geometry) -> int:
    """Return the most products of one input channel that an output sums."""
    count = 1
    for i, k, s, d in zip(g.input, g.kernel, g.stride, g.dilation):
        shared = math.gcd(s, d)
        count *= min(-(-i * shared // d), -(-k * shared // s))
    return count


def _declines(g: Geometry, length: int) -> str | None:
    if length > LONG and g.batch > 0 and g.dtype.startswith("float"):
        return f"running totals of {length} sums lose more than rounding must, from {LONG} on"
    return None


def _yields(g: Geometry, forward: bool) -> str | None:
    if g.multiplications > SMALL and too_large(g, forward) is None:
        return f"{g.multiplications} multiplications are more than {SMALL}, so vector tiles are faster"
    return None


_IDEA = "plain loops in one call, without copies"
FORWARD = Implementation(
    "direct_loops",
    _IDEA,
    lambda g: _declines(g, g.group_in * _reaching(g)),
    _bind_forward,
    lambda g: _yields(g, forward=True),
)
INPUT_GRAD = Implementation(
    "direct_loops",
    _IDEA,
    lambda g: _declines(g, g.group_out * g.taps),
    lambda g: _bind_grad(g, input_grad_units, g.batch * g.in_channels),
    lambda g: _yields(g, forward=False),
)
WEIGHT_GRAD = Implementation(
    "direct_loops",
    _IDEA,
    # Sums along rows, then sums of those.
    lambda g: _declines(g, max(g.input[2], g.batch * g.input[0] * g.input[1])),
    lambda g: _bind_grad(g, weight_grad_units, g.in_channels * g.group_out),
    lambda g: _yields(g, forward=False),
)
