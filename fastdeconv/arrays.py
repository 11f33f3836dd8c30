"""Checks that need the arrays themselves: type, place, element type, byte order, overlap of `out`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv import memory
from fastdeconv.devices import place_of
from fastdeconv.problem import DTYPES, shown

Array = NDArray[Any]

# Equal dtypes have equal hashes, byte order included: `in` tells whether an array can be used as it is.
_NATIVE: dict[np.dtype[Any], str] = {np.dtype(name): name for name in DTYPES if name != "bfloat16"}
_DLPACK_CUDA = (2, 13)  # device types: CUDA memory, and that which the CPU can reach too


def operand(name: str, value: Any) -> Array:
    """Return an array argument aligned and in native byte order, unchanged if it is that already.

    It may lie on a GPU: then it is CuPy's array of the same memory.

    Raises
    ------
    TypeError
        Not a plain NumPy array nor one on a GPU, or of an element type that is not supported.
    RuntimeError
        It is on a GPU, and what that needs is not installed.
    """
    if type(value) is np.ndarray and value.dtype in _NATIVE and value.flags.aligned:
        return value
    if not isinstance(value, np.ndarray) and on_gpu(value):
        from fastdeconv.cuda.arrays import shared

        array: Array = shared(name, value)
        dtype_name(name, array.dtype)
        return array
    return host_operand(name, value)


def operands(first_name: str, first: Any, second_name: str, second: Any) -> tuple[Array, Array, str]:
    """Return two arguments as `operand` does, and the name of the element type that they share; see `same_dtype`."""
    # Much of the time that a small call takes: NumPy's own arrays that can be used as they are, in one go.
    if type(first) is type(second) is np.ndarray and (kind := first.dtype) is second.dtype:
        dtype = _NATIVE.get(kind)
        if dtype is not None and first.flags.aligned and second.flags.aligned:
            return first, second, dtype
    a, b = operand(first_name, first), operand(second_name, second)
    return a, b, same_dtype(**{first_name: a, second_name: b})


def host_operand(name: str, value: Any) -> Array:
    """Return an argument that must be a NumPy array; see `operand`."""
    if type(value) is np.ndarray and value.dtype in _NATIVE and value.flags.aligned:
        return value
    array = _plain(name, value)
    native = array.dtype.newbyteorder("=")
    dtype_name(name, native)
    return np.require(array, native, "A")


def dtype_name(name: str, dtype: np.dtype[Any]) -> str:
    """Return the name of an argument's element type.

    Raises
    ------
    TypeError
        It is not supported.
    """
    if dtype.name == "bfloat16":  # not NumPy's own: there is no dtype to look for until ml_dtypes is imported
        return "bfloat16"
    found = _NATIVE.get(dtype)
    if found is None:
        raise TypeError(f"{name} must have one of the dtypes {', '.join(DTYPES)}; got {dtype}: convert it with .astype")
    return found


def on_gpu(value: Any) -> bool:
    """Tell whether an object is an array in the memory of a GPU, without importing anything."""
    try:
        if hasattr(value, "__cuda_array_interface__"):
            return True
    except RuntimeError:  # a tensor of torch that requires a gradient
        return True
    where = getattr(value, "__dlpack_device__", None)
    return callable(where) and where()[0] in _DLPACK_CUDA


def _plain(name: str, value: Any) -> Array:
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name} must have no mask; got a masked array: fill it first, with {name}.filled(0) for instance"
        )
    if isinstance(value, np.ndarray):
        return np.asarray(value)
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    if on_gpu(value):
        raise TypeError(f"{name} must be a NumPy array here; got {kind}: copy it to the CPU first")
    raise TypeError(f"{name} must be a NumPy array; got {shown(value)} ({kind}): convert it with numpy.asarray")


def new(shape: tuple[int, ...], like: Array) -> Array:
    """Return an uninitialised array in C order of the element type and in the place of another."""
    if isinstance(like, np.ndarray):
        return memory.empty(shape, like.dtype)
    from fastdeconv.cuda.runtime import cupy, on

    with on(like.device.id):
        made: Array = cupy().empty(shape, like.dtype)
    return made


def namespace(array: Array) -> Any:
    """Return the module whose functions take an array: NumPy or CuPy."""
    if isinstance(array, np.ndarray):
        return np
    from fastdeconv.cuda.runtime import cupy

    return cupy()


def returned(result: Array, like: Any) -> Any:
    """Return a new result as the kind of array that an argument is."""
    if isinstance(result, np.ndarray):
        return result
    from fastdeconv.cuda.arrays import returned as device_returned

    return device_returned(result, like)


def dtype_of_both(first: Array, second: Array) -> str | None:
    """Return the name of the element type that two operands have if they are NumPy's and share it.

    None leaves it to `same_dtype`, which tells what is wrong, and takes ten times as long.
    """
    if type(first) is np.ndarray and type(second) is np.ndarray and first.dtype is second.dtype:
        return _NATIVE.get(first.dtype)
    return None


def same_dtype(**arrays: Array | None) -> str:
    """Return the name of the element type that all the arrays have.

    Raises
    ------
    TypeError
        The arrays differ in it.
    ValueError
        They are not all in one place.
    """
    first = dtype = None
    for array in arrays.values():
        if array is None:
            continue
        if first is None:
            first, dtype = array, array.dtype
        elif array.dtype != dtype:
            listing = ", ".join(f"{name} is {a.dtype}" for name, a in arrays.items() if a is not None)
            raise TypeError(f"{' and '.join(arrays)} must have one dtype; {listing}: convert with .astype")
        elif (type(array) is not np.ndarray or type(first) is not np.ndarray) and place_of(array) != place_of(first):
            listing = ", ".join(f"{name} is on {place_of(a)}" for name, a in arrays.items() if a is not None)
            raise ValueError(
                f"{' and '.join(arrays)} must be on one device; {listing}: move them with cupy.asarray or cupy.asnumpy"
            )
    assert dtype is not None
    return _NATIVE.get(dtype) or dtype_name(next(iter(arrays)), dtype)


def result(out: Any, shape: tuple[int, ...], dtype: str, **inputs: Array | None) -> Array:
    """Return `out` if it can take the result, or a new array if it is None.

    Raises
    ------
    TypeError
        Not an array, or of another element type.
    ValueError
        Another shape, another place, read-only, or overlapping an input or itself.
    """
    like = next(array for array in inputs.values() if array is not None)
    if out is None:
        return new(shape, like)
    if isinstance(like, np.ndarray):
        if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
            raise TypeError(f"out must be a NumPy array without a mask; got {shown(out)}")
    else:
        out = operand("out", out)
        if place_of(out) != place_of(like):
            raise ValueError(f"out must be on {place_of(like)}, where the other arrays are; got {place_of(out)}")
    if out.dtype != like.dtype:
        raise TypeError(f"out must have the result's dtype {dtype} in native byte order; got {out.dtype.str}")
    if out.shape != shape:
        raise ValueError(f"out must have the result's shape {shape}; got {out.shape}")
    flags = out.flags
    if not getattr(flags, "writeable", True):  # CuPy's arrays are always writeable
        raise ValueError("out must be writeable; got a read-only array")
    if not flags.forc and _folded(out):
        raise ValueError(f"out must not overlap itself; got strides {out.strides} for shape {out.shape}")
    for name, array in inputs.items():
        if array is not None and namespace(out).may_share_memory(out, array) and _share(out, array):
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
    if not isinstance(a, np.ndarray):
        return True  # an exact answer would wait for the device
    try:
        return np.shares_memory(a, b, max_work=10_000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True
