"""Train a model by gradient descent on batches."""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastdeconv.devices import number as device_number
from fastdeconv.devices import place_of
from fastdeconv.fit import batches
from fastdeconv.fit.checks import count
from fastdeconv.fit.history import History
from fastdeconv.fit.judge import Metric, psnr
from fastdeconv.fit.learner import Learner
from fastdeconv.fit.plan import Plan, TrainingState
from fastdeconv.fit.progress import progress_bar
from fastdeconv.fit.run import Run
from fastdeconv.losses import Loss, as_loss
from fastdeconv.nn import Module, Parameter
from fastdeconv.optim import EMA, Optimizer, RMSprop, Schedule, as_optimizer, as_schedule, number
from fastdeconv.optim.checks import flag
from fastdeconv.problem import shown

Callback = Callable[[TrainingState], Any]

# Names of schedules that are the same however long the run is.
_WITHOUT_END = ("constant", "plateau")


def fit(
    model: Module,
    data: Any,
    *,
    loss: str | Loss = "mse",
    optimizer: str | Optimizer = "adam",
    learning_rate: float | None = None,
    schedule: str | Schedule | None = None,
    epochs: int | None = None,
    max_steps: int | None = None,
    max_seconds: float | None = None,
    batch_size: int = 16,
    shuffle: bool = True,
    seed: int = 0,
    validation: Any = None,
    validate_every: int | None = None,
    metric: str | Metric | None = None,
    peak: float | None = None,
    patience: int | None = None,
    restore_best: bool = True,
    clip_norm: float | None = None,
    l1: float = 0.0,
    ema: float | EMA | None = None,
    callbacks: Callback | Iterable[Callback] = (),
    progress: bool | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 60.0,
    resume: bool = True,
) -> History:
    """Train a model: draw a batch, compute its loss and the gradient, step; repeat.

    The same arguments give the same bits, however often a run was interrupted and resumed in between.

    Parameters
    ----------
    model : fastdeconv.nn.Module
        Changed in place, and left in evaluation mode. It computes where its parameters are.
    data : pair of ndarray, iterable or callable
        A pair (x, y_true) of arrays with the items along their first axis, as many in both; an iterable of such pairs,
        each a batch, which is gone through once a pass (a method ``set_epoch(epoch)`` is called before each, if it has
        one, for an order of its own); or ``data(step, rng)``, which returns the batch of a step and takes what is
        random from the generator it is given, of that step's own (a resumed run asks for step 0 once more, to see that
        it is like before). The arrays have the model's dtype. NumPy's are copied batch by batch for a model on a GPU.
    loss : {"mse", "l1", "charbonnier", "huber"} or Loss
    optimizer : {"sgd", "momentum", "nesterov", "adam", "adamw", "rmsprop"} or Optimizer
    learning_rate : float, optional
        None is the optimizer's own, or else what torch takes: 0.01 for RMSprop, 0.001 for the others.
    schedule : {"constant", "step", "cosine", "warmup_cosine", "plateau", …} or callable, optional
        The learning rate's factor at a step, counted from 0; `fastdeconv.optim` has them. None is "constant". What
        falls towards the end of the run needs `epochs` or `max_steps` to know it. One that has ``observe`` is given the
        validation loss, or without validation data the loss, with each entry of the history.
    epochs : int, optional
        Passes over the data. At least one of `epochs`, `max_steps` and `max_seconds` must be given; the first of them
        to be reached ends the run.
    max_steps : int, optional
    max_seconds : float, optional
        Of all parts of a resumed run together. A run that it ends is not reproducible to the bit.
    batch_size : int
        Items a step, if data or validation are arrays; the last batch of a pass may have fewer.
    shuffle : bool
        Whether a pass takes the items of arrays in an order of its own, which `seed` and its number decide.
    seed : int
        Of that order, and of the generators that a callable is given.
    validation : pair of ndarray or iterable, optional
        As data, but gone through again and again, always in the same order.
    validate_every : int, optional
        Steps between entries of the history, each with a validation. None is once a pass, or for a callable every 100.
    metric : "psnr" or callable, optional
        Computed on the validation data: ``metric(y, y_true)`` for a batch, and of these the mean over items. "psnr" is
        the peak signal-to-noise ratio in dB, of each item for itself. None is "psnr" where the data are images: batches
        of planes with values from 0 to 1, or where `peak` is given.
    peak : float, optional
        Largest value of the images, for PSNR. None is 1.
    patience : int, optional
        Stop when so many entries of the history in a row were not better than the best before.
    restore_best : bool
        Leave the model with the weights of the lowest validation loss, or without validation data of the lowest loss,
        and not with the last ones.
    clip_norm : float, optional
        Scale the gradients of a step so that their norm, all together, is at most this.
    l1 : float
        Weight of the penalty ``Σ|w|`` on parameters of more than one axis; it is not part of the losses reported.
        Weight decay is the optimizer's.
    ema : float or EMA, optional
        Decay of an exponential moving average of the weights: that is validated, and what the model is left with.
    callbacks : callable or iterable of callables
        Called with a `TrainingState` after each step; returning True stops the run.
    progress : bool, optional
        Show a bar. None shows it only if stderr is a terminal and tqdm is installed.
    checkpoint : str or path, optional
        A safetensors file that holds all the run needs to go on, written whole or not at all: at the start, after
        `checkpoint_seconds`, at the end, and on Ctrl-C, which then raises KeyboardInterrupt as always. A writing that
        fails within the run is a RuntimeWarning, the first time.
    checkpoint_seconds : float
        0 writes after each step.
    resume : bool
        Go on from `checkpoint` if the file exists. The arguments must be those of the run that wrote it, but for those
        that say when it ends, and what it shows. False begins anew and writes over the file.

    Returns
    -------
    History
        The losses as they fell, and why the run stopped. If the loss became NaN, infinite or huge, it stopped at once
        with the best weights so far, and ``history.diverged`` is True.

    Raises
    ------
    TypeError, ValueError
        The message names the argument, what came and what would do.
    CheckpointError
        The checkpoint is damaged, of something else or of a run with other arguments, or cannot be written at the
        start.
    ImportError
        `progress` is True and tqdm is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> from fastdeconv import nn
    >>> from fastdeconv.fit import fit
    >>> rng = np.random.default_rng(0)
    >>> x = rng.random((32, 1, 8, 8), dtype=np.float32)
    >>> model = nn.Sequential(nn.ConvTranspose2d(1, 1, 4, stride=2, padding=1))
    >>> history = fit(model, (x, x.repeat(2, axis=2).repeat(2, axis=3)), epochs=5, learning_rate=0.01)
    >>> bool(history.loss[-1] < history.loss[0])
    True
    """
    like = _parameter(model)
    batch_size, seed = count("batch_size", batch_size, low=1), count("seed", seed)
    source = batches.training(data, like, batch_size, flag("shuffle", shuffle), seed)
    judging = None if validation is None else batches.validating(validation, like, batch_size)
    ends = {
        "epochs": None if epochs is None else count("epochs", epochs),
        "max_steps": None if max_steps is None else count("max_steps", max_steps),
        "max_seconds": None if max_seconds is None else number("max_seconds", max_seconds),
    }
    if all(end is None for end in ends.values()):
        raise ValueError("epochs, max_steps or max_seconds must be given, for the run to end")
    if source.endless and epochs is not None:
        raise ValueError("epochs must be None for a callable, which has no last batch; use max_steps")
    rule = _rule(optimizer, learning_rate, l1)
    chosen = _schedule(schedule, ends["epochs"], ends["max_steps"], source.steps)
    average = EMA(ema) if isinstance(ema, float) else ema
    if average is not None and not isinstance(average, EMA):
        raise TypeError(f"ema must be a number from 0 to below 1 or an optim.EMA; got {shown(ema)}")
    top = math.nan if peak is None else number("peak", peak, positive=True)
    measure, measure_name = _metric(metric, top, judging)
    l1 = number("l1", l1)
    clip = None if clip_norm is None else number("clip_norm", clip_norm, positive=True)
    every = None if validate_every is None else count("validate_every", validate_every, low=1)
    plan = Plan(
        source=source,
        validation=judging,
        loss=as_loss(loss),
        learning_rate=float(rule.learning_rate or 0),
        schedule=chosen,
        **{name: math.inf if end is None else end for name, end in ends.items()},
        validate_every=every,
        metric=measure,
        metric_name=measure_name,
        peak=top,
        patience=math.inf if patience is None else count("patience", patience, low=1),
        restore_best=flag("restore_best", restore_best),
        callbacks=_callbacks(callbacks),
        path=None if checkpoint is None else _path(checkpoint),
        checkpoint_seconds=number("checkpoint_seconds", checkpoint_seconds),
        facts=_model_facts(model)
        | source.facts()
        | ({} if judging is None else judging.facts())
        | {
            "loss": _text(as_loss(loss)),
            "optimizer": _text(rule),
            "schedule": _text(chosen),
            "shuffle": str(bool(shuffle)),
            "seed": str(seed),
            "validate_every": str(every),
            "metric": measure_name,
            "peak": str(None if peak is None else top),
            "clip_norm": str(clip),
            "l1": str(l1),
            "ema": _text(average),
        },
    )
    resume, bar = flag("resume", resume), None if progress is None else flag("progress", progress)
    total = _total(ends["epochs"], ends["max_steps"], source.steps)
    wanted_before = model.needs_input_grad
    with _device(place_of(like)):
        run = Run(plan, Learner(model, rule, l1, clip, average))
        run.begin(resume)
        try:
            # The data need no gradient, and the first layer is spared the work.
            model.needs_input_grad = False
            model.train()
            with progress_bar(bar, "fit", total, run.numbers.step) as show:
                return run.go(show)
        finally:
            model.needs_input_grad = wanted_before
            model.eval()


