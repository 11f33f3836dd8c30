"""What weights start from: bounds and variances of the formulas, and no checkerboard from the two against it."""

import numpy as np
import pytest

import fastdeconv as fd
from fastdeconv import nn
from fastdeconv.nn import init


def _rng():
    return np.random.default_rng(0)


SHAPE = (40, 30, 5, 3)  # fan_in 450, fan_out 600
CASES = {
    "kaiming_uniform": (lambda w: init.kaiming_uniform(w, _rng()), 1 / 450, True),
    "kaiming_uniform_relu": (lambda w: init.kaiming_uniform(w, _rng(), a=0), 6 / 450, True),
    "kaiming_uniform_fan_out": (lambda w: init.kaiming_uniform(w, _rng(), mode="fan_out"), 1 / 600, True),
    "kaiming_normal": (lambda w: init.kaiming_normal(w, _rng()), 2 / 450, False),
    "kaiming_normal_sloped": (lambda w: init.kaiming_normal(w, _rng(), a=0.25), 2 / (1 + 0.25**2) / 450, False),
    "xavier_uniform": (lambda w: init.xavier_uniform(w, _rng()), 6 / 1050, True),
    "xavier_normal": (lambda w: init.xavier_normal(w, _rng(), gain=2), 4 * 2 / 1050, False),
    "normal": (lambda w: init.normal(w, 0, 0.02, _rng()), 0.02**2, False),
}


@pytest.mark.quick
@pytest.mark.parametrize("name", CASES)
def test_formulas(name):
    draw, square, uniform = CASES[name]
    w = np.full(SHAPE, np.nan, np.float32)
    assert draw(w) is w
    # Squares of 18,000 normal values have a mean within 5 % of the variance, but for once in 10⁶ times.
    if uniform:
        assert 0.999 * square < np.square(w.astype(float)).max() <= 1.0001 * square
        square /= 3
    assert np.square(w.astype(float)).mean() == pytest.approx(square, rel=0.05)
    assert abs(w.mean()) < 5 * (square / w.size) ** 0.5


def test_seeds():
    first, again, other = (nn.Conv2d(2, 3, 3, rng=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.weight.data, again.weight.data)
    np.testing.assert_array_equal(first.bias.data, again.bias.data)
    assert not np.array_equal(first.weight.data, other.weight.data)
    generator = np.random.default_rng(1)
    layers = [nn.Conv2d(2, 3, 3, rng=generator) for _ in range(2)]
    np.testing.assert_array_equal(layers[0].weight.data, first.weight.data)
    assert not np.array_equal(layers[0].weight.data, layers[1].weight.data)


def _repeated(y, r):
    """Tell whether an image is one of a smaller size with every pixel repeated."""
    small = y[..., ::r, ::r]
    return np.array_equal(y, small.repeat(r, -1).repeat(r, -2))


@pytest.mark.quick
@pytest.mark.parametrize("r", [1, 2, 3])
def test_icnr(r):
    x = _rng().standard_normal((2, 4, 6, 7)).astype(np.float32)
    conv = nn.Conv2d(4, 3 * r * r, 3, padding=1, bias=False)
    init.icnr(conv.weight.data, _rng(), r)
    shuffled = nn.Sequential(conv, nn.PixelShuffle(r))(x)
    assert _repeated(shuffled, r)
    assert shuffled.std() > 0.1
    # A kernel of 2·r taps, cropped by half of them, begins a phase anew at each multiple of r.
    deconv = nn.ConvTranspose2d(4, 3, 2 * r, r, bias=False)
    init.icnr(deconv.weight.data, _rng(), r, transposed=True)
    assert _repeated(deconv(x), r)


def test_icnr_keeps_the_size_of_activations():
    x = _rng().standard_normal((1, 64, 20, 20)).astype(np.float32)
    for r, layer in ((2, nn.Conv2d(64, 64, 3, padding=1)), (3, nn.ConvTranspose2d(64, 16, 9, 3))):
        init.icnr(layer.weight.data, _rng(), r, transposed=isinstance(layer, nn.ConvTranspose2d), a=1.0)
        y = layer(x)[..., 6:-6, 6:-6]
        assert y.std() == pytest.approx(1, rel=0.15)  # a slope of 1 is no rectifier: variances stay


@pytest.mark.quick
@pytest.mark.parametrize(("stride", "dilation"), [(2, 1), (3, 1), ((2, 4), 1)])
def test_bilinear(stride, dilation):
    s = stride if isinstance(stride, tuple) else (stride, stride)
    w = np.full((3, 1, 2 * s[0] - 1, 2 * s[1] - 1), np.nan)
    init.bilinear(w, stride, dilation)
    i, j = np.mgrid[0:5.0, 0:6.0]
    x = np.stack([1 + 2 * i - j, 3 * j, 0 * i + 4])[np.newaxis]
    y = fd.conv_transpose2d(x, w, stride=stride, groups=3)[..., s[0] - 1 : 1 - s[0], s[1] - 1 : 1 - s[1]]
    u, v = np.mgrid[0 : y.shape[2], 0 : y.shape[3]]
    u, v = u / s[0], v / s[1]
    # A plane stays a plane.
    np.testing.assert_allclose(y[0], np.stack([1 + 2 * u - v, 3 * v, 0 * u + 4]), atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: init.kaiming_normal(np.zeros(3), _rng()), r"weight must have at least 2 axes; got shape \(3,\)"),
        (lambda: init.kaiming_normal(np.zeros((3, 3)), _rng(), mode="fan"), 'mode must be "fan_in" or "fan_out"'),
        (lambda: init.icnr(np.zeros((6, 1, 3, 3)), _rng(), 2), "a multiple of 4 output channels; got shape"),
        (lambda: init.icnr(np.zeros((6, 1, 3, 3)), _rng(), 2, True), "a kernel size that is a multiple of 2"),
        (lambda: init.icnr(np.zeros((6, 1, 3, 3)), _rng(), 0), "upscale_factor must be at least 1; got 0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
