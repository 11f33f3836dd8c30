"""Bad calls: ValueError or TypeError, and a message with the argument, what came and what would do."""

import subprocess
import sys

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

import fastdeconv as fd


def f32(*shape):
    return np.ones(shape, "float32")


def masked():
    return np.ma.masked_array(f32(2, 4, 5, 6), mask=False)


X, W, Y = f32(2, 4, 5, 6), f32(4, 3, 3, 3), f32(2, 3, 7, 8)

# Good arguments of each call; a row of the tables below replaces some.
CALLS = {
    "forward": (fd.conv_transpose2d, {"input": X, "weight": W}),
    "vjp": (fd.conv_transpose2d_vjp, {"grad_output": Y, "input": X, "weight": W}),
    "grad_input": (fd.grad.conv_transpose2d_input, {"input_size": X.shape, "weight": W, "grad_output": Y}),
    "grad_weight": (fd.grad.conv_transpose2d_weight, {"input": X, "weight_size": W.shape, "grad_output": Y}),
    "grad_bias": (fd.grad.conv_transpose2d_bias, {"grad_output": Y}),
    "prepare": (fd.prepare, {"weight": W}),
    "prepared": (fd.prepare(W), {"input": X}),
}

# Not an array of numbers: value, what the message shows of it, what it says would do.
NOT_AN_ARRAY = {
    "list": ([[1.0, 2.0]], "list", "numpy.asarray"),
    "float": (1.5, "1.5", "numpy.asarray"),
    "str": ("image.png", "image.png", "numpy.asarray"),
    "dict": ({"a": 1}, "dict", "numpy.asarray"),
    "memoryview": (memoryview(b"abc"), "memoryview", "numpy.asarray"),
    "scalar": (np.float32(2), "float32", "numpy.asarray"),
    "object": (np.array([[None]]), "object", "float32"),
    "bool": (np.ones((2, 4, 5, 6), bool), "bool", "float32"),
    "longdouble": (np.ones((2, 4, 5, 6), np.longdouble), "float128", "float32"),
    "text": (np.array(["a"]), "<U1", "float32"),
    "datetime": (np.zeros(3, "M8[s]"), "datetime64", "float32"),
    "record": (np.zeros(3, [("re", "f4"), ("im", "f4")]), "re", "float32"),
    "masked": (masked(), "masked array", "filled"),
}
NONE_TOO = {"none": (None, "None", "numpy.asarray")}

