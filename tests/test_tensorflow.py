"""`fastdeconv.tensorflow` against its documented rule, written out in NumPy, and against TensorFlow itself."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

import fastdeconv as fd
from fastdeconv.tensorflow import conv2d_transpose

Pair = tuple[int, int]


@dataclass(frozen=True)
class Case:
    kernel: Pair
    stride: Pair
    dilation: Pair
    padding: Any  # "SAME", "VALID" or the spatial pairs
    groups: int = 1
    batch: int = 2
    size: Pair = (3, 4)
    channels: Pair = (4, 2)  # in, out a group

    @property
    def extents(self) -> list[int]:
        return [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel)]

    def __str__(self) -> str:
        padding = self.padding if isinstance(self.padding, str) else str(self.padding).replace(" ", "")
        k, s, d = ("x".join(map(str, v)) for v in (self.kernel, self.stride, self.dilation))
        return f"k{k}-s{s}-d{d}-{padding}-g{self.groups}"

    @property
    def nhwc_padding(self) -> Any:
        return self.padding if isinstance(self.padding, str) else [(0, 0), *self.padding, (0, 0)]

    def pads(self, output_size: Pair) -> list[Pair]:
        """Padding of the forward convolution, by the formulas of the TensorFlow documentation."""
        if self.padding == "VALID":
            return [(0, 0), (0, 0)]
        if self.padding != "SAME":
            return list(self.padding)
        pads = []
        for n, s, k in zip(output_size, self.stride, self.extents):
            total = max(k - s, 0) if n % s == 0 else max(k - n % s, 0)
            pads.append((total // 2, total - total // 2))
        return pads

    def forward_size(self, output_size: Pair) -> Pair:
        """Output size of the forward convolution; 0 where its kernel does not fit."""
        sizes = zip(output_size, self.pads(output_size), self.extents, self.stride)
        h, w = (max(0, (n + sum(p) - k) // s + 1) for n, p, k, s in sizes)
        return h, w

    def output_sizes(self) -> list[Pair]:
        """Every size that the forward convolution maps to `size`, by trying."""
        axes = []
        for axis in range(2):
            tried = range(1, self.size[axis] * self.stride[axis] + self.extents[axis] + 1)
            axes.append([n for n in tried if self.forward_size((n, n))[axis] == self.size[axis]])
        return list(itertools.product(*axes))

    def arrays(self, seed: int = 0, dtype: str = "float64") -> tuple[np.ndarray, np.ndarray]:
        """NHWC input and filters of small integers, so that any order of summation gives the same bits."""
        rng = np.random.default_rng(seed)
        shapes = ((self.batch, *self.size, self.channels[0]), (*self.kernel, self.channels[1], self.channels[0]))
        x, f = (rng.integers(-4, 5, shape).astype(dtype) for shape in shapes)
        return x, f

    def convolve(self, y: np.ndarray, f: np.ndarray) -> np.ndarray:
        """Forward convolution, NHWC."""
        y = np.pad(y, [(0, 0), *self.pads(y.shape[1:3]), (0, 0)])
        windows = sliding_window_view(y, self.extents, axis=(1, 2))
        (s0, s1), (d0, d1) = self.stride, self.dilation
        windows = windows[:, ::s0, ::s1, :, ::d0, ::d1]
        groups = zip(np.split(windows, self.groups, axis=3), np.split(f, self.groups, axis=3))
        return np.concatenate([np.einsum("nijckl,klco->nijo", *group) for group in groups], axis=3)

    def oracle(self, x: np.ndarray, f: np.ndarray, output_size: Pair) -> np.ndarray:
        """Gradient of `convolve`: the transpose of its matrix, whose rows are the convolved unit images."""
        shape = (*output_size, self.channels[1] * self.groups)
        units = np.eye(np.prod(shape), dtype=f.dtype).reshape(-1, *shape)
        rows = self.convolve(units, f).reshape(len(units), -1)
        return (x.reshape(self.batch, -1) @ rows.T).reshape(self.batch, *shape)

    def call(self, x: np.ndarray, f: np.ndarray, output_size: Pair, data_format: str = "NHWC") -> np.ndarray:
        """Our result, in NHWC whatever the format of the call."""
        shape = (self.batch, *output_size, self.channels[1] * self.groups)
        padding = self.nhwc_padding
        if data_format == "NHWC":
            y = conv2d_transpose(x, f, shape, self.stride, padding, "NHWC", self.dilation)
            assert y.shape == shape
            assert y.flags.c_contiguous
            return y
        if not isinstance(padding, str):
            padding = [padding[0], padding[3], padding[1], padding[2]]
        shape = (shape[0], shape[3], shape[1], shape[2])
        y = conv2d_transpose(x.transpose(0, 3, 1, 2), f, shape, self.stride, padding, "NCHW", self.dilation)
        assert y.shape == shape
        assert y.flags.c_contiguous
        return y.transpose(0, 2, 3, 1)


KERNELS = ((1, 1), (2, 3), (4, 5))
STRIDES = ((1, 1), (2, 3), (4, 2))
DILATIONS = ((1, 1), (2, 3))
PADDINGS = ("SAME", "VALID", ((0, 1), (2, 0)), ((3, 0), (0, 3)))
CASES = [
    case
    for groups in (1, 2)
    for case in (Case(*v, groups) for v in itertools.product(KERNELS, STRIDES, DILATIONS, PADDINGS))
    if case.output_sizes()
]


@pytest.mark.quick
@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_is_the_gradient_of_the_forward_convolution(case: Case, data_format: str) -> None:
    x, f = case.arrays()
    sizes = case.output_sizes()
    for size in {sizes[0], sizes[len(sizes) // 2], sizes[-1]}:
        np.testing.assert_array_equal(case.call(x, f, size, data_format), case.oracle(x, f, size), err_msg=str(size))


@pytest.mark.parametrize("case", [c for c in CASES if c.groups == 1], ids=str)
def test_legal_output_sizes_are_those_of_the_forward_convolution(case: Case) -> None:
    x, f = case.arrays()
    legal = case.output_sizes()
    (low_h, low_w), (high_h, high_w) = legal[0], legal[-1]
    assert len(legal) == (high_h - low_h + 1) * (high_w - low_w + 1)
    for size in legal:
        case.call(x, f, size)
    for size in ((low_h - 1, low_w), (high_h + 1, low_w), (low_h, low_w - 1), (low_h, high_w + 1)):
        with pytest.raises(ValueError, match="output_shape") as caught:
            case.call(x, f, size)
        assert f"from ({low_h}, {low_w}) to ({high_h}, {high_w})" in str(caught.value)
        assert str(size) in str(caught.value)


@pytest.mark.parametrize("dtype", ["float16", "float32", "complex64", "complex128", "int8", "int32", "int64"])
def test_element_types(dtype: str) -> None:
    case = Case((3, 3), (2, 2), (1, 1), "SAME")
    x, f = case.arrays(dtype=dtype)
    y = case.call(x, f, (6, 8))
    assert y.dtype == dtype
    expected = case.oracle(x.astype("complex128"), f.astype("complex128"), (6, 8))
    np.testing.assert_array_equal(y, expected.real.astype("int64").astype(dtype) if dtype == "int8" else expected)


class TestArguments:
    CASE = Case((3, 3), (2, 2), (1, 1), "SAME")
    X, F = CASE.arrays()
    EXPECTED = CASE.oracle(X, F, (5, 8))

    @pytest.mark.parametrize(
        "output_shape",
        [
            (2, 5, 8, 2),
            [2, 5, 8, 2],
            np.array([2, 5, 8, 2], "int32"),
            (np.int64(2), np.int64(5), np.int64(8), np.int64(2)),
            (-1, 5, 8, 2),
            (5, 8),
            np.array([5, 8]),
        ],
        ids=str,
    )
    def test_output_shape(self, output_shape: Any) -> None:
        np.testing.assert_array_equal(conv2d_transpose(self.X, self.F, output_shape, 2), self.EXPECTED)

    @pytest.mark.parametrize("strides", [2, np.int32(2), [2], (2, 2), [1, 2, 2, 1], np.array([1, 2, 2, 1])], ids=str)
    def test_strides(self, strides: Any) -> None:
        np.testing.assert_array_equal(conv2d_transpose(self.X, self.F, (5, 8), strides), self.EXPECTED)

    @pytest.mark.parametrize("dilations", [None, 1, [1], (1, 1), [1, 1, 1, 1]], ids=str)
    def test_dilations(self, dilations: Any) -> None:
        y = conv2d_transpose(self.X, self.F, (5, 8), 2, dilations=dilations, name="up")
        np.testing.assert_array_equal(y, self.EXPECTED)

    @pytest.mark.parametrize("as_type", [list, tuple, np.array])
    def test_explicit_padding(self, as_type: Any) -> None:
        # What SAME comes to here: 3 taps at stride 2 need 2 on the odd axis and 1, after, on the even one.
        padding = as_type([(0, 0), (1, 1), (0, 1), (0, 0)])
        np.testing.assert_array_equal(conv2d_transpose(self.X, self.F, (5, 8), 2, padding), self.EXPECTED)

    def test_axes_follow_the_data_format(self) -> None:
        case = Case((3, 4), (2, 3), (1, 2), ((1, 0), (0, 2)))
        x, f = case.arrays()
        size = case.output_sizes()[0]
        y = conv2d_transpose(
            x.transpose(0, 3, 1, 2),
            f,
            (-1, 2, *size),
            [1, 1, 2, 3],
            [(0, 0), (0, 0), (1, 0), (0, 2)],
            "NCHW",
            [1, 1, 1, 2],
        )
        np.testing.assert_array_equal(y.transpose(0, 2, 3, 1), case.oracle(x, f, size))

    def test_batch_of_zero(self) -> None:
        assert conv2d_transpose(self.X[:0], self.F, (-1, 5, 8, 2), 2).shape == (0, 5, 8, 2)

    def test_algorithm_and_device(self) -> None:
        y = conv2d_transpose(self.X, self.F, (5, 8), 2, device="cpu", algorithm="reference")
        np.testing.assert_array_equal(y, self.EXPECTED)


@pytest.mark.quick
def test_bare_image_of_the_textbook() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.random((5, 5)), rng.random((3, 3))
    y = conv2d_transpose(x, w, output_shape=(5, 5), strides=1, padding="SAME")
    assert y.shape == (5, 5)
    np.testing.assert_array_equal(y, fd.conv_transpose2d(x, w, padding=1))
    full = conv2d_transpose(x[None, :, :, None], w[:, :, None, None], (1, 5, 5, 1), 1, "SAME")
    np.testing.assert_array_equal(y, full[0, :, :, 0])


def test_bare_image_with_even_kernel_pads_after() -> None:
    x, w = np.arange(1.0, 5.0).reshape(2, 2), np.array([[1.0, 10.0], [100.0, 1000.0]])
    y = conv2d_transpose(x, w, (2, 2), 1)
    np.testing.assert_array_equal(y, [[1, 12], [103, 1234]])


def test_needs_no_tensorflow() -> None:
    code = (
        "import sys; sys.modules['tensorflow'] = None; import numpy as np; from fastdeconv.tensorflow import "
        "conv2d_transpose as f; print(f(np.ones((2, 2)), np.ones((1, 1)), (2, 2), 1, algorithm='reference').sum())"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "4.0\n"


GOOD: dict[str, Any] = {
    "input": np.ones((2, 5, 6, 4)),
    "filters": np.ones((3, 3, 2, 4)),
    "output_shape": (2, 10, 12, 2),
    "strides": 2,
}

# What is wrong, the error, and what its message must contain: the argument, the value, and what would do.
BAD: list[tuple[dict[str, Any], type[Exception], tuple[str, ...]]] = [
    ({"input": [[1.0]]}, TypeError, ("input", "list", "numpy.asarray")),
    ({"input": None}, TypeError, ("input", "NoneType", "NumPy array")),
    ({"input": np.ones((2, 5, 6, 4), bool)}, TypeError, ("input", "bool", "float")),
    ({"input": np.ones((2, 5, 6, 4), object)}, TypeError, ("input", "object", "float")),
    ({"input": np.ma.ones((2, 5, 6, 4))}, TypeError, ("input", "mask", "filled")),
    ({"input": np.ones((2, 5, 6, 4), "f4")}, TypeError, ("input is float32", "filters is float64", "astype")),
    ({"input": np.ones((5, 6, 4))}, ValueError, ("input", "(5, 6, 4)", "4 axes (N, height, width, C_in)")),
    ({"input": np.ones((5, 6))}, ValueError, ("input", "(5, 6)", "with filters of 2 axes")),
    ({"input": np.ones((2, 0, 6, 4))}, ValueError, ("input", "(2, 4, 0, 6)", "no axis of size 0")),
    ({"input": np.ones((2, 5, 6, 0)), "filters": np.ones((3, 3, 2, 0))}, ValueError, ("filters", "size 0")),
    ({"input": np.ones((2, 4, 5, 6))}, ValueError, ("filters", "C_in = 6", "(3, 3, 2, 4)", "NHWC")),
    ({"filters": np.ones((3, 3))}, ValueError, ("filters", "(3, 3)", "4 axes")),
    ({"filters": np.ones((3, 3, 4, 2))}, ValueError, ("filters", "C_in = 4", "(3, 3, 4, 2)")),
    ({"filters": np.ones((0, 3, 2, 4))}, ValueError, ("filters", "(4, 2, 0, 3)", "size 0")),
    ({"filters": "box"}, TypeError, ("filters", "str", "NumPy array")),
    ({"output_shape": 10}, TypeError, ("output_shape", "10", "sequence of ints")),
    ({"output_shape": None}, TypeError, ("output_shape", "None", "sequence of ints")),
    ({"output_shape": "NHWC"}, TypeError, ("output_shape", "'NHWC'", "sequence of ints")),
    ({"output_shape": (2, 10.0, 12, 2)}, TypeError, ("output_shape", "10.0", "int")),
    ({"output_shape": (None, 10, 12, 2)}, TypeError, ("output_shape", "None", "int")),
    ({"output_shape": (True, 10, 12, 2)}, TypeError, ("output_shape", "True", "int")),
    ({"output_shape": np.ones((1, 4), int)}, TypeError, ("output_shape", "array", "sequence of ints")),
    ({"output_shape": (10, 12, 2)}, ValueError, ("output_shape", "(10, 12, 2)", "4 values in NHWC order")),
    ({"output_shape": (3, 10, 12, 2)}, ValueError, ("output_shape", "(3, 10, 12, 2)", "batch 2, or -1")),
    ({"output_shape": (-2, 10, 12, 2)}, ValueError, ("output_shape", "(-2, 10, 12, 2)", "batch 2, or -1")),
    ({"output_shape": (2, -1, 12, 2)}, ValueError, ("output_shape", "(-1, 12)", "from (9, 11) to (10, 12)")),
    ({"output_shape": (2, 10, 13, 2)}, ValueError, ("output_shape", "(10, 13)", "from (9, 11) to (10, 12)")),
    (
        {"output_shape": (2, 10, 12, 2), "padding": "VALID"},
        ValueError,
        ("output_shape", "(10, 12)", "from (11, 13) to (12, 14)", "'VALID'"),
    ),
    ({"output_shape": (2, 10, 12, 3)}, ValueError, ("output_shape", "3 in (2, 10, 12, 3)", "2 channels")),
    ({"output_shape": (2, 10, 12, 6)}, ValueError, ("output_shape", "6 in (2, 10, 12, 6)", "divides C_in = 4")),
    ({"output_shape": (2, 10, 12, 0)}, ValueError, ("output_shape", "0 in (2, 10, 12, 0)", "2 channels")),
    ({"output_shape": (2, 10, 12, -1)}, ValueError, ("output_shape", "-1 in (2, 10, 12, -1)", "2 channels")),
    ({"strides": 0}, ValueError, ("strides", "0", "at least 1")),
    ({"strides": (2, -2)}, ValueError, ("strides", "(2, -2)", "at least 1")),
    ({"strides": 2.0}, TypeError, ("strides", "2.0", "int")),
    ({"strides": "2"}, TypeError, ("strides", "'2'", "int")),
    ({"strides": None}, TypeError, ("strides", "None", "int")),
    ({"strides": 2**70, "output_shape": (1, 1)}, ValueError, ("strides", str(2**70), "less than 2**62")),
    ({"strides": (1, 2, 2)}, ValueError, ("strides", "(1, 2, 2)", "1, 2 or 4 values")),
    ({"strides": ()}, ValueError, ("strides", "()", "1, 2 or 4 values")),
    ({"strides": (2, 2, 2, 1)}, ValueError, ("strides", "(2, 2, 2, 1)", "1 for batch and channels")),
    ({"strides": (1, 1, 2, 2)}, ValueError, ("strides", "(1, 1, 2, 2)", "NHWC order")),
    ({"dilations": 0}, ValueError, ("dilations", "0", "at least 1")),
    ({"dilations": (1, 1, 1)}, ValueError, ("dilations", "(1, 1, 1)", "1, 2 or 4 values")),
    ({"dilations": 1.5}, TypeError, ("dilations", "1.5", "int")),
    ({"padding": "same"}, ValueError, ("padding", "'same'", '"SAME"')),
    ({"padding": 1}, TypeError, ("padding", "1 of type int", "4 pairs")),
    ({"padding": None}, TypeError, ("padding", "None", "4 pairs")),
    ({"padding": [[0, 1], [0, 1]]}, ValueError, ("padding", "[[0, 1], [0, 1]]", "4 pairs")),
    ({"padding": [0, 1, 1, 0]}, TypeError, ("padding", "got 0 of type int", "sequence of ints")),
    ({"padding": [[0, 0], [0, 1, 2], [0, 1], [0, 0]]}, ValueError, ("padding", "[0, 1, 2]", "two values")),
    ({"padding": [[0, 0], [-1, 1], [0, 1], [0, 0]]}, ValueError, ("padding", "[-1, 1]", "at least 0")),
    ({"padding": [[0, 0], [0.5, 1], [0, 1], [0, 0]]}, TypeError, ("padding", "0.5", "int")),
    (
        {"padding": [[0, 0], [0, 0], [1, 1], [1, 1]]},
        ValueError,
        ("padding", "[1, 1]]", "(0, 0) for batch and channels"),
    ),
    ({"padding": [[0, 0], [9, 9], [0, 1], [0, 0]]}, ValueError, ("padding", "[9, 9]", "leave some output")),
    ({"data_format": "NHWX"}, ValueError, ("data_format", "'NHWX'", '"NCHW"')),
    ({"data_format": np.array(["NHWC", "NCHW"])}, ValueError, ("data_format", "array", '"NHWC"')),
    ({"data_format": None}, ValueError, ("data_format", "None", '"NHWC"')),
    ({"data_format": "NCHW"}, ValueError, ("filters", "C_in = 5", "NCHW")),
    ({"algorithm": "fft"}, ValueError, ("algorithm", "'fft'", "reference")),
    ({"device": "tpu"}, ValueError, ("device", "'tpu'", "cpu")),
    (
        {"input": np.ones((5, 5)), "filters": np.ones((3, 3)), "output_shape": (1, 5, 5, 1), "strides": 1},
        ValueError,
        ("output_shape", "(1, 5, 5, 1)", "(height, width)"),
    ),
]


@pytest.mark.quick
@pytest.mark.parametrize(
    ("change", "error", "parts"), BAD, ids=[f"{i}-{'-'.join(c)}" for i, (c, _, _) in enumerate(BAD)]
)
def test_bad_input(change: dict[str, Any], error: type[Exception], parts: tuple[str, ...]) -> None:
    conv2d_transpose(**GOOD)
    with pytest.raises(error) as caught:
        conv2d_transpose(**{**GOOD, **change})
    for part in parts:
        assert part in str(caught.value)


# Without oneDNN TensorFlow has no CPU gradient of dilated or grouped convolutions: there its forward pass decides.


def test_values_of_tensorflow() -> None:
    tf = pytest.importorskip("tensorflow")
    for case in CASES:
        if case.groups > 1 or case.dilation != (1, 1):
            continue
        x, f = case.arrays()
        for size in case.output_sizes():
            theirs = tf.nn.conv2d_transpose(x, f, (case.batch, *size, 2), case.stride, case.nhwc_padding)
            np.testing.assert_array_equal(case.call(x, f, size), theirs.numpy(), err_msg=f"{case} {size}")


def test_adjoint_of_the_convolution_of_tensorflow() -> None:
    tf = pytest.importorskip("tensorflow")
    for case in CASES:
        x, f = case.arrays()
        for size in case.output_sizes():
            shape = (case.batch, *size, case.channels[1] * case.groups)
            v = np.random.default_rng(1).integers(-4, 5, shape).astype("float64")
            convolved = tf.nn.conv2d(v, f, case.stride, case.nhwc_padding, dilations=case.dilation).numpy()
            assert convolved.shape == x.shape, f"{case} {size}"
            assert (convolved * x).sum() == (v * case.call(x, f, size)).sum(), f"{case} {size}"
