"""Whatever form the arrays have, the result has the same bits; and nothing outside them is touched."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cases import CASES, EDGE_CASES, call, floats, operand_shapes, poisoned, problem

import fastdeconv as fd
from fastdeconv.problem import PASSES

# One for the plain loops, one for the tiles, one for several threads.
PROBLEMS = {name: EDGE_CASES[name] for name in ("groups", "dcgan", "parallel")}


def strided(a):
    """Every second element of a larger array, on every axis, with NaN between."""
    large = np.full([2 * n for n in a.shape], np.nan, a.dtype)
    view = large[(slice(None, None, 2),) * a.ndim]
    view[...] = a
    return view


def backwards(a):
    turned = (slice(None, None, -1),) * a.ndim
    return np.ascontiguousarray(a[turned])[turned]


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def unaligned(a):
    b = np.frombuffer(bytearray(a.nbytes + 1), a.dtype, a.size, 1).reshape(a.shape)
    b[...] = a
    assert not b.flags.aligned
    return b


class Subclass(np.ndarray):
    pass


FORMS = {
    "fortran": np.asfortranarray,
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "strided": strided,
    "backwards": backwards,
    "read_only": read_only,
    "byte_swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "byte_swapped_strided": lambda a: strided(a.astype(a.dtype.newbyteorder())),
    "unaligned": unaligned,
    "subclass": lambda a: a.view(Subclass),
}


@pytest.mark.quick
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("p", PROBLEMS.values(), ids=PROBLEMS.keys())
def test_form_of_inputs(p, pass_, form):
    a, b = floats(p, pass_)
    want = call(p, pass_, a, b)
    formed = form(a), form(b)
    got = call(p, pass_, *formed)
    np.testing.assert_array_equal(got, want, f"{pass_} {p}")
    assert type(got) is np.ndarray
    assert got.flags.c_contiguous
    assert got.dtype == np.dtype("float32")
    np.testing.assert_array_equal(formed[0], a, f"the input was written to: {pass_} {p}")
    np.testing.assert_array_equal(formed[1], b, f"the input was written to: {pass_} {p}")
    if pass_ == "forward":
        bias = np.arange(p.out_channels, dtype="float32")
        got, want = call(p, pass_, *formed, bias=form(bias)), call(p, pass_, a, b, bias=bias)
        np.testing.assert_array_equal(got, want, f"{pass_} with bias {p}")


OUT_FORMS = {name: FORMS[name] for name in ("fortran", "transposed", "strided", "backwards", "unaligned", "subclass")}


@pytest.mark.quick
@pytest.mark.parametrize("form", [*OUT_FORMS.values(), np.array], ids=[*OUT_FORMS, "plain"])
@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("p", PROBLEMS.values(), ids=PROBLEMS.keys())
def test_form_of_out(p, pass_, form):
    a, b = floats(p, pass_)
    out = form(poisoned(p, pass_))
    got = call(p, pass_, a, b, out=out)
    assert got is out
    np.testing.assert_array_equal(np.asarray(out), call(p, pass_, a, b), f"{pass_} {p}")
    if form is strided:
        assert np.isnan(out.base).sum() == out.base.size - out.size, f"elements between were written: {pass_} {p}"


@pytest.mark.parametrize("pass_", PASSES)
def test_memory_mapped(pass_, tmp_path):
    p = EDGE_CASES["dcgan"]
    a, b = floats(p, pass_)
    mapped = []
    for name, array in (("a", a), ("b", b), ("out", poisoned(p, pass_))):
        np.save(tmp_path / f"{name}.npy", array)
        mapped.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r+" if name == "out" else "r"))
    out = mapped.pop()
    assert call(p, pass_, *mapped, out=out) is out
    out.flush()
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), call(p, pass_, a, b))


@pytest.mark.quick
@pytest.mark.parametrize("pass_", PASSES)
def test_broadcast_inputs(pass_):
    p = EDGE_CASES["dcgan"]
    shapes = operand_shapes(p, pass_)
    a, b = (np.broadcast_to(np.float32(value), shape) for value, shape in zip((2, 3), shapes))
    np.testing.assert_array_equal(call(p, pass_, a, b), call(p, pass_, a.copy(), b.copy()))


@pytest.mark.quick
def test_out_beside_its_inputs_in_one_buffer():
    """Arrays that interleave in memory and share no element are legal."""
    buffer = np.zeros((2, 1, 1, 9, 9), "float32")
    together = np.moveaxis(buffer, 0, -1)  # x and y take every second element
    backing = np.ascontiguousarray(together)
    x, y = backing[..., 0], backing[..., 1]
    x[...] = np.arange(81).reshape(1, 1, 9, 9)
    w = np.ones((1, 1, 1, 1), "float32")
    assert fd.conv_transpose2d(x, w, out=y) is y
    np.testing.assert_array_equal(y, x)


@pytest.mark.quick
@pytest.mark.parametrize(("ndim", "shape"), [(1, (7,)), (2, (5, 6)), (3, (3, 4, 5))])
def test_bare_signals(ndim, shape):
    rng = np.random.default_rng(0)
    x, w = (rng.integers(-9, 10, size).astype(float) for size in (shape, (3,) * ndim))
    forward, vjp = getattr(fd, f"conv_transpose{ndim}d"), getattr(fd, f"conv_transpose{ndim}d_vjp")
    y = forward(x, w, stride=2, padding=1)
    full = forward(x[None, None], w[None, None], stride=2, padding=1)
    np.testing.assert_array_equal(y, full[0, 0])
    bias = np.array([3.0])
    np.testing.assert_array_equal(forward(x, w, bias, stride=2, padding=1), y + 3)
    out = np.full_like(y, np.nan)
    assert forward(x, w, stride=2, padding=1, out=out) is out
    np.testing.assert_array_equal(out, y)
    grads = vjp(y, x, w, bias, stride=2, padding=1)
    wanted = vjp(full, x[None, None], w[None, None], bias, stride=2, padding=1)
    assert [g.shape for g in grads] == [x.shape, w.shape, (1,)]
    for got, want in zip(grads, wanted):
        np.testing.assert_array_equal(got.ravel(), want.ravel())
    grad_input = getattr(fd.grad, f"conv_transpose{ndim}d_input")(x.shape, w, y, stride=2, padding=1)
    grad_weight = getattr(fd.grad, f"conv_transpose{ndim}d_weight")(x, w.shape, y, stride=2, padding=1)
    np.testing.assert_array_equal(grad_input, grads[0])
    np.testing.assert_array_equal(grad_weight, grads[1])
    assert getattr(fd.grad, f"conv_transpose{ndim}d_bias")(y) == grads[2]


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_matrix():
    x, w = np.matrix(np.arange(25.0).reshape(5, 5)), np.matrix(np.ones((3, 3)))
    out = np.matrix(np.full((5, 5), np.nan))
    assert fd.conv_transpose2d(x, w, padding=1, out=out) is out
    np.testing.assert_array_equal(out, fd.conv_transpose2d(np.asarray(x), np.asarray(w), padding=1))


@pytest.mark.quick
@pytest.mark.parametrize("p", EDGE_CASES.values(), ids=EDGE_CASES.keys())
def test_zero_batch(p):
    if not p.batched:
        p = replace(p, batched=True)
    p = replace(p, batch=0)
    for pass_ in PASSES:
        a, b = floats(p, pass_)
        got = call(p, pass_, a, b, out=poisoned(p, pass_))
        assert got.shape == operand_shapes(p, pass_)[2]
        assert not got.any()
    vjp = getattr(fd, f"conv_transpose{p.ndim}d_vjp")
    y, (x, w) = np.empty(p.output_shape, "f4"), floats(p, "forward")
    parameters = (p.stride, p.padding, p.output_padding, p.groups, p.dilation)
    for got, shape in zip(
        vjp(y, x, w, np.empty(p.out_channels, "f4"), *parameters), (x.shape, w.shape, (p.out_channels,))
    ):
        assert got.shape == shape
        assert not got.any()


@pytest.mark.quick
def test_forms_of_parameters():
    p = problem((2, 4, 5, 6), (4, 3, 3, 3), stride=2, padding=1, output_padding=1, dilation=2, groups=2)
    x, w = floats(p, "forward")
    want = fd.conv_transpose2d(x, w, None, 2, 1, 1, 2, 2)
    for form in (
        lambda n: (n, n), lambda n: [n, n], lambda n: (n,), np.int64, np.uint8, lambda n: np.array([n, n]),
        lambda n: np.array(n), lambda n: np.array([n], "int16"), lambda n: (np.int32(n), n),
    ):  # fmt: skip
        got = fd.conv_transpose2d(x, w, None, form(2), form(1), form(1), np.int32(2), form(2))
        np.testing.assert_array_equal(got, want)
    got = fd.conv_transpose2d(input=x, weight=w, stride=2, padding=1, groups=2, dilation=2, output_size=want.shape[2:])
    np.testing.assert_array_equal(got, want)


def test_dtype_with_metadata():
    x = np.ones((1, 1, 3, 3), np.dtype("f4", metadata={"unit": "K"}))
    np.testing.assert_array_equal(fd.conv_transpose2d(x, np.ones((1, 1, 1, 1), "f4"), out=x.copy()), x)


# Every array, and every scratch buffer, ends (or starts) at a page that may not be touched, and scratch starts as NaN.
GUARDED = """
import ctypes, faulthandler, mmap, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from cases import EDGE_CASES, call, in_memory, integers, runs
from fastdeconv.kernels.cpu import workspace