# Arrays of the wrong shape or dtype: the argument, its value, what the message shows, what it says would do.
WRONG_ARRAYS = {
    "forward": [
        ("input", f32(5), "(5,)", "(C_in, height, width)"),
        ("input", f32(5, 6), "(5, 6)", "(C_in, height, width)"),
        ("input", np.array(1, "float32"), "()", "(C_in, height, width)"),
        ("input", f32(1, 2, 4, 5, 6), "(1, 2, 4, 5, 6)", "batch axis"),
        ("input", f32(2, 4, 0, 6), "(2, 4, 0, 6)", "no spatial axis of size 0"),
        ("weight", f32(3, 3, 3, 3), "(3, 3, 3, 3)", "C_in = 4"),
        ("weight", f32(4, 3, 3), "(4, 3, 3)", "C_out / groups"),
        ("weight", f32(3, 3), "(3, 3)", "C_out / groups"),
        ("weight", f32(4, 3, 3, 3, 3), "(4, 3, 3, 3, 3)", "C_out / groups"),
        ("weight", f32(4, 0, 3, 3), "(4, 0, 3, 3)", "no axis of size 0"),
        ("weight", f32(4, 3, 0, 3), "(4, 3, 0, 3)", "no axis of size 0"),
        ("weight", W.astype("float64"), "weight is float64", ".astype"),
        ("weight", W.astype("complex64"), "weight is complex64", ".astype"),
        ("bias", f32(4), "(4,)", "(3,)"),
        ("bias", f32(1), "(1,)", "(3,)"),
        ("bias", f32(3, 1), "(3, 1)", "(3,)"),
        ("bias", f32(0), "(0,)", "(3,)"),
        ("bias", np.ones(3), "bias is float64", ".astype"),
        ("out", f32(2, 3, 7, 9), "(2, 3, 7, 9)", "(2, 3, 7, 8)"),
        ("out", f32(2, 3, 56), "(2, 3, 56)", "(2, 3, 7, 8)"),
        ("out", Y.astype("float64"), "<f8", "float32"),
        ("out", Y.astype(">f4"), ">f4", "native"),
        ("out", np.ma.masked_array(Y, mask=False), "MaskedArray", "without a mask"),
        ("out", Y.tolist(), "list", "NumPy array"),
        ("out", "y.npy", "y.npy", "NumPy array"),
        ("out", np.frombuffer(bytes(Y.nbytes), "f4").reshape(Y.shape), "read-only", "writeable"),
        ("out", np.broadcast_to(f32(8), Y.shape), "read-only", "writeable"),
        ("out", as_strided(f32(8), Y.shape, (0, 0, 0, 4)), "strides (0, 0, 0, 4)", "overlap itself"),
        ("out", as_strided(f32(400), Y.shape, (4, 4, 4, 4)), "strides (4, 4, 4, 4)", "overlap itself"),
    ],
    "vjp": [
        ("grad_output", f32(2, 3, 7, 9), "(2, 3, 7, 9)", "(2, 3, 7, 8)"),
        ("grad_output", f32(2, 4, 7, 8), "(2, 4, 7, 8)", "(2, 3, 7, 8)"),
        ("grad_output", f32(3, 7, 8), "(3, 7, 8)", "(2, 3, 7, 8)"),
        ("grad_output", f32(7, 8), "(7, 8)", "(2, 3, 7, 8)"),
        ("grad_output", Y.astype("float64"), "grad_output is float64", ".astype"),
        ("input", X.astype("float64"), "input is float64", ".astype"),
        ("input", f32(2, 3, 5, 6), "(2, 3, 5, 6)", "C_in = 3"),
        ("input", f32(5, 6), "(5, 6)", "(C_in, height, width)"),
        ("weight", W.astype("float64"), "weight is float64", ".astype"),
        ("weight", f32(4, 3, 3), "(4, 3, 3)", "C_out / groups"),
        ("bias", f32(4), "(4,)", "(3,)"),
        ("bias", np.ones(3), "bias is float64", ".astype"),
    ],
    "grad_input": [
        ("grad_output", f32(2, 3, 9, 8), "(2, 3, 9, 8)", "(2, 3, 7, 8)"),
        ("weight", W.astype("float16"), "weight is float16", ".astype"),
        ("weight", f32(5, 3, 3, 3), "(5, 3, 3, 3)", "C_in = 4"),
        ("out", f32(2, 4, 5, 7), "(2, 4, 5, 7)", "(2, 4, 5, 6)"),
        ("out", X.astype("float64"), "<f8", "float32"),
    ],
    "grad_weight": [
        ("grad_output", f32(2, 3, 9, 8), "(2, 3, 9, 8)", "(2, 3, 7, 8)"),
        ("input", X.astype("int32"), "input is int32", ".astype"),
        ("input", f32(1, 4, 5, 6), "(2, 3, 7, 8)", "(1, 3, 7, 8)"),
        ("out", f32(4, 3, 3, 2), "(4, 3, 3, 2)", "(4, 3, 3, 3)"),
        ("out", W.astype("float64"), "<f8", "float32"),
    ],
    "grad_bias": [
        ("grad_output", f32(5), "(5,)", "3 or 4 axes"),
        ("grad_output", f32(1, 2, 3, 7, 8), "(1, 2, 3, 7, 8)", "3 or 4 axes"),
    ],
    "prepare": [
        ("weight", np.array(1, "float32"), "()", "3 to 5 axes (C_in, C_out / groups"),
        ("weight", f32(1, 1, 1, 1, 1, 1), "(1, 1, 1, 1, 1, 1)", "3 to 5 axes (C_in, C_out / groups"),
        ("weight", f32(0, 3, 3, 3), "(0, 3, 3, 3)", "no axis of size 0"),
        ("weight", f32(4, 3, 0, 3), "(4, 3, 0, 3)", "no axis of size 0"),
        ("weight", f32(3, 0), "(1, 1, 3, 0)", "no axis of size 0"),
        ("bias", f32(4), "(4,)", "(3,)"),
        ("bias", f32(3, 1), "(3, 1)", "(3,)"),
        ("bias", np.ones(3), "bias is float64", ".astype"),
    ],
    "prepared": [
        ("input", f32(5, 6), "(5, 6)", "(C_in, height, width)"),
        ("input", f32(1, 2, 4, 5, 6), "(1, 2, 4, 5, 6)", "batch axis"),
        ("input", f32(2, 3, 5, 6), "(4, 3, 3, 3)", "C_in = 3"),
        ("input", f32(2, 4, 0, 6), "(2, 4, 0, 6)", "no spatial axis of size 0"),
        ("input", X.astype("float64"), "input is float64", ".astype"),
        ("out", f32(2, 3, 7, 9), "(2, 3, 7, 9)", "(2, 3, 7, 8)"),
        ("out", Y.astype("float64"), "<f8", "float32"),
        ("out", Y.tolist(), "list", "NumPy array"),
        ("out", np.frombuffer(bytes(Y.nbytes), "f4").reshape(Y.shape), "read-only", "writeable"),
        ("output_size", 6, "got (6, 6)", "output_size must be from (7, 8) to (7, 8)"),
        ("output_size", (7.0, 8), "7.0", "output_size must be an int or a tuple of 2 ints"),
        ("output_size", "78", "'78'", "output_size must be an int or a tuple of 2 ints"),
        ("output_size", {7}, "{7}", "output_size must be an int or a tuple of 2 ints"),
    ],
}

