"""The state of an update rule for one array, and its steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.arrays import namespace, operand
from fastdeconv.devices import place_of
from fastdeconv.optim.checks import State, check_state, copy_in, copy_out, flat
from fastdeconv.optim.fused import launcher

if TYPE_CHECKING:
    from fastdeconv.optim.rules import Optimizer

Array = NDArray[Any]


class Update:
    """What ``rule.start(parameter)`` returns: ``update(gradient, factor=1.0)`` changes the parameter in place.

    Attributes
    ----------
    rule : Optimizer
    parameter : ndarray
        The array that it was started with.
    """

    def __init__(self, rule: Optimizer, parameter: Array) -> None:
        self.rule = rule
        self._parameter = flat("parameter", parameter)
        self.parameter = parameter
        rate = rule.learning_rate
        if rate is None:
            raise ValueError(f"learning_rate must be given: {type(rule).__name__}(learning_rate=0.01) for instance")
        self._rate = rate
        self._flags = int(rule._flags())
        names = rule._buffers()
        # Kernels want an array in every place, and do not look at those that the flags leave unused.
        self._buffers = tuple(
            namespace(parameter).zeros_like(self._parameter) if name else self._parameter[:0] for name in names
        )
        self._named = {name: buffer for name, buffer in zip(names, self._buffers) if name}
        self._count = 0
        self._launch = launcher(rule._kernel, self._parameter)

    def __call__(self, gradient: Array, factor: float = 1.0) -> None:
        """Update the parameter with the learning rate times `factor`.

        Parameters
        ----------
        gradient : ndarray
            Of the parameter's shape and dtype, on its device. It is not changed.
        factor : float
            Of a schedule.

        Raises
        ------
        TypeError, ValueError
            The message names the argument, what came and what would do.
        """
        gradient = operand("gradient", gradient)
        like = self.parameter
        if gradient.shape != like.shape:
            raise ValueError(f"gradient must have the parameter's shape {like.shape}; got {gradient.shape}")
        if gradient.dtype != like.dtype:
            raise TypeError(f"gradient must have the parameter's dtype {like.dtype}; got {gradient.dtype}")
        if not (type(gradient) is type(like) is np.ndarray) and place_of(gradient) != place_of(like):
            raise ValueError(f"gradient must be on {place_of(like)}, as the parameter; got {place_of(gradient)}")
        if not gradient.flags.c_contiguous:
            gradient = namespace(gradient).ascontiguousarray(gradient)
        self._count += 1
        settings = self.rule._settings(self._count, self._rate * factor)
        self._launch((self._parameter, gradient.reshape(-1), *self._buffers), settings, self._flags)

    def state_dict(self) -> State:
        """Return the number of steps so far and copies of the running means, by the names that torch gives them."""
        return {"step": np.array(self._count, np.int64)} | {
            name: copy_out(buffer) for name, buffer in self._shaped().items()
        }

    def load_state_dict(self, state: State) -> None:
        """Go on from a state: the next steps give the bits that they would have given where it was taken.

        Raises
        ------
        TypeError, ValueError
            It has other keys, shapes or dtypes than ``state_dict()``; the message names them. Then nothing is changed.
        """
        check_state(state, {"step": np.array(0, np.int64)} | self._shaped())
        self._count = int(state["step"])
        for name, buffer in self._shaped().items():
            copy_in(state[name], buffer)

    def _shaped(self) -> State:
        return {name: buffer.reshape(self.parameter.shape) for name, buffer in self._named.items()}
