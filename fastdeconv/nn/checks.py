"""Checks that layers share: element types, channels, generators, where arrays are."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.arrays import new, operand
from fastdeconv.problem import as_int, shown

Array = NDArray[Any]

# Gradients of other types have no fused kernels, and models of them do not learn well.
DTYPES = ("float32", "float64")


def float_name(dtype: Any) -> str:
    """Return the argument dtype of a layer, "float32" for None.

    Raises
    ------
    TypeError
    """
    if dtype is None:
        return "float32"
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise TypeError(f'dtype must be None, "float32" or "float64"; got {shown(dtype)}')
    return dtype


def checked_input(layer: object, x: Any, like: Array | None) -> Array:
    """Return the argument of `forward`, if it has the dtype of an array of the layer and is where that is.

    Where the layer has none, both float types will do.

    Raises
    ------
    TypeError, ValueError
    """
    array = operand("x", x)
    if like is not None:
        check_like(layer, "x", array, like.dtype, type(like))
    elif array.dtype.name not in DTYPES:
        raise TypeError(
            f"x of {type(layer).__name__} must be {' or '.join(DTYPES)}; got {array.dtype}: convert it with .astype"
        )
    return array


def check_like(layer: object, name: str, array: Array, dtype: np.dtype[Any], kind: type[Any]) -> None:
    """Refuse an array of another element type than the layer's, or in another place.

    Raises
    ------
    TypeError, ValueError
    """
    if array.dtype != dtype:
        raise TypeError(
            f"{name} of {type(layer).__name__} must be {dtype}; got {array.dtype}: convert it with .astype, "
            f"or the layer with .to"
        )
    if type(array) is not kind:
        here, there = ("on the CPU" if issubclass(k, np.ndarray) else "on a GPU" for k in (kind, type(array)))
        raise ValueError(f"{name} of {type(layer).__name__} must be {here}, as the layer is; got an array {there}")


def contiguous(array: Array) -> Array:
    """Return an array whose elements lie in C order: itself, if they do."""
    if array.flags.c_contiguous:
        return array
    copy = new(array.shape, array)
    copy[...] = array
    return copy


def channel_counts(in_channels: Any, out_channels: Any, groups: Any) -> tuple[int, int]:
    """Return the two numbers of channels, if groups divides them.

    Raises
    ------
    TypeError, ValueError
    """
    values = as_int("in_channels", in_channels), as_int("out_channels", out_channels)
    if as_int("groups", groups) < 1:
        raise ValueError(f"groups must be at least 1; got {groups}")
    for name, value in zip(("in_channels", "out_channels"), values):
        if value < 1 or value % groups:
            raise ValueError(f"{name} must be a positive multiple of groups = {groups}; got {value}")
    return values


def generator(rng: Any) -> np.random.Generator:
    """Return a generator from itself, a seed, or None for one that is new each time.

    Raises
    ------
    TypeError, ValueError
    """
    if rng is None or isinstance(rng, np.random.Generator):
        return np.random.default_rng(rng)
    seed = as_int("rng", rng)
    if seed < 0:
        raise ValueError(f"rng must be a generator of NumPy's, None, or a seed of at least 0; got {rng}")
    return np.random.default_rng(seed)
