"""How many items a batch gets, and how many batches and bytes of them may be held at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

# More images bring kernels nothing, and make the first result wait.
MOST_ITEMS = 256

Kind = tuple[tuple[int, ...], Any]  # the shape and dtype of an item


class Closed(Exception):  # noqa: N818 - no error: the reader is to stop
    """Nobody wants more batches."""


class Share(NamedTuple):
    """What a batch may take: so many items, and the bytes that are set aside for it on its lane."""

    lane: int
    items: int
    nbytes: int


class Budget:
    """Sizes of batches within bounds, for a thread that reads and one that computes.

    Parameters
    ----------
    batch_size : int or None
        Most items of a batch; None is `MOST_ITEMS`.
    lanes : int
        Over which batches are spread, each with bounds of its own.
    batches : int
        Held at a time on each lane.
    limit : int or None
        Bytes of batches and results on each lane.

    Attributes
    ----------
    changed : threading.Condition
        Notified whenever somebody may have waited for it.
    """

    def __init__(self, batch_size: int | None, lanes: int, batches: int, limit: int | None) -> None:
        self.changed = threading.Condition()
        self._most = MOST_ITEMS if batch_size is None else batch_size
        self._batches = batches
        self._limit = limit
        self._held = [(0, 0)] * lanes  # batches and bytes
        self._result_bytes: dict[Kind, int | None] = {}  # of an item; None while the first one is computed
        self._growth = 0.0  # the most that a result has been larger than its item
        self._fits: dict[Kind, int] = {}  # items of a batch, after one was too large
        self._closed = False

    def take(self, lane: int, kind: Kind, nbytes: int, most: int | None) -> Share:
        """Return the share of the next batch of items of so many bytes, when there is room for it.

        Raises
        ------
        MemoryError
            One item is more than the limit.
        Closed
        """
        with self.changed:
            items = min(self._most, self._fits.get(kind, self._most), self._most if most is None else most)
            share = Share(lane, items, 0) if self._limit is None else self._bounded(lane, kind, nbytes, items)
            self._wait(lambda: self._has_room(share))
            batches, held = self._held[lane]
            self._held[lane] = batches + 1, held + share.nbytes
            return share

    def _bounded(self, lane: int, kind: Kind, nbytes: int, items: int) -> Share:
        assert self._limit is not None
        self._wait(lambda: self._result_bytes.get(kind, 0) is not None)
        result = self._result_bytes.get(kind)
        self._check(nbytes, result or 0)
        if result is None:
            self._result_bytes[kind] = None
            return Share(lane, 1, min(self._limit, nbytes + int(nbytes * self._growth)))
        each = nbytes + result
        items = max(1, min(items, self._limit // (self._batches * max(each, 1))))
        return Share(lane, items, items * each)

    def _has_room(self, share: Share) -> bool:
        batches, held = self._held[share.lane]
        return batches == 0 or (batches < self._batches and (self._limit is None or held + share.nbytes <= self._limit))

    def _check(self, nbytes: int, result: int) -> None:
        if self._limit is not None and nbytes + result > self._limit:
            what = f"{nbytes} bytes and its result {result}" if result else f"{nbytes} bytes"
            raise MemoryError(f"memory_limit is {self._limit} bytes, and the item alone takes {what}")

    def give_back(self, share: Share) -> None:
        """Return the share of a batch that is no longer held."""
        with self.changed:
            batches, held = self._held[share.lane]
            self._held[share.lane] = batches - 1, held - share.nbytes
            self.changed.notify_all()

    def learn(self, kind: Kind, nbytes: int, result: int) -> None:
        """Take note of the bytes of an item and of its result.

        Raises
        ------
        MemoryError
            Together they are more than the limit.
        """
        with self.changed:
            self._result_bytes[kind] = result
            self._growth = max(self._growth, result / max(nbytes, 1))
            self.changed.notify_all()
            self._check(nbytes, result)

    def forget(self, kind: Kind) -> None:
        """Take note that the first item of a kind has failed: the next one is the first."""
        with self.changed:
            if self._result_bytes.get(kind, 0) is None:
                del self._result_bytes[kind]
                self.changed.notify_all()

    def lower(self, kind: Kind, items: int) -> None:
        """Take note that a batch of more items was out of memory."""
        with self.changed:
            self._fits[kind] = min(items, self._fits.get(kind, items))

    def close(self) -> None:
        """Have `take` raise `Closed` from now on."""
        with self.changed:
            self._closed = True
            self.changed.notify_all()

    def _wait(self, until: Callable[[], bool]) -> None:
        self.changed.wait_for(lambda: self._closed or until())
        if self._closed:
            raise Closed
