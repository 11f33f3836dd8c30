"""Element types without kernels of their own, served through those that have them.

float16 is computed in float32. Integers are computed in 64 bits and wrap around on the way back, as NumPy's do.
A complex problem is a real one with twice the channels: with real and imaginary parts as channels,
``(a + bi)(c + di)`` is the 2×2 real weight ``[[c, d], [-d, c]]``. Its real gradients are the complex
gradients in the convention of torch and JAX (the conjugate of the weight for the input's).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.kernels.geometry import Run
from fastdeconv.problem import Pass, Problem

Array = NDArray[Any]
Adapt = Callable[[Run], Run]


def lower(problem: Problem, pass_: Pass) -> tuple[Problem, Adapt, str | None]:
    """Return the problem that kernels solve, what makes its runner one of `problem`, and a note on it."""
    if problem.dtype in ("float32", "float64", "int64"):
        return problem, lambda run: run, None
    if problem.dtype.startswith("complex"):
        real = "float32" if problem.dtype == "complex64" else "float64"
        native = replace(
            problem, dtype=real, in_channels=2 * problem.in_channels, out_channels=2 * problem.out_channels
        )
        return native, _ADAPT_COMPLEX[pass_], f"{problem.dtype} is computed as {real} with twice the channels"
    wide = "float32" if problem.dtype == "float16" else "int64"
    return replace(problem, dtype=wide), _cast(wide), f"{problem.dtype} is computed in {wide}"


def _cast(wide: str) -> Adapt:
    def adapt(run: Run) -> Run:
        def cast_run(*arrays: Array | None) -> None:
            *inputs, out = arrays
            assert out is not None
            wide_out = np.empty(out.shape, wide)
            run(*(a if a is None else a.astype(wide) for a in inputs), wide_out)
            with np.errstate(over="ignore"):
                out[...] = wide_out.astype(out.dtype)

        return cast_run

    return adapt


def _split(a: Array) -> Array:
    """(N, C, …) complex to (N, 2·C, …) real, real and imaginary part of a channel side by side."""
    parts = np.stack((a.real, a.imag), axis=2)
    return parts.reshape(a.shape[0], 2 * a.shape[1], *a.shape[2:])


def _join(parts: Array, out: Array) -> None:
    parts = parts.reshape(out.shape[0], out.shape[1], 2, *out.shape[2:])
    out.real, out.imag = parts[:, :, 0], parts[:, :, 1]


def _split_weight(w: Array) -> Array:
    real = np.empty((w.shape[0], 2, w.shape[1], 2, *w.shape[2:]), w.real.dtype)
    real[:, 0, :, 0] = real[:, 1, :, 1] = w.real
    real[:, 0, :, 1] = w.imag
    real[:, 1, :, 0] = -w.imag
    return real.reshape(2 * w.shape[0], 2 * w.shape[1], *w.shape[2:])


def _doubled(a: Array) -> Array:
    return np.empty((a.shape[0], 2 * a.shape[1], *a.shape[2:]), a.real.dtype)


def _complex_forward(run: Run) -> Run:
    def complex_run(x: Array, w: Array, bias: Array | None, y: Array) -> None:
        parts = _doubled(y)
        run(_split(x), _split_weight(w), None if bias is None else bias.view(parts.dtype), parts)
        _join(parts, y)

    return complex_run


def _complex_input_grad(run: Run) -> Run:
    def complex_run(gy: Array, w: Array, gx: Array) -> None:
        parts = _doubled(gx)
        run(_split(gy), _split_weight(w), parts)
        _join(parts, gx)

    return complex_run


def _complex_weight_grad(run: Run) -> Run:
    def complex_run(x: Array, gy: Array, gw: Array) -> None:
        flat = np.empty((2 * gw.shape[0], 2 * gw.shape[1], *gw.shape[2:]), gw.real.dtype)
        run(_split(x), _split(gy), flat)
        parts = flat.reshape(gw.shape[0], 2, gw.shape[1], 2, *gw.shape[2:])
        gw.real = parts[:, 0, :, 0] + parts[:, 1, :, 1]
        gw.imag = parts[:, 0, :, 1] - parts[:, 1, :, 0]

    return complex_run


_ADAPT_COMPLEX: dict[Pass, Adapt] = {
    "forward": _complex_forward,
    "input_grad": _complex_input_grad,
    "weight_grad": _complex_weight_grad,
}
