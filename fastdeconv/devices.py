"""Which device serves a call: where its arrays are, or where NumPy arrays are to be sent."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from fastdeconv.problem import shown

_default: str | None = None
_WANTED = 'device must be "cpu", "cuda", "cuda:N", "auto" or None'


def set_device(device: str | None) -> None:
    """Set the device of calls on NumPy arrays that name none.

    Parameters
    ----------
    device : {"cpu", "cuda", "cuda:N", "auto"} or None
        None, the initial value: where the arrays are, so NumPy arrays are computed on the CPU. "cuda" sends NumPy
        arrays to the current GPU, "cuda:1" to the second, and results come back as NumPy arrays. "auto" does so where
        transfer and computation together are expected to be faster than the CPU; `fastdeconv.explain` shows the
        estimate. Arrays on a GPU are computed there in any case.

    Raises
    ------
    TypeError
        Neither a string nor None.
    ValueError
        Not a known device.
    RuntimeError
        There is no such GPU, or what it needs is not installed; the message says what.
    """
    global _default
    if device is not None:
        _check(device)
    _default = device


def get_device() -> str | None:
    """Return the device of calls on NumPy arrays that name none; None is where the arrays are."""
    return _default


def resolve(device: Any, like: Any = None) -> str:
    """Return where a call is computed: "cpu", "cuda:N", or "auto" if that depends on the problem.

    Parameters
    ----------
    device : str or None
        What the call names.
    like : ndarray, optional
        An array of the call, NumPy's or CuPy's.
    """
    if like is None or type(like) is np.ndarray:
        if device is None:
            device = _default
            if device is None:
                return "cpu"
        return _check(device)
    place = place_of(like)
    if device is None:
        return place
    wanted = _check(device)
    if wanted not in ("auto", place) and device != "cuda":
        raise ValueError(f'device must be "{place}", where the arrays are, or None; got {shown(device)}')
    return place


def place_of(array: Any) -> str:
    """Return where an array is: "cpu" or "cuda:N"."""
    return "cpu" if isinstance(array, np.ndarray) else f"cuda:{array.device.id}"


def number(place: str) -> int:
    """Return the N of "cuda:N"."""
    return int(place.partition(":")[2])


def _check(device: Any) -> str:
    if not isinstance(device, str):
        raise TypeError(f"{_WANTED}; got {shown(device)}")
    if device in ("cpu", "auto"):
        return device
    if not re.fullmatch(r"cuda(:\d+)?", device, re.ASCII):
        raise ValueError(f"{_WANTED}; got {shown(device)}")
    from fastdeconv.cuda import runtime

    return runtime.place(None if device == "cuda" else number(device))
