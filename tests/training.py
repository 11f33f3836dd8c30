"""A model small enough to follow by hand, and data for it."""

from __future__ import annotations

import numpy as np

from fastdeconv.nn import Module, Parameter


class Line(Module):
    """``y = weight · x + bias``, with a running mean of x as BatchNorm has one."""

    _buffers = ("mean",)

    def __init__(self, weight=0.0, bias=0.0, dtype="float64"):
        self.weight = Parameter(np.full((1, 1), weight, dtype))
        self.bias = Parameter(np.full(1, bias, dtype))
        self.mean = np.zeros(1, dtype)

    def forward(self, x):
        if self.training:
            self.mean += 0.1 * (x.mean() - self.mean)
        self.x = x
        return self.weight.data * x + self.bias.data

    def backward(self, grad_output):
        self.weight.accumulate((grad_output * self.x).sum().reshape(1, 1))
        self.bias.accumulate(grad_output.sum().reshape(1))

    def values(self):
        return float(self.weight.data[0, 0]), float(self.bias.data[0]), float(self.mean[0])


def points(n=20, slope=2.0, offset=-1.0, seed=0, noise=0.0):
    """Return x and ``slope · x + offset``, of shape (n, 1)."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 1))
    return x, slope * x + offset + noise * rng.standard_normal((n, 1))


def columns(history):
    """Return what of a history must be the same to the last bit in another run, as text, in which NaN equals NaN."""
    names = ("epoch", "step", "loss", "validation_loss", "metric", "learning_rate")
    return {name: str(getattr(history, name).tolist()) for name in names}
