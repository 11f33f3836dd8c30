"""Layers made of layers."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from numpy.typing import NDArray

from fastdeconv.arrays import namespace, operand
from fastdeconv.nn.activations import Elementwise, LeakyReLU, PReLU, ReLU
from fastdeconv.nn.conv import _Convolution
from fastdeconv.nn.module import Module, grad_enabled
from fastdeconv.nn.normalization import _BatchNorm
from fastdeconv.problem import shown

Array = NDArray[Any]


class Identity(Module):
    """The input itself."""

    def _forward(self, x: Array, own: bool) -> Array:
        array = operand("x", x)
        self._keep(array)
        return array

    def _backward(self, grad_output: Array, own: bool) -> Array | None:
        (gradient,) = self._take(grad_output)
        return gradient if self.needs_input_grad else None


class Sequential(Module):
    """Layers one after the other.

    Parameters
    ----------
    *layers : Module
        Named "0", "1", …; or one OrderedDict of names and modules.

    Raises
    ------
    TypeError
        Not a module, or a name that is not a string.
    ValueError
        A name with a dot in it, or one that modules use themselves.

    Notes
    -----
    A convolution and the activation behind it share one pass over memory, which adds the bias too, as do a BatchNorm
    and a rectifier. Under `no_grad` layers overwrite intermediate results that nothing else needs.
    """

    def __init__(self, *layers: Module | OrderedDict[str, Module]) -> None:
        if len(layers) == 1 and isinstance(layers[0], OrderedDict):
            named = list(layers[0].items())
        else:
            named = [(str(i), layer) for i, layer in enumerate(layers)]  # type: ignore[misc]
        self._names: list[str] = []
        for name, layer in named:
            if not isinstance(layer, Module):
                raise TypeError(f"layers must be modules of fastdeconv.nn; got {shown(layer)} at {name!r}")
            if not isinstance(name, str):
                raise TypeError(f"names of layers must be strings; got {shown(name)}")
            if not name or "." in name or hasattr(self, name):
                raise ValueError(f"names of layers must have no dot and be none of Sequential's own; got {name!r}")
            setattr(self, name, layer)
            self._names.append(name)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Module:
        layer: Module = getattr(self, self._names[index])
        return layer

    def __iter__(self) -> Any:
        return (getattr(self, name) for name in self._names)

    @property
    def needs_input_grad(self) -> bool:
        """Whether `backward` computes the gradient of the input: that of the first layer."""
        return self[0].needs_input_grad if self._names else True

    @needs_input_grad.setter
    def needs_input_grad(self, value: bool) -> None:
        if self._names:
            self[0].needs_input_grad = value

    def _forward(self, x: Array, own: bool) -> Array:
        layers = list(self)
        steps: list[tuple[Module, Module | None]] = []
        while layers:
            first, second = layers.pop(0), layers[0] if layers else None
            if second is not None and _together(first, second, x):
                layers.pop(0)
                x = _forward_pair(first, second, x, own)
            else:
                second = None
                x = first._run(x, own)
            steps.append((first, second))
            # While gradients are wanted, a layer may have kept its result.
            own = first._fresh and not grad_enabled()
        self._keep(operand("x", x), steps)
        return x

    def _backward(self, grad_output: Array, own: bool) -> Array | None:
        gradient, steps = self._take(grad_output)
        for first, second in reversed(steps):
            if second is None:
                gradient = first._run_back(gradient, own)
            else:
                gradient = _backward_pair(first, second, gradient, own)
            own = first._fresh
        result: Array | None = gradient
        return result


class Residual(Sequential):
    """``x + f(x)``, where f is layers one after the other, which must keep the shape.

    Parameters
    ----------
    *layers : Module
        As in `Sequential`.
    """

    def _forward(self, x: Array, own: bool) -> Array:
        array = operand("x", x)
        y = super()._forward(array, False)
        if y.shape != array.shape:
            raise ValueError(f"x of Residual must get a result of its own shape {array.shape}; got {y.shape}")
        last = self[-1] if self._names else self
        kept = grad_enabled() and isinstance(last, Elementwise)
        return _sum(y, array, last._fresh and not kept)

    def _backward(self, grad_output: Array, own: bool) -> Array | None:
        gradient = operand("grad_output", grad_output)
        gx = super()._backward(gradient, False)
        return None if gx is None else _sum(gx, gradient, bool(self._names) and self[0]._fresh)


def _sum(a: Array, b: Array, own: bool) -> Array:
    """Return a + b, in a's memory if that may be overwritten."""
    if own:
        a += b
        return a
    total: Array = namespace(a).add(a, b)
    return total


def _together(first: Module, second: Module, x: Any) -> bool:
    """Tell whether two layers can share passes over memory."""
    if not (first._fusable and second._fusable and isinstance(second, Elementwise)):
        return False
    if isinstance(first, _BatchNorm):
        return isinstance(second, ReLU | LeakyReLU | PReLU)
    return isinstance(first, _Convolution) and getattr(x, "ndim", 0) == first._ndim + 2


def _forward_pair(first: Any, second: Any, x: Array, own: bool) -> Array:
    if isinstance(first, _BatchNorm):
        second._channels(x)  # refuses channels that it has no slopes for
        return first._apply(x, second._function(x), own)
    z = first._linear(x)
    second._channels(z)
    result: Array = second._apply(z, first._extent(z), None if first.bias is None else first.bias.data, True)
    return result


def _backward_pair(first: Any, second: Any, grad_output: Array, own: bool) -> Array | None:
    if isinstance(first, _BatchNorm):
        gx, slope_grad = first._gradient(grad_output, own)
        second._learn(slope_grad)
        return gx
    gz, shift_grad = second._gradient(grad_output, own)
    result: Array | None = first._gradient(gz, shift_grad)
    return result
