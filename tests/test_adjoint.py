"""What gradients are by definition: adjoints of the forward pass, and limits of differences."""

from dataclasses import replace

import numpy as np
import pytest
from cases import EDGE_CASES, FEWER, call, floats, parameters, runs

import fastdeconv as fd

FLOAT64 = {name: replace(p, dtype="float64") for name, p in FEWER.items()}


def inner(a, b):
    return float(np.vdot(a.astype("float64"), b.astype("float64")))


@pytest.mark.parametrize(("pass_", "algorithm", "p"), [case for case in runs(FLOAT64) if case.values[0] != "forward"])
def test_adjoint(pass_, algorithm, p):
    """<A x, y> = <x, Aᵀ y>, where A is the forward pass as a function of the input or of the weight."""
    x, w = floats(p, "forward")
    gy = floats(p, "input_grad", seed=1)[0]
    y = call(p, "forward", x, w)
    if pass_ == "input_grad":
        back = inner(x, call(p, pass_, gy, w, algorithm))
    else:
        back = inner(w, call(p, pass_, x, gy, algorithm))
    size = np.linalg.norm(y) * np.linalg.norm(gy)
    assert abs(inner(y, gy) - back) <= 1e-12 * (size + 1), f"{pass_} {algorithm} {p}"


SMALL = {name: replace(p, dtype="float64") for name, p in EDGE_CASES.items() if p.flops < 20_000}


@pytest.mark.parametrize("p", SMALL.values(), ids=SMALL)
def test_finite_differences(p):
    x, w = floats(p, "forward")
    bias = np.random.default_rng(3).standard_normal(p.out_channels)
    gy = floats(p, "input_grad", seed=1)[0]
    forward = getattr(fd, f"conv_transpose{p.ndim}d")
    vjp = getattr(fd, f"conv_transpose{p.ndim}d_vjp")

    def loss(x, w, bias):
        return inner(forward(x, w, bias, **parameters(p)) ** 2, gy) / 2

    y = forward(x, w, bias, **parameters(p))
    gradients = vjp(y * gy, x, w, bias, **parameters(p))
    rng = np.random.default_rng(2)
    for i, (value, gradient) in enumerate(zip((x, w, bias), gradients)):
        direction = rng.standard_normal(value.shape)
        ends = []
        for step in (-1e-5, 1e-5):
            moved = [x, w, bias]
            moved[i] = value + step * direction
            ends.append(loss(*moved))
        slope = (ends[1] - ends[0]) / 2e-5
        scale = float(np.abs(y * gy).sum()) + 1
        assert abs(slope - inner(gradient, direction)) <= 1e-6 * scale, f"{('input', 'weight', 'bias')[i]} {p}"


@pytest.mark.quick
@pytest.mark.parametrize("output_padding", [0, 1])
def test_gradients_know_output_padding(output_padding):
    """The two outputs have different sizes, and only the call's argument tells them apart."""
    x, w = np.ones((1, 2, 4, 4)), np.ones((2, 3, 3, 3))
    y = fd.conv_transpose2d(x, w, stride=2, padding=1, output_padding=output_padding)
    keywords = {"stride": 2, "padding": 1}
    for gradient in (
        lambda **more: fd.grad.conv_transpose2d_input(x.shape, w, y, **keywords, **more),
        lambda **more: fd.grad.conv_transpose2d_weight(x, w.shape, y, **keywords, **more),
        lambda **more: fd.conv_transpose2d_vjp(y, x, w, **keywords, **more)[0],
    ):
        gradient(output_padding=output_padding)
        with pytest.raises(ValueError, match=rf"output_padding=\({output_padding}, {output_padding}\)"):
            gradient(output_padding=1 - output_padding)
