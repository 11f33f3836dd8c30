"""Activations and normalisation as single passes over memory: kernels on the CPU, operations on arrays on a GPU.

An activation is applied to ``z = scale[c]·x + shift[c]``, where c is the channel: with a shift it takes over the bias
of the convolution before it, with both the normalisation of a BatchNorm. Arrays are contiguous, of float32 or float64.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdeconv.arrays import new
from fastdeconv.kernels.cpu import elementwise as kernels
from fastdeconv.kernels.cpu import normalization
from fastdeconv.nn import on_device

Array = NDArray[Any]

# Operations an element, near enough to tell whether threads are worth starting.
_MOVE, _FUNCTION = 4, 16


class Activation(NamedTuple):
    """What is applied to each element.

    Attributes
    ----------
    kind : str
        "rectifier" (``z if z > 0 else slope·z``; slope 1 is the identity), "gelu", "gelu_tanh", "tanh" or "sigmoid".
        Of the last two the gradient is computed from their results.
    slope : ndarray
        Of a rectifier: one value, or one for each channel. Of others one that is not looked at.
    """

    kind: str
    slope: Array


class Affine(NamedTuple):
    """What comes before an activation: ``scale·x + shift``, of one value each or one for each channel."""

    scale: Array
    shift: Array


def constant(value: float, like: Array) -> Array:
    """Return an array of one value, of the kind of another."""
    made = new((1,), like)
    made[...] = value
    return made


def identity(like: Array) -> Activation:
    """Return the activation that changes nothing."""
    return Activation("rectifier", constant(1.0, like))


def plain(like: Array) -> Affine:
    """Return what changes nothing before an activation."""
    return Affine(constant(1.0, like), constant(-0.0, like))  # -0 + -0 is -0


class Extent(NamedTuple):
    """An array as (images, channels, pixels); a layer that knows no channels has one image of one."""

    images: int
    channels: int
    pixels: int

    @classmethod
    def of(cls, shape: tuple[int, ...], channels: int = 0) -> Extent:
        """Return that of a shape (N, C, …), or of any for no channels."""
        return cls(shape[0], channels, math.prod(shape[2:])) if channels else cls(1, 1, math.prod(shape))

    @property
    def pieces(self) -> int:
        """How many pieces a plane is cut into."""
        return kernels.pieces(self.pixels)

    @property
    def units(self) -> int:
        """How many units of work there are."""
        return self.images * self.channels * self.pieces

    @property
    def size(self) -> int:
        """How many elements there are."""
        return self.images * self.channels * self.pixels

    def per_channel(self, sums: Array, kinds: int) -> Array:
        """Return the sums of each channel, float64, of shape (kinds, channels), from those of units."""
        total: Array = sums.reshape(self.images, self.channels, self.pieces, kinds).sum(axis=(0, 2), dtype=np.float64)
        return np.ascontiguousarray(total.T)


def activate(f: Activation, x: Array, extent: Extent, affine: Affine, out: Array) -> None:
    """Write ``f(scale·x + shift)`` to `out`, which may be x."""
    if not isinstance(x, np.ndarray):
        on_device.activate(f, x, extent, affine, out)
        return
    work = extent.size * (_MOVE if f.kind == "rectifier" else _FUNCTION)
    launch = kernels.FORWARD[f.kind].launcher(x.dtype.name, extent.units, work)
    launch(x.ravel(), *affine, f.slope, out.ravel(), *extent[1:], extent.pieces)


def activation_grad(
    f: Activation, kept: Array, gy: Array, extent: Extent, affine: Affine, out: Array
) -> tuple[Array, Array]:
    """Write the gradient with respect to ``scale·x + shift`` to `out`, which may be gy.

    Parameters
    ----------
    kept : ndarray
        The x of `activate`; or its result, with an `affine` that changes nothing, where that tells as much.

    Returns
    -------
    shift, slope : ndarray
        The sums of each channel that are the gradients of those.
    """
    if not isinstance(kept, np.ndarray):
        return on_device.activation_grad(f, kept, gy, extent, affine, out)
    work = extent.size * (_MOVE if f.kind == "rectifier" else _FUNCTION)
    sums = np.empty(2 * extent.units, gy.dtype)
    launch = kernels.BACKWARD[f.kind].launcher(gy.dtype.name, extent.units, work)
    launch(kept.ravel(), gy.ravel(), *affine, f.slope, out.ravel(), sums, *extent[1:], extent.pieces)
    shift, slope = extent.per_channel(sums, 2).astype(gy.dtype)
    return shift, slope


def channel_sums(x: Array, extent: Extent) -> Array:
    """Return the sum of each channel."""
    if not isinstance(x, np.ndarray):
        return on_device.channel_sums(x, extent)
    sums = np.empty(extent.units, x.dtype)
    launch = kernels.plane_sums.launcher(x.dtype.name, extent.units, extent.size * _MOVE)
    launch(x.ravel(), sums, extent.pixels, extent.pieces)
    return extent.per_channel(sums, 1)[0].astype(x.dtype)  # type: ignore[no-any-return]


def moments(x: Array, extent: Extent) -> tuple[Array, Array]:
    """Return the mean of each channel, and its mean squared difference from that; float64."""
    if not isinstance(x, np.ndarray):
        return on_device.moments(x, extent)
    sums = np.empty(2 * extent.units)
    launch = normalization.moments.launcher(x.dtype.name, extent.units, extent.size * _MOVE)
    launch(x.ravel(), sums, extent.pixels, extent.pieces)
    pieces = extent.pieces
    ends = extent.pixels * np.arange(pieces + 1) // pieces
    count = np.diff(ends)[:, np.newaxis]
    means, squares = sums.reshape(extent.images, extent.channels, pieces, 2).transpose(3, 1, 0, 2)[..., np.newaxis]
    total = extent.images * extent.pixels
    mean = (means * count).sum(axis=(1, 2, 3)) / total
    between = count * np.square(means - mean.reshape(-1, 1, 1, 1))
    return mean, (squares + between).sum(axis=(1, 2, 3)) / total


def norm_sums(
    f: Activation, x: Array, gy: Array, extent: Extent, affine: Affine, mean: Array
) -> tuple[Array, Array, Array]:
    """Return the sums of each channel, float64, of ``gz``, ``gz·(x - mean)``, and what is the slope's gradient.

    gz is the gradient with respect to ``scale·x + shift``, and `f` a rectifier.
    """
    if not isinstance(x, np.ndarray):
        return on_device.norm_sums(f, x, gy, extent, affine, mean)
    sums = np.empty(3 * extent.units, x.dtype)
    launch = normalization.norm_sums.launcher(x.dtype.name, extent.units, extent.size * _MOVE)
    launch(x.ravel(), gy.ravel(), *affine, f.slope, mean, sums, *extent[1:], extent.pieces)
    total, product, slope = extent.per_channel(sums, 3)
    return total, product, slope


def norm_grad(
    f: Activation, x: Array, gy: Array, extent: Extent, affine: Affine, mean: Array, factors: tuple[Array, ...],
    out: Array,
) -> None:  # fmt: skip
    """Write ``a·gz + b·(x - mean) + d`` for the factors (a, b, d) to `out`, which may be gy."""
    if not isinstance(x, np.ndarray):
        on_device.norm_grad(f, x, gy, extent, affine, mean, factors, out)
        return
    launch = normalization.norm_grad.launcher(x.dtype.name, extent.units, extent.size * _MOVE)
    launch(x.ravel(), gy.ravel(), *affine, f.slope, mean, *factors, out.ravel(), *extent[1:], extent.pieces)
