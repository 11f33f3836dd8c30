"""A model that is being trained: its weights, the optimiser's state, the average and the best of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.arrays import namespace
from fastdeconv.fit.checkpoint import BEST
from fastdeconv.nn import Module
from fastdeconv.optim import EMA, Optimizer, clip_grad_norm

Array = NDArray[Any]


class Learner:
    """A model with the state of its optimiser.

    Attributes
    ----------
    model : Module
    best : dict of str to ndarray
        Copies of the weights and buffers as they were at best, by the names of the model's state.
    """

    def __init__(self, model: Module, rule: Optimizer, l1: float, clip_norm: float | None, ema: EMA | None) -> None:
        self.model, self.clip_norm = model, clip_norm
        named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self._names, self._parameters = list(named), list(named.values())
        # A bias or a slope has one axis: a penalty would only pull it from where it fits.
        penalised = replace(rule, l1=l1) if l1 else rule
        self._updates = [(penalised if p.data.ndim > 1 else rule).start(p.data) for p in self._parameters]
        self._average = None if ema is None else ema.start([p.data for p in self._parameters])
        self.best = {name: array.copy() for name, array in model.state_dict().items()}

    def learn(self, gradient: Array, factor: float) -> None:
        """Take one step, given the loss's gradient with respect to the model's last result."""
        for parameter in self._parameters:
            parameter.grad = None
        self.model.backward(gradient)
        if self.clip_norm is not None:
            clip_grad_norm([p.grad for p in self._parameters if p.grad is not None], self.clip_norm)
        for update, parameter in zip(self._updates, self._parameters):
            if parameter.grad is not None:
                update(parameter.grad, factor)
        if self._average is not None:
            self._average.update()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the model compute with the average of its weights, if there is one."""
        if self._average is None:
            yield
            return
        own = [parameter.data for parameter in self._parameters]
        try:
            for parameter, mean in zip(self._parameters, self._average.arrays):
                parameter.data = mean
            yield
        finally:
            for parameter, array in zip(self._parameters, own):
                parameter.data = array

    def _result(self) -> dict[str, Array]:
        """Return what the model would be left with now."""
        averages = {} if self._average is None else dict(zip(self._names, self._average.arrays))
        return self.model.state_dict() | averages

    def finite(self) -> bool:
        """Tell whether no weight is NaN or infinite."""
        return all(bool(namespace(array).isfinite(array).all()) for array in self._result().values())

    def keep_best(self) -> None:
        """Take the weights as they are for the best."""
        for name, array in self._result().items():
            self.best[name][...] = array

    def finish(self, best: bool) -> None:
        """Leave the model with the best weights, or with the last ones."""
        state = self.model.state_dict()
        for name, array in (self.best if best else self._result()).items():
            if array is not state[name]:
                state[name][...] = array

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def arrays(self) -> dict[str, Array]:
        """Return all that a run must have to go on, by name; weights themselves and not copies."""
        arrays = {f"model.{name}": array for name, array in self.model.state_dict().items()}
        arrays |= {BEST + name: array for name, array in self.best.items()}
        for name, update in zip(self._names, self._updates):
            arrays |= {f"optimizer.{name}.{key}": array for key, array in update.state_dict().items()}
        if self._average is not None:
            arrays |= {f"average.{key}": array for key, array in self._average.state_dict().items()}
        return arrays

    def load(self, arrays: Mapping[str, Array]) -> None:
        """Go on from what `arrays` returned in another process.

        Raises
        ------
        KeyError, TypeError, ValueError
            They are of another model.
        """
        for prefix, targets in (("model.", self.model.state_dict()), (BEST, self.best)):
            for name, target in targets.items():
                _copy(arrays[prefix + name], target)
        for name, update in zip(self._names, self._updates):
            update.load_state_dict(under(arrays, f"optimizer.{name}."))
        if self._average is not None:
            self._average.load_state_dict(under(arrays, "average."))


def under(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    """Return the arrays whose names begin so, by the rest of their names."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _copy(array: Array, target: Array) -> None:
    if (array.shape, array.dtype) != (target.shape, target.dtype):
        raise ValueError(f"{array.shape} {array.dtype} is not {target.shape} {target.dtype}")
    if isinstance(target, np.ndarray):
        target[...] = array
    else:
        target.set(array)
