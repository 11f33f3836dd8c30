"""Losses: the mean over elements of a function of the residual, with its gradient in the same pass over memory.

A name ("mse", "l1", "charbonnier", "huber") stands for the loss with its default parameters.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.arrays import namespace, new, operand, result, same_dtype
from fastdeconv.kernels.cpu import losses as kernels
from fastdeconv.optim.checks import by_name, number

Array = NDArray[Any]

# Elements a block: few enough that work on a block stays in the second-level cache, so that memory is read once.
_BLOCK = 32_768


@dataclass(frozen=True)
class Loss(ABC):
    """The mean of ``ρ(y - y_true)`` over all elements; a subclass says what ρ is."""

    def __init_subclass__(cls) -> None:
        # A loss derived from one with a kernel, that evaluates otherwise, must not get that kernel.
        if "evaluate" in vars(cls) and "_fused" not in vars(cls):
            cls._fused = Loss._fused  # type: ignore[method-assign]

    def _fused(self) -> tuple[int, float] | None:
        """Return ρ by its number among the CPU's kernels, with its parameter; None has `evaluate` called instead."""
        return None

    @abstractmethod
    def evaluate(self, residual: Array, work: Array) -> float:
        """Return ``Σ ρ(residual)`` and overwrite the residual with ``ρ'(residual)``.

        Parameters
        ----------
        residual, work : ndarray, one axis
            Of one shape and dtype, of NumPy or CuPy; `work` is scratch space.
        """

    @abstractmethod
    def curvature(self, scale: float) -> float:
        """Return the second derivative of ρ, or of a parabola above ρ, for residuals of size `scale`."""

    def __call__(self, y: Array, y_true: Array) -> float:
        """Return the loss of two arrays of one shape and dtype, float32 or float64."""
        return self.value_and_gradient(y, y_true)[0]

    def value_and_gradient(self, y: Array, y_true: Array, out: Array | None = None) -> tuple[float, Array]:
        """Return the loss and its gradient with respect to y.

        Parameters
        ----------
        y, y_true : ndarray
            Of one shape and dtype, float32 or float64; of NumPy, or of CuPy on one device.
        out : ndarray, optional
            Takes the gradient; may be `y` itself, which is then overwritten.

        Raises
        ------
        TypeError, ValueError
            The message names the argument, what came and what would do.
        """
        y, y_true = operand("y", y), operand("y_true", y_true)
        dtype = real_dtype(y=y, y_true=y_true)
        if y.shape != y_true.shape:
            raise ValueError(f"y and y_true must have one shape; got {y.shape} and {y_true.shape}")
        if not y.size:
            raise ValueError(f"y must have elements to take the mean of; got shape {y.shape}")
        gradient = y if out is y else result(out, y.shape, dtype, y=y, y_true=y_true)
        packed = gradient if gradient.flags.c_contiguous else new(y.shape, y)
        mean = 1.0 / y.size
        y, y_true = (namespace(a).ascontiguousarray(a) for a in (y, y_true))
        total = self._flat(y.reshape(-1), y_true.reshape(-1), packed.reshape(-1), dtype, mean)
        if packed is not gradient:
            gradient[...] = packed
        return total * mean, gradient

    def _flat(self, y: Array, y_true: Array, gradient: Array, dtype: str, mean: float) -> float:
        """Return ``Σ ρ`` and write ``mean · ρ'``, all of vectors."""
        fused = self._fused() if isinstance(y, np.ndarray) else None
        if fused is not None:
            return kernels.evaluate(*fused, dtype, y, y_true, gradient, mean)
        xp = namespace(y)
        # A device is told all at once.
        size = _BLOCK if xp is np else y.size
        work = new((min(size, y.size),), y)
        total = 0.0
        for lo in range(0, y.size, size):
            block = slice(lo, lo + size)
            residual = xp.subtract(y[block], y_true[block], out=gradient[block])
            total += self.evaluate(residual, work[: residual.size])
            residual *= mean
        return total