faulthandler.enable()
PAGE = mmap.PAGESIZE
protect = ctypes.CDLL(None, use_errno=True).mprotect
def guarded(shape, dtype, at_end=True):
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    room = -(-size // PAGE) * PAGE
    memory = mmap.mmap(-1, room + 2 * PAGE)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for page in (base, base + PAGE + room):
        assert protect(ctypes.c_void_p(page), ctypes.c_size_t(PAGE), 0) == 0
    a = np.frombuffer(memory, dtype, int(np.prod(shape)), PAGE + (room - size if at_end else 0)).reshape(shape)
    a[...] = np.nan
    return a

take, scratch = workspace.take, 0
for parameter in runs(EDGE_CASES):
    pass_, algorithm, p = parameter.values
    print(pass_, algorithm, p, flush=True)
    inputs = in_memory(p, pass_, *integers(p, pass_))
    workspace.take = take
    want = call(p, pass_, *inputs, algorithm)
    for at_end in (True, False):
        def guarded_take(slot, elements, dtype):
            global scratch
            scratch += 1
            return guarded((elements,), dtype, at_end)

        workspace.take = guarded_take
        a, b, out = (
            np.lib.stride_tricks.as_strided(guarded((i.size,), p.dtype, at_end), i.shape, i.strides)
            for i in (*inputs, want)
        )
        a[...], b[...] = inputs
        call(p, pass_, a, b, algorithm, out=out)
        np.testing.assert_array_equal(out, want)
assert scratch > 0
print("done")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="protects pages by Linux's mprotect")
def test_nothing_outside_the_arrays_is_touched():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", GUARDED, str(Path(__file__).parent)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    last = done.stdout.strip().rpartition("\n")[2]
    assert last == "done", f"{last}\n{done.stderr}"


def test_64_bit_indices():
    """The gradients of a problem whose output has more than 2^31 elements, on memory that is never touched."""
    stride = 2**30 + 7
    p = problem((1, 1, 3), (1, 1, 4), stride=stride)
    try:
        gy = np.zeros(p.output_shape, "float32")
    except MemoryError:
        pytest.skip("the system does not lend 8 GiB of address space")
    assert gy.size > 2**31
    for i in range(3):
        gy[0, 0, i * stride : i * stride + 4] = [1, 10, 100, 1000]
    gy[0, 0, :4] *= 5
    w = np.array([[[1, 2, 3, 4]]], "float32")
    np.testing.assert_array_equal(call(p, "input_grad", gy, w), [[[5 * 4321, 4321, 4321]]])
    x = np.array([[[1, 2, 3]]], "float32")
    np.testing.assert_array_equal(call(p, "weight_grad", x, gy), [[[10, 100, 1000, 10000]]])


def test_every_case_has_a_name_of_its_own():
    assert len({str(p) for p in CASES.values()}) == len(CASES)
