"""Learning-rate schedules: the factor of the learning rate at a step, counted from 0."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np

from fastdeconv.optim.checks import State, check_state, number
from fastdeconv.problem import as_int

Schedule = Callable[[int], float]


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
            return _rise(step, self.warmup)
        done = min(1.0, (step - self.warmup) / (self.steps - self.warmup))
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True)
class Warmup:
    """Rise in a straight line over some steps, then follow another schedule from its beginning.

    Parameters
    ----------
    steps : int
        At least 0.
    then : callable, optional
        A schedule; None stays at 1.

    References
    ----------
    Goyal et al., Accurate, large minibatch SGD, 2017; ``torch.optim.lr_scheduler.LinearLR``.
    """

    steps: int
    then: Schedule | None = None

    def __post_init__(self) -> None:
        if as_int("steps", self.steps) < 0:
            raise ValueError(f"steps must be at least 0; got {self.steps}")
        if self.then is not None and (isinstance(self.then, type) or not callable(self.then)):
            raise TypeError(f"then must be a schedule, such as optim.StepDecay(1000), or None; got {self.then!r}")

    def __call__(self, step: int) -> float:
        """Return the factor of the learning rate at a step, counted from 0."""
        if step < self.steps:
            return _rise(step, self.steps)
        return 1.0 if self.then is None else self.then(step - self.steps)


class Plateau:
    """Multiply the learning rate by `reduction` where a metric no longer gets better.

    Unlike other schedules it has state: `observe` is given the metric, of an epoch or a validation, and `factor`, which
    calls return whatever the step, changes then only.

    Parameters
    ----------
    reduction : float
        Above 0 and below 1.
    mode : {"min", "max"}
        Whether a smaller or a larger metric is better.
    patience : int
        Observations without a better metric that are let pass: the next reduces the rate.
    threshold : float
        By how much a metric must be better than the best so far to count.
    threshold_mode : {"rel", "abs"}
        Whether `threshold` is a part of the best so far or in the metric's units.
    cooldown : int
        Observations after a reduction that do not count.
    floor : float
        From 0 to 1: `factor` falls no further.

    Attributes
    ----------
    factor : float
        Of the learning rate: 1 at first.

    Raises
    ------
    TypeError, ValueError
        The message names the argument, what came and what would do.

    References
    ----------
    ``torch.optim.lr_scheduler.ReduceLROnPlateau``.
    """

    def __init__(
        self,
        reduction: float = 0.1,
        *,
        mode: str = "min",
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        floor: float = 0.0,
    ) -> None:
        if number("reduction", reduction, positive=True) >= 1:
            raise ValueError(f"reduction must be above 0 and below 1; got {reduction}")
        if mode not in ("min", "max"):
            raise ValueError(f'mode must be "min" or "max"; got {mode!r}')
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(f'threshold_mode must be "rel" or "abs"; got {threshold_mode!r}')
        for name, count in (("patience", patience), ("cooldown", cooldown)):
            if as_int(name, count) < 0:
                raise ValueError(f"{name} must be at least 0; got {count}")
        if number("floor", floor) > 1:
            raise ValueError(f"floor must be from 0 to 1; got {floor}")
        number("threshold", threshold)
        self.reduction, self.mode, self.patience, self.cooldown = reduction, mode, patience, cooldown
        self.threshold, self.threshold_mode, self.floor = threshold, threshold_mode, floor
        self.factor = 1.0
        self._best = math.inf if mode == "min" else -math.inf
        self._waited = 0  # observations without a better one
        self._cooling = 0  # observations that do not count yet

    def __repr__(self) -> str:
        return (
            f"Plateau({self.reduction}, mode={self.mode!r}, patience={self.patience}, threshold={self.threshold}, "
            f"threshold_mode={self.threshold_mode!r}, cooldown={self.cooldown}, floor={self.floor})"
        )

    def __call__(self, step: int) -> float:
        """Return `factor`."""
        return self.factor

    def observe(self, metric: float) -> None:
        """Take in the next metric; NaN is not better than any.

        Raises
        ------
        TypeError
            It is no number.
        """
        if isinstance(metric, bool | np.bool_) or not isinstance(metric, int | float | np.integer | np.floating):
            raise TypeError(f"metric must be a number; got {metric!r} of type {type(metric).__name__}")
        if self._better(float(metric)):
            self._best = float(metric)
            self._waited = 0
        else:
            self._waited += 1
        if self._cooling:
            self._cooling -= 1
            self._waited = 0
        if self._waited > self.patience:
            self.factor = max(self.factor * self.reduction, self.floor)
            self._cooling = self.cooldown
            self._waited = 0

    def _better(self, metric: float) -> bool:
        sign = -1 if self.mode == "min" else 1
        if self.threshold_mode == "abs":
            bar = self._best + sign * self.threshold
        else:
            bar = self._best * (1 + sign * self.threshold)
        return metric < bar if self.mode == "min" else metric > bar

    def state_dict(self) -> State:
        """Return what the observations so far have left."""
        return {
            "factor": np.array(self.factor),
            "best": np.array(self._best),
            "waited": np.array(self._waited, np.int64),
            "cooling": np.array(self._cooling, np.int64),
        }

    def load_state_dict(self, state: State) -> None:
        """Go on from a state, as if nothing had come between.

        Raises
        ------
        TypeError, ValueError
            It has other keys, shapes or dtypes than ``state_dict()``; the message names them. Then nothing is changed.
        """
        check_state(state, self.state_dict())
        self.factor, self._best = float(state["factor"]), float(state["best"])
        self._waited, self._cooling = int(state["waited"]), int(state["cooling"])


def constant(step: int) -> float:
    """Return 1: the schedule that leaves the learning rate as it is."""
    return 1.0


def _rise(step: int, steps: int) -> float:
    """Return the factor within a warm-up, which would be 1 at its end."""
    return (step + 1) / (steps + 1)


_SCHEDULES: dict[str, Callable[[int], Schedule]] = {
    "constant": lambda steps: constant,
    "step": lambda steps: StepDecay(-(-steps // 3)),
    "cosine": Cosine,
    "warmup": lambda steps: Warmup(steps // 20),
    "warmup_cosine": lambda steps: Cosine(steps, warmup=steps // 20),
    "plateau": lambda steps: Plateau(),
}


def as_schedule(schedule: Any, steps: int) -> Schedule:
    """Return a schedule over `steps` steps from its name, or the callable itself, or a copy of one that has a state.

    "step" divides the rate by ten after each third of the run; "warmup" and "warmup_cosine" rise over its first
    twentieth; "plateau" divides it by ten where 10 observations (`Plateau.observe`) did not improve.

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
    # One with a state would go on from what another run has left there.
    return copy.deepcopy(schedule) if hasattr(schedule, "observe") else schedule  # type: ignore[no-any-return]
