"""torch as an independent oracle: values, gradients, and what it refuses. Skipped where torch is not installed."""

from dataclasses import replace

import numpy as np
import pytest
from cases import CASES, EDGE_CASES, floats, parameters, problem

import fastdeconv as fd

torch = pytest.importorskip("torch")


def torch_results(p, x, w, bias, gy):
    """Return torch's output and gradients with respect to input, weight and bias."""
    leaves = [torch.from_numpy(a).requires_grad_() for a in (x, w, bias)]
    forward = getattr(torch.nn.functional, f"conv_transpose{p.ndim}d")
    y = forward(*leaves, p.stride, p.padding, p.output_padding, p.groups, p.dilation)
    y.backward(torch.from_numpy(gy))
    return [y.detach().numpy(), *(leaf.grad.numpy() for leaf in leaves)]


def check(p):
    x, w = floats(p, "forward")
    gy = floats(p, "input_grad", seed=1)[0]
    bias = np.random.default_rng(2).standard_normal(p.out_channels).astype(p.dtype)
    positional = (p.stride, p.padding, p.output_padding, p.groups, p.dilation)  # torch's order
    ours = [
        getattr(fd, f"conv_transpose{p.ndim}d")(x, w, bias, *positional),
        *getattr(fd, f"conv_transpose{p.ndim}d_vjp")(gy, x, w, bias, *positional),
    ]
    lengths = [p.accumulation_length(q) for q in ("forward", "input_grad", "weight_grad")] + [gy.size]
    for name, got, want, length in zip(("y", "gx", "gw", "gb"), ours, torch_results(p, x, w, bias, gy), lengths):
        assert got.shape == want.shape, f"{name} {p}"
        assert got.dtype == want.dtype, f"{name} {p}"
        eps = np.finfo(p.dtype).eps
        np.testing.assert_allclose(got, want, rtol=64 * eps, atol=64 * eps * np.sqrt(length), err_msg=f"{name} {p}")


@pytest.mark.parametrize("p", [p for p in CASES.values() if p.batched], ids=[n for n, p in CASES.items() if p.batched])
def test_float64(p):
    check(replace(p, dtype="float64"))


@pytest.mark.quick
@pytest.mark.parametrize("dtype", ["float32", "complex64", "complex128"])
@pytest.mark.parametrize("name", ["dcgan", "each_axis_its_own", "depthwise", "dilated_strided", "3d", "unbatched"])
def test_dtypes(name, dtype):
    check(replace(EDGE_CASES[name], dtype=dtype))


def test_integers_as_torch_computes_them():
    p = replace(EDGE_CASES["each_axis_its_own"], dtype="int64")
    x, w = (np.random.default_rng(0).integers(-9, 9, shape) for shape in (p.input_shape, p.weight_shape))
    want = torch.nn.functional.conv_transpose2d(torch.from_numpy(x), torch.from_numpy(w), **parameters(p)).numpy()
    np.testing.assert_array_equal(fd.conv_transpose2d(x, w, **parameters(p)), want)


@pytest.mark.parametrize("output_size", [(7, 9), (8, 9), (8, 10), (1, 5, 7, 10)])
def test_output_size_is_that_of_torchs_layer(output_size):
    layer = torch.nn.ConvTranspose2d(3, 5, 3, stride=2, padding=1, dtype=torch.float64)
    x = np.random.default_rng(0).standard_normal((1, 3, 4, 5))
    want = layer(torch.from_numpy(x), output_size=list(output_size)).detach().numpy()
    w, bias = (parameter.detach().numpy() for parameter in (layer.weight, layer.bias))
    got = fd.conv_transpose2d(x, w, bias, stride=2, padding=1, output_size=output_size)
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


def test_output_size_out_of_range_is_refused_as_torch_does():
    layer = torch.nn.ConvTranspose2d(3, 5, 3, stride=2, padding=1)
    with pytest.raises(ValueError):
        layer(torch.zeros(1, 3, 4, 5), output_size=[5, 8, 9])
    with pytest.raises(ValueError, match="output_size"):
        fd.conv_transpose2d(np.zeros((1, 3, 4, 5)), np.zeros((3, 5, 3, 3)), stride=2, padding=1, output_size=(5, 8, 9))
    for size in ((6, 9), (9, 9), (7, 11)):
        with pytest.raises(ValueError):
            layer(torch.zeros(1, 3, 4, 5), output_size=list(size))
        with pytest.raises(ValueError, match=r"from \(7, 9\) to \(8, 10\)"):
            fd.conv_transpose2d(np.zeros((1, 3, 4, 5)), np.zeros((3, 5, 3, 3)), stride=2, padding=1, output_size=size)


