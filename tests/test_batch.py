"""Batches: every item once, in order, with the bits of single calls, whatever fails and whenever it stops."""

import contextlib
import gc
import io
import pickle
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from cases import EDGE_CASES, floats, problem, runs
from fake_device import FakeArray, FakeDevice, FakeOutOfMemoryError

import fastdeconv as fd
from fastdeconv import batch
from fastdeconv.batch import reading
from fastdeconv.batch.errors import ResultError
from fastdeconv.dispatch import choose, plan
from fastdeconv.tuning import batch_invariance, conditions

RNG = np.random.default_rng(0)
ITEM = np.dtype("float32").itemsize * 6  # bytes of the items of `numbered`


def numbered(count, shape=(2, 3)):
    """Items that tell their index."""
    return [np.full(shape, i, np.float32) for i in range(count)]


def tripled(x):
    return x.apply(lambda a: 3 * a) if isinstance(x, FakeArray) else 3 * x


def picky(x):
    """Triple, but fail on multiples of seven."""

    def function(a):
        if np.any((a % 7 == 0) & (a > 0)):
            raise ValueError("a multiple of seven")
        return 3 * a

    return x.apply(function) if isinstance(x, FakeArray) else function(x)


def reading_threads():
    return [t for t in threading.enumerate() if t.name == "fastdeconv.batch"]


@pytest.fixture(autouse=True)
def nothing_is_left():
    yield
    assert not reading_threads()


@pytest.fixture
def on_devices(monkeypatch):
    """Return a function that puts fake devices in the place of GPUs; all their memory must come back."""
    used = []

    def use(*devices):
        used.extend(devices)
        monkeypatch.setattr(batch, "_devices", lambda device: None if device == "cpu" else list(devices))
        return devices[0]

    yield use
    if any(device.leases for device in used):
        gc.collect()
    for device in used:
        assert device.violations == []
        assert not any(device.streams.values())
        assert not device.leases
        assert device.used == 0


def check(results, indices=None):
    """Compare results of `tripled` on `numbered` items."""
    indices = range(len(results)) if indices is None else indices
    assert [float(r.flat[0]) for r in results] == [3.0 * i for i in indices]
    assert all((r == r.flat[0]).all() for r in results)


# The bits of single calls


LAYERS = {
    "other_kernel_for_many": ((512, 4, 4), (512, 64, 4, 4), {"stride": 2, "padding": 1}),
    "other_tiles_for_many": ((128, 16, 16), (128, 64, 4, 4), {"stride": 2, "padding": 1}),
    "image_output": ((17, 9, 11), (17, 3, 4, 4), {"stride": 2, "padding": 1}),
    "depthwise": ((16, 7, 7), (16, 1, 3, 3), {"padding": 1, "groups": 16}),
    "1d": ((9, 33), (9, 5, 8), {"stride": 4}),
    "3d": ((3, 4, 5, 6), (3, 4, 2, 3, 3), {"stride": 2}),
}


@pytest.mark.quick
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("prefetch", [0, 3])
def test_a_prepared_weight_gives_the_bits_of_its_calls(name, prefetch):
    shape, w_shape, arguments = LAYERS[name]
    bias = RNG.random(w_shape[1] * arguments.get("groups", 1), np.float32)
    layer = fd.prepare(RNG.random(w_shape, np.float32), bias, **arguments)
    images = RNG.standard_normal((13, *shape)).astype("float32")
    want = np.stack([layer(image) for image in images])
    for size in ("auto", 8):
        for source in (images, iter(images)):
            got = list(batch.map(layer, source, device="cpu", batch_size=size, prefetch=prefetch))
            np.testing.assert_array_equal(np.stack(got).view("u4"), want.view("u4"))


@pytest.mark.quick
def test_a_function_gives_the_bits_of_its_calls():
    shape, w_shape, arguments = LAYERS["other_kernel_for_many"]
    w = RNG.standard_normal(w_shape).astype("float32")
    images = RNG.standard_normal((13, *shape)).astype("float32")
    gradients = RNG.standard_normal((13, 64, 8, 8)).astype("float32")

    def forward(x):
        return np.tanh(fd.conv_transpose2d(x, w, **arguments))

    def backward(gy):
        return fd.grad.conv_transpose2d_input((len(gy), *shape), w, gy, **arguments)

    for function, items in ((forward, images), (backward, gradients)):
        want = np.concatenate([function(item[None]) for item in items])
        np.testing.assert_array_equal(np.stack(list(batch.map(function, items, device="cpu"))), want)
        assert not np.array_equal(function(items), want), "a stack should have other bits, or this shows nothing"


