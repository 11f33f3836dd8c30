"""Checks that need the arrays themselves: type, element type, byte order, overlap of `out`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv import memory
from fastdeconv.problem import DTYPES, shown

Array = NDArray[Any]

# Equal dtypes have equal hashes, byte order included: `in` tells whether an array can be used as it is.
_NATIVE: dict[np.dtype[Any], str] = {np.dtype(name): name for name in DTYPES}


def operand(name: str, value: Any) -> Array:
    """Return an array argument aligned and in native byte order, unchanged if it is that already.

    Raises
    ------
    TypeError
        Not a plain NumPy array, or of an element type that is not supported.
    """
    if type(value) is np.ndarray and value.dtype in _NATIVE and value.flags.aligned:
        return value
    array = _plain(name, value)
    native = array.dtype.newbyteorder("=")
    if native not in _NATIVE:
        raise TypeError(
            f"{name} must have one of the dtypes {', '.join(DTYPES)}; got {array.dtype}: convert it with .astype"
        )
    return np.require(array, native, "A")


def _plain(name: str, value: Any) -> Array:
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name} must have no mask; got a masked array: fill it first, with {name}.filled(0) for instance"
        )
    if isinstance(value, np.ndarray):
        return np.asarray(value)
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    if hasattr(value, "__cuda_array_interface__"):
        raise TypeError(f"{name} must be a NumPy array, because this release has CPU kernels only; got {kind}")
    raise TypeError(f"{name} must be a NumPy array; got {shown(value)} ({kind}): convert it with numpy.asarray")


def same_dtype(**arrays: Array | None) -> str:
    """Return the name of the element type that all the arrays have.

    Raises
    ------
    TypeError
        The arrays differ in it.
    """
    first = None
    for array in arrays.values():
        if array is None:
            continue
        if first is None:
            first = array.dtype
        elif array.dtype != first:
            listing = ", ".join(f"{name} is {a.dtype}" for name, a in arrays.items() if a is not None)
            raise TypeError(f"{' and '.join(arrays)} must have one dtype; {listing}: convert with .astype")
    return _NATIVE[first]  # type: ignore[index]


def result(out: Any, shape: tuple[int, ...], dtype: str, **inputs: Array | None) -> Array:
    """Return `out` if it can take the result, or a new array if it is None.

    Raises
    ------
    TypeError
        Not a NumPy array, or of another element type.
    ValueError
        Another shape, read-only, or overlapping an input or itself.
    """
    if out is None:
        return memory.empty(shape, dtype)
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(f"out must be a NumPy array without a mask; got {shown(out)}")
    if _NATIVE.get(out.dtype) != dtype:
        raise TypeError(f"out must have the result's dtype {dtype} in native byte order; got {out.dtype.str}")
    if out.shape != shape:
        raise ValueError(f"out must have the result's shape {shape}; got {out.shape}")
    flags = out.flags
    if not flags.writeable:
        raise ValueError("out must be writeable; got a read-only array")
    if not flags.forc and _folded(out):
        raise ValueError(f"out must not overlap itself; got strides {out.strides} for shape {out.shape}")
    for name, array in inputs.items():
        if array is not None and np.may_share_memory(out, array) and _share(out, array):
            raise ValueError(f"out must not overlap {name}; pass an array of its own")
    return out


def _folded(a: Array) -> bool:
    """Tell whether two elements may lie on one address: a smaller stride walks past the next larger one."""
    reach = a.itemsize
    for step, n in sorted((abs(s), n) for s, n in zip(a.strides, a.shape) if n > 1):
        if step < reach:
            return True
        reach += step * (n - 1)
    return False


def _share(a: Array, b: Array) -> bool:
    try:
        return np.shares_memory(a, b, max_work=10_000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True
