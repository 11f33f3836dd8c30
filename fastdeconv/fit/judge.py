"""How good a model is on data that it does not learn from."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.arrays import namespace
from fastdeconv.fit.batches import Source
from fastdeconv.fit.checks import check_finite
from fastdeconv.losses import Loss
from fastdeconv.nn import Module, no_grad

Array = NDArray[Any]
Metric = Callable[[Array, Array], float]


def evaluate(model: Module, source: Source, loss: Loss, metric: Metric | None) -> tuple[float, float]:
    """Return the loss and the metric of a model in evaluation mode: means over items; NaN for no metric."""
    model.eval()
    total = measured = 0.0
    items = 0
    with no_grad():
        for x, y_true, _ in source.batches(0, 0):
            y = model(x)
            check_shape(y, y_true, source.name)
            value = loss(y, y_true)
            if not math.isfinite(value):
                check_finite(f"x of {source.name}", x)
                check_finite(f"y_true of {source.name}", y_true)
            total += value * len(x)
            if metric is not None:
                measured += _real(metric(y, y_true)) * len(x)
            items += len(x)
    model.train()
    return total / items, math.nan if metric is None else measured / items


def check_shape(y: Array, y_true: Array, name: str) -> None:
    """See that a model's result has the shape of what it should be.

    Raises
    ------
    ValueError
    """
    if y.shape != y_true.shape:
        raise ValueError(f"y_true of {name} must have the shape {y.shape} of the model's result; got {y_true.shape}")


def psnr(peak: float) -> Metric:
    """Return the metric that is the mean over items of ``10 log10(peak² / mean squared error)``, in dB."""

    def measure(y: Array, y_true: Array) -> float:
        xp = namespace(y)
        squares = xp.square(y - y_true).reshape(len(y), -1).mean(axis=1, dtype=np.float64)
        with np.errstate(divide="ignore"):
            return float((10 * xp.log10(peak * peak / squares)).mean())

    return measure


def _real(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"metric must return a number; got {value!r} of type {type(value).__name__}") from None
