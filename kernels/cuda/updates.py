"""Update rules of gradient descent: a thread for each element, which it reads, updates and writes once a step.

``w ← w - rate · direction(d, means)`` with ``d = g + decay · w + l1 · sign(w)``; `fastdeconv.optim` has the rules, and
`kernels.cpu.updates` the same formulas, settings and flags.

Memory: vectors of one length; those that the flags leave unused have the address 0. Neighbouring threads have
neighbouring elements.
Parallel over elements; none depends on another.

By calculation: bound by memory, with at most ten accesses of four or eight bytes an element.
Not yet run on hardware.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from fastdeconv.kernels.cpu.updates import AMSGRAD, CENTERED, DECAY, L1, MOMENTUM, NESTEROV
from fastdeconv.kernels.cuda.device import cuda, device_function
from fastdeconv.kernels.cuda.elements import elements
from fastdeconv.kernels.cuda.factory import kernel_factory
from fastdeconv.kernels.cuda.launches import THREADS, Launch, blocks_for


@device_function
def _regularised(g: Any, w: Any, zero: Any, decay: Any, l1: Any, flags: int) -> Any:
    """Return the gradient of the loss with penalties, given that of the loss."""
    d = g
    if flags & DECAY:
        d += decay * w
    if flags & L1:
        if w > zero:
            d += l1
        elif w < zero:
            d -= l1
    return d


@kernel_factory
def sgd(dtype: str) -> Callable[..., None]:
    """Return the kernel of gradient descent, with momentum or without."""
    zero = elements(dtype).zero

    def sgd_update(
        w: Any, g: Any, velocity: Any, count: int, flags: int, rate: Any, decay: Any, l1: Any, momentum: Any, gain: Any
    ) -> None:  # fmt: skip
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if i >= count:
            return
        direction = _regularised(g[i], w[i], zero, decay, l1, flags)
        if flags & MOMENTUM:
            v = momentum * velocity[i] + gain * direction
            velocity[i] = v
            direction = direction + momentum * v if flags & NESTEROV else v
        w[i] -= rate * direction

    return sgd_update


@kernel_factory
def adam(dtype: str) -> Callable[..., None]:
    """Return the kernel of Adam and of AdamW."""
    zero = elements(dtype).zero

    def adam_update(
        w: Any, g: Any, mean: Any, square: Any, largest: Any, count: int, flags: int, rate: Any, decay: Any, l1: Any,
        kept: Any, gain1: Any, beta2: Any, gain2: Any, scale: Any, eps: Any,
    ) -> None:  # fmt: skip
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if i >= count:
            return
        d = _regularised(g[i], w[i], zero, decay, l1, flags)
        m = mean[i] + gain1 * (d - mean[i])
        s = beta2 * square[i] + gain2 * d * d
        mean[i], square[i] = m, s
        if flags & AMSGRAD:
            if largest[i] >= s:  # not where s is NaN
                s = largest[i]
            largest[i] = s
        w[i] = w[i] * kept - rate * (m / (math.sqrt(s) * scale + eps))

    return adam_update


@kernel_factory
def rmsprop(dtype: str) -> Callable[..., None]:
    """Return the kernel of RMSprop."""
    zero = elements(dtype).zero

    def rmsprop_update(
        w: Any, g: Any, square: Any, mean: Any, velocity: Any, count: int, flags: int, rate: Any, decay: Any, l1: Any,
        alpha: Any, gain: Any, eps: Any, momentum: Any,
    ) -> None:  # fmt: skip
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if i >= count:
            return
        d = _regularised(g[i], w[i], zero, decay, l1, flags)
        variance = alpha * square[i] + gain * d * d
        square[i] = variance
        if flags & CENTERED:
            m = mean[i] + gain * (d - mean[i])
            mean[i] = m
            variance -= m * m
            # Rounding may leave the difference of two nearly equal numbers below zero.
            if variance < zero:
                variance = zero
        direction = d / (math.sqrt(variance) + eps)
        if flags & MOMENTUM:
            direction += momentum * velocity[i]
            velocity[i] = direction
        w[i] -= rate * direction

    return rmsprop_update


@kernel_factory
def average(dtype: str) -> Callable[..., None]:
    """Return the kernel of a moving average."""

    def average_update(mean: Any, w: Any, count: int, flags: int, gain: Any) -> None:
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if i < count:
            mean[i] += gain * (w[i] - mean[i])

    return average_update


@kernel_factory
def scaled(dtype: str) -> Callable[..., None]:
    """Return the kernel that multiplies a vector by a number."""

    def scaled_update(x: Any, count: int, flags: int, scale: Any) -> None:
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if i < count:
            x[i] *= scale

    return scaled_update


class Rule(NamedTuple):
    """A kernel's factory, and how many vectors and settings the kernel takes."""

    make: Callable[..., Callable[..., None]]
    vectors: int
    settings: int


# By the names of `kernels.cpu.updates`.
RULES = {
    "sgd": Rule(sgd, 3, 5),
    "adam": Rule(adam, 5, 9),
    "rmsprop": Rule(rmsprop, 5, 7),
    "average": Rule(average, 2, 1),
    "scaled": Rule(scaled, 1, 1),
}


def launch(name: str, dtype: str, count: int) -> Launch:
    """Return the launch on vectors of so many elements.

    The names of its arguments are "vector 0", "vector 1", …, "flags" (also where there are no options), "setting 0", ….
    """
    rule = RULES[name]
    vectors, settings = (tuple(f"{kind} {i}" for i in range(n)) for kind, n in zip(("vector", "setting"), rule[1:]))
    pointer = elements(dtype).pointer
    return Launch(
        rule.make(dtype),
        (*(pointer,) * rule.vectors, "int64", "int32", *(dtype,) * rule.settings),
        (blocks_for(count),),
        (*vectors, count, "flags", *settings),
        THREADS,
    )
