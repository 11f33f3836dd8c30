import copy
import math
import pickle
from dataclasses import FrozenInstanceError, fields, replace

import numpy as np
import pytest
from cases import CASES, EDGE_CASES, _incidence, problem

from fastdeconv import Problem
from fastdeconv.dispatch import geometry_of
from fastdeconv.problem import DTYPES, PASSES, as_axes, as_int, as_shape, output_padding_for, shown

pytestmark = pytest.mark.quick

GOOD = {
    "batch": 2,
    "in_channels": 4,
    "out_channels": 6,
    "input_size": (5, 7),
    "kernel_size": (3, 4),
    "stride": (2, 1),
    "padding": (1, 0),
    "output_padding": (1, 0),
    "dilation": (1, 2),
    "groups": 2,
    "dtype": "float64",
    "batched": True,
}


def test_shapes():
    p = Problem(**GOOD)
    assert p.ndim == 2
    assert p.output_size == (4 * 2 - 2 + 2 + 1 + 1, 6 + 6 + 1)
    assert p.input_shape == (2, 4, 5, 7)
    assert p.weight_shape == (4, 3, 3, 4)
    assert p.output_shape == (2, 6, 10, 13)
    unbatched = replace(p, batch=1, batched=False)
    assert unbatched.input_shape == (4, 5, 7)
    assert unbatched.output_shape == (6, 10, 13)


def test_frozen_hashable_and_copied():
    p = Problem(**GOOD)
    with pytest.raises(FrozenInstanceError):
        p.batch = 3
    assert {p: 1}[Problem(**GOOD)] == 1
    assert p != replace(p, batched=True, batch=3)
    for twin in (copy.copy(p), copy.deepcopy(p), pickle.loads(pickle.dumps(p)), eval(repr(p))):
        assert twin == p
        assert hash(twin) == hash(p)
        assert twin.output_shape == p.output_shape


def test_each_field_tells_problems_apart():
    p = problem((1, 4, 5, 6), (4, 2, 3, 3), stride=2, dilation=3)
    others = [
        replace(p, batch=2), replace(p, in_channels=6), replace(p, out_channels=4), replace(p, input_size=(5, 7)),
        replace(p, kernel_size=(3, 4)), replace(p, stride=(2, 1)), replace(p, padding=(0, 1)),
        replace(p, output_padding=(1, 0)), replace(p, dilation=(3, 2)), replace(p, groups=2),
        replace(p, dtype="float64"), replace(p, batched=False), replace(p, channels_last=True),
    ]  # fmt: skip
    assert len(others) == sum(f.init for f in fields(Problem))
    assert len({p, *others}) == len(others) + 1
    assert len({str(q) for q in (p, *others)}) == len(others) + 1


@pytest.mark.parametrize(
    "form",
    [list, np.array, lambda v: tuple(np.int32(n) for n in v), lambda v: np.array(v, "uint8")],
    ids=["list", "array", "numpy_ints", "uint8"],
)
def test_any_form_of_ints_is_one_problem(form):
    given = {name: form(value) if isinstance(value, tuple) else value for name, value in GOOD.items()}
    given["batch"] = np.int16(2)
    p = Problem(**given)
    assert p == Problem(**GOOD)
    assert hash(p) == hash(Problem(**GOOD))
    assert all(type(n) is int for name in ("stride", "padding", "input_size") for n in getattr(p, name))
    assert type(p.batch) is int


