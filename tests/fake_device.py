"""A device of `fastdeconv.batch` in virtual time: what is enqueued runs late and in any order that its streams allow.

Memory that is given back is handed out again, as by a pool, and whoever uses it afterwards is recorded. Allocations and
enqueueing can be made to fail at any of their calls.
"""

from __future__ import annotations

import random
import threading
import weakref
from collections import Counter, deque

import numpy as np


class FakeOutOfMemoryError(Exception):
    pass


class Region:
    """Memory, which outlives its use so that use after its end can be told."""

    def __init__(self, nbytes):
        self.buffer = np.full(max(nbytes, 1), 0xFF, np.uint8)
        self.address = self.buffer.__array_interface__["data"][0]
        self.free = False


class Lease:
    """What arrays on a region refer to, until the last of them is gone."""

    def __init__(self, region):
        self.region = region
        self.__array_interface__ = region.buffer.__array_interface__


def lease_of(array):
    while isinstance(array, np.ndarray):
        array = array.base
    return array


class Place:
    """Where an array lies in its region, with no reference that keeps the lease."""

    def __init__(self, array):
        self.region = lease_of(array).region
        self.offset = array.__array_interface__["data"][0] - self.region.address
        self.shape, self.dtype, self.nbytes = array.shape, array.dtype, array.nbytes

    def array(self):
        return self.region.buffer[self.offset : self.offset + self.nbytes].view(self.dtype).reshape(self.shape)


class Operation:
    def __init__(self, name, places, action, after):
        self.name, self.places, self.action, self.after = name, places, action, after
        self.done, self.error = False, None


class FakeArray:
    """An array of the device. What is asked of it is enqueued on the stream for computing."""

    def __init__(self, device, array):
        self.device, self._array = device, array
        self.shape, self.dtype, self.nbytes = array.shape, array.dtype, array.nbytes
        self.place = Place(array)

    def apply(self, function):
        """Enqueue an elementwise function."""
        y = self.device.allocate(self.shape, self.dtype)
        self.device.enqueue("compute", (self.place, y.place), lambda x, out: np.copyto(out, function(x)))
        return y


class FakeDevice:
    def __init__(self, seed=0, capacity=1 << 40, faults=()):
        """Fail at each of `faults`: (step, number of its call, type of error), where steps are this class's methods."""
        self.random = random.Random(seed)
        self.capacity, self.limit = capacity, capacity
        self.faults = {(step, call): error for step, call, error in faults}
        self.calls = Counter()
        self.violations = []
        self.used = {True: 0, False: 0}  # bytes of the device, and pinned
        self.peak = {True: 0, False: 0}
        self.refused = 0
        self.leases = weakref.WeakSet()
        self.kept = {True: [], False: []}  # free regions, of the device and pinned
        self.streams = {name: deque() for name in ("upload", "compute", "download")}
        self.overlaps = 0  # times when operations of several streams could run
        self.chain = []  # what `compute` has enqueued for one batch
        self.lock = threading.RLock()

    def step(self, name):
        with self.lock:
            error = self.faults.get((name, self.calls[name]))
            self.calls[name] += 1
        if error is not None:
            raise error("now")
        if name != "pinned":  # which comes from another thread
            self.advance(self.random.randrange(4))

    # memory

    def lease(self, nbytes, on_device):
        with self.lock:
            if on_device and self.used[True] + nbytes > min(self.limit, self.capacity):
                self.refused += 1
                raise FakeOutOfMemoryError(f"{nbytes} bytes")
            self.used[on_device] += nbytes
            self.peak[on_device] = max(self.peak[on_device], self.used[on_device])
            kept = self.kept[on_device]
            region = next((r for r in kept if r.buffer.size == max(nbytes, 1)), None)
            if region is None:
                region = Region(nbytes)
            else:
                kept.remove(region)
                region.free = False
            lease = Lease(region)
            self.leases.add(lease)
            weakref.finalize(lease, self.end, region, nbytes, on_device)
            return np.asarray(lease)[:nbytes]

    def end(self, region, nbytes, on_device):
        with self.lock:
            for stream in self.streams.values():
                for operation in stream:
                    if any(place.region is region for place in operation.places):
                        self.violations.append(f"memory of {operation.name} was given back before it was done")
            region.buffer[:] = 0xFF
            region.free = True
            self.used[on_device] -= nbytes
            self.kept[on_device].append(region)

    def allocate(self, shape, dtype):
        nbytes = int(np.prod(shape)) * dtype.itemsize
        return FakeArray(self, self.lease(nbytes, True).view(dtype).reshape(shape))

    # time

    def enqueue(self, name, places, action, after=None):
        """Add to a stream; without `after`, to what the function that is being called has enqueued."""
        with self.lock:
            operation = Operation(name, places, action, list(self.chain if after is None else after))
            self.streams[name].append(operation)
            self.chain.append(operation)
            return operation

    def advance(self, steps):
        with self.lock:
            for _ in range(steps):
                heads = [s[0] for s in self.streams.values() if s and all(e.done for e in s[0].after)]
                if not heads:
                    return
                self.overlaps += len(heads) > 1
                self.run(self.random.choice(heads))

    def run(self, operation):
        if any(place.region.free for place in operation.places):
            self.violations.append(f"{operation.name} used memory that was given back")
        try:
            for event in operation.after:
                if event.error is not None:
                    raise event.error
            operation.action(*(place.array() for place in operation.places))
        except Exception as error:
            operation.error = error.with_traceback(None)  # it comes from here, whoever let time go by
        operation.done = True
        self.streams[operation.name].popleft()

    # the protocol

    def free_memory(self):
        return self.capacity - self.used[True]

    def bound(self, nbytes):
        self.limit = nbytes

    def put(self, array):
        return array.copy()

    def pinned(self, nbytes):
        self.step("pinned")
        return self.lease(nbytes, False)

    def upload(self, host):
        self.step("upload")
        x = self.allocate(host.shape, host.dtype)
        return x, self.enqueue("upload", (Place(host), x.place), lambda source, out: np.copyto(out, source), ())

    def compute(self, function, x, after):
        self.step("compute")
        self.chain = []
        self.enqueue("compute", (), lambda: None, (after,))
        y = function(x)
        return y, self.enqueue("compute", (), lambda: None)

    def download(self, y, host, after):
        self.step("download")
        return self.enqueue("download", (y.place, Place(host)), lambda source, out: np.copyto(out, source), (after,))

    def wait(self, event):
        self.step("wait")
        while not event.done:
            self.advance(1)
        if event.error is not None:
            raise event.error

    def settle(self):
        while any(self.streams.values()):
            self.advance(1)

    def is_out_of_memory(self, error):
        return isinstance(error, FakeOutOfMemoryError)
