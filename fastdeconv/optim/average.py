"""Exponential moving averages of weights: they vary less than the weights of any one step, and often predict better."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.optim.checks import State, check_state, copy_in, copy_out, flag, flat, fraction
from fastdeconv.optim.fused import launcher

Array = NDArray[Any]


@dataclass(frozen=True)
class EMA:
    """An average of weights in which those of a step fade by `decay` with each further one.

    Parameters
    ----------
    decay : float
        From 0 to below 1.
    warmup : bool
        Use ``min(decay, (1 + t) / (10 + t))`` at the update after t others: the first weights, which are random, fade
        sooner.

    References
    ----------
    Polyak and Juditsky, Acceleration of stochastic approximation by averaging, 1992;
    ``torch.optim.swa_utils.get_ema_avg_fn``; the warm-up is that of ``tf.train.ExponentialMovingAverage``.
    """

    decay: float = 0.999
    _: KW_ONLY
    warmup: bool = False

    def __post_init__(self) -> None:
        fraction("decay", self.decay)
        flag("warmup", self.warmup)

    def start(self, parameters: Iterable[Array]) -> Average:
        """Return the average of some arrays, which starts as their copies.

        Parameters
        ----------
        parameters : iterable of ndarray
            C-contiguous, float32 or float64, of NumPy or CuPy.

        Raises
        ------
        TypeError, ValueError
        """
        return Average(self, parameters)


class Average:
    """What ``EMA(decay).start(parameters)`` returns.

    Attributes
    ----------
    arrays : list of ndarray
        The average of each parameter, of its shape, dtype and device.
    """

    def __init__(self, rule: EMA, parameters: Iterable[Array]) -> None:
        self.rule = rule
        parameters = list(parameters)
        self._parameters = [flat(f"parameters[{i}]", each) for i, each in enumerate(parameters)]
        self.arrays: list[Array] = [each.copy() for each in parameters]
        self._launches = [launcher("average", each) for each in self._parameters]
        self._count = 0

    def update(self) -> None:
        """Take in the parameters as they are now."""
        decay = self.rule.decay
        if self.rule.warmup:
            decay = min(decay, (1 + self._count) / (10 + self._count))
        self._count += 1
        for launch, mean, parameter in zip(self._launches, self.arrays, self._parameters):
            launch((mean.reshape(-1), parameter), (1 - decay,))

    def state_dict(self) -> State:
        """Return the number of updates so far and copies of the averages, by their place in `arrays`."""
        return {"step": np.array(self._count, np.int64)} | {str(i): copy_out(a) for i, a in enumerate(self.arrays)}

    def load_state_dict(self, state: State) -> None:
        """Go on from a state, as if nothing had come between.

        Raises
        ------
        TypeError, ValueError
            It has other keys, shapes or dtypes than ``state_dict()``; the message names them. Then nothing is changed.
        """
        check_state(state, {"step": np.array(0, np.int64)} | {str(i): a for i, a in enumerate(self.arrays)})
        self._count = int(state["step"])
        for i, array in enumerate(self.arrays):
            copy_in(state[str(i)], array)
