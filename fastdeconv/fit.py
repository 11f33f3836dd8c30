"""Learn the kernel of a transposed convolution by gradient descent.

Initialise the kernel; ``y = conv_transpose(x, w)``; take the loss and its gradient; step; repeat until converged.
"""

from __future__ import annotations

import importlib.util
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.losses import MSE, Huber, Loss, as_loss
from fastdeconv.objective import Objective
from fastdeconv.optim import SGD, Optimizer, Schedule, as_optimizer, as_schedule, constant, number
from fastdeconv.problem import IntOrTuple, as_int

Array = NDArray[Any]

# A run has diverged when its loss is this many times that of the start and that of the zero kernel.
_DIVERGED = 1e6

# At a minimum, the loss stays within this much of the best.
_SPREAD = 1e-3


# A step that is too long overflows. The loss tells, so that warnings would only repeat it.
_quiet = partial(np.errstate, all="ignore")

# Entries of an array that the result's repr prints in full.
_SHOWN = 50


class FitResult(dict[str, Any]):
    """What `fit_kernel` returns; each entry is also an attribute, as in ``scipy.optimize.OptimizeResult``.

    Attributes
    ----------
    kernel : ndarray, shape (C_in, C_out / groups, …)
        Of the lowest loss seen; of shape `kernel_size` where x and y_true are bare.
    bias : ndarray, shape (C_out,), or None
    loss : float
        Of `kernel` and `bias`, on all of x, penalties included: the smallest of `history`.
    history : ndarray
        The loss before each step and after the last one; with batches, before each pass over x and after the last step.
    converged : bool
        Whether the run stopped because nothing was left to gain, by `tol`.
    message : str
        Why the run stopped.
    n_iter : int
        Steps taken.
    seconds : float
    learning_rate : float
        Before the schedule; of interest where `fit_kernel` chose it.
    output_padding : tuple of int
        That gives y_true's size.
    """

    kernel: Array
    bias: Array | None
    loss: float
    history: NDArray[np.float64]
    converged: bool
    message: str
    n_iter: int
    seconds: float
    learning_rate: float
    output_padding: tuple[int, ...]

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"FitResult has no {name!r}; it has {', '.join(self)}") from None

    __setattr__ = dict.__setitem__
    __delattr__ = dict.__delitem__

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self]

    def __repr__(self) -> str:
        width = max(map(len, self), default=0)
        return "\n".join(f"{name:>{width}}: {_brief(value, width + 2)}" for name, value in self.items())


def _brief(value: Any, indent: int) -> str:
    if isinstance(value, np.ndarray):
        ends = f"{value[0]:.6g} … {value[-1]:.6g}, " if value.ndim == 1 and value.size > 3 else ""
        if value.size <= _SHOWN:
            return np.array2string(value, precision=5, prefix=" " * indent)
        return f"{ends}array of shape {value.shape}, {value.dtype}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class FitState:
    """What a callback is given.

    Attributes
    ----------
    step : int
        Steps taken so far.
    loss : float
        Of `kernel` and `bias`, on all of x, penalties included.
    kernel, bias
        As in `FitResult`, read-only, and overwritten by the next step: copy what is to stay.
    learning_rate : float
        Of the next step.
    seconds : float
        Since the start.
    """

    step: int
    loss: float
    kernel: Array
    bias: Array | None
    learning_rate: float
    seconds: float


