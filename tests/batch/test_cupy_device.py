"""The device of CuPy on a stand-in for CuPy: which stream each step is on, what it waits for, whose memory it takes."""

import sys
import weakref
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from batching import ITEM, check, numbered

from fastdeconv import batch
from fastdeconv.cuda import runtime

GPUS = 2


class OutOfMemoryError(MemoryError):
    pass


class CUDARuntimeError(RuntimeError):
    status = 2


class Block:
    pass


class StandIn:
    """NumPy in the place of GPUs: everything happens at once, and is logged."""

    def __init__(self):
        self.log = []
        self.device, self.stream, self.allocate = [], [], [None]
        self.pools = []
        self.pinned_most = 1 << 40

    @contextmanager
    def within(self, stack, value):
        stack.append(value)
        try:
            yield
        finally:
            stack.pop()

    def note(self, *what):
        self.log.append((self.device[-1], *what))

    def modules(self):
        outer = self

        class Device:
            mem_info = (1 << 20, 1 << 30)

            def __init__(self, number):
                self.number = number

            def __enter__(self):
                outer.device.append(self.number)

            def __exit__(self, *_):
                outer.device.pop()

        class Stream:
            def __init__(self, non_blocking):
                assert non_blocking
                self.device = outer.device[-1]

            def __enter__(self):
                assert self.device == outer.device[-1]
                outer.stream.append(self)

            def __exit__(self, *_):
                outer.stream.pop()

            def record(self):
                outer.note("record", self)
                return SimpleNamespace(stream=self, synchronize=lambda: None)

            def wait_event(self, event):
                outer.note("wait", self, event.stream)

            def synchronize(self):
                outer.note("synchronize", self)
                raise CUDARuntimeError  # as after a kernel that failed

        class MemoryPool:
            def __init__(self):
                self.limit = self.used = self.kept = 0
                outer.pools.append(self)

            def set_limit(self, size):
                self.limit = size

            def malloc(self, nbytes):
                if self.used + self.kept + nbytes > self.limit:
                    raise OutOfMemoryError
                self.used += nbytes
                block = Block()
                weakref.finalize(block, self.give_back, nbytes)
                return block

            def give_back(self, nbytes):
                self.used -= nbytes
                self.kept += nbytes

            def free_all_blocks(self):
                self.kept = 0

        class Array:
            def __init__(self, values):
                self.values, self.block = values, outer.allocate[-1](values.nbytes)
                self.shape, self.dtype = values.shape, values.dtype

            def set(self, host, stream):
                outer.note("upload", stream)
                self.values[...] = host

            def get(self, stream, out, blocking):
                assert not blocking
                outer.note("download", stream)
                out[...] = self.values

            def __mul__(self, factor):
                outer.note("compute", outer.stream[-1])
                return Array(self.values * factor)

        def empty_pinned(shape, dtype):
            if shape > outer.pinned_most:
                raise CUDARuntimeError
            return np.empty(shape, dtype)

        cupy, cupyx = ModuleType("cupy"), ModuleType("cupyx")
        cupyx.empty_pinned = empty_pinned
        cupy.empty = lambda shape, dtype: Array(np.empty(shape, dtype))
        cupy.ascontiguousarray = lambda array: array
        cupy.cuda = SimpleNamespace(
            Device=Device, Stream=Stream, MemoryPool=MemoryPool,
            using_allocator=lambda allocator: outer.within(outer.allocate, allocator),
            memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            runtime=SimpleNamespace(CUDARuntimeError=CUDARuntimeError),
        )  # fmt: skip
        return {"cupy": cupy, "cupyx": cupyx}


@pytest.fixture
def stand_in(monkeypatch):
    stand_in = StandIn()
    for name, module in stand_in.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(runtime, "unusable", lambda: None)
    monkeypatch.setattr(runtime, "indices", lambda: list(range(GPUS)))
    return stand_in


def by_three(x):
    return x * np.float32(3)


@pytest.mark.quick
@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_streams_events_and_devices(stand_in, device):
    check(list(batch.map(by_three, numbered(40), device=device, batch_size=4)))
    for gpu in range(GPUS):
        log = [entry[1:] for entry in stand_in.log if entry[0] == gpu and entry[1] != "synchronize"]
        (_, up), _, (_, compute, _), *_ = log
        down = next(entry[1] for entry in log if entry[0] == "download")
        assert len({up, compute, down}) == 3
        one = [("upload", up), ("record", up), ("wait", compute, up), ("compute", compute), ("record", compute),
               ("wait", down, compute), ("download", down), ("record", down)]  # fmt: skip
        assert log == one * (len(log) // len(one))
    assert stand_in.device == stand_in.stream == []
    assert [pool.used + pool.kept for pool in stand_in.pools] == [0] * GPUS
    assert [pool.limit for pool in stand_in.pools] == [1 << 19] * GPUS  # half of what is free


@pytest.mark.quick
@pytest.mark.parametrize("limit", [2, 3, 11, 100])
def test_the_pool_bounds_all_memory(stand_in, limit):
    check(list(batch.map(by_three, numbered(100), device="cuda", memory_limit=limit * ITEM)))
    batches = sum(entry[1] == "compute" for entry in stand_in.log)
    assert batches == (10 if limit == 100 else 100), "blocks that the pool keeps must not halve batches"
    check(list(batch.map(by_three, numbered(100), device="cuda", memory_limit=limit * ITEM, prefetch=0)))
    with pytest.raises(batch.ItemError, match="item 0 does not fit, alone in a batch: OutOfMemoryError"):
        list(batch.map(by_three, numbered(9, (limit, 3, 2)), device="cuda", memory_limit=limit * ITEM))


@pytest.mark.quick
def test_too_little_pinned_memory(stand_in):
    stand_in.pinned_most = 3 * ITEM
    items = numbered(40)
    items[20:30] = [np.zeros((30, 2), np.float32)] * 10
    got = list(batch.map(by_three, items, device="cuda", batch_size=8, errors="collect"))
    check(got[:20] + got[30:], [*range(20), *range(30, 40)])
    for index, error in enumerate(got[20:30], 20):
        assert error.index == index
        assert str(error).startswith(f"item {index} does not fit, alone in a batch: MemoryError")
