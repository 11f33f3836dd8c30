"""Checks of arguments that `fit` and `fit_kernel` share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.arrays import namespace
from fastdeconv.optim import Schedule, number
from fastdeconv.problem import as_int

# Elements looked at in one go, so that what is found out of a large array takes little memory.
_BLOCK = 1 << 22


def count(name: str, value: Any, low: int = 0) -> int:
    """Return an integer of at least `low`.

    Raises
    ------
    TypeError, ValueError
    """
    found = as_int(name, value)
    if found < low:
        raise ValueError(f"{name} must be at least {low}; got {found}")
    return found


def schedule_factor(schedule: Schedule, step: int) -> float:
    """Return a schedule's factor at a step.

    Raises
    ------
    TypeError, ValueError
        It is no finite number of at least 0.
    """
    factor = schedule(step)
    try:
        return number("schedule", factor)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{error}, as its factor at step {step}") from None


def check_finite(name: str, a: NDArray[Any]) -> None:
    """See that an array, NumPy's or CuPy's, has no NaN and no infinity.

    Raises
    ------
    ValueError
        Naming the first one.
    """
    rows = max(1, _BLOCK * len(a) // a.size) if a.ndim and a.size else 1
    for lo in range(0, len(a) if a.ndim else 1, rows):
        part = a[lo : lo + rows] if a.ndim else a
        finite = namespace(a).isfinite(part)
        if not finite.all():
            first = int(finite.argmin())
            at = tuple(int(i) for i in np.unravel_index(first, part.shape))
            value = part[at]
            raise ValueError(f"{name} must be finite; got {value} at index {(at[0] + lo, *at[1:]) if at else at}")