def fit_kernel(
    x: Array,
    y_true: Array,
    kernel_size: IntOrTuple,
    *,
    stride: IntOrTuple = 1,
    padding: IntOrTuple = 0,
    output_padding: IntOrTuple = 0,
    groups: int = 1,
    dilation: IntOrTuple = 1,
    loss: str | Loss = "mse",
    optimizer: str | Optimizer = "sgd",
    learning_rate: float | None = None,
    schedule: str | Schedule | None = None,
    l1: float = 0.0,
    l2: float = 0.0,
    max_steps: int = 5_000,
    max_seconds: float | None = None,
    tol: float | None = None,
    patience: int | None = None,
    batch_size: int | None = None,
    init: str | Array = "zeros",
    bias: bool = False,
    seed: int = 0,
    progress: bool | None = None,
    callback: Callable[[FitState], Any] | None = None,
    device: str | None = None,
    algorithm: str | None = None,
) -> FitResult:
    """Learn the kernel w, and a bias b if asked, for which ``conv_transpose(x, w, b)`` comes closest to y_true.

    Minimises ``loss + l1·Σ|w| + l2·Σw²`` by gradient descent.

    Parameters
    ----------
    x : ndarray, shape (N, C_in, …), (C_in, …) or bare (…)
        float32 or float64, finite.
    y_true : ndarray, shape (N, C_out, …), (C_out, …) or bare (…)
        Of x's dtype and number of axes. Its size must be one that the parameters can give.
    kernel_size : int or tuple of int
        A tuple has one value for each spatial axis, and so says how many there are. With an int, arrays of five axes
        are batches of volumes, arrays of one axis are bare signals, all others are images: bare, with channels, or
        with batch and channels. Signals with channels take ``(9,)``, unbatched volumes ``(3, 3, 3)``.
    stride, padding, groups, dilation
        As in `conv_transpose2d`.
    output_padding : int or tuple of int
        Taken from y_true's size; one that is given must agree with it.
    loss : {"mse", "l1", "charbonnier", "huber"} or Loss
        Mean over elements; `fastdeconv.losses` has them with parameters.
    optimizer : {"sgd", "momentum", "nesterov", "adam", "adamw", "rmsprop"} or Optimizer
        The update rules of ``torch.optim``; `fastdeconv.optim` has them with parameters. Both momenta are 0.9.
    learning_rate : float, optional
        None chooses it. For the SGD family it is 1 / L, where L is the largest curvature of the loss, found by power
        iteration (at most 50 forward and gradient passes). For the others it is 1/10 of the size of kernel entries
        that would bring x to the size of y_true.
    schedule : {"constant", "step", "cosine", "warmup_cosine"} or callable, optional
        The learning rate's factor at a step, counted from 0, over `max_steps`; `fastdeconv.optim` has them with
        parameters. None is "constant" where full-batch steps shrink by themselves (the SGD family on "mse" and
        "huber") and "cosine" elsewhere.
    l1, l2 : float
        Weights of the penalties. The bias is never penalised.
    max_steps : int
        At least 0.
    max_seconds : float, optional
        Of wall-clock time. A run that it ends is not reproducible to the bit.
    tol : float, optional
        Stop when the best loss fell by at most `tol` times itself over the last `patience` steps. None is 0 with a
        constant schedule: stop when the loss fell by nothing at all. With any other, whose smaller steps may yet gain,
        None does not stop.
    patience : int, optional
        None is 100, or more where the optimizer's running means remember more steps: a run that oscillates while it
        improves is judged over several periods. With batches, passes over x instead of steps.
    batch_size : int, optional
        Images a step, drawn in an order that `seed` shuffles for each pass over x. None is all of them.
    init : {"zeros", "normal", "bilinear"} or ndarray
        "zeros" is safe, because the problem is convex, and leaves at zero what the data does not determine. "normal"
        has the variance that makes y as large as x. "bilinear" interpolates by `stride`, each channel for itself. An
        array has the kernel's shape and x's dtype. The bias starts at zero.
    bias : bool
        Whether to learn one value for each output channel.
    seed : int
        For "normal" and the order of batches. The same seed gives the same bits.
    progress : bool, optional
        Show a bar. None shows it only if stderr is a terminal and tqdm is installed.
    callback : callable, optional
        Called with a `FitState` whenever the loss is taken; returning True stops the run.
    device, algorithm
        As in `conv_transpose2d`.

    Returns
    -------
    FitResult
        With the kernel of the lowest loss seen, also if the run diverged; `message` tells.

    Raises
    ------
    TypeError, ValueError
        The message names the argument, what came and what would do.
    ImportError
        `progress` is True and tqdm is not installed.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x, w = rng.random((5, 5)), rng.random((3, 3))
    >>> y_true = fd.conv_transpose2d(x, w, padding=1)
    >>> fd.fit_kernel(x, y_true, 3, padding=1).converged
    True
    """
    start = time.perf_counter()
    parameters = {
        "stride": stride,
        "padding": padding,
        "output_padding": output_padding,
        "groups": groups,
        "dilation": dilation,
    }
    where = {"device": device, "algorithm": algorithm}
    penalties = number("l1", l1), number("l2", l2)
    objective = Objective(x, y_true, kernel_size, parameters, as_loss(loss), *penalties, where)
    generator = np.random.default_rng(_count("seed", seed))
    w = objective.start(init, generator)
    b = np.zeros(objective.problem.out_channels, w.dtype) if _flag("bias", bias) else None
    batch = None if batch_size is None else _batch(batch_size, objective)
    rule = _with_rate(as_optimizer(optimizer), learning_rate)
    if schedule is None:
        shrinking = isinstance(rule, SGD) and isinstance(objective.loss, MSE | Huber) and batch is None
        schedule = "constant" if shrinking else "cosine"
    max_steps = _count("max_steps", max_steps)
    schedule = as_schedule(schedule, max(1, max_steps))
    stop = _Stop(
        max_steps=max_steps,
        max_seconds=math.inf if max_seconds is None else number("max_seconds", max_seconds),
        tol=number("tol", tol) if tol is not None else 0.0 if schedule is constant else None,
        patience=max(100, rule.memory) if patience is None else _count("patience", patience, low=1),
    )
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable; got {callback!r}")
    bar = None if progress is None else _flag("progress", progress)
    with _progress_bar(bar, max_steps) as advance:
        if rule.learning_rate is None:
            rule = replace(rule, learning_rate=_automatic_rate(objective, rule, w, b, batch))
        run = _Run(objective, w, b, rule, schedule, batch, generator, stop, start)
        message, converged = run.descend(callback, advance)
    return FitResult(
        kernel=run.as_given(run.best_w),
        bias=run.best_b,
        loss=run.best,
        history=np.array(run.history),
        converged=converged,
        message=message,
        n_iter=run.step,
        seconds=time.perf_counter() - start,
        learning_rate=rule.learning_rate,
        output_padding=objective.problem.output_padding,
    )


