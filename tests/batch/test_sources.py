"""Every item once and in order, wherever it comes from and however many devices there are."""

import threading
import time
from collections import Counter

import numpy as np
import pytest
from batching import check, numbered, reading_threads, tripled
from fake_device import FakeDevice

from fastdeconv import batch
from fastdeconv.batch import reading


@pytest.mark.quick
@pytest.mark.parametrize("prefetch", [0, 1, 3])
@pytest.mark.parametrize("size", ["auto", 1, 4])
@pytest.mark.parametrize("devices", [0, 1, 3])
def test_items_of_many_shapes_come_in_order(on_devices, devices, prefetch, size):
    if devices:
        on_devices(*(FakeDevice(seed) for seed in range(devices)))
    shapes = [(2, 3), (2, 3), (5,), (), (5,), (0, 4), (5,), (5,), (2, 3), (2, 3), (2, 3), (2, 3), (2, 3), (1, 1)] * 9
    items = [np.full(shape, i, "f4" if i % 5 else "f8") for i, shape in enumerate(shapes)]
    got = list(batch.map(tripled, iter(items), device="auto" if devices else "cpu", prefetch=prefetch, batch_size=size))
    assert len(got) == len(items)
    for result, item in zip(got, items):
        assert result.shape == item.shape
        assert result.dtype == item.dtype
        np.testing.assert_array_equal(result, 3 * item)


@pytest.mark.quick
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("devices", [1, 2, 3])
def test_thousands_of_items(on_devices, devices, seed):
    on_devices(*(FakeDevice(10 * seed + i) for i in range(devices)))
    check(list(batch.map(tripled, numbered(4000), batch_size=3 + 10 * seed)))


def test_batches_overlap_and_devices_take_turns(on_devices):
    devices = [FakeDevice(1), FakeDevice(2)]
    on_devices(*devices)
    check(list(batch.map(tripled, np.stack(numbered(2000)), batch_size=10)))
    first, second = (device.calls["compute"] for device in devices)
    assert abs(first - second) <= 1
    assert all(device.overlaps > 50 for device in devices)


@pytest.mark.quick
def test_one_buffer_given_again_and_again(on_devices):
    on_devices(FakeDevice())

    def camera():
        frame = np.empty((2, 3), np.float32)
        for i in range(100):
            frame[:] = i
            yield frame

    for device in ("cpu", "cuda"):
        check(list(batch.map(tripled, camera(), device=device)))


@pytest.mark.quick
def test_arrays_of_any_strides_and_byte_order():
    source = np.arange(60, dtype=">f8").reshape(3, 4, 5).transpose(2, 1, 0)[::-1]
    got = list(batch.map(lambda x: x + 1, source, device="cpu", batch_size=2))
    np.testing.assert_array_equal(np.stack(got), source + 1)
    assert list(batch.map(lambda x: 2 * x, np.arange(5.0), device="cpu")) == [0, 2, 4, 6, 8]


@pytest.mark.quick
def test_the_argument_is_not_to_be_written_to():
    source = np.zeros((3, 2))

    def greedy(x):
        x += 1
        return x

    for items in (source, list(source)):
        with pytest.raises(batch.ItemError, match="item 0 failed: ValueError: output array is read-only"):
            list(batch.map(greedy, items, device="cpu"))
    assert not source.any()


@pytest.mark.quick
def test_no_items():
    assert list(batch.map(tripled, [], device="cpu")) == []
    assert list(batch.map(tripled, np.empty((0, 3)), device="cpu")) == []
    out = np.empty((0, 3))
    assert batch.map(tripled, [], device="cpu", out=out) is out


def test_no_more_is_read_than_prefetch_allows():
    given, seen = Counter(), []

    def source():
        for item in numbered(40):
            given["items"] += 1
            yield item

    results = batch.map(tripled, source(), device="cpu", batch_size=4, prefetch=2)
    for index, _ in enumerate(results):
        if index % 4 == 0:
            time.sleep(0.02)  # for the thread to go as far as it may
            seen.append(given["items"] - index)
    assert max(seen) <= 4 * 3 + 1  # the batch being delivered, two more, and one item that waits for room
    assert seen[1] >= 4 * 3


def test_reading_and_computing_overlap():
    barrier = threading.Barrier(2)

    def source():
        yield np.zeros(3)
        barrier.wait(10)  # returns only while the first item is computed
        yield np.zeros(3)

    def function(x):
        if not barrier.broken and threading.current_thread() is threading.main_thread() and not function.met:
            function.met = True
            barrier.wait(10)
        return x + 1

    function.met = False
    assert len(list(batch.map(function, source(), device="cpu", batch_size=1))) == 2


@pytest.mark.quick
@pytest.mark.parametrize("prefetch", [0, 3])
@pytest.mark.parametrize("errors", ["raise", "skip", "collect"])
@pytest.mark.parametrize("at", [0, 1, 10])
def test_a_source_that_raises(at, errors, prefetch):
    def source():
        yield from numbered(at)
        raise OSError("the disk is gone")

    got = []
    with pytest.raises(OSError, match="the disk is gone") as caught:
        got.extend(batch.map(tripled, source(), device="cpu", errors=errors, prefetch=prefetch, batch_size=4))
    assert caught.value.__notes__ == [f"raised by the source of fastdeconv.batch.map, for item {at}"]
    check(got, range(at))


def test_a_source_that_never_returns_does_not_hold_up_the_end(monkeypatch):
    monkeypatch.setattr(reading, "PATIENCE", 0.05)
    release = threading.Event()

    def source():
        yield from numbered(2)
        release.wait(30)

    results = batch.map(tripled, source(), device="cpu", batch_size=1)
    next(results)
    results.close()
    release.set()
    for thread in reading_threads():
        thread.join(10)
