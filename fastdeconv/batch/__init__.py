"""Many arrays through one function, in order and in batches: on the CPU, or overlapped with transfers on GPUs.

A thread reads the source ahead and stacks items of one shape (`reading`), within a budget of batches and bytes
(`budget`). Each batch goes through the function on the host or on a device (`lanes`), whose streams upload, compute and
download at the same time. Results are delivered in order, and a batch that fails is taken apart until the failing item
is found (`schedule`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from contextlib import closing
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from fastdeconv.batch import cupy_device
from fastdeconv.batch.budget import Budget
from fastdeconv.batch.errors import ItemError
from fastdeconv.batch.lanes import Device, DeviceLane, HostLane, Lane
from fastdeconv.batch.output import Output
from fastdeconv.batch.progress import StartBar, bar, silent
from fastdeconv.batch.schedule import Outcome, run
from fastdeconv.cuda import runtime
from fastdeconv.devices import number, resolve
from fastdeconv.prepare import PreparedConvTranspose
from fastdeconv.problem import as_int, shown
from fastdeconv.tuning import batch_invariance

__all__ = ["ItemError", "map"]

Array = NDArray[Any]

# Bytes of batches and their results held at a time where no limit is given: on the host, and on each GPU.
HOST_LIMIT, DEVICE_LIMIT = 256 << 20, 1 << 30

_ERRORS = ("raise", "skip", "collect")


@overload
def map(
    function: Callable[[Any], Any],
    source: Iterable[Array],
    *,
    device: str = ...,
    batch_size: int | Literal["auto"] = ...,
    prefetch: int = ...,
    out: None = ...,
    errors: Literal["raise", "skip"] = ...,
    progress: bool = ...,
    memory_limit: int | None = ...,
) -> Iterator[Array]: ...
@overload
def map(
    function: Callable[[Any], Any],
    source: Iterable[Array],
    *,
    device: str = ...,
    batch_size: int | Literal["auto"] = ...,
    prefetch: int = ...,
    out: None = ...,
    errors: Literal["collect"],
    progress: bool = ...,
    memory_limit: int | None = ...,
) -> Iterator[Array | ItemError]: ...
@overload
def map(
    function: Callable[[Any], Any],
    source: Iterable[Array],
    *,
    device: str = ...,
    batch_size: int | Literal["auto"] = ...,
    prefetch: int = ...,
    out: Array | str | os.PathLike[str],
    errors: Literal["raise", "skip", "collect"] = ...,
    progress: bool = ...,
    memory_limit: int | None = ...,
) -> Array: ...
def map(
    function: Callable[[Any], Any],
    source: Iterable[Array],
    *,
    device: str = "auto",
    batch_size: int | Literal["auto"] = "auto",
    prefetch: int = 3,
    out: Array | str | os.PathLike[str] | None = None,
    errors: Literal["raise", "skip", "collect"] = "raise",
    progress: bool = False,
    memory_limit: int | None = None,
) -> Iterator[Any] | Array:
    """Send every item of a source through a function, many at a time, and give the results in order.

    With a prepared weight, results are those of ``(function(item) for item in source)``, to the last bit. With any
    other function they are those of ``(function(item[np.newaxis])[0] for item in source)``: to the last bit too where
    the function treats an item alike however many there are in the stack, which the calls of fastdeconv do here.

    Parameters
    ----------
    function : PreparedConvTranspose or callable
        What `fastdeconv.prepare` returns; items are then what it takes: images with or without a batch axis, or bare.
        Or a function of one stacked array (N, …), not to be written to, that returns a new array with N first. On a
        GPU it gets and returns CuPy arrays.
    source : ndarray or iterable of ndarray
        An array, or `numpy.memmap`, of any size, whose items lie along its first axis; or anything that gives one
        array after the other, of equal or of different shapes and dtypes. Neighbours of one shape and dtype
        are stacked. What an iterable gives is copied at once, so that it may give one buffer again and again.
    device : {"auto", "cpu", "cuda", "cuda:N"}
        "cuda" is all GPUs in turn, "cuda:1" the second; "auto" is "cuda" where there is a GPU and what it needs, and
        "cpu" elsewhere.
    batch_size : int or "auto"
        Most items of a batch. "auto" is as many as `memory_limit` allows, up to 256.
    prefetch : int
        Batches that are read ahead of the one whose results are delivered, and, on each GPU, how many may be under way.
        Another thread reads them. With 0, items are read in the calling thread, when they are needed.
    out : ndarray, str or path, optional
        An array (or memmap) with one row for each item; its rows are filled, and it is returned. Or the path of an .npy
        file: results are written to a file beside it, which replaces it when all are there, and is returned as
        a memmap. A path needs a source that has a length.
    errors : {"raise", "skip", "collect"}
        What to do where the function fails on an item, or an item is no array; in any case the other items of its batch
        are computed. "raise": earlier results are delivered, then `ItemError` is raised. "skip": no result. "collect":
        the `ItemError` takes the result's place. With `out`, rows of items that failed are NaN (0 for integers), and
        "collect" raises an `ExceptionGroup` of all errors when `out` is complete.
    progress : bool
        Show a bar (tqdm).
    memory_limit : int, optional
        Bytes that batches and their results may take at a time, on each GPU or else on the host: by default
        256 MiB on the host, and 1 GiB, or half of what is free if that is less, on a GPU. There it bounds all memory
        that calls of the function allocate; on the host their scratch memory comes on top.

    Returns
    -------
    iterator of ndarray, or ndarray
        A generator, or `out`. A result may be a view of the results of its batch: copy what is kept of a few. Closing
        the generator ends the thread and releases all memory.

    Raises
    ------
    TypeError, ValueError
        The message names the argument, what came and what would do.
    RuntimeError
        `device` is a GPU that is not there, or what it needs is not installed.
    ImportError
        `progress` is True and tqdm is not installed.
    ItemError
        An item failed; ``index`` tells which, ``error`` (and ``__cause__``) why.

    Notes
    -----
    An error that `source` raises is passed on, with a note that tells the index, after the results of earlier items; an
    iterator that has raised has no more items. An item that alone takes more than `memory_limit`, or than the device
    has, fails with `MemoryError`. Where a batch does, it is halved until it fits, and later ones are as small.

    How large results are is known after the first item of each shape, which is a batch of its own; the first of other
    shapes is taken to grow as much as those before.

    Examples
    --------
    >>> import numpy as np
    >>> import fastdeconv as fd
    >>> upscale = fd.prepare(np.ones((2, 2)) / 4, stride=2)
    >>> images = (np.full((1, 2), 4.0 * i) for i in range(3))
    >>> for result in fd.batch.map(upscale, images, device="cpu"):
    ...     print(result[0])
    [0. 0. 0. 0.]
    [1. 1. 1. 1.]
    [2. 2. 2. 2.]
    """
    if not callable(function):
        raise TypeError(f"function must be a prepared weight or a function of a stacked array; got {shown(function)}")
    count = _count(source)
    devices = _devices(device)
    most = None if isinstance(batch_size, str) and batch_size == "auto" else _at_least("batch_size", batch_size, 1)
    ahead = _at_least("prefetch", prefetch, 0)
    limit = None if memory_limit is None else _at_least("memory_limit", memory_limit, 1)
    if not (isinstance(errors, str) and errors in _ERRORS):
        raise ValueError(f'errors must be "raise", "skip" or "collect"; got {shown(errors)}')
    if not isinstance(progress, bool):
        raise TypeError(f"progress must be True or False; got {shown(progress)}")
    output = None if out is None else Output(out, source, count)
    start_bar = bar(count) if progress else silent

    def outcomes() -> Generator[Outcome, None, None]:
        lanes: list[Lane]
        if devices is None:
            bound = HOST_LIMIT if limit is None and most is None else limit
            lanes = [HostLane(_of_stacks(function, None))]
        else:
            bound = limit or min(DEVICE_LIMIT, *(device.free_memory() // 2 for device in devices))
            lanes = [DeviceLane(_of_stacks(function, each), each, bound, max(1, ahead)) for each in devices]
        return run(source, lanes, Budget(most, len(lanes), ahead + 1, bound), ahead > 0)

    if output is not None:
        return output.fill(outcomes, errors, start_bar)
    return _results(outcomes, errors, start_bar)


def _results(
    outcomes: Callable[[], Generator[Outcome, None, None]], errors: str, start_bar: StartBar
) -> Iterator[Array | ItemError]:
    with start_bar() as advance, closing(outcomes()) as delivered:
        for outcome in delivered:
            if isinstance(outcome, ItemError):
                advance(1)
                if errors == "raise":
                    raise outcome from outcome.error
                if errors == "collect":
                    yield outcome
            else:
                advance(len(outcome.results))
                yield from outcome.results


def _of_stacks(function: Callable[[Any], Any], device: Device | None) -> Callable[[Any], Any]:
    """Return what computes stacks on a device, or the host, so that items do not depend on how many they are."""
    if isinstance(function, PreparedConvTranspose):
        function = (function if device is None else function.moved(device.put)).of_stacks()

    def of_stack(stack: Any) -> Any:
        with batch_invariance():
            return function(stack)

    return of_stack


def _count(source: Any) -> int | None:
    """Return the number of items, None if only reading them will tell."""
    kind = f"{type(source).__module__}.{type(source).__qualname__}".removeprefix("builtins.")
    if isinstance(source, np.ma.MaskedArray):
        raise TypeError("source must have no mask; got a masked array: fill it first, with source.filled(0) say")
    if isinstance(source, np.ndarray):
        if source.ndim == 0:
            raise ValueError("source must have an axis along which its items lie; got an array without axes")
        if source.dtype.hasobject:
            raise TypeError(f"source must have numbers for elements; got dtype {source.dtype}")
        return len(source)
    if hasattr(source, "__cuda_array_interface__"):
        raise TypeError(f"source must be in host memory; got {kind}: call the function on arrays of a device directly")
    if isinstance(source, str | bytes | dict) or not isinstance(source, Iterable):
        raise TypeError(f"source must be a NumPy array, or an iterable of them; got {shown(source)} ({kind})")
    return len(source) if isinstance(source, Sized) else None


def _devices(device: Any) -> list[Device] | None:
    """Return the devices that `device` means; None is the host."""
    if not isinstance(device, str):
        raise TypeError(f'device must be "auto", "cpu", "cuda" or "cuda:N"; got {shown(device)}')
    if device == "cpu" or (device == "auto" and runtime.unusable()):
        return None
    if device in ("auto", "cuda"):
        return [cupy_device.CupyDevice(index) for index in runtime.indices()]
    return [cupy_device.CupyDevice(number(resolve(device)))]


def _at_least(name: str, value: Any, low: int) -> int:
    number = as_int(name, value)
    if number < low:
        raise ValueError(f"{name} must be at least {low}; got {number}")
    return number