X, W = (2, 4, 5, 6), (4, 3, 3, 3)
REFUSED = {
    "channels": (X, (5, 3, 3, 3), {}),
    "no_channels_in": ((2, 0, 5, 6), (0, 3, 3, 3), {}),
    "no_channels_out": (X, (4, 0, 3, 3), {}),
    "no_height": ((2, 4, 0, 6), W, {}),
    "no_kernel": (X, (4, 3, 0, 3), {}),
    "axes_of_input": ((4, 5), W, {}),
    "more_axes_of_input": ((1, 2, 4, 5, 6), W, {}),
    "axes_of_weight": (X, (4, 3, 3), {}),
    "stride_0": (X, W, {"stride": 0}),
    "stride_negative": (X, W, {"stride": -1}),
    "stride_float": (X, W, {"stride": 2.0}),
    "stride_three": (X, W, {"stride": (1, 1, 1)}),
    "stride_none": (X, W, {"stride": None}),
    "stride_text": (X, W, {"stride": "2"}),
    "padding_negative": (X, W, {"padding": -1}),
    "padding_text": (X, W, {"padding": "same"}),
    "padding_leaves_nothing": (X, W, {"padding": 9}),
    "dilation_0": (X, W, {"dilation": 0}),
    "output_padding_at_stride": (X, W, {"output_padding": 1}),
    "output_padding_at_dilation": (X, W, {"output_padding": 3, "dilation": 3, "stride": 2}),
    "output_padding_negative": (X, W, {"output_padding": -1, "stride": 2}),
    "groups_0": (X, W, {"groups": 0}),
    "groups_no_divisor": (X, W, {"groups": 3}),
    "groups_float": (X, W, {"groups": 1.0}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_where_torch_refuses_we_refuse(name):
    x, w, arguments = REFUSED[name]
    with pytest.raises((RuntimeError, TypeError, ValueError)):
        torch.nn.functional.conv_transpose2d(torch.zeros(x), torch.zeros(w), **arguments)
    with pytest.raises((TypeError, ValueError)):
        fd.conv_transpose2d(np.zeros(x), np.zeros(w), **arguments)


@pytest.mark.parametrize("dtypes", [("float32", "float64"), ("float64", "complex128"), ("int64", "float32")])
def test_mixed_dtypes_are_refused_by_both(dtypes):
    x, w = (np.zeros(shape, dtype) for shape, dtype in zip((X, W), dtypes))
    with pytest.raises(RuntimeError):
        torch.nn.functional.conv_transpose2d(torch.from_numpy(x), torch.from_numpy(w))
    with pytest.raises(TypeError, match=f"{dtypes[0]}.*{dtypes[1]}"):
        fd.conv_transpose2d(x, w)


def test_an_empty_batch_as_torch_returns_it():
    p = problem((0, 4, 5, 6), (4, 3, 3, 3), stride=2)
    want = torch.nn.functional.conv_transpose2d(torch.zeros(p.input_shape), torch.zeros(p.weight_shape), stride=2)
    assert fd.conv_transpose2d(np.zeros(p.input_shape), np.zeros(p.weight_shape), stride=2).shape == tuple(want.shape)


def test_drawn_arguments_are_refused_or_served_as_torch_does():
    """What torch refuses we refuse, and more where it returns nothing, and dilation 0, which it checks at times."""
    rng = np.random.default_rng(0)
    served = 0
    for _ in range(400):  # torch takes long to refuse
        ndim = int(rng.integers(1, 4))

        def axes(values, ndim=ndim):
            return tuple(rng.choice(values, ndim).tolist()) if rng.random() < 0.5 else int(rng.choice(values))

        channels, batch = int(rng.choice([1, 2, 4, 6])), [(), (1,), (2,), (0,)][rng.choice(4, p=[0.2, 0.4, 0.3, 0.1])]
        x = np.ones((*batch, channels, *rng.choice([1, 2, 3, 4, 0], ndim, p=[0.25, 0.25, 0.25, 0.24, 0.01])), "f4")
        kernel = rng.choice([1, 2, 3, 0], ndim, p=[0.33, 0.33, 0.33, 0.01])
        w = np.ones((channels if rng.random() < 0.95 else 3, int(rng.choice([1, 2, 3])), *kernel), "f4")
        bias = np.ones(int(rng.choice([1, 2, 3, 4])), "f4") if rng.random() < 0.2 else None
        odd = rng.random() < 0.15
        arguments = {
            "stride": axes([1, 2, 3, 0, -1] if odd else [1, 2, 3]),
            "padding": axes([0, 1, 2, -1] if odd else [0, 0, 1]),
            "output_padding": axes([0, 1, 2, -1] if odd else [0, 0, 0, 0, 0, 1]),
            "dilation": axes([1, 2, 0, -1] if odd else [1, 2]),
            "groups": int(rng.choice([1, 2, 0, -1] if odd else [1])),
        }
        name = f"conv_transpose{ndim}d"
        report = f"{name} {x.shape} {w.shape} {arguments} bias {bias is None or bias.shape}"
        try:
            tensors = (a if a is None else torch.from_numpy(a) for a in (x, w, bias))
            want = getattr(torch.nn.functional, name)(*tensors, **arguments).numpy()
        except (RuntimeError, ValueError, IndexError):
            with pytest.raises((ValueError, TypeError)):
                print(report, getattr(fd, name)(x, w, bias, **arguments).shape)
            continue
        if want.size and np.min(arguments["dilation"]) > 0:
            served += 1
            np.testing.assert_array_equal(getattr(fd, name)(x, w, bias, **arguments), want, report)
    assert 100 < served < 350