@dataclass(frozen=True)
class MSE(Loss):
    """Mean squared error: ``ρ(r) = r²``."""

    def _fused(self) -> tuple[int, float]:
        return kernels.SQUARE, 0.0

    def evaluate(self, residual: Array, work: Array) -> float:
        """Return ``Σ r²``; the residual becomes ``2r``."""
        namespace(residual).multiply(residual, residual, out=work)
        residual *= 2
        return float(work.sum(dtype=float))

    def curvature(self, scale: float) -> float:
        """Return 2."""
        return 2.0


@dataclass(frozen=True)
class L1(Loss):
    """Mean absolute error: ``ρ(r) = |r|``, with derivative 0 at 0."""

    def _fused(self) -> tuple[int, float]:
        return kernels.ABSOLUTE, 0.0

    def evaluate(self, residual: Array, work: Array) -> float:
        """Return ``Σ |r|``; the residual becomes its sign."""
        xp = namespace(residual)
        xp.abs(residual, out=work)
        xp.sign(residual, out=residual)
        return float(work.sum(dtype=float))

    def curvature(self, scale: float) -> float:
        """Return that of the parabola that touches ``|r|`` at `scale`."""
        return 1.0 / scale


@dataclass(frozen=True)
class Charbonnier(Loss):
    """A smooth absolute error: ``ρ(r) = √(r² + ε²)``.

    Parameters
    ----------
    eps : float
        In the units of y. Positive.

    References
    ----------
    Charbonnier et al., Two deterministic half-quadratic regularization algorithms for computed imaging, ICIP 1994.
    """

    eps: float = 1e-3

    def __post_init__(self) -> None:
        number("eps", self.eps, positive=True)

    def _fused(self) -> tuple[int, float]:
        return kernels.CHARBONNIER, self.eps * self.eps

    def evaluate(self, residual: Array, work: Array) -> float:
        """Return ``Σ √(r² + ε²)``; the residual becomes ``r / √(r² + ε²)``."""
        xp = namespace(residual)
        xp.multiply(residual, residual, out=work)
        work += self.eps * self.eps
        xp.sqrt(work, out=work)
        residual /= work
        return float(work.sum(dtype=float))

    def curvature(self, scale: float) -> float:
        """Return that of the parabola that touches ρ at `scale`."""
        return 1.0 / float(np.hypot(scale, self.eps))


@dataclass(frozen=True)
class Huber(Loss):
    """Squared near zero, absolute further away: ``ρ(r) = r²/2`` up to ``|r| = δ``, then ``δ(|r| - δ/2)``.

    Parameters
    ----------
    delta : float
        In the units of y. Positive.

    References
    ----------
    Huber, Robust estimation of a location parameter, 1964; the scaling is that of ``torch.nn.HuberLoss``.
    """

    delta: float = 1.0

    def __post_init__(self) -> None:
        number("delta", self.delta, positive=True)

    def _fused(self) -> tuple[int, float]:
        return kernels.HUBER, self.delta

    def evaluate(self, residual: Array, work: Array) -> float:
        """Return ``Σ ρ(r)``; the residual becomes itself, clipped to ``±δ``."""
        namespace(residual).clip(residual, -self.delta, self.delta, out=work)
        residual -= 0.5 * work
        residual *= work
        total = float(residual.sum(dtype=float))
        residual[...] = work
        return total

    def curvature(self, scale: float) -> float:
        """Return 1, the largest."""
        return 1.0


_NAMES: dict[str, type[Loss]] = {"mse": MSE, "l1": L1, "charbonnier": Charbonnier, "huber": Huber}


def as_loss(loss: Any) -> Loss:
    """Return a loss from its name, or the loss itself.

    Raises
    ------
    TypeError, ValueError
    """
    return by_name("loss", loss, Loss, _NAMES, "losses.Huber(delta=0.1)")


def real_dtype(**arrays: Array) -> str:
    """Return the dtype that the arrays share if it is float32 or float64.

    Raises
    ------
    TypeError
    """
    dtype = same_dtype(**arrays)
    if dtype not in ("float32", "float64"):
        raise TypeError(
            f"{' and '.join(arrays)} must be float32 or float64; got {dtype}: convert with .astype(numpy.float32)"
        )
    return dtype
