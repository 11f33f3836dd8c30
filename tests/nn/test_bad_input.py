"""Arguments and inputs that no layer can do anything with: each error names them and says what would do."""

import numpy as np
import pytest

from fastdeconv import nn

ARGUMENTS = [
    (lambda: nn.Conv2d(0, 1, 3), ValueError, "in_channels must be a positive multiple of groups = 1; got 0"),
    (lambda: nn.Conv2d(3, 4, 3, groups=2), ValueError, "in_channels must be a positive multiple of groups = 2; got 3"),
    (lambda: nn.Conv2d(4, 3, 3, groups=2), ValueError, "out_channels must be a positive multiple of groups = 2; got 3"),
    (lambda: nn.Conv2d(1.0, 1, 3), TypeError, "in_channels must be an int; got 1.0"),
    (lambda: nn.Conv2d(1, 1, 3, groups=0), ValueError, "groups must be at least 1; got 0"),
    (lambda: nn.Conv2d(1, 1, 0), ValueError, "kernel_size must be at least 1"),
    (lambda: nn.Conv2d(1, 1, (3, 3, 3)), ValueError, "kernel_size must be an int or a tuple of 2 ints"),
    (lambda: nn.Conv2d(1, 1, 3, 0), ValueError, "stride must be at least 1"),
    (lambda: nn.Conv2d(1, 1, 3, padding=-1), ValueError, "padding must be at least 0"),
    (lambda: nn.Conv2d(1, 1, 3, padding="full"), ValueError, 'padding must be ints, "same" or "valid"; got \'full\''),
    (lambda: nn.Conv2d(1, 1, 3, 2, padding="same"), ValueError, 'padding="same" needs stride 1'),
    (lambda: nn.Conv2d(1, 1, 3, padding_mode="reflect"), ValueError, "padding_mode must be \"zeros\"; got 'reflect'"),
    (lambda: nn.Conv2d(1, 1, 3, bias=1), TypeError, "bias must be True or False; got 1"),
    (lambda: nn.Conv2d(1, 1, 3, dtype="float16"), TypeError, 'dtype must be None, "float32" or "float64"'),
    (lambda: nn.Conv2d(1, 1, 3, rng="seed"), TypeError, "rng must be an int; got 'seed'"),
    (lambda: nn.Conv2d(1, 1, 3, rng=-1), ValueError, "rng must be a generator"),
    (lambda: nn.ConvTranspose2d(1, 1, 3, 2, output_padding=2), ValueError, "output_padding must be below max"),
    (lambda: nn.BatchNorm2d(0), ValueError, "num_features must be at least 1; got 0"),
    (lambda: nn.BatchNorm2d(1, eps=-1), ValueError, "eps must be a number of at least 0"),
    (lambda: nn.BatchNorm2d(1, momentum="none"), TypeError, "momentum must be a number"),
    (lambda: nn.BatchNorm2d(1, affine=0), TypeError, "affine must be True or False; got 0"),
    (lambda: nn.PReLU(0), ValueError, "num_parameters must be at least 1; got 0"),
    (lambda: nn.PReLU(init=None), TypeError, "init must be a number; got None"),
    (lambda: nn.LeakyReLU("steep"), TypeError, "negative_slope must be a number; got 'steep'"),
    (lambda: nn.GELU("erf"), ValueError, 'approximate must be "none" or "tanh"; got \'erf\''),
    (lambda: nn.PixelShuffle(0), ValueError, "upscale_factor must be at least 1; got 0"),
    (lambda: nn.Sequential(nn.ReLU), TypeError, "layers must be modules of fastdeconv.nn; got <class"),
]


@pytest.mark.quick
@pytest.mark.parametrize(("make", "error", "message"), ARGUMENTS, ids=[case[2][:40] for case in ARGUMENTS])
def test_arguments(make, error, message):
    with pytest.raises(error) as caught:
        make()
    assert message in str(caught.value)


def test_names_of_layers():
    from collections import OrderedDict

    for name in ("a.b", "", "forward"):
        with pytest.raises(ValueError, match="names of layers must have no dot"):
            nn.Sequential(OrderedDict({name: nn.ReLU()}))
    with pytest.raises(TypeError, match="names of layers must be strings"):
        nn.Sequential(OrderedDict({3: nn.ReLU()}))


