"""Update rules of gradient descent and learning-rate schedules, as ``torch.optim`` defines them.

A rule holds hyper-parameters only. ``step = rule.start(parameter)`` makes the state for one array, and
``step(gradient, factor)`` updates that array in place with the learning rate times `factor`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.problem import as_int

Array = NDArray[Any]
Step = Callable[..., None]
Schedule = Callable[[int], float]


@dataclass(frozen=True)
class Optimizer(ABC):
    """What all update rules share.

    Parameters
    ----------
    learning_rate : float, optional
        Positive. None lets `fastdeconv.fit_kernel` choose it; `start` needs it.
    weight_decay : float
        Not negative. Times the parameter, it is added to the gradient (AdamW: it shrinks the parameter directly).

    Raises
    ------
    TypeError, ValueError
        The message names the argument, what came and what would do.
    """

    learning_rate: float | None = None
    _: KW_ONLY
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.learning_rate is not None:
            number("learning_rate", self.learning_rate, positive=True)
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("momentum", "dampening", "alpha"):
                _fraction(field.name, value)
            elif field.name in ("weight_decay", "eps"):
                number(field.name, value)
            elif field.name in ("nesterov", "amsgrad", "centered") and not isinstance(value, bool | np.bool_):
                raise TypeError(f"{field.name} must be True or False; got {value!r}")

    @property
    @abstractmethod
    def memory(self) -> int:
        """Steps after which the rule has forgotten a gradient, near enough; a shorter look misjudges its progress."""

    @abstractmethod
    def _rule(self, parameter: Array) -> Callable[[Array, float], None]:
        """Return ``update(gradient, learning_rate)``, which may not change the gradient."""

    def start(self, parameter: Array) -> Step:
        """Return ``step(gradient, factor=1.0)``, which updates `parameter` in place.

        Raises
        ------
        ValueError
            The rule has no learning rate.
        """
        rate = self.learning_rate
        if rate is None:
            raise ValueError(f"learning_rate must be given: {type(self).__name__}(learning_rate=0.01) for instance")
        update = self._rule(parameter)

        def step(gradient: Array, factor: float = 1.0) -> None:
            update(gradient, rate * factor)

        return step


@dataclass(frozen=True)
class SGD(Optimizer):
    """Gradient descent; with momentum (Polyak's) or Nesterov's momentum if asked.

    Parameters
    ----------
    learning_rate, weight_decay
        As in `Optimizer`.
    momentum, dampening : float
        From 0 to below 1.
    nesterov : bool
        Needs momentum, and no dampening.

    References
    ----------
    Sutskever et al., On the importance of initialization and momentum in deep learning, 2013; ``torch.optim.SGD``.
    """

    _: KW_ONLY
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and (not self.momentum or self.dampening):
            raise ValueError(
                f"nesterov=True needs momentum above 0 and dampening=0; got momentum={self.momentum}, "
                f"dampening={self.dampening}"
            )

    @property
    def memory(self) -> int:
        """An oscillation under momentum shrinks by ``√momentum`` a step, to 1/150 in ``10 / (1 - momentum)``."""
        return round(10 / (1 - self.momentum))

    def _rule(self, parameter: Array) -> Callable[[Array, float], None]:
        velocity: Array | None = None

        def update(gradient: Array, rate: float) -> None:
            nonlocal velocity
            direction = _decayed(gradient, parameter, self.weight_decay)
            if self.momentum:
                if velocity is None:
                    velocity = direction.copy()
                else:
                    velocity *= self.momentum
                    velocity += (1 - self.dampening) * direction
                direction = direction + self.momentum * velocity if self.nesterov else velocity
            parameter[...] -= rate * direction

        return update


@dataclass(frozen=True)
class Adam(Optimizer):
    """Steps scaled by running means of the gradient and of its square.

    Parameters
    ----------
    learning_rate, weight_decay
        As in `Optimizer`.
    betas : pair of float
        Decay of the two running means, from 0 to below 1.
    eps : float
        Added to the root of the mean square. Not negative.
    amsgrad : bool
        Use the largest mean square so far.

    References
    ----------
    Kingma and Ba, Adam, 2015; ``torch.optim.Adam``.
    """

    _: KW_ONLY
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    amsgrad: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.betas, tuple | list) or len(self.betas) != 2:
            raise TypeError(f"betas must be a pair of numbers; got {self.betas!r}")
        for beta in self.betas:
            _fraction("betas", beta)

    @property
    def memory(self) -> int:
        """The longer of ten times the first mean's and once the second mean's."""
        return round(max(10 / (1 - self.betas[0]), 1 / (1 - self.betas[1])))

    def _rule(self, parameter: Array) -> Callable[[Array, float], None]:
        first, second = np.zeros_like(parameter), np.zeros_like(parameter)
        largest = np.zeros_like(parameter) if self.amsgrad else None
        beta1, beta2 = self.betas
        count = 0

        def update(gradient: Array, rate: float) -> None:
            nonlocal count
            count += 1
            gradient = self._decay(parameter, gradient, rate)
            first[...] += (1 - beta1) * (gradient - first)
            second[...] = beta2 * second + (1 - beta2) * gradient * gradient
            square = second if largest is None else np.maximum(largest, second, out=largest)
            scale = np.sqrt(square) / math.sqrt(1 - beta2**count) + self.eps
            parameter[...] -= rate / (1 - beta1**count) * (first / scale)

        return update

    def _decay(self, parameter: Array, gradient: Array, rate: float) -> Array:
        return _decayed(gradient, parameter, self.weight_decay)


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam whose weight decay bypasses the running means.

    Parameters
    ----------
    learning_rate, weight_decay, betas, eps, amsgrad
        As in `Adam`; weight_decay is 0.01 unless given.

    References
    ----------
    Loshchilov and Hutter, Decoupled weight decay regularization, 2019; ``torch.optim.AdamW``.
    """

    _: KW_ONLY
    weight_decay: float = 0.01

    def _decay(self, parameter: Array, gradient: Array, rate: float) -> Array:
        parameter *= 1 - rate * self.weight_decay
        return gradient


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """Steps scaled by a running mean of the gradient's square.

    Parameters
    ----------
    learning_rate, weight_decay
        As in `Optimizer`.
    alpha, momentum : float
        Decay of the running mean, and momentum; from 0 to below 1.
    eps : float
        Added to the root of the mean square. Not negative.
    centered : bool
        Scale by the running standard deviation instead.

    References
    ----------
    Tieleman and Hinton, Lecture 6.5, Neural Networks for Machine Learning, 2012; ``torch.optim.RMSprop``.
    """

    _: KW_ONLY
    alpha: float = 0.99
    momentum: float = 0.0
    eps: float = 1e-8
    centered: bool = False

    @property
    def memory(self) -> int:
        """The longer of ten times the momentum's and once the mean square's."""
        return round(max(10 / (1 - self.momentum), 1 / (1 - self.alpha)))

    def _rule(self, parameter: Array) -> Callable[[Array, float], None]:
        square, mean, velocity = (np.zeros_like(parameter) for _ in range(3))

        def update(gradient: Array, rate: float) -> None:
            gradient = _decayed(gradient, parameter, self.weight_decay)
            square[...] = self.alpha * square + (1 - self.alpha) * gradient * gradient
            variance = square
            if self.centered:
                mean[...] += (1 - self.alpha) * (gradient - mean)
                # Rounding may leave the difference of two nearly equal numbers below zero.
                variance = np.maximum(square - mean * mean, 0)
            direction = gradient / (np.sqrt(variance) + self.eps)
            if self.momentum:
                velocity[...] = self.momentum * velocity + direction
                direction = velocity
            parameter[...] -= rate * direction

        return update


def _decayed(gradient: Array, parameter: Array, weight_decay: float) -> Array:
    return gradient + weight_decay * parameter if weight_decay else gradient


_OPTIMIZERS: dict[str, Callable[[], Optimizer]] = {
    "sgd": SGD,
    "momentum": lambda: SGD(momentum=0.9),
    "nesterov": lambda: SGD(momentum=0.9, nesterov=True),
    "adam": Adam,
    "adamw": AdamW,
    "rmsprop": RMSprop,
}


def as_optimizer(optimizer: Any) -> Optimizer:
    """Return an update rule from its name, or the rule itself.

    Raises
    ------
    TypeError, ValueError
    """
    names = ", ".join(f'"{name}"' for name in _OPTIMIZERS)
    wanted = f"optimizer must be one of {names}, or an object such as optim.Adam(betas=(0.9, 0.99))"
    if isinstance(optimizer, Optimizer):
        return optimizer
    if not isinstance(optimizer, str):
        kind = optimizer.__name__ + ", a class: call it" if isinstance(optimizer, type) else repr(optimizer)
        raise TypeError(f"{wanted}; got {kind}")
    if optimizer not in _OPTIMIZERS:
        raise ValueError(f"{wanted}; got {optimizer!r}")
    return _OPTIMIZERS[optimizer]()


# -- schedules ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class StepDecay:
    """Multiply the learning rate by `factor` after every `every` steps; ``torch.optim.lr_scheduler.StepLR``.

    Parameters
    ----------
    every : int
        At least 1.
    factor : float
        Positive.
    """

    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        if as_int("every", self.every) < 1:
            raise ValueError(f"every must be at least 1; got {self.every}")
        number("factor", self.factor, positive=True)

    def __call__(self, step: int) -> float:
        """Return the factor of the learning rate at a step, counted from 0."""
        return float(self.factor ** (step // self.every))


@dataclass(frozen=True)
class Cosine:
    """Rise in a straight line over `warmup` steps, then fall along half a cosine to `floor` at `steps`.

    Parameters
    ----------
    steps : int
        Length of the schedule, warm-up included; the factor stays at `floor` after it.
    warmup : int
        From 0 to below `steps`.
    floor : float
        From 0 to 1.

    References
    ----------
    Loshchilov and Hutter, SGDR, 2017; ``torch.optim.lr_scheduler.CosineAnnealingLR`` with no warm-up.
    """

    steps: int
    _: KW_ONLY
    warmup: int = 0
    floor: float = 0.0

    def __post_init__(self) -> None:
        if as_int("steps", self.steps) < 1:
            raise ValueError(f"steps must be at least 1; got {self.steps}")
        if not 0 <= as_int("warmup", self.warmup) < self.steps:
            raise ValueError(f"warmup must be from 0 to below steps={self.steps}; got {self.warmup}")
        if number("floor", self.floor) > 1:
            raise ValueError(f"floor must be from 0 to 1; got {self.floor}")

    def __call__(self, step: int) -> float:
        """Return the factor of the learning rate at a step, counted from 0."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        done = min(1.0, (step - self.warmup) / (self.steps - self.warmup))
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * done))


def constant(step: int) -> float:
    """Return 1: the schedule that leaves the learning rate as it is."""
    return 1.0


_SCHEDULES: dict[str, Callable[[int], Schedule]] = {
    "constant": lambda steps: constant,
    "step": lambda steps: StepDecay(-(-steps // 3)),
    "cosine": Cosine,
    "warmup_cosine": lambda steps: Cosine(steps, warmup=steps // 20),
}


def as_schedule(schedule: Any, steps: int) -> Schedule:
    """Return a schedule over `steps` steps from its name, or the callable itself.

    "step" divides the rate by ten after each third of the run; "warmup_cosine" rises over its first twentieth.

    Raises
    ------
    TypeError, ValueError
    """
    names = ", ".join(f'"{name}"' for name in _SCHEDULES)
    wanted = f"schedule must be one of {names}, or a callable that takes a step and returns a factor"
    if isinstance(schedule, str):
        if schedule not in _SCHEDULES:
            raise ValueError(f"{wanted}; got {schedule!r}")
        return _SCHEDULES[schedule](steps)
    if isinstance(schedule, type) or not callable(schedule):
        raise TypeError(f"{wanted}; got {schedule!r}")
    return schedule  # type: ignore[no-any-return]


# -- checks -------------------------------------------------------------------------------------


def number(name: str, value: Any, *, positive: bool = False) -> float:
    """Return a finite number that is not negative, or positive if asked, as a float.

    Raises
    ------
    TypeError, ValueError
    """
    wanted = f"{name} must be a positive number" if positive else f"{name} must be a number of at least 0"
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{wanted}; got {value!r} of type {type(value).__name__}")
    if not 0 <= value < math.inf or (positive and value == 0):
        raise ValueError(f"{wanted}; got {value!r}")
    return float(value)


def _fraction(name: str, value: Any) -> None:
    if number(name, value) >= 1:
        raise ValueError(f"{name} must be from 0 to below 1; got {value!r}")
