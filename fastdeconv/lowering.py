"""Element types without kernels of their own, served through those that have them.

float16 and bfloat16 are computed in float32 where no kernels take them. Integers are computed in 64 bits and wrap
around on the way back, as NumPy's do.
A complex problem is a real one with twice the channels: with real and imaginary parts as channels,
``(a + bi)(c + di)`` is the 2×2 real weight ``[[c, d], [-d, c]]``. Its real gradients are the complex
gradients in the convention of torch and JAX (the conjugate of the weight for the input's). With channels last in memory
both parts lie side by side as they are, which is what a channel of one pixel has.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.arrays import namespace
from fastdeconv.kernels.geometry import Run
from fastdeconv.problem import Pass, Problem

Array = NDArray[Any]
Adapt = Callable[[Run], Run]  # a runner of the problem that kernels solve to one of the problem itself


# Element types that the kernels of a kind of device take as they are.
CPU = ("float32", "float64", "int64")
CUDA = (*CPU, "float16", "bfloat16")


def lower(problem: Problem, pass_: Pass, native: tuple[str, ...] = CPU) -> tuple[Problem, Adapt, str | None]:
    """Return the problem that kernels solve, what makes its runner one of `problem`, and a note on it."""
    if problem.dtype in native:
        return problem, lambda run: run, None
    if problem.dtype.startswith("complex"):
        real = "float32" if problem.dtype == "complex64" else "float64"
        twice = replace(problem, dtype=real, in_channels=2 * problem.in_channels, out_channels=2 * problem.out_channels)
        return twice, _ADAPT_COMPLEX[pass_](problem), f"{problem.dtype} is computed as {real} with twice the channels"
    wide = "float32" if problem.dtype in ("float16", "bfloat16") else "int64"
    return replace(problem, dtype=wide), _cast(wide), f"{problem.dtype} is computed in {wide}"


def lower_prepared(problem: Problem, native: tuple[str, ...] = CPU) -> tuple[Callable[[Array], Array], Adapt]:
    """Return what makes weights those that kernels take, and a forward runner with such weights one of `problem`.

    Both runners take ``(x, bias or None, y)``.
    """
    lowered, adapt, _ = lower(problem, "forward", native)
    if lowered is problem:
        return lambda w: w, adapt
    if problem.dtype.startswith("complex"):
        return lambda w: _split_weight(w, problem), _complex_prepared(problem)
    return lambda w: w.astype(lowered.dtype), adapt


def _cast(wide: str) -> Adapt:
    def adapt(run: Run) -> Run:
        def cast_run(*arrays: Array | None) -> None:
            *inputs, out = arrays
            assert out is not None
            wide_out = namespace(out).empty(out.shape, wide)
            run(*[a if a is None else a.astype(wide) for a in inputs], wide_out)
            with np.errstate(over="ignore"):
                out[...] = wide_out.astype(out.dtype)

        return cast_run

    return adapt


def _split(a: Array, pixels: int) -> Array:
    """(N, C, pixels) complex to (N, 2·C, pixels) real, real and imaginary part of a channel side by side."""
    parts = a.view(a.real.dtype).reshape(-1, pixels, 2).swapaxes(1, 2)
    return namespace(a).ascontiguousarray(parts).reshape(-1)  # type: ignore[no-any-return]


def _pixels(problem: Problem) -> tuple[int, int]:
    """Return how many elements of input and output lie side by side between one channel and the next."""
    return (1, 1) if problem.channels_last else (math.prod(problem.input_size), math.prod(problem.output_size))


def _join(parts: Array, pixels: int, out: Array) -> None:
    out.view(parts.dtype).reshape(-1, pixels, 2)[...] = parts.reshape(-1, 2, pixels).swapaxes(1, 2)


def _split_weight(w: Array, problem: Problem) -> Array:
    c_in, c_out, *kernel = problem.weight_shape
    w = w.reshape(c_in, c_out, math.prod(kernel))
    real = namespace(w).empty((c_in, 2, c_out, 2, w.shape[2]), w.real.dtype)
    real[:, 0, :, 0] = real[:, 1, :, 1] = w.real
    real[:, 0, :, 1] = w.imag
    real[:, 1, :, 0] = -w.imag
    return real.reshape(-1)  # type: ignore[no-any-return]


def _complex_prepared(problem: Problem) -> Adapt:
    inputs, outputs = _pixels(problem)

    def adapt(run: Run) -> Run:
        def complex_run(x: Array, bias: Array | None, y: Array) -> None:
            parts = namespace(y).empty(2 * y.size, y.real.dtype)
            real_bias = None if bias is None else bias.view(parts.dtype)
            run(_split(x, inputs), real_bias, parts)
            _join(parts, outputs, y)

        return complex_run

    return adapt


def _complex_forward(problem: Problem) -> Adapt:
    adapt_prepared = _complex_prepared(problem)

    def adapt(run: Run) -> Run:
        def complex_run(x: Array, w: Array, bias: Array | None, y: Array) -> None:
            weight = _split_weight(w, problem)
            adapt_prepared(lambda x, bias, y: run(x, weight, bias, y))(x, bias, y)

        return complex_run

    return adapt


def _complex_input_grad(problem: Problem) -> Adapt:
    inputs, outputs = _pixels(problem)

    def adapt(run: Run) -> Run:
        def complex_run(gy: Array, w: Array, gx: Array) -> None:
            parts = namespace(gx).empty(2 * gx.size, gx.real.dtype)
            run(_split(gy, outputs), _split_weight(w, problem), parts)
            _join(parts, inputs, gx)

        return complex_run

    return adapt


def _complex_weight_grad(problem: Problem) -> Adapt:
    inputs, outputs = _pixels(problem)
    c_in, c_out, *kernel = problem.weight_shape

    def adapt(run: Run) -> Run:
        def complex_run(x: Array, gy: Array, gw: Array) -> None:
            parts = namespace(gw).empty((c_in, 2, c_out, 2, math.prod(kernel)), gw.real.dtype)
            run(_split(x, inputs), _split(gy, outputs), parts.reshape(-1))
            total = gw.reshape(c_in, c_out, -1)
            total.real = parts[:, 0, :, 0] + parts[:, 1, :, 1]
            total.imag = parts[:, 0, :, 1] - parts[:, 1, :, 0]

        return complex_run

    return adapt


_ADAPT_COMPLEX: dict[Pass, Callable[[Problem], Adapt]] = {
    "forward": _complex_forward,
    "input_grad": _complex_input_grad,
    "weight_grad": _complex_weight_grad,
}
