"""What a batch goes through: the function on the host, or upload, function and download on streams of a device."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fastdeconv import memory
from fastdeconv.batch.errors import ResultError
from fastdeconv.problem import shown

Array = NDArray[Any]
Function = Callable[[Any], Any]
Flight = Any  # a batch under way, as its lane knows it


class Device(Protocol):
    """Memory and three streams of a device. What is enqueued starts after the given event, and is told by another.

    Host and device memory goes back when nothing refers to it any more; who enqueues keeps it until then.
    """

    def free_memory(self) -> int:
        """Return how many bytes are free."""
        ...

    def bound(self, nbytes: int) -> None:
        """Let `upload` and `compute` allocate so many bytes at a time, and no more."""
        ...

    def put(self, array: Array) -> Any:
        """Copy an array to the device, to stay there."""
        ...

    def pinned(self, nbytes: int) -> NDArray[np.uint8]:
        """Allocate host memory for transfers. Called from another thread too."""
        ...

    def upload(self, host: Array) -> tuple[Any, Any]:
        """Enqueue the copy to new device memory; return the device's array and an event."""
        ...

    def compute(self, function: Function, x: Any, after: Any) -> tuple[Any, Any]:
        """Call the function, which enqueues; return its result, made contiguous, and an event."""
        ...

    def download(self, y: Any, host: Array, after: Any) -> Any:
        """Enqueue the copy to host memory; return an event."""
        ...

    def wait(self, event: Any) -> None:
        """Return when an event has come; raise if something before it failed."""
        ...

    def settle(self) -> None:
        """Return when nothing is under way any more, failed or not, and free the memory that is not used."""
        ...

    def is_out_of_memory(self, error: Exception) -> bool:
        """Tell whether a smaller batch may do."""
        ...


class Lane(Protocol):
    """Where batches are computed one after the other."""

    depth: int  # batches that may be under way

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Allocate host memory for a batch. Called from the thread that reads."""
        ...

    def start(self, stack: Array) -> Flight:
        """Begin with a batch, which the caller keeps; raise if that fails, with nothing of it under way."""
        ...

    def finish(self, flight: Flight) -> Array:
        """Return the results of a batch when they are there, in memory of their own; raise as `start` does."""
        ...

    def is_out_of_memory(self, error: Exception) -> bool:
        """Tell whether a smaller batch may do."""
        ...

    def close(self) -> None:
        """Return when nothing is under way any more."""
        ...


class HostLane:
    """Computes in the calling thread; a batch is a view of the source where that is an array."""

    depth = 1

    def __init__(self, function: Function) -> None:
        self._function = function

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Allocate host memory for a batch."""
        return _pageable(shape, dtype)

    def start(self, stack: Array) -> Array:
        """Compute."""
        stack = stack.view()
        stack.flags.writeable = False
        results = self._function(stack)
        _check(results, isinstance(results, np.ndarray), len(stack))
        return results  # type: ignore[no-any-return]

    def finish(self, flight: Array) -> Array:
        """Return the results."""
        return flight

    def is_out_of_memory(self, error: Exception) -> bool:
        """Tell whether a smaller batch may do."""
        return isinstance(error, MemoryError)

    def close(self) -> None:
        """Nothing is under way."""


class _Flight(NamedTuple):
    """A batch on a device: what its streams still use, and the event of its download."""

    x: Any
    y: Any
    results: Array
    done: Any


class DeviceLane:
    """Uploads a batch while another one is computed and a third one downloaded.

    Parameters
    ----------
    function : callable
        Of an array of the device.
    device : Device
    limit : int
        Bytes of device memory.
    depth : int
        Batches that may be under way.
    """

    def __init__(self, function: Function, device: Device, limit: int, depth: int) -> None:
        self.depth = depth
        self._function = function
        self._device = device
        device.bound(limit)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Allocate pinned memory for a batch."""
        return self._pinned(shape, dtype)

    def _pinned(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        return _view(self._device.pinned(_nbytes(shape, dtype)), shape, dtype)

    def start(self, stack: Array) -> _Flight:
        """Enqueue everything that is to be done with a batch."""
        device = self._device
        x = y = results = None  # referred to until the streams that may use them have settled
        try:
            x, uploaded = device.upload(stack)
            y, computed = device.compute(self._function, x, uploaded)
            _check(y, hasattr(y, "shape"), len(stack))
            results = self._pinned(y.shape, y.dtype)
            return _Flight(x, y, results, device.download(y, results, computed))
        except BaseException:
            device.settle()
            raise

    def finish(self, flight: _Flight) -> Array:
        """Wait for the download, and return the results in memory that is not pinned."""
        try:
            self._device.wait(flight.done)
        except BaseException:
            self._device.settle()
            raise
        results = _pageable(flight.results.shape, flight.results.dtype)
        results[...] = flight.results
        return results

    def is_out_of_memory(self, error: Exception) -> bool:
        """Tell whether a smaller batch may do."""
        return isinstance(error, MemoryError) or self._device.is_out_of_memory(error)

    def close(self) -> None:
        """Wait for what is under way."""
        self._device.settle()


def _check(results: Any, is_array: bool, count: int) -> None:
    if not is_array:
        raise ResultError(f"function must return an array; got {shown(results)}")
    if results.shape[:1] != (count,):
        raise ResultError(
            f"function must return one result for each of the {count} items of its argument, along the first axis; "
            f"got shape {tuple(results.shape)}"
        )


def _nbytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return math.prod(shape) * dtype.itemsize


def _view(buffer: NDArray[np.uint8], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    return buffer[: _nbytes(shape, dtype)].view(dtype).reshape(shape)


def _pageable(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    return _view(memory.empty((_nbytes(shape, dtype),), "uint8"), shape, dtype)
