"""JAX: XLA's convolution with a dilated input, compiled by jit; gradients by jax.vjp."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from fastdeconv.bench.contenders.base import Compute, Contender
from fastdeconv.bench.operands import LEARNING_RATE, Array, Operands, TimedPass
from fastdeconv.problem import Problem

_SPATIAL = "DHW"


class Jax(Contender):
    """JAX on the CPU, channels last, as XLA's CPU convolutions have it."""

    name = "jax"
    modules = ("jax",)
    install = "jax"
    conditions = "channels last; jit; precision HIGHEST; NPROC threads"

    def __init__(self, threads: int) -> None:
        # XLA's thread pool has no option of its own; it is made with the first device and reads this variable then.
        before = os.environ.get("NPROC")
        os.environ["NPROC"] = str(threads)
        try:
            import jax

            jax.config.update("jax_enable_x64", True)
            self._device = jax.devices("cpu")[0]
        finally:
            if before is None:
                del os.environ["NPROC"]
            else:
                os.environ["NPROC"] = before
        self._jax = jax

    def compute(self, operands: Operands, pass_: TimedPass) -> Compute:
        """Return a function that computes the pass."""
        jax, p = self._jax, operands.problem
        x, w, gy = (
            jax.device_put(np.ascontiguousarray(a), self._device)
            for a in (_channels_last(operands.x), _to_hwio(operands.w, p), _channels_last(operands.gy))
        )
        axes = _SPATIAL[-p.ndim :]
        reach = [d * (k - 1) for d, k in zip(p.dilation, p.kernel_size)]

        def forward(x: Any, w: Any) -> Any:
            return jax.lax.conv_general_dilated(
                x,
                w,
                window_strides=(1,) * p.ndim,
                padding=[(r - q, r - q + extra) for r, q, extra in zip(reach, p.padding, p.output_padding)],
                lhs_dilation=p.stride,
                rhs_dilation=p.dilation,
                dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
                feature_group_count=p.groups,
                precision=jax.lax.Precision.HIGHEST,
            )

        def step(x: Any, w: Any, gy: Any) -> Any:
            y, pull = jax.vjp(forward, x, w)
            gx, gw = pull(gy)
            return y, gx, w - LEARNING_RATE * gw

        function = jax.jit({
            "forward": lambda x, w, gy: forward(x, w),
            "input_grad": lambda x, w, gy: jax.vjp(lambda x: forward(x, w), x)[1](gy)[0],
            "weight_grad": lambda x, w, gy: jax.vjp(lambda w: forward(x, w), w)[1](gy)[0],
            "step": step,
        }[pass_])  # fmt: skip
        return lambda: jax.block_until_ready(function(x, w, gy))

    def arrays(self, value: Any, operands: Operands, pass_: TimedPass) -> tuple[Array, ...]:
        """Return the result with channels first, the weight as it was."""
        p = operands.problem
        if pass_ == "step":
            y, gx, w = map(np.asarray, value)
            return _channels_first(y), _channels_first(gx), _from_hwio(w, p)
        array = np.asarray(value)
        return (_from_hwio(array, p) if pass_ == "weight_grad" else _channels_first(array),)


def _channels_last(array: Array) -> Array:
    return np.moveaxis(array, 1, -1)


def _channels_first(array: Array) -> Array:
    return np.moveaxis(array, -1, 1)


def _to_hwio(w: Array, p: Problem) -> Array:
    """(C_in, C_out / g, *k) → (*k reversed, C_in / g, C_out): of an ordinary convolution over the dilated input."""
    w = np.flip(w, tuple(range(2, w.ndim))).reshape(p.groups, p.in_channels // p.groups, *w.shape[1:])
    w = np.moveaxis(w, (0, 1, 2), (-2, -3, -1))
    return w.reshape(*w.shape[:-2], p.out_channels)


def _from_hwio(w: Array, p: Problem) -> Array:
    w = w.reshape(*w.shape[:-1], p.groups, p.out_channels // p.groups)
    w = np.moveaxis(w, (-2, -3, -1), (0, 1, 2)).reshape(p.weight_shape)
    flipped: Array = np.flip(w, tuple(range(2, w.ndim)))
    return flipped
