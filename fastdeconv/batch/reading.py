"""Batches from a source: neighbours of one shape and dtype stacked, read ahead by a thread."""

from __future__ import annotations

import itertools
import math
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.batch.budget import Budget, Closed, Kind, Share
from fastdeconv.batch.errors import without_locals
from fastdeconv.batch.lanes import Flight, HostLane, Lane
from fastdeconv.problem import shown

Array = NDArray[Any]

# Seconds that closing waits for a source that is in the middle of giving an item.
PATIENCE = 5.0


@dataclass(eq=False, slots=True)
class Batch:
    """Items under way.

    Attributes
    ----------
    first : int
        Index of the first item.
    stack : ndarray, shape (n, …), or None
        The items; None if `error` kept the single one from being read.
    share : Share or None
        What is set aside for it in the budget.
    lane : Lane
    flight : object
        What the lane knows of it, between start and finish.
    results : ndarray, shape (n, …), or None
        When it is finished.
    error : Exception or None
        Why it could not be read, started or finished.
    """

    first: int
    stack: Array | None
    share: Share | None
    lane: Lane
    flight: Flight | None = None
    results: Array | None = None
    error: Exception | None = None

    @property
    def kind(self) -> Kind:
        """Shape and dtype of its items."""
        assert self.stack is not None
        return self.stack.shape[1:], self.stack.dtype

    def let_go(self) -> None:
        """Release the memory."""
        self.stack = self.flight = self.results = None


@dataclass(eq=False, slots=True)
class SourceFailed:
    """The source, or reading it, raised an error at an index: the end."""

    index: int | None
    error: BaseException


Entry = Batch | SourceFailed


def read(source: Iterable[Any], lanes: Sequence[Lane], budget: Budget) -> Iterator[Entry]:
    """Yield the batches of a source in order, for the lanes in turn."""
    turns = itertools.cycle(range(len(lanes)))
    if isinstance(source, np.ndarray):
        return _read_array(source, lanes, turns, budget)
    return _read_iterable(source, lanes, turns, budget)


def _read_array(source: Array, lanes: Sequence[Lane], turns: Iterator[int], budget: Budget) -> Iterator[Entry]:
    # Of an array in memory, the host computes views. Those of a file would be read where they are used, not here.
    as_views = not isinstance(source, np.memmap)
    source = np.asarray(source)
    kind = source.shape[1:], source.dtype
    nbytes = math.prod(source.shape[1:]) * source.itemsize
    first = 0
    while first < len(source):
        lane = lanes[turn := next(turns)]
        try:
            share = budget.take(turn, kind, nbytes, len(source) - first)
            if as_views and isinstance(lane, HostLane):
                stack = source[first : first + share.items]
            else:
                stack = _stack(lane, kind, _order(source[0]), share, budget)
                stack[...] = source[first : first + len(stack)]
        except MemoryError as error:
            yield Batch(first, None, None, lane, error=without_locals(error))
            first += 1
        else:
            batch = Batch(first, stack, share, lane)
            first += len(stack)
            del stack  # whoever has the batch lets go of it
            yield batch


def _read_iterable(
    source: Iterable[Any], lanes: Sequence[Lane], turns: Iterator[int], budget: Budget
) -> Iterator[Entry]:
    items = _items(source)
    pending = None  # read, but of another batch than the last one
    while True:
        pending = pending or next(items, None)
        if pending is None:
            return
        if isinstance(pending, SourceFailed):
            yield pending
            return
        first, item = pending
        pending = None
        lane = lanes[turn := next(turns)]
        if isinstance(item, Exception):
            yield Batch(first, None, None, lane, error=item)
            continue
        kind, order = (item.shape, item.dtype), _order(item)
        try:
            share = budget.take(turn, kind, item.nbytes, None)
            stack = _stack(lane, kind, order, share, budget)
        except MemoryError as error:
            yield Batch(first, None, None, lane, error=without_locals(error))
            continue
        stack[0] = item
        count = 1
        while count < len(stack):
            pending = next(items, None)
            if not isinstance(pending, tuple) or _kind(pending[1]) != kind or _order(pending[1]) != order:
                break
            stack[count] = pending[1]
            count += 1
            pending = None
        batch = Batch(first, stack[:count], share, lane)
        del item, stack  # whoever has the batch lets go of it
        yield batch


