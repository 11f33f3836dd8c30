"""What `fit_kernel` minimises: the loss of a transposed convolution on given data, with penalties, and its gradient."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv import functional, grad
from fastdeconv.arrays import host_operand
from fastdeconv.fit.checks import check_finite
from fastdeconv.losses import Loss, real_dtype
from fastdeconv.nn.init import bilinear
from fastdeconv.problem import Problem, as_axes

Array = NDArray[Any]

_FORWARD = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}
_WEIGHT_GRAD = {1: grad.conv_transpose1d_weight, 2: grad.conv_transpose2d_weight, 3: grad.conv_transpose3d_weight}
_BIAS_GRAD = {1: grad.conv_transpose1d_bias, 2: grad.conv_transpose2d_bias, 3: grad.conv_transpose3d_bias}

# The estimate of the largest eigenvalue stops when it changes by less than this, or after so many iterations.
_POWER_CHANGE, _POWER_ITERATIONS = 1e-3, 50


class Objective:
    """``loss(conv_transpose(x, w, b), y_true) + l1·Σ|w| + l2·Σw²`` as a function of w and b.

    Attributes
    ----------
    problem : Problem
        Of all of x, as one batch.
    x, y_true : ndarray, shape (N, C, …)
    bare : bool
        Whether the caller's arrays and so the kernel have no channel axes.

    Raises
    ------
    TypeError, ValueError
        For `fit_kernel`: the message names its argument, what came and what would do.
    """

    def __init__(
        self,
        x: Any,
        y_true: Any,
        kernel_size: Any,
        parameters: dict[str, Any],
        loss: Loss,
        l1: float,
        l2: float,
        where: dict[str, Any],
    ) -> None:
        x, y_true = host_operand("x", x), host_operand("y_true", y_true)
        dtype = real_dtype(x=x, y_true=y_true)
        ndim = _spatial_axes(x, y_true, kernel_size)
        self.bare = x.ndim == ndim
        self.x, self.y_true = (_with_batch(name, a, ndim) for name, a in (("x", x), ("y_true", y_true)))
        if self.x.shape[0] != self.y_true.shape[0]:
            raise ValueError(f"x and y_true must have one batch size; got shapes {x.shape} and {y_true.shape}")
        self.problem = _problem(self.x.shape, self.y_true.shape, kernel_size, ndim, dtype, parameters)
        self.loss, self.l1, self.l2 = loss, l1, l2
        self._keywords: dict[str, Any] = {
            "stride": self.problem.stride,
            "padding": self.problem.padding,
            "output_padding": self.problem.output_padding,
            "groups": self.problem.groups,
            "dilation": self.problem.dilation,
            **where,
        }
        self._ndim = ndim

    def predict(self, x: Array, w: Array, b: Array | None, out: Array) -> Array:
        """Write ``conv_transpose(x, w, b)`` to `out` and return it."""
        return _FORWARD[self._ndim](x, w, b, out=out, **self._keywords)

    def value(self, x: Array, y_true: Array, w: Array, b: Array | None, out: Array) -> float:
        """Return the objective on some images, and write the loss's gradient with respect to y to `out`."""
        value, _ = self.loss.value_and_gradient(self.predict(x, w, b, out), y_true, out)
        if self.l1:
            value += self.l1 * float(np.abs(w).sum(dtype=float))
        if self.l2:
            value += self.l2 * float(np.square(w, dtype=float).sum())
        return value

    def gradient(self, x: Array, gy: Array, w: Array, out: Array) -> Array:
        """Write the objective's gradient with respect to w to `out`, given the loss's with respect to y."""
        gw = self.weight_gradient(x, gy, out)
        if self.l1:
            gw += self.l1 * np.sign(w)
        if self.l2:
            gw += 2 * self.l2 * w
        return gw

    def weight_gradient(self, x: Array, gy: Array, out: Array) -> Array:
        """Write to `out` what a gradient with respect to y makes of w, and return it."""
        return _WEIGHT_GRAD[self._ndim](x, out.shape, gy, out=out, **self._keywords)

    def bias_gradient(self, gy: Array) -> Array:
        """Return the gradient with respect to b, given the loss's with respect to y."""
        return _BIAS_GRAD[self._ndim](gy)

    def start(self, init: Any, rng: np.random.Generator) -> Array:
        """Return a new array of kernel entries to start from; see `fit_kernel` for `init`."""
        shape, dtype = self.problem.weight_shape, self.problem.dtype
        if isinstance(init, str):
            if init == "zeros":
                return np.zeros(shape, dtype)
            if init == "normal":
                scale = 1 / math.sqrt(self._products())
                return (scale * rng.standard_normal(shape)).astype(dtype)
            if init == "bilinear":
                return _bilinear(self.problem)
            raise ValueError(f'init must be "zeros", "normal", "bilinear" or an array; got {init!r}')
        w = host_operand("init", init)
        expected = self.problem.kernel_size if self.bare else shape
        if w.shape != expected:
            raise ValueError(f"init must have the kernel's shape {expected}; got {w.shape}")
        if w.dtype != np.dtype(dtype):
            raise TypeError(f"init must have x's dtype {dtype}; got {w.dtype}: convert with .astype")
        check_finite("init", w)
        return w.reshape(shape).astype(dtype, order="C", copy=True)

    def rounding(self) -> float:
        """Return the loss that rounding leaves to a perfect kernel, near enough."""
        size = np.sqrt(np.square(self.y_true, dtype=float).mean(keepdims=True))
        return self.loss(64 * np.finfo(self.y_true.dtype).eps * size, np.zeros_like(size))

    def kernel_scale(self) -> float:
        """Return the size of kernel entries, of random signs, that would bring x to the size of y_true."""
        size = [math.sqrt(float(np.square(a, dtype=float).mean())) for a in (self.x, self.y_true)]
        return size[1] / (size[0] * math.sqrt(self._products())) if all(size) else 1.0

    def curvature(self, w: Array, b: Array | None, batch: int | None) -> float:
        """Estimate the largest second derivative of the objective, near (w, b) for losses without a bound.

        Power iteration with the forward pass and its adjoint, the weight gradient; on the `batch` images with the
        most energy if there are batches, since those curve most.
        """
        x, y_true = self.x, self.y_true
        if batch is not None:
            energy = np.square(x).reshape(len(x), -1).sum(axis=1)
            strongest = np.sort(np.argsort(energy, kind="stable")[-batch:])
            x, y_true = x[strongest], y_true[strongest]
        y = self.predict(x, w, b, np.empty_like(y_true))
        scale = max(float(np.abs(y - y_true).mean()), float(np.finfo(y.dtype).tiny))
        v, vb = (
            np.random.default_rng(0).standard_normal(w.shape).astype(w.dtype),
            None if b is None else np.ones_like(b),
        )
        gw, largest = np.empty_like(w), 0.0
        for _ in range(_POWER_ITERATIONS):
            norm = _norm(v, vb)
            if not norm:
                break
            v /= norm
            if vb is not None:
                vb = vb / norm
            y = self.predict(x, v, vb, y)
            gw = self.weight_gradient(x, y, gw)
            gb = None if b is None else self.bias_gradient(y)
            before, largest = largest, _norm(gw, gb)
            v, gw, vb = gw, v, gb
            if largest - before <= _POWER_CHANGE * largest:
                break
        return self.loss.curvature(scale) * largest / y_true.size + 2 * self.l2

    def _products(self) -> float:
        """Return how many products an output element sums, on average."""
        p = self.problem
        return max(1.0, p.in_channels / p.groups * math.prod(k / s for k, s in zip(p.kernel_size, p.stride)))