@pytest.mark.quick
@pytest.mark.parametrize("item", [(5, 7), (1, 5, 7), (3, 1, 5, 7)])
def test_items_are_what_a_prepared_weight_takes(item):
    bare = len(item) == 2
    layer = fd.prepare(RNG.random((4, 4) if bare else (1, 2, 4, 4)), stride=2)
    items = [RNG.random(item) for _ in range(5)]
    for got, x in zip(batch.map(layer, items, device="cpu"), items, strict=True):
        np.testing.assert_array_equal(got, layer(x))


def test_batches_of_their_own_get_the_kernel_of_their_own():
    shape, w_shape, arguments = LAYERS["other_kernel_for_many"]
    layer = fd.prepare(RNG.standard_normal(w_shape).astype("float32"), **arguments)
    blocks = RNG.standard_normal((3, 40, *shape)).astype("float32")
    for got, block in zip(batch.map(layer, blocks, device="cpu"), blocks, strict=True):
        np.testing.assert_array_equal(got, layer(block))


SPREAD = (
    "textbook", "dcgan", "dcgan_last", "fsrcnn", "fcn", "deblur", "groups_wide", "depthwise", "kernel_1_many_channels",
    "lattices_parallel", "parallel", "rows_kernel_under_padding", "1d_hifigan", "3d_vnet",
)  # fmt: skip


@pytest.mark.parametrize(
    ("pass_", "algorithm", "p"),
    [run for run in runs({name: EDGE_CASES[name] for name in SPREAD}) if run.values[0] != "weight_grad"],
)
def test_every_kernel_is_batch_invariant_or_says_that_it_is_not(pass_, algorithm, p):
    single, many = replace(p, batch=1), replace(p, batch=5)
    images, w = floats(many, pass_)
    single = plan(single, pass_, "cpu", algorithm)
    with batch_invariance():
        stacked = choose(many, pass_, "cpu", algorithm, conditions())
    assert stacked.problem == many
    bias = (None,) * (pass_ == "forward")
    shape = many.output_shape if pass_ == "forward" else many.input_shape
    want, got = np.full(shape, np.nan, p.dtype), np.full(shape, np.nan, p.dtype)
    for image, result in zip(images, want):
        single.run(image.ravel(), w.ravel(), *bias, result.ravel())
    stacked.run(images.ravel(), w.ravel(), *bias, got.ravel())
    np.testing.assert_array_equal(got, want, f"{algorithm} {many}")


def test_where_scratch_memory_is_short_for_many_images_go_one_by_one():
    p = problem((8, 64, 20, 20), (64, 64, 4, 4), stride=2, padding=1)
    x, w = floats(p, "forward")
    layer = fd.prepare(w, stride=2, padding=1, algorithm="direct_tile")
    needed = plan(problem((1, 64, 20, 20), w.shape, stride=2, padding=1), "forward", "cpu", "direct_tile").workspace
    want = np.stack([layer(image) for image in x])
    fd.set_workspace_limit(needed)
    try:
        np.testing.assert_array_equal(np.stack(list(batch.map(layer, x, device="cpu"))), want)
    finally:
        fd.set_workspace_limit(None)


# Sources


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


# Failures