def _items(source: Iterable[Any]) -> Iterator[tuple[int, Array | TypeError] | SourceFailed]:
    """Yield the items with their indices, an error for what is no array, and at the end what the source raised."""
    index = 0
    try:
        for item in source:
            yield index, _array(item)
            index += 1
    except Exception as error:
        yield SourceFailed(index, error)


def _array(item: Any) -> Array | TypeError:
    if isinstance(item, np.ndarray) and not isinstance(item, np.ma.MaskedArray) and not item.dtype.hasobject:
        return np.asarray(item)
    if isinstance(item, np.ndarray):
        what = "a masked array" if isinstance(item, np.ma.MaskedArray) else f"an array of dtype {item.dtype}"
        return TypeError(f"items of source must be plain NumPy arrays of numbers; got {what}")
    return TypeError(f"items of source must be NumPy arrays; got {shown(item)}: convert it with numpy.asarray")


def _kind(item: Array | TypeError) -> Kind | None:
    return None if isinstance(item, TypeError) else (item.shape, item.dtype)


def _order(item: Any) -> tuple[int, ...]:
    """Return the axes of an item as they follow one another in memory if its elements are adjacent, or in order."""
    axes = tuple(range(item.ndim))
    if item.flags.c_contiguous:
        return axes
    found = tuple(sorted(axes, key=lambda axis: -item.strides[axis]))
    return found if item.transpose(found).flags.c_contiguous else axes


def _stack(lane: Lane, kind: Kind, order: tuple[int, ...], share: Share, budget: Budget) -> Array:
    """Allocate memory for the items of a share, or for fewer if there is none for so many.

    On the host they lie as the first one does, so that each is computed as it would be alone.

    Raises
    ------
    MemoryError
        There is none for one; the share is given back.
    """
    items = share.items
    while True:
        try:
            if not isinstance(lane, HostLane):
                return lane.empty((items, *kind[0]), kind[1])
            stack = lane.empty((items, *(kind[0][axis] for axis in order)), kind[1])
            return stack.transpose(0, *(1 + order.index(axis) for axis in range(len(order))))
        except Exception as error:
            if items == 1 or not lane.is_out_of_memory(error):
                budget.forget(kind)
                budget.give_back(share)
                raise MemoryError(str(error)) from error
        items = -(-items // 2)
        budget.lower(kind, items)


class Reader:
    """Gives the entries of `read` one by one, from a thread that is ahead as far as the budget lets it.

    Parameters
    ----------
    entries : iterator of Entry
    budget : Budget
    threaded : bool
        Otherwise entries are read when they are asked for.
    """

    def __init__(self, entries: Iterator[Entry], budget: Budget, threaded: bool) -> None:
        self.ended = False
        self._entries = entries
        self._budget = budget
        self._ready: deque[Entry] = deque()
        self._thread = threading.Thread(target=self._run, name="fastdeconv.batch", daemon=True) if threaded else None
        if self._thread is not None:
            self._thread.start()

    def _run(self) -> None:
        try:
            for entry in self._entries:
                self._add(entry)
        except Closed:
            pass
        except BaseException as error:  # whatever it is, who waits must be told
            self._add(SourceFailed(None, error))
        finally:
            with self._budget.changed:
                self.ended = True
                self._budget.changed.notify_all()

    def _add(self, entry: Entry) -> None:
        with self._budget.changed:
            self._ready.append(entry)
            self._budget.changed.notify_all()

    def get(self, wait: bool) -> Entry | None:
        """Return the next entry; None if there is none, or none yet and `wait` is false."""
        if self._thread is None:
            if not wait:
                return None
            entry = next(self._entries, None)
            self.ended = entry is None
            return entry
        with self._budget.changed:
            while not self._ready and not self.ended and wait:
                if not self._thread.is_alive():  # in a forked child
                    raise RuntimeError("the thread that reads the source is gone")
                self._budget.changed.wait(1.0)
            return self._ready.popleft() if self._ready else None

    def close(self) -> None:
        """Stop reading, and wait for the thread, but not for ever if the source never returns."""
        self._budget.close()
        if self._thread is not None:
            self._thread.join(PATIENCE)
        self._ready.clear()