# One value for all axes or one for each: value, exception, what the message shows and says would do.
HUGE = 10**5000  # Python refuses to print it
BAD_AXES = {
    "none": (None, TypeError, "None", "an int or a tuple of 2 ints"),
    "str": ("2", TypeError, "'2'", "an int or a tuple of 2 ints"),
    "bytes": (b"2", TypeError, "b'2'", "an int or a tuple of 2 ints"),
    "same": ("same", TypeError, "'same'", "an int or a tuple of 2 ints"),
    "float": (1.5, TypeError, "1.5", "an int or a tuple of 2 ints"),
    "whole_float": (2.0, TypeError, "2.0", "an int or a tuple of 2 ints"),
    "nan": (float("nan"), TypeError, "nan", "an int or a tuple of 2 ints"),
    "numpy_float": (np.float64(1), TypeError, "1.0", "an int or a tuple of 2 ints"),
    "complex": (1j, TypeError, "1j", "an int or a tuple of 2 ints"),
    "bool": (True, TypeError, "True", "an int or a tuple of 2 ints"),
    "numpy_bool": (np.True_, TypeError, "True", "an int or a tuple of 2 ints"),
    "bool_inside": ((1, True), TypeError, "(1, True)", "an int or a tuple of 2 ints"),
    "float_inside": ((1, 2.0), TypeError, "(1, 2.0)", "an int or a tuple of 2 ints"),
    "none_inside": ((None, 1), TypeError, "(None, 1)", "an int or a tuple of 2 ints"),
    "str_inside": (["1", "2"], TypeError, "['1', '2']", "an int or a tuple of 2 ints"),
    "nested": (((1, 1), (1, 1)), TypeError, "((1, 1), (1, 1))", "an int or a tuple of 2 ints"),
    "set": ({1, 2}, TypeError, "{1, 2}", "an int or a tuple of 2 ints"),
    "dict": ({0: 1}, TypeError, "{0: 1}", "an int or a tuple of 2 ints"),
    "iterator": (iter([1, 1]), TypeError, "iterator", "an int or a tuple of 2 ints"),
    "function": (len, TypeError, "len", "an int or a tuple of 2 ints"),
    "float_array": (np.ones(2), TypeError, "array([1., 1.])", "an int or a tuple of 2 ints"),
    "bool_array": (np.ones(2, bool), TypeError, "array([ True, True])", "an int or a tuple of 2 ints"),
    "object_array": (np.array([1, None]), TypeError, "array([1, None]", "an int or a tuple of 2 ints"),
    "2d_array": (np.ones((2, 2), int), TypeError, "array([[1, 1]", "an int or a tuple of 2 ints"),
    "too_many": ((1, 1, 1), ValueError, "(1, 1, 1)", "an int or a tuple of 2 ints"),
    "many": ([1] * 100_000, ValueError, "[1, 1, 1", "an int or a tuple of 2 ints"),
    "empty": ((), ValueError, "()", "an int or a tuple of 2 ints"),
    "empty_array": (np.ones(0, int), ValueError, "array([]", "an int or a tuple of 2 ints"),
    "negative": (-1, ValueError, "-1", "at least"),
    "numpy_negative": (np.int8(-1), ValueError, "-1", "at least"),
    "one_negative": ((1, -1), ValueError, "(1, -1)", "at least"),
    "int64_minimum": (-(2**63), ValueError, "-9223372036854775808", "less than 2**62"),
    "oversized": (2**62, ValueError, "4611686018427387904", "less than 2**62"),
    "uint64": (np.uint64(2**63), ValueError, "9223372036854775808", "less than 2**62"),
    "huge": (HUGE, ValueError, "cannot be printed", "less than 2**62"),
}
LIMITS = {
    "zero": (0, ValueError, "0", "at least 1"),
    "one_zero": ((1, 0), ValueError, "(1, 0)", "at least 1"),
}

