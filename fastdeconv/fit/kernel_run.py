"""One descent of `fit_kernel`: steps, the best kernel so far, and when to stop."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.fit.checks import schedule_factor
from fastdeconv.fit.kernel_result import FitState
from fastdeconv.fit.objective import Objective
from fastdeconv.fit.progress import Show
from fastdeconv.optim import Optimizer, Schedule

Array = NDArray[Any]

# A run has diverged when its loss is this many times that of the start and that of the zero kernel.
DIVERGED = 1e6

# At a minimum, the loss stays within this much of the best.
_SPREAD = 1e-3


# A step that is too long overflows. The loss tells, so that warnings would only repeat it.
quiet = partial(np.errstate, all="ignore")


@dataclass(frozen=True)
class Stop:
    """When a descent ends."""

    max_steps: int
    max_seconds: float
    tol: float | None
    patience: int


@dataclass
class Run:
    """One descent: the parameters, what they were at best, and the history."""

    objective: Objective
    w: Array
    b: Array | None
    rule: Optimizer
    schedule: Schedule
    batch: int | None
    generator: np.random.Generator
    stop: Stop
    start: float
    step: int = 0
    best: float = math.inf
    best_step: int = 0
    history: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.best_w, self.best_b = self.w.copy(), None if self.b is None else self.b.copy()
        self._gw = np.empty_like(self.w)
        self._step_w = self.rule.start(self.w)
        self._step_b = None if self.b is None else replace(self.rule, weight_decay=0.0).start(self.b)
        self._recent = deque[float](maxlen=self.stop.patience + 1)
        self._limit = self._rounding = 0.0

    def descend(self, callback: Callable[[FitState], Any] | None, show: Show | None) -> tuple[str, bool]:
        """Step until there is a reason to stop; return it, and whether it is that nothing was left to gain."""
        x, y_true = self.objective.x, self.objective.y_true
        y = np.empty_like(y_true)
        while True:
            with quiet():
                value = self.objective.value(x, y_true, self.w, self.b, y)
            self._record(value)
            if show is not None:
                show(self.step, f"loss {value:.4g}")
            reason = self._reason_to_stop(value)
            if callback is not None:
                answer = callback(self._state(value))
                if reason is None and isinstance(answer, bool | np.bool_) and answer:
                    reason = f"stopped by the callback at step {self.step}", False
            if reason is not None:
                return reason
            if self.batch is None:
                self._update(x, y)
            else:
                self._pass_over_batches(self.batch)

    def as_given(self, w: Array) -> Array:
        """Return the kernel in the shape that the caller's arrays have."""
        return w.reshape(self.objective.problem.kernel_size) if self.objective.bare else w

    def _record(self, value: float) -> None:
        if not self.history:
            zero_kernel = self.objective.loss(np.zeros_like(self.objective.y_true), self.objective.y_true)
            self._limit = DIVERGED * max(value if math.isfinite(value) else 0.0, zero_kernel)
            self._rounding = self.objective.rounding()
        self.history.append(value)
        if value < self.best:
            self.best, self.best_step = value, self.step
            self.best_w[...] = self.w
            if self.b is not None and self.best_b is not None:
                self.best_b[...] = self.b
        self._recent.append(self.best)
        observe = getattr(self.schedule, "observe", None)
        if observe is not None:
            observe(value)

    def _reason_to_stop(self, value: float) -> tuple[str, bool] | None:
        stop = self.stop
        if not value <= self._limit:
            return (
                f"diverged: the loss is {value:.3g} at step {self.step}, and {self.history[0]:.3g} at the start; the "
                f"kernel is that of step {self.best_step}, the best so far. Use a learning_rate below "
                f"{self.rule.learning_rate:.3g}",
                False,
            )
        if value == 0:
            return f"converged at step {self.step}: the loss is zero", True
        if stop.tol is not None and len(self._recent) > stop.patience:
            before = self._recent[0]
            if before - self.best <= stop.tol * before:
                return self._standstill(value, stop.tol)
        if self.step >= stop.max_steps:
            # Without tol, the schedule was made to end here.
            falling = "" if stop.tol is None else ", with the loss still falling"
            return f"stopped at max_steps={stop.max_steps}{falling}", False
        if time.perf_counter() - self.start >= stop.max_seconds:
            return f"stopped at max_seconds={stop.max_seconds:g}, at step {self.step}", False
        return None

    def _standstill(self, value: float, tol: float) -> tuple[str, bool]:
        """Tell a minimum from steps too long to reach it."""
        steps = "steps" if self.batch is None else "passes over x"
        by = f"at most tol={tol:g} of itself" if tol else "nothing"
        fell = f"the best loss fell by {by} in {self.stop.patience} {steps}"
        if value <= self.best * (1 + max(tol, _SPREAD)) + self._rounding:
            return f"converged at step {self.step}: {fell}", True
        return (
            f"stopped at step {self.step}: {fell}, and the loss moves above it, now at {value:.3g}; the kernel is that "
            f'of step {self.best_step}. Use a learning_rate below {self.rule.learning_rate:.3g}, or schedule="cosine"',
            False,
        )

    def _update(self, x: Array, gy: Array) -> None:
        factor = schedule_factor(self.schedule, self.step)
        with quiet():
            self._step_w(self.objective.gradient(x, gy, self.w, self._gw), factor)
            if self._step_b is not None:
                self._step_b(self.objective.bias_gradient(gy), factor)
        self.step += 1

    def _pass_over_batches(self, size: int) -> None:
        x, y_true = self.objective.x, self.objective.y_true
        order = self.generator.permutation(len(x))
        for lo in range(0, len(x), size):
            if self.step >= self.stop.max_steps or time.perf_counter() - self.start >= self.stop.max_seconds:
                return
            chosen = order[lo : lo + size]
            part, gy = x[chosen], np.empty_like(y_true[: len(chosen)])
            with quiet():
                self.objective.value(part, y_true[chosen], self.w, self.b, gy)
            self._update(part, gy)

    def _state(self, value: float) -> FitState:
        kernel, bias = self.as_given(self.w).view(), None if self.b is None else self.b.view()
        for a in (kernel, bias):
            if a is not None:
                a.flags.writeable = False
        assert self.rule.learning_rate is not None
        rate = self.rule.learning_rate * schedule_factor(self.schedule, self.step)
        return FitState(self.step, value, kernel, bias, rate, time.perf_counter() - self.start)
