"""Element types without kernels of their own, against the definition in wider arithmetic."""

from dataclasses import replace

import numpy as np
import pytest
from cases import EDGE_CASES, call, floats, integers, operand_shapes, oracle, parameters

import fastdeconv as fd
from fastdeconv.problem import PASSES, numpy_dtype

PROBLEMS = {
    name: EDGE_CASES[name] for name in ("dcgan", "each_axis_its_own", "depthwise", "3d", "unbatched", "textbook")
}
INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]


@pytest.mark.quick
@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("p", PROBLEMS.values(), ids=PROBLEMS)
def test_half_precision_is_rounded_once(p, dtype, pass_):
    """Sums are kept in float32: the result is that of exact sums, rounded to the dtype."""
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    kind = numpy_dtype(dtype)
    a, b = integers(p, pass_)
    p = replace(p, dtype=dtype)
    a, b = (v.clip(-2, 2).astype(kind) / 4 for v in (a, b))
    want = oracle(p, pass_, a.astype("float64"), b.astype("float64")).astype(kind)
    got = call(p, pass_, a, b)
    assert got.dtype == kind
    np.testing.assert_array_equal(got.astype("float64"), want.astype("float64"), str(p))


def test_bfloat16():
    """What is not covered by the passes: bias and its gradient, `out`, prepared weights, and that they are shown."""
    kind = pytest.importorskip("ml_dtypes").bfloat16
    x, w, bias = (np.ones(shape, kind) for shape in ((2, 3, 4, 5), (3, 2, 2, 2), (2,)))
    want = np.full((2, 2, 5, 6), kind(1))
    want += fd.conv_transpose2d(x.astype("f4"), w.astype("f4")).astype(kind)
    out = np.zeros_like(want)
    assert fd.conv_transpose2d(x, w, bias, out=out) is out
    for got in (out, fd.prepare(w, bias)(x)):
        assert got.dtype == kind
        np.testing.assert_array_equal(got.astype("f4"), want.astype("f4"))
    gx, gw, gb = fd.conv_transpose2d_vjp(want, x, w, bias)
    assert gx.dtype == gw.dtype == gb.dtype == kind
    np.testing.assert_array_equal(gb.astype("f4"), want.astype("f4").sum((0, 2, 3)).astype(kind).astype("f4"))
    assert "bfloat16 is computed in float32" in str(fd.explain(x, w))
    with pytest.raises(TypeError, match="input is bfloat16, weight is float32"):
        fd.conv_transpose2d(x, w.astype("f4"))


def test_float16_sums_past_its_own_precision():
    """4096 ones: a sum kept in float16 stops at 2048."""
    x, w = np.ones((1, 4096, 1, 1), "float16"), np.ones((4096, 1, 1, 1), "float16")
    assert fd.conv_transpose2d(x, w)[0, 0, 0, 0] == 4096


@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
@pytest.mark.parametrize("p", PROBLEMS.values(), ids=PROBLEMS)
def test_complex_is_the_real_definition_on_parts(p, dtype, pass_):
    """Gradients conjugate the other operand: those of a real loss, as torch and JAX define them."""
    p = replace(p, dtype=dtype)
    a, b = floats(p, pass_)
    second = b if pass_ == "forward" else b.conj()
    first = a.conj() if pass_ == "weight_grad" else a
    second = b if pass_ == "weight_grad" else second
    real = replace(p, dtype="float64")

    def exact(u, v):
        return oracle(real, pass_, u.astype("float64"), v.astype("float64"))

    want = exact(first.real, second.real) - exact(first.imag, second.imag)
    want = want + 1j * (exact(first.real, second.imag) + exact(first.imag, second.real))
    got = call(p, pass_, a, b)
    assert got.dtype == dtype
    np.testing.assert_allclose(got, want, atol=64 * np.finfo(dtype).eps * np.sqrt(p.accumulation_length(pass_)))


@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_wrap_around_as_numpys_do(dtype, pass_):
    p = replace(EDGE_CASES["each_axis_its_own"], dtype=dtype)
    rng = np.random.default_rng(0)
    information = np.iinfo(dtype)
    a, b = (
        rng.integers(information.min, information.max, shape, dtype, endpoint=True)
        for shape in operand_shapes(p, pass_)[:2]
    )
    # Python's integers do not wrap; the definition is evaluated in them and cut to the type's bits.
    want = call(replace(p, dtype="int64"), pass_, a.astype("int64"), b.astype("int64"), "reference")
    np.testing.assert_array_equal(call(p, pass_, a, b), want.astype(dtype))


def test_integers_beyond_float64_are_exact():
    x, w = np.array([[2**53 + 1]]), np.array([[3]])
    assert fd.conv_transpose2d(x, w)[0, 0] == 3 * (2**53 + 1)
    x, w = np.array([[[[2**40 + 1, 2]]]]), np.array([[[[2**12 + 1]]]])
    np.testing.assert_array_equal(fd.conv_transpose2d(x, w)[0, 0, 0], [(2**40 + 1) * (2**12 + 1), 2 * (2**12 + 1)])


@pytest.mark.parametrize("dtype", [*INTEGERS, "float16", "float32", "float64", "complex64", "complex128"])
def test_bias_and_its_gradient_in_every_dtype(dtype):
    p = replace(EDGE_CASES["dcgan"], dtype=dtype)
    x, w = (np.ones(shape, dtype) for shape in (p.input_shape, p.weight_shape))
    bias = np.arange(p.out_channels).astype(dtype)
    difference = fd.conv_transpose2d(x, w, bias, **parameters(p)) - fd.conv_transpose2d(x, w, **parameters(p))
    np.testing.assert_array_equal(difference, np.broadcast_to(bias.reshape(-1, 1, 1), p.output_shape))
    gradient = fd.grad.conv_transpose2d_bias(np.ones(p.output_shape, dtype))
    assert gradient.dtype == dtype
    np.testing.assert_array_equal(gradient, np.full(p.out_channels, np.prod(p.output_size) * p.batch).astype(dtype))