OTHER = [
    # What no combination of sizes can be.
    ("forward", {"stride": 2**40}, ValueError, "output of shape", "64-bit indexing"),
    ("forward", {"dilation": (1, 2**61)}, ValueError, "output of shape", "64-bit indexing"),
    ("forward", {"padding": 4}, ValueError, "padding must leave some output; got (4, 4)", "reduce padding"),
    ("forward", {"padding": (0, 7)}, ValueError, "padding must leave some output; got (0, 7)", "reduce padding"),
    ("forward", {"padding": 2**61}, ValueError, "padding must leave some output", "reduce padding"),
    ("forward", {"output_padding": 1}, ValueError, "output_padding", "from 0 to max(stride, dilation) - 1"),
    ("forward", {"output_padding": 2, "stride": 2}, ValueError, "(2, 2)", "from 0 to max(stride, dilation) - 1"),
    ("forward", {"output_padding": (0, 3), "stride": (9, 3)}, ValueError, "(0, 3)", "from 0 to max(stride, dilation)"),
    ("forward", {"output_padding": 3, "dilation": 3}, ValueError, "(3, 3)", "from 0 to max(stride, dilation) - 1"),
    ("vjp", {"output_padding": 1}, ValueError, "output_padding", "from 0 to max(stride, dilation) - 1"),
    # The gradient tells which output_padding it would fit.
    ("vjp", {"grad_output": f32(2, 3, 11, 14), "stride": 2}, ValueError, "(2, 3, 11, 14)", "(2, 3, 11, 13)"),
    ("vjp", {"grad_output": f32(2, 3, 11, 14), "stride": 2}, ValueError, "grad_output", "output_padding=(0, 1) gives"),
    ("vjp", {"grad_output": f32(2, 3, 13, 14), "stride": 2}, ValueError, "got (13, 14)", "from (11, 13) to (12, 14)"),
    ("grad_input", {"input_size": (2, 4, 5)}, ValueError, "input of shape (2, 4, 5)", "C_in = 2"),
    ("grad_input", {"input_size": (4, 5)}, ValueError, "input", "(C_in, height, width)"),
    ("grad_input", {"input_size": 5}, TypeError, "input_size must be a tuple of ints", "got 5"),
    ("grad_input", {"input_size": None}, TypeError, "input_size must be a tuple of ints", "got None"),
    ("grad_input", {"input_size": "2456"}, TypeError, "input_size must be a tuple of ints", "'2456'"),
    ("grad_input", {"input_size": (2, 4, 5.0, 6)}, TypeError, "input_size must be a tuple of ints", "5.0"),
    ("grad_input", {"input_size": (2, 4, 5, -6)}, ValueError, "input_size must have no negative value", "-6"),
    ("grad_input", {"input_size": (2**62, 4, 5, 6)}, ValueError, "input_size", "less than 2**62"),
    ("grad_input", {"input_size": (2**58, 4, 5, 6)}, ValueError, "input of shape", "64-bit indexing"),
    ("grad_input", {"input_size": X}, TypeError, "input_size must be a tuple of ints", "array"),
    ("grad_input", {"input_size": (2, 3, 5, 6)}, ValueError, "weight", "C_in = 3"),
    ("grad_weight", {"weight_size": (4, 3, 3)}, ValueError, "weight", "C_out / groups"),
    ("grad_weight", {"weight_size": 3}, TypeError, "weight_size must be a tuple of ints", "got 3"),
    ("grad_weight", {"weight_size": None}, TypeError, "weight_size must be a tuple of ints", "got None"),
    ("grad_weight", {"weight_size": (4, 3, 0, 3)}, ValueError, "weight", "no axis of size 0"),
    ("grad_weight", {"weight_size": (4, 3, True, 3)}, TypeError, "weight_size", "True"),
    ("grad_weight", {"weight_size": (4, 3, 3, -3)}, ValueError, "weight_size must have no negative value", "-3"),
    ("forward", {"output_size": 6}, ValueError, "output_size must be from (7, 8) to (7, 8)", "got (6, 6)"),
    ("forward", {"output_size": (14, 13), "stride": 2}, ValueError, "from (11, 13) to (12, 14)", "got (14, 13)"),
    ("forward", {"output_size": (7, 8, 9, 1, 2)}, ValueError, "output_size must be", "(7, 8, 9, 1, 2)"),
    ("forward", {"output_size": ()}, ValueError, "output_size must be an int or a tuple of 2 ints", "()"),
    ("forward", {"output_size": (7.0, 8)}, TypeError, "output_size must be an int or a tuple of 2 ints", "7.0"),
    ("forward", {"output_size": "78"}, TypeError, "output_size must be an int or a tuple of 2 ints", "'78'"),
    ("forward", {"output_size": -7}, ValueError, "output_size must be at least 0", "-7"),
    (
        "forward",
        {"output_size": (12, 13), "stride": 2, "output_padding": (0, 1)},
        ValueError,
        "asks for output_padding (1, 0)",
        "output_padding is (0, 1); give one",
    ),
    ("prepare", {"output_padding": 1}, ValueError, "output_padding", "from 0 to max(stride, dilation) - 1"),
    ("prepare", {"output_padding": 2, "stride": 2}, ValueError, "(2, 2)", "from 0 to max(stride, dilation) - 1"),
    ("prepare", {"dilation": (1, 2**61)}, ValueError, "output of shape", "64-bit indexing"),
    ("prepare", {"padding": (0, 2**61)}, ValueError, "input of shape", "64-bit indexing"),
    ("prepared", {"input": X, "out": X}, ValueError, "(2, 4, 5, 6)", "(2, 3, 7, 8)"),
    ("forward", {"out": X[:, :3]}, ValueError, "(2, 3, 5, 6)", "(2, 3, 7, 8)"),
    ("forward", {"out": X, "weight": f32(4, 4, 1, 1)}, ValueError, "out must not overlap input", "its own"),
    ("forward", {"out": X[::-1], "weight": f32(4, 4, 1, 1)}, ValueError, "out must not overlap input", "its own"),
]  # fmt: skip

