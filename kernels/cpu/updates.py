"""Update rules of gradient descent: parameter, gradient and running means are read and written once a step.

``w ← w - rate · direction(d, means)`` with ``d = g + decay · w + l1 · sign(w)``; `fastdeconv.optim` has the rules.

Memory: vectors of one length, element for element; those that the flags leave unused may be empty. A unit is a block of
elements; the loops of a rule follow one another on a block, which stays in a core's first-level cache.
Parallel over blocks. No element depends on another, so results do not depend on the number of threads; a NaN or Inf
stays in its element.

Versions:
- NumPy expressions, a pass over memory each: one core takes six times as long for Adam, four for momentum and RMSprop,
  two without (3.5 million elements of float32).
- One loop over all arrays of a rule: not vectorised where these are more than four, as LLVM compares no more of their
  addresses, nor where an option jumps over a read.
- Several loops on one block, each of four arrays at most, read first and then selected from. Indices are unsigned:
  negative ones, which count from the end in Python, take a select each.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastdeconv.kernels.cpu.buffers import empty
from fastdeconv.kernels.cpu.jit import device_function, kernel

BLOCK = 1024  # elements

# Bits of `flags`: what a rule does beside its formula without options.
DECAY, L1, MOMENTUM, NESTEROV, AMSGRAD, CENTERED = (1 << bit for bit in range(6))


@device_function
def _regularised(g: Any, w: Any, decay: Any, l1: Any, flags: int) -> Any:
    """Return the gradient of the loss with penalties, given that of the loss."""
    zero = type(g)(0)
    shrinking = decay * w if flags & DECAY else zero
    sign = (l1 if w > zero else -l1) if flags & L1 and w != zero else zero
    return g + shrinking + sign


@kernel("T[]", "T[]", "T[]", "T[]", "int")
def sgd(lo: int, hi: int, w: Any, g: Any, velocity: Any, settings: Any, flags: int) -> None:
    """``v ← momentum · v + gain · d``; the direction is d, v, or with Nesterov's momentum ``d + momentum · v``.

    Settings: rate, decay, l1, momentum, gain.
    """
    rate, decay, l1, momentum, gain = settings[0], settings[1], settings[2], settings[3], settings[4]
    for unit in range(lo, hi):
        begin, end = np.uint64(unit * BLOCK), np.uint64(min(w.size, (unit + 1) * BLOCK))
        if flags & MOMENTUM:
            for i in range(begin, end):
                value, v = w[i], velocity[i]
                d = _regularised(g[i], value, decay, l1, flags)
                v = momentum * v + gain * d
                velocity[i] = v
                w[i] = value - rate * (d + momentum * v if flags & NESTEROV else v)
        else:
            for i in range(begin, end):
                value = w[i]
                w[i] = value - rate * _regularised(g[i], value, decay, l1, flags)


@kernel("T[]", "T[]", "T[]", "T[]", "T[]", "T[]", "int")
def adam(
    lo: int, hi: int, w: Any, g: Any, mean: Any, square: Any, largest: Any, settings: Any, flags: int
) -> None:  # fmt: skip
    """``m ← m + (1 - β₁)(d - m)``, ``s ← β₂ s + (1 - β₂) d²``; the direction is ``m / (√s · scale + eps)``.

    Settings: rate over ``1 - β₁ᵗ``, decay, l1, what w is multiplied by first, ``1 - β₁``, β₂, ``1 - β₂``,
    ``1 / √(1 - β₂ᵗ)``, eps.
    """
    rate, decay, l1, kept, gain1 = settings[0], settings[1], settings[2], settings[3], settings[4]
    beta2, gain2, scale, eps = settings[5], settings[6], settings[7], settings[8]
    for unit in range(lo, hi):
        begin, end = np.uint64(unit * BLOCK), np.uint64(min(w.size, (unit + 1) * BLOCK))
        for i in range(begin, end):
            m, s = mean[i], square[i]
            d = _regularised(g[i], w[i], decay, l1, flags)
            mean[i] = m + gain1 * (d - m)
            square[i] = beta2 * s + gain2 * d * d
        used = square
        if flags & AMSGRAD:
            used = largest
            for i in range(begin, end):
                before, s = largest[i], square[i]
                largest[i] = before if before >= s else s  # s if that is NaN
        for i in range(begin, end):
            w[i] = w[i] * kept - rate * (mean[i] / (math.sqrt(used[i]) * scale + eps))


@kernel("T[]", "T[]", "T[]", "T[]", "T[]", "T[]", "int")
def rmsprop(
    lo: int, hi: int, w: Any, g: Any, square: Any, mean: Any, velocity: Any, settings: Any, flags: int
) -> None:  # fmt: skip
    """``s ← α s + (1 - α) d²``; the direction is ``d / (√s + eps)``, or a sum of such ones that fades.

    Where it is centred, s less the square of a running mean ``m ← m + (1 - α)(d - m)`` is in its place.
    Settings: rate, decay, l1, α, ``1 - α``, eps, momentum.
    """
    rate, decay, l1, alpha, gain = settings[0], settings[1], settings[2], settings[3], settings[4]
    eps, momentum = settings[5], settings[6]
    zero = w.dtype.type(0)
    direction, variance = empty(BLOCK, w.dtype), empty(BLOCK, w.dtype)
    for unit in range(lo, hi):
        begin = np.uint64(unit * BLOCK)
        count = np.uint64(min(w.size, (unit + 1) * BLOCK)) - begin
        for i in range(count):
            direction[i] = _regularised(g[begin + i], w[begin + i], decay, l1, flags)
        for i in range(count):
            d = direction[i]
            s = alpha * square[begin + i] + gain * d * d
            square[begin + i] = variance[i] = s
        if flags & CENTERED:
            for i in range(count):
                m = mean[begin + i]
                m += gain * (direction[i] - m)
                mean[begin + i] = m
                # Rounding may leave the difference of two nearly equal numbers below zero.
                difference = variance[i] - m * m
                variance[i] = zero if difference < zero else difference
        for i in range(count):
            direction[i] /= math.sqrt(variance[i]) + eps
        if flags & MOMENTUM:
            for i in range(count):
                v = momentum * velocity[begin + i] + direction[i]
                velocity[begin + i] = direction[i] = v
        for i in range(count):
            w[begin + i] -= rate * direction[i]


@kernel("T[]", "T[]", "T[]")
def average(lo: int, hi: int, mean: Any, w: Any, settings: Any) -> None:
    """``mean ← mean + gain · (w - mean)``; the one setting is the gain."""
    gain = settings[0]
    for unit in range(lo, hi):
        for i in range(np.uint64(unit * BLOCK), np.uint64(min(w.size, (unit + 1) * BLOCK))):
            m = mean[i]
            mean[i] = m + gain * (w[i] - m)


@kernel("T[]", "T[]")
def scaled(lo: int, hi: int, x: Any, settings: Any) -> None:
    """``x ← scale · x``; the one setting is the scale."""
    scale = settings[0]
    for unit in range(lo, hi):
        for i in range(np.uint64(unit * BLOCK), np.uint64(min(x.size, (unit + 1) * BLOCK))):
            x[i] *= scale


def units(elements: int) -> int:
    """Return how many units vectors of so many elements are."""
    return -(-elements // BLOCK)