@dataclass(frozen=True)
class _Stop:
    max_steps: int
    max_seconds: float
    tol: float | None
    patience: int


@dataclass
class _Run:
    """One descent: the parameters, what they were at best, and the history."""

    objective: Objective
    w: Array
    b: Array | None
    rule: Optimizer
    schedule: Schedule
    batch: int | None
    generator: np.random.Generator
    stop: _Stop
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

    def descend(
        self, callback: Callable[[FitState], Any] | None, advance: Callable[[int, float], None]
    ) -> tuple[str, bool]:
        """Step until there is a reason to stop; return it, and whether it is that nothing was left to gain."""
        x, y_true = self.objective.x, self.objective.y_true
        y = np.empty_like(y_true)
        while True:
            with _quiet():
                value = self.objective.value(x, y_true, self.w, self.b, y)
            self._record(value)
            advance(self.step, value)
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
            self._limit = _DIVERGED * max(value if math.isfinite(value) else 0.0, zero_kernel)
            self._rounding = self.objective.rounding()
        self.history.append(value)
        if value < self.best:
            self.best, self.best_step = value, self.step
            self.best_w[...] = self.w
            if self.b is not None and self.best_b is not None:
                self.best_b[...] = self.b
        self._recent.append(self.best)

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
        factor = self._factor()
        with _quiet():
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
            with _quiet():
                self.objective.value(part, y_true[chosen], self.w, self.b, gy)
            self._update(part, gy)

    def _factor(self) -> float:
        factor = self.schedule(self.step)
        try:
            return number("schedule", factor)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{error}, as its factor at step {self.step}") from None

    def _state(self, value: float) -> FitState:
        kernel, bias = self.as_given(self.w).view(), None if self.b is None else self.b.view()
        for a in (kernel, bias):
            if a is not None:
                a.flags.writeable = False
        assert self.rule.learning_rate is not None
        rate = self.rule.learning_rate * self._factor()
        return FitState(self.step, value, kernel, bias, rate, time.perf_counter() - self.start)


def _automatic_rate(objective: Objective, rule: Optimizer, w: Array, b: Array | None, batch: int | None) -> float:
    if isinstance(rule, SGD):
        with _quiet():
            curvature = objective.curvature(w, b, batch)
        if not math.isfinite(curvature):
            raise ValueError(f"x must be small enough to be squared in {w.dtype}; rescale x and y_true")
        return 1 / curvature if curvature else 1.0
    return objective.kernel_scale() / 10


def _with_rate(rule: Optimizer, learning_rate: Any) -> Optimizer:
    if learning_rate is None:
        return rule
    rate = number("learning_rate", learning_rate, positive=True)
    if rule.learning_rate is not None:
        raise ValueError(f"learning_rate must be given once; got {rate} and {rule.learning_rate} in the optimizer")
    return replace(rule, learning_rate=rate)


def _batch(batch_size: Any, objective: Objective) -> int | None:
    size, images = _count("batch_size", batch_size, low=1), len(objective.x)
    if size > images:
        raise ValueError(f"batch_size must be at most the {images} images of x; got {size}")
    return None if size == images else size


def _count(name: str, value: Any, low: int = 0) -> int:
    count = as_int(name, value)
    if count < low:
        raise ValueError(f"{name} must be at least {low}; got {count}")
    return count


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False; got {value!r} of type {type(value).__name__}")
    return bool(value)


@contextmanager
def _progress_bar(wanted: bool | None, max_steps: int) -> Iterator[Callable[[int, float], None]]:
    """Yield ``advance(step, loss)``, which moves the bar if there is one."""
    if wanted is None:
        terminal = sys.stderr is not None and sys.stderr.isatty()
        wanted = terminal and importlib.util.find_spec("tqdm") is not None
    if not wanted:
        yield lambda step, loss: None
        return
    try:
        from tqdm import tqdm
    except ImportError:
        raise ImportError("progress=True needs tqdm: pip install tqdm, or use progress=False") from None
    with tqdm(total=max_steps, desc="fit_kernel", unit="step") as bar:

        def advance(step: int, loss: float) -> None:
            bar.set_postfix_str(f"loss {loss:.4g}", refresh=False)
            bar.update(step - bar.n)

        yield advance