def _parameter(model: Any) -> Any:
    """Return a parameter of the model, as an example of their dtype and place."""
    if not isinstance(model, Module):
        raise TypeError(f"model must be a module of fastdeconv.nn; got {shown(model)}")
    named = list(model.named_parameters())
    if not any(parameter.requires_grad for _, parameter in named):
        raise ValueError(f"model must have parameters that require a gradient; got {shown(model)}")
    first_name, first = named[0]
    for name, parameter in named:
        if _kind(parameter) != _kind(first):
            raise ValueError(
                f"the model's parameters must have one dtype and one place; got {first_name}: {_kind(first)} and "
                f"{name}: {_kind(parameter)}; use model.to"
            )
    return first.data


def _kind(parameter: Parameter) -> str:
    return f"{parameter.dtype} on {place_of(parameter.data)}"


def _rule(optimizer: Any, learning_rate: Any, l1: Any) -> Optimizer:
    rule = as_optimizer(optimizer)
    if number("l1", l1) and rule.l1:
        raise ValueError(f"l1 must be given once; got {l1} and {rule.l1} in the optimizer")
    if learning_rate is None:
        if rule.learning_rate is not None:
            return rule
        return replace(rule, learning_rate=1e-2 if isinstance(rule, RMSprop) else 1e-3)
    rate = number("learning_rate", learning_rate, positive=True)
    if rule.learning_rate is not None:
        raise ValueError(f"learning_rate must be given once; got {rate} and {rule.learning_rate} in the optimizer")
    return replace(rule, learning_rate=rate)