BAD = [
    ("batch", -1, ValueError, "must not be negative"),
    ("batch", 1.0, TypeError, "must be an int"),
    ("batch", None, TypeError, "must be an int"),
    ("batch", True, TypeError, "must be an int"),
    ("in_channels", 0, ValueError, "positive multiple of groups = 2"),
    ("in_channels", 5, ValueError, "positive multiple of groups = 2"),
    ("in_channels", "4", TypeError, "must be an int"),
    ("out_channels", 3, ValueError, "positive multiple of groups = 2"),
    ("out_channels", -6, ValueError, "positive multiple of groups = 2"),
    ("input_size", 5, TypeError, "must be a tuple of ints"),
    ("input_size", (), ValueError, "must have 1, 2 or 3 axes"),
    ("input_size", (1, 2, 3, 4), ValueError, "must have 1, 2 or 3 axes"),
    ("input_size", (5, 0), ValueError, "must be at least 1"),
    ("input_size", (5, 7.0), TypeError, "must be a tuple of ints"),
    ("input_size", (5, 2**62), ValueError, r"must be less than 2\*\*62"),
    ("kernel_size", (3,), ValueError, "one value for each of the 2 axes"),
    ("kernel_size", (3, 0), ValueError, "must be at least 1"),
    ("kernel_size", None, TypeError, "must be a tuple of ints"),
    ("stride", (0, 1), ValueError, "must be at least 1"),
    ("stride", 2, TypeError, "must be a tuple of ints"),
    ("stride", (1, 1, 1), ValueError, "one value for each of the 2 axes"),
    ("dilation", (1, 0), ValueError, "must be at least 1"),
    ("dilation", (1, -1), ValueError, "must have no negative value"),
    ("padding", (-1, 0), ValueError, "must have no negative value"),
    ("padding", (9, 0), ValueError, "must leave some output"),
    ("output_padding", (2, 0), ValueError, r"from 0 to max\(stride, dilation\) - 1"),
    ("output_padding", (0, 2), ValueError, r"from 0 to max\(stride, dilation\) - 1"),
    ("output_padding", (-1, 0), ValueError, "must have no negative value"),
    ("groups", 0, ValueError, "must be at least 1"),
    ("groups", -2, ValueError, "must be at least 1"),
    ("groups", 2.0, TypeError, "must be an int"),
    ("dtype", "float128", TypeError, "must be the name of one of float16"),
    ("dtype", "object", TypeError, "must be the name of one of float16"),
    ("dtype", np.float32, TypeError, "must be the name of one of float16"),
    ("dtype", ["float32"], TypeError, "must be the name of one of float16"),
    ("batched", 1, TypeError, "must be True or False"),
    ("batched", None, TypeError, "must be True or False"),
]


@pytest.mark.parametrize(("name", "value", "error", "message"), BAD)
def test_bad_field(name, value, error, message):
    with pytest.raises(error, match=rf"^{name} .*{message}.*; got"):
        Problem(**GOOD | {name: value})


def test_unbatched_means_one_image():
    with pytest.raises(ValueError, match="batch must be 1 in an unbatched problem; got 2"):
        Problem(**GOOD | {"batched": False})


@pytest.mark.parametrize(
    ("field", "value"),
    [("batch", 2**57), ("in_channels", 2**57), ("input_size", (2**50, 2**50)), ("kernel_size", (2**40, 2**40))],
)
def test_too_large_for_64_bit_indexing(field, value):
    with pytest.raises(ValueError, match="is too large for 64-bit indexing"):
        Problem(**GOOD | {field: value})


def test_more_than_2_to_the_31_elements():
    p = problem((3, 2**10, 2**11, 2**11), (2**10, 5, 4, 4), stride=2, padding=1)
    assert p.output_shape == (3, 5, 2**12, 2**12)
    assert math.prod(p.input_shape) == 3 * 2**32
    assert p.bytes == 4 * (3 * 2**32 + 2**10 * 5 * 16 + 3 * 5 * 2**24)
    # 16 taps an input, less those that fall on the cropped border, on each axis one of 4·2¹¹ at both ends.
    assert p.flops == 2 * 3 * 2**10 * 5 * (4 * 2**11 - 2) ** 2
    assert p.accumulation_length("weight_grad") == 3 * 2**22
    assert Problem.parse(str(p)) == p
    g = geometry_of(p)
    assert math.prod(g.input_shape) == 3 * 2**32
    assert all(type(n) is int for n in (*g.input, *g.output, g.batch))


