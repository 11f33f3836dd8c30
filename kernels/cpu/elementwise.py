"""Activations and their gradients, each one pass over memory.

    z = scale[c]·x + shift[c]          y = f(z)          gz = f'(z)·gy          Σ gz, Σ gy·min(z, 0)

Arrays are (images, channels c, pixels). A unit of work is a piece of one plane, so it has one channel; what is summed
over a piece goes to a place of its own, and is added up in one order whatever the threads. With a scale or shift the
activation takes over a bias or a normalisation before it; the sums are the gradients of shift and of a rectifier's
slope.

The way here: NumPy's operations (a pass for each, 12 times as long for a rectifier with slopes that are learned), loops
left to LLVM (scalar where the result overwrites the input), vectors as they stand here.
"""

from __future__ import annotations

import math
from typing import Any

from fastdeconv.kernels.cpu.jit import Kernel, device_function, kernel
from fastdeconv.kernels.cpu.sweep import Body, part_of, sweep
from fastdeconv.kernels.cpu.vector_math import VectorMath
from fastdeconv.kernels.cpu.vectors import Vectors

# The longest piece: what is summed in the element type stays short, and two reads of one piece meet in the first cache.
PIECE = 2048


def pieces(pixels: int) -> int:
    """Return into how many pieces a plane is cut."""
    return max(1, -(-pixels // PIECE))


@device_function
def channel_value(vector: Any, channel: int) -> Any:
    """Return a channel's value, where one may serve all."""
    return vector[channel if vector.size > 1 else 0]


# -- rectifiers: z if z > 0 else slope·z ------------------------------------------------------------------------


def falls(vectors: Vectors, z: Any) -> Any:
    """Return where the slope applies: not where z is a NaN."""
    return vectors.builder.fcmp_ordered("<=", z, vectors.zero)


def sloped(vectors: Vectors, slope: Any, value: Any) -> Any:
    """Return slope·value; 0 for slope 0, whatever the value."""
    b = vectors.builder
    return b.select(b.fcmp_ordered("==", slope, vectors.zero), vectors.zero, b.fmul(slope, value))


def _rectified(v: Vectors, read: list[Any], scalars: list[Any]) -> tuple[list[Any], list[Any]]:
    scale, shift, slope = scalars
    z = v.multiply_add(read[0], scale, shift)
    return [v.builder.select(falls(v, z), sloped(v, slope, z), z)], []


def _rectified_grad(v: Vectors, read: list[Any], scalars: list[Any]) -> tuple[list[Any], list[Any]]:
    kept, gy = read
    scale, shift, slope = scalars
    z = v.multiply_add(kept, scale, shift)
    below = falls(v, z)
    gz = v.builder.select(below, sloped(v, slope, gy), gy)
    return [gz], [gz, v.builder.select(below, v.builder.fmul(gy, z), v.zero)]


# -- functions without parameters, which kernels of the same form serve; they do not look at the slope -----------


def _smooth(function: Any) -> Body:
    """Return the pass of ``function(math, z) → (y, dy/dz)``."""

    def body(v: Vectors, read: list[Any], scalars: list[Any]) -> tuple[list[Any], list[Any]]:
        y, _ = function(VectorMath(v), v.multiply_add(read[0], scalars[0], scalars[1]))
        return [y], []

    return body


def _smooth_grad(derivative: Any) -> Body:
    """Return the pass of the gradient, given the derivative as a function of z."""

    def body(v: Vectors, read: list[Any], scalars: list[Any]) -> tuple[list[Any], list[Any]]:
        kept, gy = read
        gz = v.builder.fmul(gy, derivative(VectorMath(v), v.multiply_add(kept, scalars[0], scalars[1])))
        return [gz], [gz, v.zero]

    return body


def _tanh_derivative(m: VectorMath, y: Any) -> Any:
    return m.v.multiply_add(m.negative(y), y, m.v.constant(1.0))


def _sigmoid_derivative(m: VectorMath, y: Any) -> Any:
    return m.v.multiply_add(m.negative(y), y, y)


def _gelu(m: VectorMath, z: Any) -> tuple[Any, Any]:
    """Return z·Φ(z) and its derivative Φ(z) + z·φ(z)."""
    distribution, density = m.normal(z)
    return m.builder.fmul(z, distribution), m.v.multiply_add(z, density, distribution)


def _gelu_tanh(m: VectorMath, z: Any) -> tuple[Any, Any]:
    """Return ``z·h`` with ``h = (1 + tanh(u)) / 2``, ``u = √(2/π)·(z + 0.044715·z³)``, and its derivative."""
    v, b = m.v, m.builder
    root, cubic = math.sqrt(2 / math.pi), 0.044715
    square = b.fmul(z, z)
    u = b.fmul(z, v.multiply_add(square, v.constant(root * cubic), v.constant(root)))
    t = m.tanh(u)
    h = v.multiply_add(t, v.constant(0.5), v.constant(0.5))
    slope = v.multiply_add(square, v.constant(3 * root * cubic), v.constant(root))
    bend = b.fmul(b.fmul(z, v.constant(0.5)), b.fmul(_tanh_derivative(m, t), slope))
    return b.fmul(z, h), b.fadd(h, bend)


# -- the kernels -----------------------------------------------------------------------------------------------


def _forward(name: str, body: Body) -> Kernel:
    row = sweep(1, 1, 0, body)

    def units(
        lo: int, hi: int, x: Any, scale: Any, shift: Any, slope: Any, y: Any, channels: int, pixels: int, pieces: int
    ) -> None:
        for unit in range(lo, hi):
            plane, begin, end = part_of(unit, pieces, pixels)
            c = plane % channels
            row(x, y, plane * pixels + begin, end - begin, channel_value(scale, c), channel_value(shift, c),
                channel_value(slope, c))  # fmt: skip

    units.__name__ = units.__qualname__ = name
    return kernel("T[]", "T[]", "T[]", "T[]", "T[]", "int", "int", "int")(units)


def _backward(name: str, body: Body) -> Kernel:
    row = sweep(2, 1, 2, body)

    def units(
        lo: int, hi: int, kept: Any, gy: Any, scale: Any, shift: Any, slope: Any, gz: Any, sums: Any,
        channels: int, pixels: int, pieces: int,
    ) -> None:  # fmt: skip
        for unit in range(lo, hi):
            plane, begin, end = part_of(unit, pieces, pixels)
            c = plane % channels
            total, slope_total = row(kept, gy, gz, plane * pixels + begin, end - begin, channel_value(scale, c),
                                     channel_value(shift, c), channel_value(slope, c))  # fmt: skip
            sums[2 * unit], sums[2 * unit + 1] = total, slope_total

    units.__name__ = units.__qualname__ = name
    return kernel("T[]", "T[]", "T[]", "T[]", "T[]", "T[]", "T[]", "int", "int", "int")(units)


def _added(v: Vectors, read: list[Any], scalars: list[Any]) -> tuple[list[Any], list[Any]]:
    return [], read


row_sum = sweep(1, 0, 1, _added)


@kernel("T[]", "T[]", "int", "int")
def plane_sums(lo: int, hi: int, x: Any, sums: Any, pixels: int, pieces: int) -> None:
    """Write the sum of each piece."""
    for unit in range(lo, hi):
        plane, begin, end = part_of(unit, pieces, pixels)
        (sums[unit],) = row_sum(x, plane * pixels + begin, end - begin)


rectifier = _forward("rectifier", _rectified)
tanh = _forward("tanh", _smooth(lambda m, z: (m.tanh(z), None)))
sigmoid = _forward("sigmoid", _smooth(lambda m, z: (m.sigmoid(z), None)))
gelu = _forward("gelu", _smooth(_gelu))
gelu_tanh = _forward("gelu_tanh", _smooth(_gelu_tanh))
rectifier_grad = _backward("rectifier_grad", _rectified_grad)
# These two are given y in place of z.
tanh_grad = _backward("tanh_grad", _smooth_grad(_tanh_derivative))
sigmoid_grad = _backward("sigmoid_grad", _smooth_grad(_sigmoid_derivative))
gelu_grad = _backward("gelu_grad", _smooth_grad(lambda m, z: _gelu(m, z)[1]))
gelu_tanh_grad = _backward("gelu_tanh_grad", _smooth_grad(lambda m, z: _gelu_tanh(m, z)[1]))

FORWARD = {"rectifier": rectifier, "tanh": tanh, "sigmoid": sigmoid, "gelu": gelu, "gelu_tanh": gelu_tanh}
BACKWARD = {
    "rectifier": rectifier_grad, "tanh": tanh_grad, "sigmoid": sigmoid_grad, "gelu": gelu_grad,
    "gelu_tanh": gelu_tanh_grad,
}  # fmt: skip