@pytest.mark.quick
@pytest.mark.parametrize("size", [1, 5, "auto"])
@pytest.mark.parametrize("devices", [0, 1, 2])
def test_a_failing_item_does_not_lose_the_others(on_devices, devices, size):
    if devices:
        on_devices(*(FakeDevice(seed) for seed in range(devices)))
    where = {"device": "auto" if devices else "cpu", "batch_size": size}
    bad = [i for i in range(1, 50) if i % 7 == 0]
    good = [i for i in range(50) if i not in bad]
    check(list(batch.map(picky, numbered(50), errors="skip", **where)), good)

    collected = list(batch.map(picky, numbered(50), errors="collect", **where))
    assert len(collected) == 50
    check([collected[i] for i in good], good)
    for i in bad:
        assert isinstance(collected[i], batch.ItemError)
        assert collected[i].index == i
        assert isinstance(collected[i].error, ValueError)
        assert str(collected[i]) == f"item {i} failed: ValueError: a multiple of seven"

    got = []
    with pytest.raises(batch.ItemError, match="item 7 failed: ValueError: a multiple of seven") as caught:
        got.extend(batch.map(picky, numbered(50), **where))
    assert isinstance(caught.value.__cause__, ValueError)
    check(got, range(7))


@pytest.mark.quick
def test_errors_can_be_pickled_and_hold_no_arrays():
    def function(x):
        here = x.copy()
        if (here == 3).any():
            raise ValueError("three")
        return here

    (error,) = [
        r for r in batch.map(function, numbered(6), device="cpu", errors="collect") if isinstance(r, batch.ItemError)
    ]
    again = pickle.loads(pickle.dumps(error))
    assert (again.index, str(again)) == (3, "item 3 failed: ValueError: three")
    frame = error.error.__traceback__
    while frame.tb_next:
        frame = frame.tb_next
    assert "here" not in frame.tb_frame.f_locals


@pytest.mark.quick
@pytest.mark.parametrize("prefetch", [0, 3])
def test_what_is_no_array_is_a_failing_item(prefetch):
    items = [*numbered(3), None, 4, np.ma.masked_array([1.0]), np.array([object()]), *numbered(9)[7:]]
    where = {"device": "cpu", "prefetch": prefetch}
    check(list(batch.map(tripled, items, errors="skip", **where)), [0, 1, 2, 7, 8])
    errors = [r for r in batch.map(tripled, items, errors="collect", **where) if isinstance(r, batch.ItemError)]
    assert [e.index for e in errors] == [3, 4, 5, 6]
    for error, what in zip(errors, ["got None", "got 4", "a masked array", "dtype object"], strict=True):
        assert "items of source must be" in str(error)
        assert what in str(error)


STEPS = ("pinned", "upload", "compute", "download", "wait")


class BrokenError(Exception):
    pass


@pytest.mark.quick
@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("error", [BrokenError, FakeOutOfMemoryError])
@pytest.mark.parametrize("step", STEPS)
def test_a_failure_at_every_call_of_every_step(on_devices, step, error, devices):
    for call in range(14):
        faulty = FakeDevice(call, faults=[(step, call, error)])
        on_devices(faulty, *(FakeDevice(i) for i in range(devices - 1)))
        count = 60 * devices
        got = list(batch.map(tripled, numbered(count), batch_size=4, errors="collect"))
        lost = [i for i, r in enumerate(got) if isinstance(r, batch.ItemError)]
        # What was a batch of one is not tried again, unless memory of the device was short.
        assert len(lost) <= (error is BrokenError or step == "pinned")
        check([r for i, r in enumerate(got) if i not in lost], [i for i in range(count) if i not in lost])
        assert len(got) == count
        assert faulty.calls[step] > call, "the fault must have happened"


@pytest.mark.quick
@pytest.mark.parametrize("prefetch", [0, 1, 3])
@pytest.mark.parametrize("step", STEPS)
def test_an_interrupt_at_every_step_leaves_nothing(on_devices, step, prefetch, tmp_path):
    for call in range(12):
        on_devices(FakeDevice(call, faults=[(step, call, KeyboardInterrupt)]), FakeDevice(1))
        out = tmp_path / "out.npy"
        with pytest.raises(KeyboardInterrupt):
            batch.map(tripled, numbered(200), batch_size=4, prefetch=prefetch, out=out)
        assert not list(tmp_path.iterdir())


@pytest.mark.quick
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("fits", [1, 2, 5, 30])
def test_batches_are_halved_until_they_fit(on_devices, fits, seed):
    device = on_devices(FakeDevice(seed, capacity=2 * ITEM * fits))
    check(list(batch.map(tripled, numbered(300), batch_size=40, memory_limit=1 << 20)))
    assert device.peak <= device.capacity
    assert device.calls["compute"] >= 300 // fits