BAD_GROUPS = {
    "zero": (0, ValueError, "0", "divide C_in = 4"),
    "negative": (-2, ValueError, "-2", "divide C_in = 4"),
    "not_a_divisor": (3, ValueError, "3", "divide C_in = 4"),
    "too_many": (8, ValueError, "8", "divide C_in = 4"),
    "huge": (HUGE, ValueError, "cannot be printed", "less than 2**62"),
    "none": (None, TypeError, "None", "an int"),
    "float": (2.0, TypeError, "2.0", "an int"),
    "str": ("2", TypeError, "'2'", "an int"),
    "bool": (True, TypeError, "True", "an int"),
    "tuple": ((2,), TypeError, "(2,)", "an int"),
    "array": (np.array([2]), TypeError, "array([2])", "an int"),
}
BAD_DEVICES = {
    "unknown": ("gpu", ValueError, "'gpu'", '"cpu"'),
    "index": ("cuda:", ValueError, "'cuda:'", '"cpu"'),
    "negative": ("cuda:-1", ValueError, "'cuda:-1'", '"cuda:N"'),
    "upper": ("CPU", ValueError, "'CPU'", '"cpu"'),
    "empty": ("", ValueError, "''", '"cpu"'),
    "int": (0, TypeError, "0", '"cpu"'),
    "bytes": (b"cpu", TypeError, "b'cpu'", '"cpu"'),
    "list": (["cpu"], TypeError, "['cpu']", '"cpu"'),
}
BAD_ALGORITHMS = {
    "unknown": ("fastest", ValueError, "'fastest'", "reference"),
    "part_of_a_word": ("refer", ValueError, "'refer'", "reference"),
    "empty": ("", ValueError, "''", "reference"),
    "int": (1, TypeError, "1", "kernel's name"),
    "list": (["reference"], TypeError, "['reference']", "kernel's name"),
    "bytes": (b"reference", TypeError, "b'reference'", "kernel's name"),
}