def _total(epochs: float | None, max_steps: float | None, steps: int | None) -> int | None:
    """Return how many steps the run has if nothing stops it early, where that is known."""
    ends = [] if max_steps is None else [int(max_steps)]
    if epochs is not None and steps is not None:
        ends.append(int(epochs) * steps)
    return min(ends, default=None)


def _schedule(schedule: Any, epochs: float | None, max_steps: float | None, steps: int | None) -> Schedule:
    total = _total(epochs, max_steps, steps)
    if schedule is None:
        schedule = "constant"
    chosen = as_schedule(schedule, max(1, total or 1))
    if isinstance(schedule, str) and schedule not in _WITHOUT_END and total is None:
        raise ValueError(
            f'schedule="{schedule}" must know how many steps there are: give max_steps, or epochs for data of known '
            "length"
        )
    return chosen


def _metric(metric: Any, peak: float, validation: batches.Source | None) -> tuple[Metric | None, str]:
    if metric is None:
        return None, ""
    if validation is None:
        raise ValueError("metric needs validation data: give validation=(x, y_true)")
    if callable(metric):
        return metric, getattr(metric, "__name__", type(metric).__name__)
    if metric == "psnr":
        return psnr(1.0 if math.isnan(peak) else peak), metric
    raise ValueError(f'metric must be "psnr", a callable(y, y_true) or None; got {shown(metric)}')


def _callbacks(callbacks: Any) -> tuple[Callback, ...]:
    if callable(callbacks):
        return (callbacks,)
    try:
        found = tuple(callbacks)
    except TypeError:
        found = (callbacks,)
    for callback in found:
        if not callable(callback):
            raise TypeError(f"callbacks must be a callable or several; got {shown(callback)}")
    return found


def _path(checkpoint: Any) -> Path:
    if not isinstance(checkpoint, str | os.PathLike) or not os.fspath(checkpoint):
        raise TypeError(f"checkpoint must be the name of a file; got {shown(checkpoint)}")
    return Path(checkpoint)


def _model_facts(model: Module) -> dict[str, str]:
    facts = {}
    for name, module in model.named_modules():
        leaf = len(list(module.named_modules())) == 1
        facts[f"model.{name}".rstrip(".")] = repr(module) if leaf else type(module).__name__
    for name, parameter in model.named_parameters():
        learned = "" if parameter.requires_grad else ", not learned"
        facts[f"model.{name}"] = f"{parameter.dtype} {parameter.shape}{learned}"
    return facts


def _text(value: Any) -> str:
    """Return what a rule, a schedule or a function is, the same in every process."""
    name = getattr(value, "__qualname__", None)
    if name is not None:
        return f"{value.__module__}.{name}"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _device(place: str) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which the model's device is the current one."""
    if place == "cpu":
        return contextlib.nullcontext()
    from fastdeconv.cuda.runtime import on

    return on(device_number(place))
