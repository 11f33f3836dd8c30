"""Arrays on a GPU: those of CuPy, and others that share their memory with it."""

from __future__ import annotations

import sys
from typing import Any

from fastdeconv.cuda import runtime


def shared(name: str, value: Any) -> Any:
    """Return CuPy's array of the same memory.

    Raises
    ------
    RuntimeError
        CuPy or its driver is missing.
    TypeError
        The object does not share its memory, a tensor that requires a gradient for instance.
    """
    cp = runtime.cupy()
    if isinstance(value, cp.ndarray):
        return value
    try:
        if hasattr(value, "__cuda_array_interface__"):
            return cp.asarray(value)
        return cp.from_dlpack(value)
    except (RuntimeError, TypeError, ValueError, BufferError) as error:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise TypeError(f"{name} must share its memory; got {kind}, which refuses: {error}") from None


def returned(result: Any, like: Any) -> Any:
    """Return a new array of CuPy as the kind of array that an argument is, if that can take over memory by DLPack."""
    cp = runtime.cupy()
    if isinstance(like, cp.ndarray):
        return result
    namespace = getattr(like, "__array_namespace__", None)
    module = namespace() if callable(namespace) else sys.modules.get(type(like).__module__.partition(".")[0])
    take = getattr(module, "from_dlpack", None)
    return result if take is None else take(result)
