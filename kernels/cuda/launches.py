"""A pass on a device as launches of kernels: what runs, on how many threads, with which arrays and numbers.

Whoever holds device memory executes them: on a GPU, in Numba's simulator, or on the tests' machine for PTX.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from numpy.typing import NDArray

THREADS = 256  # of a block


# Places in arrays of fewer elements are computed in 32 bits, which takes half the instructions.
SMALL = 1 << 31


class Launch(NamedTuple):
    """One kernel on a grid.

    Attributes
    ----------
    kernel : callable
        Its Python function, the same object for all launches of one kernel.
    types : tuple of str
        Of its arguments: "float32*" is a pointer, "int32" a number.
    grid : tuple of int
        Blocks of `THREADS` threads.
    arguments : tuple of str and int
        Names of arrays, and numbers.
    """

    kernel: Callable[..., None]
    types: tuple[str, ...]
    grid: tuple[int, ...]
    arguments: tuple[str | int, ...]


class Steps(NamedTuple):
    """The launches of a pass in their order, tables that they read, and elements of the scratch memory they take."""

    launches: tuple[Launch, ...]
    tables: dict[str, NDArray[Any]]
    scratch: dict[str, int]


def extent(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Return the elements from the first to the last of an array, whatever lies in between."""
    return 1 + sum((n - 1) * step for n, step in zip(shape, strides))


def index_for(*elements: int) -> str:
    """Return the integer type for places in arrays of so many elements."""
    return "int32" if max(elements) < SMALL else "int64"
