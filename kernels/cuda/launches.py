"""What a kernel family tells about a pass on a device: launches in their order, tables and scratch memory.

Whoever holds device memory executes them: on a GPU, in Numba's simulator, or on the tests' machine for PTX.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from numpy.typing import NDArray

from fastdeconv.kernels.geometry import Geometry

THREADS = 256  # of a block, where a launch says nothing else

ALIGNED = 16  # bytes of the widest access of a thread

# Places in arrays of fewer elements are computed in 32 bits, which takes half the instructions.
SMALL = 1 << 31

ALIGNED = 16  # bytes of the widest access of a thread

Strides = tuple[int, ...]  # in elements, on (batch, channel, three spatial axes)


class Target(NamedTuple):
    """A device, as far as kernels are concerned.

    Attributes
    ----------
    capability : tuple of int
        Compute capability, (8, 0) for instance.
    multiprocessors : int
    tf32 : bool
        Whether products of float32 may be of factors rounded to TF32.
    """

    capability: tuple[int, int]
    multiprocessors: int
    tf32: bool = False


class Layout(NamedTuple):
    """Where the arrays of a call lie; weights are contiguous, and so is their gradient.

    Attributes
    ----------
    first, second : tuple of int
        Strides of (x, y) in the forward pass, (gy, gx) in the input gradient, (x, gy) in the weight gradient.
    bias : bool
        Whether there is one, in the forward pass.
    aligned : bool
        Whether every array is known to begin at a multiple of `ALIGNED` bytes.
    """

    first: Strides
    second: Strides
    bias: bool = False
    aligned: bool = False


class Launch(NamedTuple):
    """One kernel on a grid.

    Attributes
    ----------
    kernel : callable
        Its Python function, the same object for all launches of one kernel.
    types : tuple of str
        Of its arguments: "float32*" is a pointer, "int32" a number.
    grid : tuple of int
        Blocks.
    arguments : tuple of str and int
        Names of arrays, and numbers.
    threads : int
        Of a block.
    """

    kernel: Callable[..., None]
    types: tuple[str, ...]
    grid: tuple[int, ...]
    arguments: tuple[str | int, ...]
    threads: int = THREADS


class Scratch(NamedTuple):
    """Memory that a pass takes while it runs; what it holds at first is arbitrary."""

    elements: int
    dtype: str


class Steps(NamedTuple):
    """The launches of a pass in their order, tables that they read, and the scratch memory they take, by name.

    The names of a call's arrays: "source", "weight", "bias" (anything if there is none) and "out" in the forward pass
    and the input gradient; "x", "gy" and "out" in the weight gradient.
    """

    launches: tuple[Launch, ...]
    tables: dict[str, NDArray[Any]]
    scratch: dict[str, Scratch]


def never(*_: Any) -> None:
    """Decline nothing."""


class DeviceImplementation(NamedTuple):
    """One way to compute one pass on a device: an entry of the dispatch tables.

    Attributes
    ----------
    name : str
        The kernel's one name, in dispatch, ``explain``, tests, flags and benchmark rows.
    idea : str
        One sentence for ``explain``.
    declines : callable
        ``declines(geometry, target)`` is None, or a sentence saying why the kernel cannot serve it.
    steps : callable
        ``steps(geometry, layout, target)`` returns what to launch.
    yields : callable
        ``yields(geometry, target)`` is None, or a sentence saying why a later entry is expected to be faster.
    inline_ptx : bool
        Whether kernels hold inline PTX without a Python twin: then Numba's simulator cannot run them.
    """

    name: str
    idea: str
    declines: Callable[[Geometry, Target], str | None]
    steps: Callable[[Geometry, Layout, Target], Steps]
    yields: Callable[[Geometry, Target], str | None] = never
    inline_ptx: bool = False


def extent(shape: tuple[int, ...], strides: Strides) -> int:
    """Return the elements from the first to the last of an array, whatever lies in between."""
    return 1 + sum((n - 1) * step for n, step in zip(shape, strides))


def channels_last(strides: Strides) -> bool:
    """Return whether neighbours in memory are channels, not pixels."""
    return strides[1] < strides[4]


def blocks_for(threads: int) -> int:
    """Return how many blocks of `THREADS` have so many threads: one at least, as no device launches an empty grid."""
    return max(1, -(-threads // THREADS))


def index_for(*elements: int) -> str:
    """Return the integer type for places in arrays of so many elements."""
    return "int32" if max(elements) < SMALL else "int64"
