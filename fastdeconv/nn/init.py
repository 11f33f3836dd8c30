"""What weights start from: torch's formulas, and two that keep checkerboards out of enlarged images.

Each function fills an array in place and returns it. Weights have shape (first, second, …): (C_out, C_in / groups, …)
in a convolution, (C_in, C_out / groups, …) in a transposed one. As in torch, the second channel count times the taps is
called fan-in for both.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.problem import IntOrTuple, as_axes, as_int

Array = NDArray[Any]


def fans(weight: Array) -> tuple[int, int]:
    """Return (fan_in, fan_out) of a weight as torch counts them: axis 1, and axis 0, times the taps.

    Raises
    ------
    ValueError
        The weight has fewer than two axes.
    """
    if weight.ndim < 2:
        raise ValueError(f"weight must have at least 2 axes; got shape {weight.shape}")
    taps = math.prod(weight.shape[2:])
    return weight.shape[1] * taps, weight.shape[0] * taps


def _gain(slope: float) -> float:
    return math.sqrt(2.0 / (1.0 + slope * slope))


def uniform(array: Array, low: float, high: float, rng: np.random.Generator) -> Array:
    """Draw uniformly from [low, high)."""
    return _filled(array, rng.uniform(low, high, array.shape))


def normal(array: Array, mean: float, std: float, rng: np.random.Generator) -> Array:
    """Draw from the normal distribution."""
    return _filled(array, rng.normal(mean, std, array.shape))


def kaiming_uniform(weight: Array, rng: np.random.Generator, a: float = math.sqrt(5), mode: str = "fan_in") -> Array:
    """Draw uniformly, with the variance that keeps activations behind a rectifier of slope `a` at one size.

    The default is that of torch's convolutions: ``a = √5``, which makes the bound ``1 / √fan_in``.

    References
    ----------
    He et al., Delving deep into rectifiers, ICCV 2015.
    """
    bound = math.sqrt(3.0) * _gain(a) / math.sqrt(_fan(weight, mode))
    return uniform(weight, -bound, bound, rng)


def kaiming_normal(weight: Array, rng: np.random.Generator, a: float = 0.0, mode: str = "fan_in") -> Array:
    """Draw from the normal distribution with the variance of `kaiming_uniform`."""
    return normal(weight, 0.0, _gain(a) / math.sqrt(_fan(weight, mode)), rng)


def xavier_uniform(weight: Array, rng: np.random.Generator, gain: float = 1.0) -> Array:
    """Draw uniformly, with the variance ``2·gain² / (fan_in + fan_out)``.

    References
    ----------
    Glorot and Bengio, Understanding the difficulty of training deep feedforward neural networks, AISTATS 2010.
    """
    bound = gain * math.sqrt(6.0 / sum(fans(weight)))
    return uniform(weight, -bound, bound, rng)


def xavier_normal(weight: Array, rng: np.random.Generator, gain: float = 1.0) -> Array:
    """Draw from the normal distribution with the variance of `xavier_uniform`."""
    return normal(weight, 0.0, gain * math.sqrt(2.0 / sum(fans(weight))), rng)


def bias_uniform(bias: Array, weight: Array, rng: np.random.Generator) -> Array:
    """Draw a bias uniformly within ``1 / √fan_in`` of its layer's weight, as torch's convolutions do."""
    bound = 1.0 / math.sqrt(fans(weight)[0])
    return uniform(bias, -bound, bound, rng)


def icnr(
    weight: Array, rng: np.random.Generator, upscale_factor: int, transposed: bool = False, a: float = 0.0
) -> Array:  # fmt: skip
    """Make a layer that enlarges begin as one that does not, with every pixel repeated: no phase differs from another.

    What is repeated is drawn by `kaiming_normal`, for the number of products that an output pixel sums.

    Parameters
    ----------
    weight : ndarray
        Of a convolution before `PixelShuffle`, with a multiple of upscale_factor² output channels; or of a transposed
        convolution whose kernel size is a multiple of its stride.
    rng : numpy.random.Generator
    upscale_factor : int
        That of the shuffle, or the stride.
    transposed : bool
        Which of the two layers it is.
    a : float
        The slope of the rectifier before the layer.

    Raises
    ------
    ValueError
        The weight's shape is not such a multiple.

    References
    ----------
    Aitken et al., Checkerboard artifact free sub-pixel convolution, 2017.
    """
    r = as_int("upscale_factor", upscale_factor)
    if r < 1:
        raise ValueError(f"upscale_factor must be at least 1; got {upscale_factor}")
    shape: tuple[int, ...] = weight.shape
    if transposed:
        first, second, *kernel = shape
        if any(k % r for k in kernel):
            raise ValueError(f"weight must have a kernel size that is a multiple of {r}; got shape {weight.shape}")
        values = kaiming_normal(np.empty((first, second, *(k // r for k in kernel))), rng, a, "fan_out")
        for axis in range(2, weight.ndim):
            values = values.repeat(r, axis)
        return _filled(weight, values)
    channels, *others = shape
    if channels % (r * r):
        raise ValueError(f"weight must have a multiple of {r * r} output channels; got shape {weight.shape}")
    return _filled(weight, kaiming_normal(np.empty((channels // (r * r), *others)), rng, a).repeat(r * r, 0))


def bilinear(weight: Array, stride: IntOrTuple, dilation: IntOrTuple = 1) -> Array:
    """Make a transposed convolution interpolate linearly by its stride, each channel for itself.

    On each axis the kernel is a triangle two strides wide, which sums to 1 a phase if the kernel reaches that far: its
    size should be ``2·stride``, or ``2·stride - 1``.

    Parameters
    ----------
    weight : ndarray, shape (C, C / groups, …)
        Of a layer with as many output channels as input channels.
    stride, dilation : int or tuple of int
        Of the layer.
    """
    ndim = weight.ndim - 2
    triangle = np.ones(())
    for k, s, d in zip(weight.shape[2:], as_axes("stride", stride, ndim, 1), as_axes("dilation", dilation, ndim, 1)):
        distance = np.abs(d * (np.arange(k) - (k - 1) / 2))
        triangle = np.multiply.outer(triangle, np.maximum(0, 1 - distance / s))
    values = np.zeros(weight.shape)
    channel = np.arange(weight.shape[0])
    values[channel, channel % weight.shape[1]] = triangle
    return _filled(weight, values)


def _fan(weight: Array, mode: str) -> int:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f'mode must be "fan_in" or "fan_out"; got {mode!r}')
    return fans(weight)[mode == "fan_out"]


def _filled(array: Array, values: Array) -> Array:
    if isinstance(array, np.ndarray):
        array[...] = values
    else:
        array.set(values.astype(array.dtype))
    return array