BAD_LIMITS = {
    "negative": (-1, ValueError, "-1"),
    "numpy_negative": (np.int8(-3), ValueError, "-3"),
    "huge_negative": (-HUGE, ValueError, "cannot be printed"),
    "float": (1e9, TypeError, "1000000000.0"),
    "str": ("1GB", TypeError, "'1GB'"),
    "bool": (True, TypeError, "True"),
    "numpy_bool": (np.True_, TypeError, "True"),
    "tuple": ((1,), TypeError, "(1,)"),
    "bytes": (b"1", TypeError, "b'1'"),
}


def table():
    for name, (_, good) in CALLS.items():
        for argument in [
            *(a for a in good if not a.endswith("_size")),
            *(["bias"] * (name in ("forward", "vjp", "prepare"))),
        ]:
            for kind, (value, *needles) in (NOT_AN_ARRAY | NONE_TOO if argument != "bias" else NOT_AN_ARRAY).items():
                yield f"{name}-{argument}-{kind}", name, {argument: value}, TypeError, [argument, *needles]
        for i, (argument, value, *needles) in enumerate(WRONG_ARRAYS[name]):
            yield f"{name}-{argument}-{i}", name, {argument: value}, (TypeError, ValueError), needles
        if name in ("grad_bias", "prepared"):
            continue
        for argument in ("stride", "padding", "output_padding", "dilation"):
            rows = BAD_AXES | (LIMITS if argument in ("stride", "dilation") else {})
            for kind, (value, error, *needles) in rows.items():
                yield f"{name}-{argument}-{kind}", name, {argument: value}, error, [argument, *needles]
        for argument, rows in (("groups", BAD_GROUPS), ("device", BAD_DEVICES), ("algorithm", BAD_ALGORITHMS)):
            for kind, (value, error, *needles) in rows.items():
                yield f"{name}-{argument}-{kind}", name, {argument: value}, error, [argument, *needles]
    for i, (name, arguments, error, *needles) in enumerate(OTHER):
        yield f"{name}-{'-'.join(arguments)}-{i}", name, arguments, error, needles


ROWS = list(table())


