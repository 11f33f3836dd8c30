"""A failure loses what failed and nothing else, at whatever step it happens; memory stays within its limit."""

import pickle

import numpy as np
import pytest
from batching import ITEM, check, numbered, picky, tripled
from fake_device import FakeDevice, FakeOutOfMemoryError

import fastdeconv as fd
from fastdeconv import batch

RNG = np.random.default_rng(0)


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
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("fits", "most_refused", "most_batches"), [(1, 800, 1300), (2, 400, 1200), (5, 60, 1100), (30, 12, 250)]
)
def test_batches_are_halved_until_they_fit(on_devices, fits, most_refused, most_batches, seed):
    """What was refused once is asked for again by batches that were read already, and by those under way together."""
    device = on_devices(FakeDevice(seed, capacity=2 * ITEM * fits))
    check(list(batch.map(tripled, numbered(1200), batch_size=40, memory_limit=1 << 20)))
    assert device.peak[True] <= device.capacity
    assert device.refused <= most_refused
    assert 1200 / fits <= device.calls["compute"] <= most_batches


@pytest.mark.quick
@pytest.mark.parametrize("seed", range(5))
def test_what_needs_all_memory_waits_for_the_others(on_devices, seed):
    on_devices(FakeDevice(seed, capacity=2 * ITEM * 3))
    items = [np.full((1 + 2 * (i % 2), 2, 3), i, np.float32) for i in range(100)]
    check(list(batch.map(tripled, items, batch_size=1, memory_limit=1 << 20)))


@pytest.mark.quick
def test_large_items_are_held_as_the_limit_allows(on_devices):
    device = on_devices(FakeDevice())
    check(list(batch.map(tripled, numbered(100), prefetch=3, memory_limit=2 * ITEM * 2)))
    assert device.calls["upload"] == 100
    assert device.refused == 0


@pytest.mark.quick
@pytest.mark.parametrize("source", [list, np.stack, iter])
def test_sizes_of_batches(on_devices, source):
    device = on_devices(FakeDevice())
    for where, each in (("cpu", 24), ("cuda", 24), ("cuda", 0)):
        sizes = []

        def function(x):
            sizes.append(x.shape[0])  # noqa: B023
            return tripled(x)

        limit = 2 * ITEM * each or None
        check(list(batch.map(function, source(numbered(600)), device=where, prefetch=3, memory_limit=limit)))
        size = each // 4 or 256
        assert sizes == [1, *[size] * (599 // size), *[599 % size] * (599 % size > 0)]
    for prefetch in (0, 3):
        device.peak[False] = 0
        check(list(batch.map(tripled, source(numbered(600)), prefetch=prefetch, memory_limit=2 * ITEM * 16)))
        assert device.peak[False] <= 2 * ITEM * 16


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
    assert all(device.peak[True] <= limit * ITEM for device in fakes)
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