@pytest.mark.quick
@pytest.mark.parametrize("devices", [1, 2])
def test_an_item_that_does_not_fit_is_named(on_devices, devices):
    on_devices(*(FakeDevice(i, capacity=2 * ITEM) for i in range(devices)))
    items = numbered(20)
    items[7] = np.full((20, 30), 7, np.float32)
    got = list(batch.map(tripled, items, errors="collect", memory_limit=1 << 20))
    assert str(got[7]).startswith("item 7 failed: FakeOutOfMemoryError")
    check(got[:7] + got[8:], [i for i in range(20) if i != 7])


@pytest.mark.quick
def test_too_little_memory_on_the_host():
    def function(x):
        if len(x) > 3:
            raise MemoryError
        if (x == 5).any():
            raise MemoryError("no room")
        return 3 * x

    got = list(batch.map(function, numbered(40), device="cpu", errors="collect"))
    assert str(got[5]) == "item 5 does not fit, alone in a batch: MemoryError: no room"
    check(got[:5] + got[6:], [i for i in range(40) if i != 5])


@pytest.mark.quick
@pytest.mark.parametrize("devices", [0, 1, 2])
@pytest.mark.parametrize("limit", [2, 3, 8, 50])
def test_the_limit_holds(on_devices, devices, limit):
    if devices:
        on_devices(*(FakeDevice(i) for i in range(devices)))
    fakes = batch._devices("auto") if devices else []
    most = 0

    def function(x):
        nonlocal most
        most = max(most, x.nbytes)
        return tripled(x)

    where = {"device": "auto" if devices else "cpu", "memory_limit": limit * ITEM}
    check(list(batch.map(function, numbered(300), **where)))
    assert most <= limit * ITEM // 2
    assert all(device.peak <= limit * ITEM for device in fakes)
    if limit >= 8:
        assert most >= ITEM
    with pytest.raises(batch.ItemError, match=r"item 0 .*(memory_limit is .* and the item alone|FakeOut)"):
        list(batch.map(tripled, [np.zeros((limit, 2, 3), np.float32)], **where))
    got = list(batch.map(tripled, [*numbered(3), np.zeros((limit, 2, 3), np.float32)], errors="skip", **where))
    check(got)


@pytest.mark.quick
def test_a_file_larger_than_the_limit(tmp_path):
    source = np.lib.format.open_memmap(tmp_path / "in.npy", mode="w+", dtype="f4", shape=(400, 8, 16, 16))
    source[:] = RNG.random(source.shape, np.float32)
    layer = fd.prepare(RNG.random((8, 4, 4, 4), np.float32), stride=2, padding=1)
    sizes = set()

    def function(x):
        sizes.add(len(x))
        return layer(x)

    limit = source.nbytes // 8
    out = batch.map(function, source, device="cpu", memory_limit=limit, out=tmp_path / "out.npy")
    assert isinstance(out, np.memmap)
    np.testing.assert_array_equal(out, np.load(tmp_path / "out.npy"))
    np.testing.assert_array_equal(out[::37], np.stack([layer(x) for x in source[::37]]))
    assert 1 < max(sizes) <= limit // (source[0].nbytes + out[0].nbytes) // 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.npy", "out.npy"]


# Ends


@pytest.mark.quick
@pytest.mark.parametrize("devices", [0, 1, 2])
@pytest.mark.parametrize("taken", [0, 1, 13, 60])
def test_closing_early(on_devices, devices, taken):
    if devices:
        on_devices(*(FakeDevice(seed) for seed in range(devices)))
    given = []

    def source():
        for item in numbered(10_000):
            given.append(1)
            yield item

    results = batch.map(tripled, source(), device="auto" if devices else "cpu", batch_size=4)
    got = [next(results) for _ in range(taken)]
    check(got)
    assert bool(reading_threads()) is (taken > 0)
    results.close()
    assert not reading_threads()
    assert len(given) < 120


@pytest.mark.quick
def test_dropping_the_generator_ends_the_thread():
    results = batch.map(tripled, iter(numbered(1000)), device="cpu", batch_size=1)
    next(results)
    assert reading_threads()
    del results
    gc.collect()
    assert not reading_threads()