@pytest.mark.quick
@pytest.mark.parametrize(("name", "arguments", "error", "needles"), [row[1:] for row in ROWS], ids=[r[0] for r in ROWS])
def test_bad_call(name, arguments, error, needles):
    function, good = CALLS[name]
    with pytest.raises(error) as refusal:
        function(**good | arguments)
    message = str(refusal.value)
    assert [needle for needle in needles if needle not in message] == [], message
    assert len(message) < 700


@pytest.mark.quick
@pytest.mark.parametrize("name", CALLS)
def test_the_good_arguments_of_the_tables_are_good(name):
    function, good = CALLS[name]
    function(**good)


@pytest.mark.quick
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_every_dimension_refuses_the_others_arrays(ndim):
    for other in {1, 2, 3} - {ndim, ndim - 2}:  # ndim - 2: as many axes as a bare signal has
        x, w = f32(*[2] * (other + 2)), f32(*[2] * (other + 2))
        with pytest.raises(ValueError, match=r"(input|weight) must have \d axes"):
            getattr(fd, f"conv_transpose{ndim}d")(x, w)
        with pytest.raises(ValueError, match=r"grad_output must have"):
            getattr(fd.grad, f"conv_transpose{ndim}d_bias")(f32(*[2] * (ndim + 3)))


@pytest.mark.quick
@pytest.mark.parametrize(("value", "error", "shown", "would_do"), BAD_DEVICES.values(), ids=BAD_DEVICES.keys())
def test_set_device(value, error, shown, would_do):
    with pytest.raises(error) as refusal:
        fd.set_device(value)
    assert "device" in str(refusal.value)
    assert shown in str(refusal.value)
    assert would_do in str(refusal.value)
    assert fd.get_device() is None


@pytest.mark.quick
@pytest.mark.parametrize(("value", "error", "shown"), BAD_LIMITS.values(), ids=BAD_LIMITS.keys())
def test_set_workspace_limit(value, error, shown):
    with pytest.raises(error, match="limit must be a number of bytes, an int of at least 0, or None; got") as refusal:
        fd.set_workspace_limit(value)
    assert shown in str(refusal.value)
    assert fd.get_workspace_limit() is None


BAD_TUNING = [
    ((3,), {}, TypeError, "problem must be", "3"),
    ((None,), {}, TypeError, "problem must be", "None"),
    ((X,), {}, TypeError, "problem must be", "followed by its weight"),
    (("mb1ic3",), {}, ValueError, "lacks iw", "mb1ic3"),
    (("mb0ic1ih5iw5oc1kh3kw3",), {}, ValueError, "problem must have a batch of at least 1", "mb0ic1"),
    ((X, f32(3, 3, 3, 3)), {}, ValueError, "weight", "C_in = 4"),
    ((X, W, "2"), {}, TypeError, "stride must be", "'2'"),
    ((X, W), {"pass_": "backward"}, ValueError, "pass_ must be one of forward", "'backward'"),
    ((X, W), {"pass_": 1}, ValueError, "pass_ must be one of forward", "got 1"),
    ((X, W), {"rounds": 0}, ValueError, "rounds must be at least 1", "got 0"),
    ((X, W), {"rounds": -3}, ValueError, "rounds must be at least 1", "got -3"),
    ((X, W), {"rounds": 2.0}, TypeError, "rounds must be an int", "2.0"),
    ((X, W), {"rounds": None}, TypeError, "rounds must be an int", "None"),
    ((X, W), {"rounds": True}, TypeError, "rounds must be an int", "True"),
    ((X, W), {"device": "gpu"}, ValueError, "device must be", "'gpu'"),
]


@pytest.mark.quick
@pytest.mark.parametrize(("arguments", "keywords", "error", "needle", "shown"), BAD_TUNING)
def test_autotune(arguments, keywords, error, needle, shown):
    with pytest.raises(error) as refusal:
        fd.autotune(*arguments, **keywords)
    assert needle in str(refusal.value)
    assert shown in str(refusal.value)


@pytest.mark.quick
def test_a_device_that_is_not_here():
    for refused in (lambda: fd.set_device("cuda"), lambda: fd.conv_transpose2d(X, W, device="cuda")):
        with pytest.raises(
            RuntimeError, match=r'device "cuda" (needs CuPy|is not available).*fastdeconv\[cuda13\]|"cpu"'
        ):
            refused()


