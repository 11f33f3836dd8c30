"""What `elementwise` does, for arrays on a GPU: operations of the array's own module."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from fastdeconv.arrays import namespace

if TYPE_CHECKING:
    from fastdeconv.nn.elementwise import Activation, Affine, Extent

Array = NDArray[Any]

_ROOT = math.sqrt(2 / math.pi)
_CUBIC = 0.044715


def _each(vector: Array) -> Any:
    """Return a value a channel so that it meets that channel of (images, channels, pixels)."""
    return vector.reshape(1, -1, 1)


def _inner(x: Array, extent: Extent, affine: Affine) -> Any:
    return x.reshape(extent) * _each(affine.scale) + _each(affine.shift)


def _normal(xp: Any, z: Any) -> tuple[Any, Any]:
    """Return the distribution function and the density of the standard normal distribution."""
    from cupyx.scipy.special import erfc

    return 0.5 * erfc(-math.sqrt(0.5) * z), xp.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)


def activate(f: Activation, x: Array, extent: Extent, affine: Affine, out: Array) -> None:
    """Write ``f(scale·x + shift)`` to `out`."""
    xp = namespace(x)
    z = _inner(x, extent, affine)
    if f.kind == "rectifier":
        y = xp.where(z <= 0, _sloped(xp, f.slope, z), z)
    elif f.kind == "tanh":
        y = xp.tanh(z)
    elif f.kind == "sigmoid":
        y = 0.5 * xp.tanh(0.5 * z) + 0.5
    elif f.kind == "gelu":
        y = z * _normal(xp, z)[0]
    else:
        y = 0.5 * z * (1 + xp.tanh(_ROOT * (z + _CUBIC * z * z * z)))
    out.reshape(extent)[...] = y


def _sloped(xp: Any, slope: Array, value: Any) -> Any:
    return xp.where(_each(slope) == 0, 0, _each(slope) * value)


def activation_grad(
    f: Activation, kept: Array, gy: Array, extent: Extent, affine: Affine, out: Array
) -> tuple[Array, Array]:
    """Write the gradient to `out`, and return the sums of channels."""
    xp = namespace(kept)
    z, gradient = _inner(kept, extent, affine), gy.reshape(extent)
    slope: Any = xp.zeros(extent.channels, gy.dtype)
    if f.kind == "rectifier":
        slope = (gradient * xp.where(z <= 0, z, 0)).sum(axis=(0, 2))
        gz = xp.where(z <= 0, _sloped(xp, f.slope, gradient), gradient)
    elif f.kind == "tanh":
        gz = gradient * (1 - z * z)
    elif f.kind == "sigmoid":
        gz = gradient * (z * (1 - z))
    elif f.kind == "gelu":
        distribution, density = _normal(xp, z)
        gz = gradient * (distribution + z * density)
    else:
        t = xp.tanh(_ROOT * (z + _CUBIC * z * z * z))
        gz = gradient * (0.5 * (1 + t) + 0.5 * z * (1 - t * t) * (_ROOT * (1 + 3 * _CUBIC * z * z)))
    out.reshape(extent)[...] = gz
    return gz.sum(axis=(0, 2)), slope


def channel_sums(x: Array, extent: Extent) -> Array:
    """Return the sum of each channel."""
    total: Array = x.reshape(extent).sum(axis=(0, 2))
    return total


def moments(x: Array, extent: Extent) -> tuple[Array, Array]:
    """Return mean and mean squared difference of each channel; float64."""
    planes = x.reshape(extent)
    mean: Any = planes.mean(axis=(0, 2), dtype="float64")
    difference = planes - _each(mean)
    return mean, (difference * difference).mean(axis=(0, 2))


def _through(f: Activation, x: Array, gy: Array, extent: Extent, affine: Affine, mean: Array) -> tuple[Any, Any, Any]:
    """Return gz, ``x - mean``, and the addends of the slope's gradient."""
    xp = namespace(x)
    z, gradient = _inner(x, extent, affine), gy.reshape(extent)
    gz = xp.where(z <= 0, _sloped(xp, f.slope, gradient), gradient)
    return gz, x.reshape(extent) - _each(mean), gradient * xp.where(z <= 0, z, 0)


def norm_sums(
    f: Activation, x: Array, gy: Array, extent: Extent, affine: Affine, mean: Array
) -> tuple[Array, Array, Array]:
    """Return the three sums of each channel; float64."""
    gz, difference, slope = _through(f, x, gy, extent, affine, mean)
    total, product, slope_total = (a.sum(axis=(0, 2), dtype="float64") for a in (gz, gz * difference, slope))
    return total, product, slope_total


def norm_grad(
    f: Activation, x: Array, gy: Array, extent: Extent, affine: Affine, mean: Array, factors: tuple[Array, ...],
    out: Array,
) -> None:  # fmt: skip
    """Write the gradient with respect to x to `out`."""
    gz, difference, _ = _through(f, x, gy, extent, affine, mean)
    a, b, d = map(_each, factors)
    out.reshape(extent)[...] = a * gz + b * difference + d
