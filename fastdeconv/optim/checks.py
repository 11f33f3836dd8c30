"""Checks that rules, schedules and averages share: numbers, arrays that are changed in place, state that is loaded."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastdeconv.arrays import operand
from fastdeconv.problem import shown

Array = NDArray[Any]
State = dict[str, Array]
T = TypeVar("T")


def number(name: str, value: Any, *, positive: bool = False) -> float:
    """Return a finite number that is not negative, or positive if asked, as a float.

    Raises
    ------
    TypeError, ValueError
    """
    wanted = f"{name} must be a positive number" if positive else f"{name} must be a number of at least 0"
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{wanted}; got {value!r} of type {type(value).__name__}")
    if not 0 <= value < math.inf or (positive and value == 0):
        raise ValueError(f"{wanted}; got {value!r}")
    return float(value)


def by_name(argument: str, value: Any, kind: type[Any], makers: Mapping[str, Callable[[], T]], example: str) -> T:
    """Return an object from its name, or the object itself; `example` is how one is made.

    Raises
    ------
    TypeError, ValueError
    """
    names = ", ".join(f'"{name}"' for name in makers)
    wanted = f"{argument} must be one of {names}, or an object such as {example}"
    if isinstance(value, kind):
        found: T = value
        return found
    if not isinstance(value, str):
        came = value.__name__ + ", a class: call it" if isinstance(value, type) else repr(value)
        raise TypeError(f"{wanted}; got {came}")
    if value not in makers:
        raise ValueError(f"{wanted}; got {value!r}")
    return makers[value]()


def fraction(name: str, value: Any) -> float:
    """Return a number from 0 to below 1.

    Raises
    ------
    TypeError, ValueError
    """
    if number(name, value) >= 1:
        raise ValueError(f"{name} must be from 0 to below 1; got {value!r}")
    return float(value)


def flag(name: str, value: Any) -> bool:
    """Return True or False.

    Raises
    ------
    TypeError
    """
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False; got {value!r}")
    return bool(value)


def flat(name: str, array: Any) -> Array:
    """Return an array that kernels may change in place, of NumPy or CuPy, as a vector of the same memory.

    Raises
    ------
    TypeError, ValueError
    """
    found = operand(name, array)
    if found.dtype not in (np.float32, np.float64):
        raise TypeError(f"{name} must be float32 or float64; got {found.dtype}")
    if found is not array:
        raise TypeError(
            f"{name} is changed in place, and so must be a plain array in native byte order of NumPy or CuPy; "
            f"got {shown(array)}"
        )
    if not found.flags.c_contiguous:
        raise ValueError(f"{name} must be C-contiguous; got strides {found.strides} for shape {found.shape}")
    if not getattr(found.flags, "writeable", True):  # CuPy's arrays are always writeable
        raise ValueError(f"{name} must be writeable; got a read-only array")
    vector: Array = found.reshape(-1)
    return vector


def copy_out(array: Array) -> Array:
    """Return a copy of an array, of NumPy or CuPy, as NumPy's."""
    if isinstance(array, np.ndarray):
        return array.copy()
    copy: Array = array.get()
    return copy


def copy_in(values: Array, array: Array) -> None:
    """Copy a NumPy array into one of NumPy or CuPy."""
    if isinstance(array, np.ndarray):
        array[...] = values
    else:
        array.set(np.ascontiguousarray(values))


def check_state(state: Any, expected: State) -> None:
    """Check that what is to be loaded has the keys, shapes and dtypes of other arrays.

    Raises
    ------
    TypeError, ValueError
        The message has everything that is wrong.
    """
    if not isinstance(state, dict):
        raise TypeError(f"state must be a dict of NumPy arrays, as state_dict returns it; got {shown(state)}")
    faults = [f"{key!r} is missing" for key in expected if key not in state]
    faults += [f"{key!r} is unexpected" for key in state if key not in expected]
    for key, wanted in expected.items():
        found = state.get(key, wanted)
        if key in state and not isinstance(found, np.ndarray):
            raise TypeError(f"state[{key!r}] must be a NumPy array; got {shown(found)}")
        if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
            faults.append(f"{key!r} is {found.dtype} {found.shape}, and must be {wanted.dtype} {wanted.shape}")
        elif wanted.dtype == np.int64 and found < 0:
            faults.append(f"{key!r} counts, and so must be at least 0; got {found}")
    if faults:
        raise ValueError(f"state must have {', '.join(map(repr, expected))}: {'; '.join(faults)}")
