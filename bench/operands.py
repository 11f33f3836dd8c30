"""What is computed: the passes that are timed, and random arrays for one layer."""

from __future__ import annotations

import math
from copy import copy
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastdeconv.problem import ITEMSIZE, Pass, Problem, numpy_dtype

Array = NDArray[Any]

# "step" is a step of gradient descent: forward, both gradients, and the weight's update.
TimedPass = Literal[Pass, "step"]
TIMED: tuple[TimedPass, ...] = ("forward", "input_grad", "weight_grad", "step")

LEARNING_RATE = 2.0**-10


class Operands:
    """Random input, weight and output gradient of one problem, with channels first whatever its descriptor says.

    Those of types of 16 bits are arrays of float32, whose values the type has.
    """

    def __init__(self, problem: Problem, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        wide: Any = np.float64 if problem.dtype == "float64" else np.float32
        narrow = numpy_dtype(problem.dtype) if ITEMSIZE[problem.dtype] == 2 else None

        def draw(shape: tuple[int, ...]) -> Array:
            values = rng.standard_normal(shape, wide)
            return values if narrow is None else values.astype(narrow).astype(wide)

        self.problem = problem
        self.x = draw(problem.input_shape)
        self.w = draw(problem.weight_shape)
        self.gy = draw(problem.output_shape)

    def channels_last(self) -> Operands:
        """Return the same with channels side by side in the memory of input and output gradient."""
        axis = -self.problem.ndim - 1
        moved = copy(self)
        moved.x, moved.gy = (
            np.moveaxis(np.ascontiguousarray(np.moveaxis(a, axis, -1)), -1, axis) for a in (self.x, self.gy)
        )
        return moved


def flops(problem: Problem, pass_: TimedPass) -> int:
    """Return the additions and multiplications of a pass by the direct method."""
    return problem.flops * (3 if pass_ == "step" else 1)


def bytes_moved(problem: Problem, pass_: TimedPass) -> int:
    """Return the bytes of the arrays of a pass, each moved once; a step reads three and writes three."""
    return problem.bytes * (2 if pass_ == "step" else 1)


def piece(problem: Problem, share: float) -> Problem:
    """Return the same layer on a smaller input, of at most `share` of the flops where its sizes allow it."""
    smaller = problem
    while smaller.flops > share * problem.flops:
        batch, size = smaller.batch, smaller.input_size
        if batch > 1:
            batch = max(1, batch // 2)
        elif max(size) > 2:
            longest = size.index(max(size))
            size = (*size[:longest], math.ceil(size[longest] / 2), *size[longest + 1 :])
        else:
            break
        try:
            smaller = replace(smaller, batch=batch, input_size=size)
        except ValueError:  # padding leaves no output of it
            break
    return smaller