@pytest.mark.quick
def test_legal_neighbours_of_illegal_arguments():
    """1 is legal where 1.0 and True are not, whichever comes first: they are one key in a cache of plans."""
    for _ in range(2):
        for stride in (1, (1, 1), [1], np.int64(1), np.array(1), np.array([1, 1], "uint8")):
            assert fd.conv_transpose2d(X, W, stride=stride, groups=np.int8(1)).shape == Y.shape
        for stride in (1.0, True, (1, 1.0), (1, True), np.float32(1)):
            with pytest.raises(TypeError, match="stride must be"):
                fd.conv_transpose2d(X, W, stride=stride)
        with pytest.raises(TypeError, match="groups must be"):
            fd.conv_transpose2d(X, W, groups=1.0)


@pytest.mark.quick
def test_a_value_that_cannot_be_shown():
    class Broken:
        def __repr__(self):
            raise RuntimeError("no")

    with pytest.raises(TypeError, match=r"stride must be .* got a value that cannot be printed of type Broken"):
        fd.conv_transpose2d(X, W, stride=Broken())
    with pytest.raises(TypeError, match="input must be a NumPy array"):
        fd.conv_transpose2d(Broken(), W)


# What a careless kernel could crash or hang on, in a process of its own.
HOSTILE = """
x = np.ones((1, 1, 9, 9), 'f4'); call(x, x[:, :, :3, :3], out=x)
x = np.frombuffer(b'a' * 401, 'f4', 100, 1).reshape(1, 1, 10, 10); call(x, x[:, :, :3, :3])
x = as_strided(np.ones(1, 'f4'), (1, 1, 1, 1), (2**40,) * 4); call(x, x)
x = np.ones((2, 3, 5, 7))[::-1, ::-1, ::-1, ::-1]; call(x, np.ones((3, 3, 3, 3))[..., ::-1])
x = np.broadcast_to(np.float64(1), (2, 64, 9, 9)); call(x, np.broadcast_to(1.0, (64, 64, 3, 3)))
x = np.ones((1, 1, 2, 2), 'f4'); call(x, x, stride=2**27)
x = np.broadcast_to(np.float32(1), (2**9, 1, 2**15, 2**16)); call(x, x[:1, :, :3, :3])
call(np.ones((1, 5000, 1, 1)), np.ones((5000, 1, 1, 1)), groups=5000)
call(np.ones((1, 1, 1, 1)), np.ones((1, 1, 1, 300_000)))
call(np.ones((1, 1, 9, 9)), np.ones((1, 1, 3, 3)), padding=(5, 5))
x = np.full((1, 3, 9, 9), np.nan); call(x, x[:1].reshape(3, 1, 9, 9))
x = np.full((1, 3, 9, 9), 5e-324); call(x, x[:1].reshape(3, 1, 9, 9))
x = np.full((1, 3, 9, 9), np.inf); call(x, -x[:1].reshape(3, 1, 9, 9))
x = np.full((1, 3, 9, 9), 60000, 'f2'); call(x, x[:1].reshape(3, 1, 9, 9))
fd.Problem.parse('mb' + '9' * 5000 + 'ic1iw1oc1kw1')
fd.Problem.parse('mb1ic1iw1000000000oc1kw1000000000sw3dw4').flops
"""
PRELUDE = """
import sys
import numpy as np
import fastdeconv as fd
from numpy.lib.stride_tricks import as_strided

def call(x, w, out=None, **parameters):
    y = fd.conv_transpose2d(x, w, out=out, **parameters)
    fd.conv_transpose2d_vjp(y, x, w, **parameters)

for code in sys.argv[1].strip().splitlines():
    print(code, flush=True)
    try:
        exec(code)
    except (ValueError, TypeError, MemoryError) as error:
        print("   ", type(error).__name__, error)
"""


def test_nothing_crashes_hangs_or_warns():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PRELUDE, HOSTILE], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
