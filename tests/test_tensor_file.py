"""Files in the safetensors format: what comes back, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fastdeconv import tensor_file

ARRAYS = {
    "weights": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "half": np.array([1.5, -2], np.float16),
    "big": np.arange(5, dtype=">f8"),
    "count": np.array(3),
    "none": np.zeros((0, 4)),
    "mask": np.array([True, False, True]),
    "bytes": np.arange(5, dtype=np.uint8),
    "ünicode": np.array([-1, 2], np.int16),
}
TEXTS = {"b": "größer", "a": '{"x": 1}'}


@pytest.mark.quick
def test_everything_comes_back(tmp_path):
    path = tmp_path / "file"
    tensor_file.write(path, ARRAYS, TEXTS)
    arrays, texts = tensor_file.read(path)
    assert texts == TEXTS
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert (arrays[name].dtype, arrays[name].shape) == (array.dtype.newbyteorder("="), array.shape)
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].flags.aligned
        assert arrays[name].flags.writeable


@pytest.mark.quick
def test_the_package_reads_ours_and_we_read_its(tmp_path):
    package = pytest.importorskip("safetensors")
    numpy = pytest.importorskip("safetensors.numpy")
    tensor_file.write(tmp_path / "ours", ARRAYS, TEXTS)
    with package.safe_open(tmp_path / "ours", "np") as file:
        assert file.metadata() == TEXTS
    theirs = numpy.load_file(tmp_path / "ours")
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(theirs[name], array)
        assert theirs[name].shape == array.shape
    numpy.save_file(
        {name: np.ascontiguousarray(a).reshape(a.shape) for name, a in ARRAYS.items()}, tmp_path / "theirs", TEXTS
    )
    arrays, texts = tensor_file.read(tmp_path / "theirs")
    assert texts == TEXTS
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)


def test_bfloat16_of_torch_becomes_float32(tmp_path):
    torch = pytest.importorskip("torch")
    package = pytest.importorskip("safetensors.torch")
    values = torch.tensor([1.0, -0.3, 3e38, float("inf")], dtype=torch.bfloat16)
    package.save_file({"w": values, "odd": torch.ones(1, dtype=torch.int8)}, tmp_path / "file")
    arrays, _ = tensor_file.read(tmp_path / "file")
    assert arrays["w"].dtype == np.float32
    np.testing.assert_array_equal(arrays["w"], values.float().numpy())


@pytest.mark.quick
def test_arrays_that_the_format_lacks(tmp_path):
    with pytest.raises(TypeError, match=r"w must have one of the dtypes float64, .*; got complex64"):
        tensor_file.write(tmp_path / "file", {"w": np.zeros(2, np.complex64)}, {})
    assert not (tmp_path / "file").exists()


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.quick
@pytest.mark.parametrize("header", [
    {"a": entry(shape=(2,))},
    {"a": entry(shape=(-1,), offsets=(4, 0))},
    {"a": entry(offsets=(0,))},
    {"a": {"dtype": "F32"}},
    {"a": 3},
    {"a": entry(), "b": entry()},
    {"a": entry(offsets=(4, 8))},
    {"a": entry(offsets=(0, 4)), "b": entry(offsets=(4, 8))},
    {},
    {"a": entry(), "__metadata__": {"x": 3}},
])  # fmt: skip
def test_headers_that_lie(tmp_path, header):
    text = json.dumps(header).encode()
    (tmp_path / "file").write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    with pytest.raises(tensor_file.FormatError, match="it is damaged or cut off, or no safetensors file"):
        tensor_file.read(tmp_path / "file")


def test_elements_that_numpy_lacks(tmp_path):
    text = json.dumps({"a": entry(dtype="F8_E4M3", offsets=(0, 1))}).encode()
    (tmp_path / "file").write_bytes(len(text).to_bytes(8, "little") + text + bytes(1))
    with pytest.raises(tensor_file.FormatError, match="a has elements of type F8_E4M3, which NumPy lacks"):
        tensor_file.read(tmp_path / "file")
