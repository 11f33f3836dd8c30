"""What users of other libraries complain about, one test each; the numbers are of pytorch/pytorch unless named."""

import numpy as np
import pytest
from cases import call, floats, integers, oracle, problem

import fastdeconv as fd
from fastdeconv.bench.layers import LAYERS
from fastdeconv.dispatch import plan
from fastdeconv.problem import PASSES


@pytest.mark.quick
@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_no_layer_is_left_to_the_reference(layer, pass_):
    assert plan(layer.problem, pass_).implementation.name != "reference"


@pytest.mark.parametrize("pass_", PASSES)
def test_depthwise_with_long_kernels(pass_):
    """120982, 133304: k1024 s256 takes a minute there; onnxruntime 23273: depthwise k4096."""
    p = problem((1, 8, 11), (8, 1, 1024), stride=256, groups=8)
    a, b = integers(p, pass_)
    np.testing.assert_array_equal(call(p, pass_, a, b), oracle(p, pass_, a, b))
    p = problem((1, 2, 3), (2, 1, 4096), stride=1024, groups=2)
    a, b = integers(p, pass_)
    np.testing.assert_array_equal(call(p, pass_, a, b), oracle(p, pass_, a, b))


@pytest.mark.parametrize("pass_", PASSES)
def test_volumes_with_stride_2(pass_):
    """194496 (slow), 142457, 77901, 194017 (crashes of slow_conv_transpose3d)."""
    p = problem((1, 8, 8, 9, 10), (8, 5, 2, 2, 2), stride=2)
    a, b = integers(p, pass_)
    np.testing.assert_array_equal(call(p, pass_, a, b), oracle(p, pass_, a, b))


@pytest.mark.parametrize(
    ("x", "w"),
    [((1, 2, 3, 4, 5), (3, 2, 2, 2, 2)), ((2, 0, 4, 5, 6), (0, 2, 1, 1, 1)), ((1, 2, 3, 4, 0), (2, 2, 2, 2, 2))],
)  # fmt: skip
def test_impossible_volumes_are_errors_not_crashes(x, w):
    with pytest.raises(ValueError, match=r"weight|input"):
        fd.conv_transpose3d(np.zeros(x), np.zeros(w))
    with pytest.raises(ValueError, match=r"weight|input|grad_output"):
        fd.conv_transpose3d_vjp(np.zeros((1, 2, 3, 4, 5)), np.zeros(x), np.zeros(w))


@pytest.mark.quick
def test_what_output_padding_means():
    """8816, 70518: it chooses among the output sizes that one input size may come from, and pads no zeros."""
    x, w, bias = np.ones((1, 1, 3)), np.ones((1, 1, 3)), np.array([0.5])
    short = fd.conv_transpose1d(x, w, bias, stride=2, padding=1)
    long = fd.conv_transpose1d(x, w, bias, stride=2, padding=1, output_padding=1)
    assert long.shape == (1, 1, short.shape[2] + 1)
    np.testing.assert_array_equal(long[:, :, :-1], short)
    assert long[0, 0, -1] == 1.5  # a product and the bias


@pytest.mark.quick
def test_padding_is_that_of_the_forward_convolution():
    """jax 32268 and others: padding is not re-interpreted; more of it makes the output smaller."""
    x, w = np.ones((1, 1, 5, 5)), np.ones((1, 1, 3, 3))
    full = fd.conv_transpose2d(x, w)
    np.testing.assert_array_equal(fd.conv_transpose2d(x, w, padding=1), full[:, :, 1:-1, 1:-1])


@pytest.mark.quick
def test_output_shape_need_not_be_passed_and_batch_may_vary():
    """tensorflow 833, 8972, 2118."""
    w = np.ones((2, 3, 4, 4))
    for batch in (1, 2, 5):
        assert fd.conv_transpose2d(np.ones((batch, 2, 5, 5)), w, stride=2, padding=1).shape == (batch, 3, 10, 10)


@pytest.mark.quick
@pytest.mark.parametrize("pass_", PASSES)
def test_dilation_and_channels_first_on_a_cpu(pass_):
    """tensorflow 69103, 20405."""
    p = problem((1, 3, 6, 7), (3, 2, 3, 3), dilation=2, padding=2)
    a, b = floats(p, pass_)
    want = oracle(p, pass_, a.astype(float), b.astype(float))
    np.testing.assert_allclose(call(p, pass_, a, b), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("x", "w", "arguments"),
    [
        ((1, 2, 4, 5, 4), (2, 3, 2, 3, 2), {"padding": 2, "output_padding": 2, "dilation": 1_879_048_192}),
        ((3, 3, 3, 3, 3), (3, 3, 3, 3, 3), {"output_padding": -1_250_999_896_764, "dilation": 1_250_999_896_764}),
        ((3, 3, 3, 3, 3), (3, 3, 3, 3, 3), {"stride": ()}),
    ],
    ids=["142457", "77901", "121095"],
)
def test_arguments_that_corrupt_memory_elsewhere(x, w, arguments):
    with pytest.raises(ValueError, match=r"output|stride"):
        fd.conv_transpose3d(np.ones(x), np.ones(w), **arguments)


@pytest.mark.quick
@pytest.mark.parametrize(("kernel", "stride", "even"), [(4, 2, True), (2, 2, True), (3, 2, False), (9, 3, True)])
def test_checkerboard(kernel, stride, even):
    """distill.pub/2016/deconv-checkerboard: outputs get equally many products only if the stride divides the kernel."""
    y = fd.conv_transpose2d(np.ones((9, 9)), np.ones((kernel, kernel)), stride=stride)
    inside = y[kernel:-kernel, kernel:-kernel]
    assert (np.ptp(inside) == 0) == even
