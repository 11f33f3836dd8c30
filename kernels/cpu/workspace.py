"""Scratch memory that a thread keeps between calls: fresh pages cost more than the copy that goes into them."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

# A larger buffer is given back to the system after the call.
MOST_KEPT = 64 << 20  # bytes, in each slot

_kept = threading.local()


def take(slot: str, elements: int, dtype: str) -> NDArray[Any]:
    """Return an uninitialised vector, valid until the same thread asks for the same slot again."""
    size = elements * np.dtype(dtype).itemsize
    buffer: NDArray[np.uint8] | None = getattr(_kept, slot, None)
    if buffer is None or buffer.size < size:
        buffer = _aligned(size)
        if size <= MOST_KEPT:
            setattr(_kept, slot, buffer)
    return buffer[:size].view(dtype)


def _aligned(size: int) -> NDArray[np.uint8]:
    """Return bytes that start on a cache line."""
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size]
