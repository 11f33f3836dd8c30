"""Activation layers: elementwise functions, with torch's names and defaults."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.arrays import new
from fastdeconv.nn import elementwise
from fastdeconv.nn.checks import checked_input, contiguous, float_name
from fastdeconv.nn.elementwise import Activation, Extent
from fastdeconv.nn.module import Module, Parameter
from fastdeconv.problem import as_int, shown

Array = NDArray[Any]


class Elementwise(Module, ABC):
    """What all activations share: one pass over memory forward, one backward."""

    _fresh = _fusable = True
    # Whether the result tells the derivative, so that backward needs that and not the input.
    _by_result = True

    @abstractmethod
    def _function(self, like: Array) -> Activation:
        """Return what is applied to arrays of the kind of `like`."""

    def _channels(self, x: Array) -> int:
        """Return how many channels of a batch the function tells apart; 0 if none."""
        return 0

    def _learn(self, slope_sums: Array) -> None:
        """Take the sums of each channel that are the gradient of the slope."""

    def _forward(self, x: Array, own: bool) -> Array:
        array = contiguous(checked_input(self, x, None))
        extent = Extent.of(array.shape, self._channels(array))
        return self._apply(array, extent, None, own)

    def _apply(self, x: Array, extent: Extent, shift: Array | None, own: bool) -> Array:
        """Return the function of ``x + shift[c]``, in x's memory if nobody needs that."""
        f, affine = self._function(x), elementwise.plain(x)
        shifted = affine if shift is None else affine._replace(shift=shift)
        if self._by_result:
            out = x if own else new(x.shape, x)
            self._keep(x, f, extent, out, affine)
        else:
            self._keep(x, f, extent, x, shifted)
            out = x if own and self._kept is None else new(x.shape, x)
        elementwise.activate(f, x, extent, shifted, out)
        return out

    def _backward(self, grad_output: Array, own: bool) -> Array | None:
        gx, _ = self._gradient(grad_output, own)
        return gx if self.needs_input_grad else None

    def _gradient(self, grad_output: Array, own: bool) -> tuple[Array, Array]:
        """Return the gradients with respect to x, in grad_output's memory if nobody needs that, and to the shift."""
        gy, f, extent, kept, affine = self._take(grad_output)
        gx = gy if own else new(gy.shape, gy)
        shift_grad, slope_grad = elementwise.activation_grad(f, kept, gy, extent, affine, gx)
        self._learn(slope_grad)
        return gx, shift_grad


class ReLU(Elementwise):
    """``max(x, 0)``.

    Parameters
    ----------
    inplace : bool
        Overwrite the input. Within `Sequential` that is done where it can be, without being asked for.
    """

    def __init__(self, inplace: bool = False) -> None:
        self.inplace = inplace

    def _function(self, like: Array) -> Activation:
        return Activation("rectifier", elementwise.constant(0.0, like))

    def _forward(self, x: Array, own: bool) -> Array:
        return super()._forward(x, own or self.inplace)


class LeakyReLU(Elementwise):
    """``x if x > 0 else negative_slope·x``.

    Parameters
    ----------
    negative_slope : float
    inplace : bool
        As in `ReLU`.
    """

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        self.negative_slope = _real("negative_slope", negative_slope)
        self.inplace = inplace
        # With a negative slope, results of both signs may be positive.
        self._by_result = self.negative_slope >= 0

    def _function(self, like: Array) -> Activation:
        return Activation("rectifier", elementwise.constant(self.negative_slope, like))

    def _forward(self, x: Array, own: bool) -> Array:
        return super()._forward(x, own or self.inplace)

    def _arguments(self) -> str:
        return f"negative_slope={self.negative_slope}"


class PReLU(Elementwise):
    """``x if x > 0 else weight[c]·x``, with slopes that are learned.

    Parameters
    ----------
    num_parameters : int
        1, or one for each channel; channels are axis 1.
    init : float
        What the slopes start from.
    dtype : {"float32", "float64"}, optional
        Of the slopes; None is float32.

    Attributes
    ----------
    weight : Parameter, shape (num_parameters,)

    References
    ----------
    He et al., Delving deep into rectifiers, ICCV 2015.
    """

    _by_result = False

    def __init__(self, num_parameters: int = 1, init: float = 0.25, *, dtype: str | None = None) -> None:
        self.num_parameters = as_int("num_parameters", num_parameters)
        if self.num_parameters < 1:
            raise ValueError(f"num_parameters must be at least 1; got {num_parameters}")
        self.weight = Parameter(np.full(self.num_parameters, _real("init", init), float_name(dtype)))

    def _function(self, like: Array) -> Activation:
        checked_input(self, like, self.weight.data)
        return Activation("rectifier", self.weight.data)

    def _channels(self, x: Array) -> int:
        if self.num_parameters == 1:
            return 0
        if x.ndim < 2 or x.shape[1] != self.num_parameters:
            raise ValueError(
                f"x of PReLU must have num_parameters = {self.num_parameters} channels on axis 1; got shape {x.shape}"
            )
        return self.num_parameters

    def _learn(self, slope_sums: Array) -> None:
        if self.weight.requires_grad:
            self.weight.accumulate(slope_sums.sum(keepdims=True) if self.num_parameters == 1 else slope_sums)

    def _arguments(self) -> str:
        return f"num_parameters={self.num_parameters}"


class Tanh(Elementwise):
    """``tanh(x)``."""

    def _function(self, like: Array) -> Activation:
        return Activation("tanh", elementwise.constant(0.0, like))


class Sigmoid(Elementwise):
    """``1 / (1 + exp(-x))``."""

    def _function(self, like: Array) -> Activation:
        return Activation("sigmoid", elementwise.constant(0.0, like))


class GELU(Elementwise):
    """``x·Φ(x)``, where Φ is the distribution function of the standard normal distribution.

    Parameters
    ----------
    approximate : {"none", "tanh"}
        "tanh": ``Φ(x) ≈ (1 + tanh(√(2/π)·(x + 0.044715·x³))) / 2``.

    References
    ----------
    Hendrycks and Gimpel, Gaussian error linear units, 2016.
    """

    _by_result = False

    def __init__(self, approximate: str = "none") -> None:
        if approximate not in ("none", "tanh"):
            raise ValueError(f'approximate must be "none" or "tanh"; got {shown(approximate)}')
        self.approximate = approximate

    def _function(self, like: Array) -> Activation:
        return Activation("gelu" if self.approximate == "none" else "gelu_tanh", elementwise.constant(0.0, like))

    def _arguments(self) -> str:
        return f"approximate={self.approximate!r}"


def _real(name: str, value: Any) -> float:
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name} must be a number; got {shown(value)}")
    return float(value)
