"""Types of elements: how arrays hold them, what sums are of, and the way from one to the other.

float16 and bfloat16 are widened to float32 as they are read, sums are of float32, and results are rounded once, to
nearest even. Compiled kernels see them as 16-bit integers; in Numba's simulator arrays hold the numbers themselves.
Sums of integers wrap around, as NumPy's do.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import types

from fastdeconv.kernels.cuda.device import (
    SIMULATED,
    bfloat_to_bits,
    bits_to_bfloat,
    bits_to_half,
    device_function,
    half_to_bits,
)

DTYPES = ("float32", "float64", "float16", "bfloat16")
ANY = (*DTYPES, "int64")


class Elements(NamedTuple):
    """What kernels know of a type.

    Attributes
    ----------
    pointer : str
        To such elements, for `Launch.types`.
    size : int
        Bytes of one.
    held : Any
        Their type in registers, for arrays of Numba.
    blank : Any
        Zero, of that type.
    sum : str
        The type of sums, for scratch memory.
    zero : Any
        Of that type.
    run : int
        Sums in 16 bytes.
    widen, narrow : callable
        Device functions: an element as a sum, a sum as an element.
    """

    pointer: str
    size: int
    held: Any
    blank: Any
    sum: str
    zero: Any
    run: int
    widen: Any
    narrow: Any


@device_function
def _same(value: Any) -> Any:
    return value


@cache
def elements(dtype: str) -> Elements:
    """Return what kernels know of a type of NumPy's name, or of bfloat16."""
    if dtype in ("float32", "float64", "int64"):
        scalar = getattr(np, dtype)
        size = np.dtype(dtype).itemsize
        zero = scalar(0)
        return Elements(f"{dtype}*", size, getattr(types, dtype), zero, dtype, zero, 16 // size, _same, _same)
    widen, narrow = {"float16": (bits_to_half, half_to_bits), "bfloat16": (bits_to_bfloat, bfloat_to_bits)}[dtype]
    zero = np.float32(0)
    held, blank = (types.float32, zero) if SIMULATED else (types.uint16, np.uint16(0))
    return Elements("uint16*", 2, held, blank, "float32", zero, 4, widen, narrow)


@cache
def widen_unit(kind: Elements, count: int) -> Any:
    """Return a device function that widens so many elements: 1, 2 or 4."""
    widen = kind.widen

    @device_function
    def one(values: Any) -> Any:
        return (widen(values[0]),)

    @device_function
    def two(values: Any) -> Any:
        return widen(values[0]), widen(values[1])

    @device_function
    def four(values: Any) -> Any:
        return widen(values[0]), widen(values[1]), widen(values[2]), widen(values[3])

    return {1: one, 2: two, 4: four}[count]


def refused(dtype: str) -> str | None:
    """Return why kernels for all of `ANY` cannot serve a type, or None."""
    return None if dtype in ANY else f"serves {', '.join(ANY)}, not {dtype}"