def _zeros(*shape, dtype="float32"):
    return np.zeros(shape, dtype)


INPUTS = [
    (lambda: nn.Conv2d(3, 2, 3), _zeros(1, 4, 5, 5), ValueError, "must have shape (N, 3, H, W) or (3, H, W)"),
    (lambda: nn.Conv2d(3, 2, 3), _zeros(3, 5), ValueError, "got (3, 5)"),
    (lambda: nn.Conv2d(3, 2, 3), _zeros(1, 1, 3, 5, 5), ValueError, "got (1, 1, 3, 5, 5)"),
    (lambda: nn.Conv2d(3, 2, 3), _zeros(3, 5, 5, dtype="float64"), TypeError, "must be float32; got float64"),
    (lambda: nn.Conv2d(3, 2, 3), [[1.0]], TypeError, "x must be a NumPy array"),
    (lambda: nn.Conv2d(3, 2, 3, dilation=2), _zeros(1, 3, 4, 9), ValueError, "spatial size of at least (5, 5)"),
    (lambda: nn.Conv3d(3, 2, 3), _zeros(1, 3, 5, 5), ValueError, "must have shape (N, 3, D, H, W)"),
    (lambda: nn.ConvTranspose1d(3, 2, 3), _zeros(1, 2, 5), ValueError, "must have shape (N, 3, W)"),
    (lambda: nn.ConvTranspose2d(3, 2, 3, padding=3), _zeros(1, 3, 2, 2), ValueError, "padding must leave some output"),
    (lambda: nn.BatchNorm1d(3), _zeros(2, 3, 4, 5), ValueError, "x of BatchNorm1d must have 2 or 3 axes"),
    (lambda: nn.BatchNorm2d(3), _zeros(2, 4, 4, 5), ValueError, "(N, 3, …); got shape (2, 4, 4, 5)"),
    (lambda: nn.BatchNorm2d(3), _zeros(1, 3, 1, 1), ValueError, "more than one value for each channel while training"),
    (lambda: nn.BatchNorm2d(3), _zeros(2, 3, 4, 5, dtype="float64"), TypeError, "x of BatchNorm2d must be float32"),
    (lambda: nn.PReLU(3), _zeros(2, 4, 5), ValueError, "num_parameters = 3 channels on axis 1; got shape (2, 4, 5)"),
    (lambda: nn.PReLU(3), _zeros(3), ValueError, "got shape (3,)"),
    (lambda: nn.PReLU(), _zeros(2, 4, dtype="float64"), TypeError, "x of PReLU must be float32; got float64"),
    (nn.Tanh, _zeros(2, 4, dtype="int64"), TypeError, "x of Tanh must be float32 or float64; got int64"),
    (lambda: nn.PixelShuffle(2), _zeros(6, 3, 3), ValueError, "a multiple of 4 channels; got (6, 3, 3)"),
    (lambda: nn.PixelShuffle(2), _zeros(4, 3), ValueError, "must have shape (…, C, H, W)"),
    (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.PReLU(5)), _zeros(1, 3, 5, 5), ValueError, "num_parameters = 5"),
    (lambda: nn.Sequential(nn.BatchNorm2d(3), nn.PReLU(5)), _zeros(2, 3, 5, 5), ValueError, "num_parameters = 5"),
]  # fmt: skip


@pytest.mark.quick
@pytest.mark.parametrize(("make", "x", "error", "message"), INPUTS, ids=[case[3][:40] for case in INPUTS])
def test_inputs(make, x, error, message):
    layer = make()
    with pytest.raises(error) as caught:
        layer(x)
    assert message in str(caught.value)


def test_output_size_out_of_range():
    with pytest.raises(ValueError, match=r"output_size must be from \(9, 9\) to \(10, 10\)"):
        nn.ConvTranspose2d(1, 1, 3, 2).forward(_zeros(1, 1, 4, 4), output_size=12)


def test_empty_batches():
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.ConvTranspose2d(3, 1, 3), nn.Tanh(), nn.PixelShuffle(1))
    y = model(_zeros(0, 2, 5, 5))
    assert y.shape == (0, 1, 5, 5)
    assert model.backward(y).shape == (0, 2, 5, 5)
    assert all((p.grad == 0).all() for p in model.parameters())
