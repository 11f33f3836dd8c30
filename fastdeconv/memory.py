"""Memory for results: what earlier results have given back is used again.

The system hands out fresh memory a page at a time, on first touch, and for large results that takes longer than a fast
kernel. So the memory of a result goes, once nothing refers to the result or to a view of it any more, to the next
result of about its size.

``FASTDECONV_KEPT_BYTES`` limits what is kept between results (default 256 MiB; 0 keeps nothing).
"""

from __future__ import annotations

import math
import os
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Smaller results are fast as they are.
_FEW = 1 << 17  # elements
# Memory this many times as large as a result is left for a larger one.
_WASTE = 1.25
_ALIGNMENT = 64  # bytes, a cache line


def _limit() -> int:
    text = os.environ.get("FASTDECONV_KEPT_BYTES", "")
    if text and not text.isdecimal():
        raise ValueError(f"FASTDECONV_KEPT_BYTES must be a number of bytes; got {text!r}")
    return int(text) if text else 256 << 20


_LIMIT = _limit()
# Last used first. Each step on it is atomic, so that threads, signal handlers and the garbage collector may meet in it:
# a buffer that one of them has taken out is its own.
_kept: deque[NDArray[np.uint8]] = deque()


class _Lease:
    """Memory of one result; what refers to the result or to a view of it refers to this."""

    __slots__ = ("__array_interface__", "_buffer")

    def __init__(self, buffer: NDArray[np.uint8], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._buffer = buffer
        address = buffer.__array_interface__["data"][0]
        data = (address + -address % _ALIGNMENT, False)
        self.__array_interface__ = {"shape": shape, "typestr": dtype.str, "data": data, "version": 3}

    def __del__(self) -> None:
        try:
            _kept.appendleft(self._buffer)
            while sum(buffer.size for buffer in list(_kept)) > _LIMIT:
                _kept.pop()
        except (AttributeError, IndexError, RuntimeError, TypeError):
            pass  # the interpreter is closing, or another thread was faster: then the memory is simply freed


def empty(shape: tuple[int, ...], dtype: str | np.dtype[Any]) -> NDArray[Any]:
    """Return an uninitialised C-contiguous array, as `numpy.empty` does."""
    elements = math.prod(shape)
    if elements < _FEW or _LIMIT == 0:
        return np.empty(shape, dtype)
    kind = np.dtype(dtype)
    size = elements * kind.itemsize
    buffer = _taken(size + _ALIGNMENT)
    return np.asarray(_Lease(np.empty(size + _ALIGNMENT, np.uint8) if buffer is None else buffer, shape, kind))


def _taken(size: int) -> NDArray[np.uint8] | None:
    """Take a buffer that fits out of those kept, if there is one."""
    for _ in range(len(_kept)):
        try:
            buffer = _kept.popleft()
        except IndexError:
            return None
        if size <= buffer.size <= _WASTE * size:
            return buffer
        _kept.append(buffer)
    return None