@pytest.mark.parametrize("p", CASES.values(), ids=CASES.keys())
def test_counts_by_definition(p):
    """Flops and accumulation lengths against counting every pair of input position and tap."""
    hits = [
        _incidence(*sizes) for sizes in zip(p.input_size, p.kernel_size, p.output_size, p.stride, p.padding, p.dilation)
    ]
    products = p.batch * p.in_channels * (p.out_channels // p.groups) * math.prod(int(hit.sum()) for hit in hits)
    assert p.flops == 2 * products, str(p)
    forward = p.in_channels // p.groups * math.prod(int(hit.sum((1, 2)).max()) for hit in hits)
    input_grad = p.out_channels // p.groups * math.prod(int(hit.sum((0, 2)).max()) for hit in hits)
    weight_grad = p.batch * math.prod(int(hit.sum((0, 1)).max()) for hit in hits)
    for pass_, most in (("forward", forward), ("input_grad", input_grad), ("weight_grad", weight_grad)):
        assert p.accumulation_length(pass_) >= most, f"{pass_} {p}"
        if not any(p.padding):
            assert p.accumulation_length(pass_) == most, f"{pass_} {p}"


def test_flops_of_sizes_that_no_loop_could_count():
    p = Problem.parse("mb1ic1iw1000000000oc1kw1000000000sw3dw4")
    assert p.flops == 2 * 10**18
    cut = replace(p, padding=(3 * 10**9,))
    i = np.arange(0, 10**9, 10**5)
    low = np.maximum(0, -(-(3 * 10**9 - 3 * i) // 5))
    high = np.minimum(10**9, (p.output_size[0] - 3 * 10**9 - 1 - 3 * i) // 5 + 1)
    assert cut.flops == pytest.approx(2 * 10**5 * float((high - low).clip(0).sum()), rel=1e-3)


def test_bytes_and_intensity():
    p = problem((1, 1, 5, 5), (1, 1, 3, 3), padding=1, dtype="complex128")
    assert p.bytes == 16 * (25 + 9 + 25)
    assert p.intensity == p.flops / p.bytes
    assert p.flops == 2 * 13**2


def test_zero_batch():
    p = problem((0, 4, 5, 6), (4, 2, 3, 3))
    assert p.output_shape == (0, 2, 7, 8)
    assert p.flops == 0
    assert all(p.accumulation_length(pass_) >= 1 for pass_ in PASSES)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(dtype):
    assert replace(EDGE_CASES["dcgan"], dtype=dtype).dtype == dtype


@pytest.mark.parametrize(
    ("p", "kernel"), [(EDGE_CASES["1d"], (1, 1, 4)), (EDGE_CASES["dcgan"], (1, 4, 4)), (EDGE_CASES["3d"], (3, 3, 3))]
)
def test_geometry_has_three_axes(p, kernel):
    g = geometry_of(p)
    assert g.kernel == kernel
    assert g.input[3 - p.ndim :] == p.input_size
    assert g.output[3 - p.ndim :] == p.output_size
    assert g.padding[: 3 - p.ndim] == (0,) * (3 - p.ndim)


@pytest.mark.parametrize("p", EDGE_CASES.values(), ids=EDGE_CASES.keys())
def test_output_size_chooses_output_padding(p):
    rest = {"stride": p.stride, "padding": p.padding, "dilation": p.dilation, "groups": p.groups}
    for size in (p.output_size, list(p.output_size), p.output_shape, np.array(p.output_size)):
        assert problem(p.input_shape, p.weight_shape, output_size=size, **rest) == p
    arguments = (p.input_size, p.kernel_size, p.stride, p.padding, p.dilation)
    assert output_padding_for(p.output_size, *arguments) == p.output_padding
    assert output_padding_for(p.output_size, *arguments, given=p.output_padding) == p.output_padding


@pytest.mark.parametrize(("value", "ndim", "axes"), [(2, 3, (2, 2, 2)), ((2,), 2, (2, 2)), ([1, 2], 2, (1, 2))])
def test_as_axes(value, ndim, axes):
    assert as_axes("stride", value, ndim) == axes
    assert as_axes("stride", np.array(value), ndim) == axes


def test_as_int_and_as_shape():
    assert as_int("groups", np.uint64(7)) == 7
    assert as_int("groups", np.array(7)) == 7
    assert as_shape("input_size", np.array([1, 2])) == (1, 2)
    assert as_shape("input_size", ()) == ()
    with pytest.raises(TypeError, match="groups must be an int; got array"):
        as_int("groups", np.array([7]))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"),
        ("a", "'a'"),
        (None, "None of type NoneType"),
        (np.int8(3), "np.int8(3) of type int8" if np.__version__ >= "2" else "3 of type int8"),
        ([1, 2], "[1, 2] of type list"),
        ("x" * 500, "'" + "x" * 196 + "..."),
        (np.eye(2), "array([[1., 0.], [0., 1.]]) of type ndarray"),
    ],
)
def test_shown(value, text):
    assert shown(value) == text
