"""Learn the kernel of a transposed convolution by gradient descent.

Initialise the kernel; ``y = conv_transpose(x, w)``; take the loss and its gradient; step; repeat until converged.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.fit.checks import count
from fastdeconv.fit.kernel_result import FitResult, FitState
from fastdeconv.fit.kernel_run import Run, Stop, quiet
from fastdeconv.fit.objective import Objective
from fastdeconv.fit.progress import progress_bar
from fastdeconv.losses import MSE, Huber, Loss, as_loss
from fastdeconv.optim import SGD, Optimizer, Schedule, as_optimizer, as_schedule, constant, number
from fastdeconv.optim.checks import flag
from fastdeconv.problem import IntOrTuple

Array = NDArray[Any]


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
        "huber") and "cosine" elsewhere. One that has ``observe``, such as `optim.Plateau`, is given each loss.
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
    generator = np.random.default_rng(count("seed", seed))
    w = objective.start(init, generator)
    b = np.zeros(objective.problem.out_channels, w.dtype) if flag("bias", bias) else None
    batch = None if batch_size is None else _batch(batch_size, objective)
    rule = _with_rate(as_optimizer(optimizer), learning_rate)
    if schedule is None:
        shrinking = isinstance(rule, SGD) and isinstance(objective.loss, MSE | Huber) and batch is None
        schedule = "constant" if shrinking else "cosine"
    max_steps = count("max_steps", max_steps)
    schedule = as_schedule(schedule, max(1, max_steps))
    stop = Stop(
        max_steps=max_steps,
        max_seconds=math.inf if max_seconds is None else number("max_seconds", max_seconds),
        tol=number("tol", tol) if tol is not None else 0.0 if schedule is constant else None,
        patience=max(100, rule.memory) if patience is None else count("patience", patience, low=1),
    )
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable; got {callback!r}")
    bar = None if progress is None else flag("progress", progress)
    with progress_bar(bar, "fit_kernel", max_steps) as show:
        if rule.learning_rate is None:
            rule = replace(rule, learning_rate=_automatic_rate(objective, rule, w, b, batch))
        run = Run(objective, w, b, rule, schedule, batch, generator, stop, start)
        message, converged = run.descend(callback, show)
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


def _automatic_rate(objective: Objective, rule: Optimizer, w: Array, b: Array | None, batch: int | None) -> float:
    if isinstance(rule, SGD):
        with quiet():
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
    size, images = count("batch_size", batch_size, low=1), len(objective.x)
    if size > images:
        raise ValueError(f"batch_size must be at most the {images} images of x; got {size}")
    return None if size == images else size
