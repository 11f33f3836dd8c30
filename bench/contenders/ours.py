"""fastdeconv itself."""

from __future__ import annotations

from functools import partial
from typing import Any

import fastdeconv as fd
from fastdeconv.bench.contenders.base import Compute, Contender
from fastdeconv.bench.operands import LEARNING_RATE, Array, Operands, TimedPass
from fastdeconv.problem import Problem


class Fastdeconv(Contender):
    """fastdeconv, through its public calls."""

    name = "fastdeconv"
    modules = ("fastdeconv",)
    install = "fastdeconv"
    conditions = "NumPy arrays, channels first unless the layer says otherwise; Numba's threads"
    is_peer = False

    def __init__(self, threads: int) -> None:
        fd.set_num_threads(threads)

    def compute(self, operands: Operands, pass_: TimedPass) -> Compute:
        """Return a function that computes the pass."""
        if operands.problem.channels_last:
            operands = operands.channels_last()
        p, x, w, gy = operands.problem, operands.x, operands.w, operands.gy
        keywords = parameters(p)
        forward = getattr(fd, f"conv_transpose{p.ndim}d")
        if pass_ == "forward":
            return lambda: forward(x, w, **keywords)
        if pass_ == "input_grad":
            input_grad = getattr(fd.grad, f"conv_transpose{p.ndim}d_input")
            return lambda: input_grad(x.shape, w, gy, **keywords)
        if pass_ == "weight_grad":
            weight_grad = getattr(fd.grad, f"conv_transpose{p.ndim}d_weight")
            return lambda: weight_grad(x, w.shape, gy, **keywords)
        vjp = getattr(fd, f"conv_transpose{p.ndim}d_vjp")
        rate = w.dtype.type(LEARNING_RATE)

        def step() -> Any:
            y = forward(x, w, **keywords)
            gx, gw, _ = vjp(gy, x, w, **keywords)
            return y, gx, w - rate * gw

        return step

    def arrays(self, value: Any, operands: Operands, pass_: TimedPass) -> tuple[Array, ...]:
        """Return the result as it is."""
        return value if pass_ == "step" else (value,)


class FastdeconvChannelsLast(Fastdeconv):
    """fastdeconv on arrays with channels last."""

    name = "fastdeconv_cl"
    conditions = "NumPy arrays, channels last in memory; otherwise as fastdeconv"

    def compute(self, operands: Operands, pass_: TimedPass) -> Compute:
        """Return a function that computes the pass."""
        return super().compute(operands.channels_last(), pass_)


class FastdeconvPrepared(Fastdeconv):
    """fastdeconv with the weight prepared for many calls."""

    name = "fastdeconv_prepared"
    conditions = "as fastdeconv; weight packed or transformed beforehand, by fd.prepare"
    passes = ("forward",)

    def compute(self, operands: Operands, pass_: TimedPass) -> Compute:
        """Return a function that computes the forward pass."""
        if operands.problem.channels_last:
            operands = operands.channels_last()
        return partial(fd.prepare(operands.w, **parameters(operands.problem)), operands.x)


def parameters(problem: Problem) -> dict[str, Any]:
    """Return the keywords of a call."""
    return {
        "stride": problem.stride, "padding": problem.padding, "output_padding": problem.output_padding,
        "groups": problem.groups, "dilation": problem.dilation,
    }  # fmt: skip
