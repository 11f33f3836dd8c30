"""Memory that checks every access: global arrays with room between them, and what the threads of a block share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Addresses = NDArray[np.uint64]
Bytes = NDArray[np.uint8]

_ROOM = 1 << 20  # bytes between arrays: what runs past the end of one meets no other
NOBODY = -1
WHOLE_WARP = -2  # reads what each lane of a warp needs of the others


class FaultError(Exception):
    """What a GPU might do silently, and this machine does not."""


def check_aligned(addresses: Addresses, size: int) -> None:
    """Refuse addresses that an access of so many bytes cannot have."""
    wrong = addresses % np.uint64(size) != 0
    if wrong.any():
        raise FaultError(f"misaligned: an access of {size} bytes at {int(addresses[wrong][0]):#x}")


class _Array:
    def __init__(self, base: int, data: Bytes) -> None:
        self.base, self.data = base, data
        self.writer = np.full(data.size, NOBODY, np.int64)  # of each byte in this launch
        self.reader = np.full(data.size, NOBODY, np.int64)


class Global:
    """Global memory: the arrays of a launch."""

    def __init__(self) -> None:
        self._arrays: list[_Array] = []
        self._next = _ROOM

    def place(self, array: NDArray[Any]) -> int:
        """Give an array, which stays where it is, an address."""
        data = array.reshape(-1).view(np.uint8)
        if data.size and not np.shares_memory(data, array):
            raise ValueError("the array must be contiguous")
        held = _Array(self._next, data)
        self._arrays.append(held)
        self._next += -(-(data.size + _ROOM) // _ROOM) * _ROOM
        return held.base

    def begin(self) -> None:
        """Begin a launch: what earlier ones wrote may be read."""
        for array in self._arrays:
            array.writer[:] = NOBODY
            array.reader[:] = NOBODY

    def _find(self, addresses: Addresses, size: int, aligned: int) -> tuple[_Array, NDArray[np.int64]]:
        check_aligned(addresses, aligned)
        low, high = int(addresses.min()), int(addresses.max())
        for array in self._arrays:
            if array.base <= low and high + size <= array.base + array.data.size:
                return array, (addresses - np.uint64(array.base)).astype(np.int64)
        for address in map(int, addresses):
            if not any(a.base <= address and address + size <= a.base + a.data.size for a in self._arrays):
                raise FaultError(f"out of bounds: global address {address:#x}, {size} bytes: {self._nearest(address)}")
        raise FaultError("one access reaches several arrays")

    def _nearest(self, address: int) -> str:
        for number, array in enumerate(self._arrays):
            if array.base - _ROOM // 2 <= address < array.base + array.data.size + _ROOM // 2:
                return f"byte {address - array.base} of argument {number}, which has {array.data.size}"
        return "near no array"

    def read(self, addresses: Addresses, size: int, threads: NDArray[np.int64], aligned: int = 0) -> Bytes:
        """Return ``(thread, size)`` bytes, at addresses that are multiples of their number or of another."""
        array, at = self._find(addresses, size, aligned or size)
        places = at[:, None] + np.arange(size)
        others = (array.writer[places] != NOBODY) & (array.writer[places] != threads[:, None])
        if others.any():
            raise FaultError("race: a thread reads global memory that another one writes in the same launch")
        array.reader[places] = threads[:, None]
        return array.data[places]

    def write(self, addresses: Addresses, values: Bytes, threads: NDArray[np.int64]) -> None:
        """Write ``(thread, size)`` bytes."""
        size = values.shape[1]
        array, at = self._find(addresses, size, size)
        places = at[:, None] + np.arange(size)
        for who in (array.writer[places], array.reader[places]):
            if ((who != NOBODY) & (who != threads[:, None])).any():
                raise FaultError(
                    "race: a thread writes global memory that another one reads or writes in the same launch"
                )
        if np.unique(at).size != at.size:
            raise FaultError("race: two threads write one place of global memory")
        array.writer[places] = threads[:, None]
        array.data[places] = values


class Shared:
    """Shared memory of one block."""

    def __init__(self, size: int) -> None:
        self.data = np.zeros(size, np.uint8)
        self.written = np.zeros(size, bool)
        self.writer = np.full(size, NOBODY, np.int64)  # since the last barrier
        self.reader = np.full(size, NOBODY, np.int64)
        self.readers = np.zeros(size, bool)  # several
        self.arriving = np.zeros(size, bool)  # of copies under way

    def barrier(self) -> None:
        """Order all accesses before with all after."""
        self.writer[:] = NOBODY
        self.reader[:] = NOBODY
        self.readers[:] = False

    def _places(self, addresses: Addresses, size: int) -> NDArray[np.int64]:
        check_aligned(addresses, size)
        if int(addresses.max()) + size > self.data.size:
            raise FaultError(f"out of bounds: shared address {int(addresses.max())}, {size} bytes of {self.data.size}")
        places = addresses.astype(np.int64)[:, None] + np.arange(size)
        if self.arriving[places].any():
            raise FaultError("race: an access to shared memory that a copy under way writes")
        return places

    def read(self, addresses: Addresses, size: int, threads: NDArray[np.int64]) -> Bytes:
        """Return ``(thread, size)`` bytes."""
        places = self._places(addresses, size)
        if not self.written[places].all():
            raise FaultError("a read of shared memory that nobody wrote")
        who = threads[:, None]
        if ((self.writer[places] != NOBODY) & (self.writer[places] != who)).any():
            raise FaultError("race: a thread reads shared memory that another one wrote since the last barrier")
        self.readers[places] |= (self.reader[places] != NOBODY) & (self.reader[places] != who)
        self.reader[places] = who
        # Within one access: the last of several threads that read a place is in `reader`.
        self.readers[places] |= self.reader[places] != who
        return self.data[places]

    def _claim(self, addresses: Addresses, size: int, threads: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the places that threads write, and nobody else may have touched since the last barrier."""
        places = self._places(addresses, size)
        who = threads[:, None]
        if np.unique(places).size != places.size:
            raise FaultError("race: two threads write one place of shared memory")
        if ((self.writer[places] != NOBODY) & (self.writer[places] != who)).any():
            raise FaultError("race: a thread writes shared memory that another one wrote since the last barrier")
        if (self.readers[places] | ((self.reader[places] != NOBODY) & (self.reader[places] != who))).any():
            raise FaultError("race: a thread writes shared memory that another one read since the last barrier")
        return places

    def write(self, addresses: Addresses, values: Bytes, threads: NDArray[np.int64]) -> None:
        """Write ``(thread, size)`` bytes."""
        self._put(self._claim(addresses, values.shape[1], threads), values, threads)

    def expect(self, addresses: Addresses, size: int, threads: NDArray[np.int64]) -> None:
        """Begin copies to shared memory: until they arrive nobody may touch the places."""
        self.arriving[self._claim(addresses, size, threads)] = True

    def arrive(self, addresses: Addresses, values: Bytes, threads: NDArray[np.int64]) -> None:
        """End copies: now they are writes of their threads."""
        places = addresses.astype(np.int64)[:, None] + np.arange(values.shape[1])
        self.arriving[places] = False
        self._put(places, values, threads)

    def _put(self, places: NDArray[np.int64], values: Bytes, threads: NDArray[np.int64]) -> None:
        self.writer[places] = threads[:, None]
        self.written[places] = True
        self.data[places] = values


class Local:
    """Memory of each thread alone."""

    def __init__(self, threads: int, size: int) -> None:
        self.data = np.zeros((threads, size), np.uint8)
        self.written = np.zeros((threads, size), bool)

    def _places(self, addresses: Addresses, size: int) -> NDArray[np.int64]:
        check_aligned(addresses, size)
        if int(addresses.max()) + size > self.data.shape[1]:
            raise FaultError(f"out of bounds: local address {int(addresses.max())} of {self.data.shape[1]} bytes")
        return addresses.astype(np.int64)[:, None] + np.arange(size)

    def read(self, addresses: Addresses, size: int, threads: NDArray[np.int64]) -> Bytes:
        """Return ``(thread, size)`` bytes."""
        places = self._places(addresses, size)
        if not self.written[threads[:, None], places].all():
            raise FaultError("a read of local memory that was not written")
        return self.data[threads[:, None], places]

    def write(self, addresses: Addresses, values: Bytes, threads: NDArray[np.int64]) -> None:
        """Write ``(thread, size)`` bytes."""
        places = self._places(addresses, values.shape[1])
        self.data[threads[:, None], places] = values
        self.written[threads[:, None], places] = True