def _norm(w: Array, b: Array | None) -> float:
    square = float(np.square(w, dtype=float).sum())
    return math.sqrt(square if b is None else square + float(np.square(b, dtype=float).sum()))


def _spatial_axes(x: Array, y_true: Array, kernel_size: Any) -> int:
    if x.ndim != y_true.ndim:
        raise ValueError(f"x and y_true must have the same number of axes; got shapes {x.shape} and {y_true.shape}")
    if isinstance(kernel_size, tuple | list) or np.ndim(kernel_size) == 1:
        ndim = len(kernel_size)
        if ndim not in (1, 2, 3):
            raise ValueError(f"kernel_size must be an int or a tuple of 1, 2 or 3 ints; got {kernel_size!r}")
    else:
        ndim = {1: 1, 5: 3}.get(x.ndim, 2)
    if x.ndim not in (ndim, ndim + 1, ndim + 2):
        raise ValueError(
            f"x must have {ndim}, {ndim + 1} or {ndim + 2} axes with kernel_size={kernel_size!r}; got shape {x.shape}"
        )
    return ndim


def _with_batch(name: str, a: Array, ndim: int) -> Array:
    if not a.size:
        raise ValueError(f"{name} must hold at least one element; got shape {a.shape}")
    check_finite(name, a)
    return np.ascontiguousarray(a).reshape((1,) * (ndim + 2 - a.ndim) + a.shape)


def _problem(
    x: tuple[int, ...], y: tuple[int, ...], kernel_size: Any, ndim: int, dtype: str, parameters: dict[str, Any]
) -> Problem:
    kernel = as_axes("kernel_size", kernel_size, ndim, low=1)
    groups = parameters["groups"]
    # A groups that is no positive int is left to Problem, whose message says what is wrong with it.
    group_out = y[1]
    if isinstance(groups, int | np.integer) and groups > 0:
        if y[1] % groups:
            raise ValueError(f"groups must divide y_true's {y[1]} channels; got groups = {groups}")
        group_out = y[1] // int(groups)
    try:
        return Problem.from_shapes(
            x, (x[1], group_out, *kernel), ndim=ndim, dtype=dtype, output_size=y[2:], **parameters
        )
    except ValueError as error:
        raise ValueError(str(error).replace("output_size", "the size of y_true")) from None


def _bilinear(problem: Problem) -> Array:
    """Return the interpolation kernel of each axis's stride: a triangle two strides wide, summing to 1 a phase."""
    if problem.in_channels != problem.out_channels:
        raise ValueError(
            f'init="bilinear" interpolates each channel for itself, so y_true must have x\'s {problem.in_channels} '
            f"channels; got {problem.out_channels}"
        )
    return bilinear(np.zeros(problem.weight_shape, problem.dtype), problem.stride, problem.dilation)
