"""Results in arrays and files: complete, or not there."""

import numpy as np
import pytest
from batching import check, numbered, picky, tripled
from fake_device import FakeDevice

from fastdeconv import batch
from fastdeconv.batch.errors import ResultError


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