def test_control_c(tmp_path):
    code = """
import os, signal, sys, threading
import numpy as np
import fastdeconv as fd

def function(x):
    if x[0, 0] >= 20:
        os.kill(os.getpid(), signal.SIGINT)
    return x + 1

try:
    fd.batch.map(function, [np.full(3, i) for i in range(100)], device="cpu", batch_size=2, out=sys.argv[1])
except KeyboardInterrupt:
    print(threading.active_count(), os.listdir(os.path.dirname(sys.argv[1])))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out.npy")], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 []\n", "")


# out


@pytest.mark.quick
@pytest.mark.parametrize("devices", [0, 2])
def test_out_is_filled_and_returned(on_devices, devices, tmp_path):
    if devices:
        on_devices(FakeDevice(1), FakeDevice(2))
    device = "auto" if devices else "cpu"
    for out in (np.empty((50, 2, 3), np.float32), np.empty((3, 2, 50), np.float32).T):
        assert batch.map(tripled, iter(numbered(50)), device=device, out=out) is out
        check(list(out))
    path = tmp_path / "out.npy"
    path.write_bytes(b"of an earlier run")
    for name in (path, str(path)):
        out = batch.map(tripled, numbered(50), device=device, out=name)
        check(list(out))
        check(list(np.load(path)))
    assert [p.name for p in tmp_path.iterdir()] == ["out.npy"]


@pytest.mark.quick
@pytest.mark.parametrize("dtype", ["f4", "i8"])
@pytest.mark.parametrize("errors", ["skip", "collect"])
def test_rows_of_items_that_failed(tmp_path, errors, dtype):
    items = [item.astype(dtype) for item in numbered(30)]
    out = np.full((30, 2, 3), -1, dtype)
    for target in (out, tmp_path / "out.npy"):
        if errors == "skip":
            filled = batch.map(picky, items, device="cpu", errors=errors, out=target)
        else:
            with pytest.raises(ExceptionGroup, match="4 of 30 items failed") as caught:
                batch.map(picky, items, device="cpu", errors=errors, out=target)
            assert [e.index for e in caught.value.exceptions] == [7, 14, 21, 28]
            filled = out if target is out else np.load(target)
        want = 3 * np.stack(items)
        want[7::7] = np.nan if dtype == "f4" else 0
        np.testing.assert_array_equal(filled, want)


@pytest.mark.quick
def test_a_failure_keeps_the_file_of_an_earlier_run(tmp_path):
    path = tmp_path / "out.npy"
    np.save(path, np.arange(3))
    for function in (picky, lambda x: x[:1], lambda x: x if x[0, 0, 0] < 5 else x[..., :1]):
        with pytest.raises((batch.ItemError, ResultError, ValueError)):
            batch.map(function, numbered(30), device="cpu", batch_size=2, out=path)
        np.testing.assert_array_equal(np.load(path), np.arange(3))
        assert [p.name for p in tmp_path.iterdir()] == ["out.npy"]


@pytest.mark.quick
@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (np.empty((4, 2, 3), "f4"), ValueError, r"a row for each of the 5 items of source; got shape \(4, 2, 3\)"),
        (np.empty((), "f4"), ValueError, r"a row for each of the 5 items of source; got shape \(\)"),
        (np.empty((5, 3, 2), "f4"), ValueError, r"rows of shape \(3, 2\); the result of item 0 is of shape \(2, 3\)"),
        (np.empty((5, 2, 3), "f8"), TypeError, "dtype float64; the result of item 0 is of float32"),
        (np.ma.empty((5, 2, 3)), TypeError, "without a mask"),
        ([1, 2], TypeError, r"NumPy array without a mask, or a path; got \[1, 2\]"),
        (np.broadcast_to(np.float32(0), (5, 2, 3)), ValueError, "writeable; got a read-only"),
        ("out.txt", ValueError, "the path of an .npy file; got 'out.txt'"),
        ("no/such/folder/out.npy", ValueError, "in a folder that exists; got 'no/such/folder/out.npy'"),
    ],
)
def test_an_out_that_will_not_do(out, error, message):
    with pytest.raises(error, match=rf"^out .*{message}"):
        batch.map(tripled, numbered(5), device="cpu", out=out)


@pytest.mark.quick
def test_an_out_that_the_source_does_not_fit(tmp_path):
    source = np.zeros((5, 2))
    with pytest.raises(ValueError, match=r"^out must not overlap source"):
        batch.map(tripled, source, device="cpu", out=source)
    for rows in (4, 6):
        with pytest.raises(ValueError, match=rf"^out must have a row for each item; it has {rows}, and source gave"):
            batch.map(tripled, iter(source), device="cpu", out=np.empty((rows, 2)))
    with pytest.raises(ValueError, match=r"^out as a path needs a source that has a length"):
        batch.map(tripled, iter(source), device="cpu", out=tmp_path / "out.npy")
    with pytest.raises(ValueError, match=r"^out needs at least one result, for its shape; 0 items gave none"):
        batch.map(tripled, [], device="cpu", out=tmp_path / "out.npy")
    assert not list(tmp_path.iterdir())


# Arguments


@pytest.mark.quick
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"function": 3}, TypeError, "^function must be a prepared weight or a function of a stacked array; got 3"),
        ({"source": 3}, TypeError, "^source must be a NumPy array, or an iterable of them; got 3"),
        ({"source": "images"}, TypeError, "^source must be .* got 'images'"),
        ({"source": np.float32(1)}, TypeError, "^source must be"),
        ({"source": np.array(1.0)}, ValueError, "^source must have an axis .* without axes"),
        ({"source": np.ma.ones(3)}, TypeError, "^source must have no mask"),
        ({"source": np.array([None])}, TypeError, "^source must have numbers .* object"),
        ({"device": "gpu"}, ValueError, "^device must be .* got 'gpu'"),
        ({"device": 0}, TypeError, "^device must be .* got 0"),
        ({"batch_size": 0}, ValueError, "^batch_size must be at least 1; got 0"),
        ({"batch_size": 1.5}, TypeError, "^batch_size must be an int"),
        ({"batch_size": "all"}, TypeError, "^batch_size must be an int"),
        ({"prefetch": -1}, ValueError, "^prefetch must be at least 0; got -1"),
        ({"prefetch": None}, TypeError, "^prefetch must be an int"),
        ({"memory_limit": 0}, ValueError, "^memory_limit must be at least 1; got 0"),
        ({"memory_limit": "1G"}, TypeError, "^memory_limit must be an int"),
        ({"errors": "ignore"}, ValueError, "^errors must be .* got 'ignore'"),
        ({"progress": 1}, TypeError, "^progress must be True or False; got 1"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        batch.map(**{"function": tripled, "source": [], "device": "cpu", **arguments})


@pytest.mark.quick
def test_no_gpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(
        RuntimeError, match=r'^device "cuda" is not available: CuPy finds no GPU here; use device="cpu"'
    ):
        batch.map(tripled, [], device="cuda")
    check(list(batch.map(tripled, numbered(3), device="auto")))


@pytest.mark.quick
@pytest.mark.parametrize("errors", ["raise", "skip"])
@pytest.mark.parametrize("result", [None, 3.0, [1, 2], np.zeros(()), np.zeros((1, 5)), np.zeros((0,))])
def test_a_function_that_returns_something_else(result, errors):
    with pytest.raises(TypeError, match=r"^function must return"):
        list(batch.map(lambda x: result if len(x) > 1 else x, numbered(5), device="cpu", batch_size=3, errors=errors))


# The bar


@pytest.mark.quick
@pytest.mark.parametrize("source", [numbered(30), iter(numbered(30))], ids=["list", "iterator"])
def test_a_bar_when_asked_for(monkeypatch, source):
    pytest.importorskip("tqdm")
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with contextlib.suppress(ExceptionGroup):
        batch.map(picky, source, device="cpu", progress=True, errors="collect", out=np.empty((30, 2, 3), np.float32))
    assert "batch.map" in stream.getvalue()
    assert ("30/30" if isinstance(source, list) else "30item") in stream.getvalue()


@pytest.mark.quick
def test_no_bar_without_tqdm(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    check(list(batch.map(tripled, numbered(3), device="cpu")))
    with pytest.raises(ImportError, match=r"^progress=True needs tqdm: pip install tqdm"):
        batch.map(tripled, numbered(3), device="cpu", progress=True)
