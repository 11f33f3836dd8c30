"""Batch normalisation, with torch's names, defaults and running statistics."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastdeconv.arrays import namespace, new
from fastdeconv.nn import elementwise
from fastdeconv.nn.checks import checked_input, contiguous, float_name
from fastdeconv.nn.elementwise import Activation, Affine, Extent
from fastdeconv.nn.module import Module, Parameter
from fastdeconv.optim import number
from fastdeconv.problem import as_int, shown

Array = NDArray[Any]


class _BatchNorm(Module):
    """Batch normalisation of arrays (N, C, …)."""

    _fresh = _fusable = True
    _buffers = ("running_mean", "running_var", "num_batches_tracked")
    _axes: ClassVar[tuple[int, ...]]  # what x may have

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        dtype: str | None = None,
    ) -> None:
        self.num_features = as_int("num_features", num_features)
        if self.num_features < 1:
            raise ValueError(f"num_features must be at least 1; got {num_features}")
        self.eps = number("eps", eps)
        self.momentum = None if momentum is None else number("momentum", momentum)
        for name, value in (("affine", affine), ("track_running_stats", track_running_stats)):
            if not isinstance(value, bool | np.bool_):
                raise TypeError(f"{name} must be True or False; got {shown(value)}")
        self.affine, self.track_running_stats = bool(affine), bool(track_running_stats)
        kind, size = float_name(dtype), self.num_features
        self.weight = Parameter(np.ones(size, kind)) if affine else None
        self.bias = Parameter(np.zeros(size, kind)) if affine else None
        self.running_mean = np.zeros(size, kind) if track_running_stats else None
        self.running_var = np.ones(size, kind) if track_running_stats else None
        self.num_batches_tracked = np.zeros((), "int64") if track_running_stats else None

    def _forward(self, x: Array, own: bool) -> Array:
        return self._apply(x, None, own)

    def _apply(self, x: Array, f: Activation | None, own: bool) -> Array:
        """Return the normalised input, after a rectifier if there is one; in x's memory if nobody needs that."""
        array = self._checked(x)
        extent = Extent.of(array.shape, self.num_features)
        batch = self.training or self.running_mean is None
        mean, var = self._batch_statistics(array, extent) if batch else (self.running_mean, self.running_var)
        assert mean is not None
        assert var is not None
        inverse = 1 / namespace(array).sqrt(var.astype(np.float64) + self.eps)
        factor = inverse if self.weight is None else inverse * self.weight.data
        shift = -mean * factor if self.bias is None else self.bias.data - mean * factor
        affine = Affine(*(v.astype(array.dtype) for v in (factor, shift)))
        if f is None:
            f = elementwise.identity(array)
        self._keep(array, array, f, affine, mean.astype(array.dtype), inverse, batch)
        out = array if own and self._kept is None else new(array.shape, array)
        elementwise.activate(f, array, extent, affine, out)
        return out

    def _checked(self, x: Any) -> Array:
        name = type(self).__name__
        own = self.weight.data if self.weight is not None else self.running_mean
        array = contiguous(checked_input(self, x, own))
        if array.ndim not in self._axes or array.shape[1] != self.num_features:
            listing = " or ".join(f"(N, {self.num_features}{', …' * (n > 2)})" for n in self._axes)
            raise ValueError(
                f"x of {name} must have {' or '.join(map(str, self._axes))} axes, {listing}; got shape {array.shape}"
            )
        return array

    def _batch_statistics(self, x: Array, extent: Extent) -> tuple[Array, Array]:
        """Return mean and variance of the batch, and add them to the running ones while training."""
        count = extent.images * extent.pixels
        if count < 2 and self.training:
            raise ValueError(
                f"x of {type(self).__name__} must have more than one value for each channel while training; "
                f"got shape {x.shape}"
            )
        mean, var = elementwise.moments(x, extent)
        if self.training and self.running_mean is not None:
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            self.num_batches_tracked += 1
            share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
            for running, new_value in ((self.running_mean, mean), (self.running_var, var * (count / (count - 1)))):
                running *= 1 - share
                running += (share * new_value).astype(running.dtype)
        return mean, var

    def _backward(self, grad_output: Array, own: bool) -> Array | None:
        return self._gradient(grad_output, own)[0]

    def _gradient(self, grad_output: Array, own: bool) -> tuple[Array | None, Array]:
        """Return the gradient with respect to x, and that of the slope of a rectifier behind."""
        gy, x, f, affine, mean, inverse, batch = self._take(grad_output)
        extent = Extent.of(x.shape, self.num_features)
        total, product, slope = elementwise.norm_sums(f, x, gy, extent, affine, mean)
        for parameter, gradient in ((self.weight, product * inverse), (self.bias, total)):
            if parameter is not None and parameter.requires_grad:
                parameter.accumulate(gradient.astype(x.dtype))
        if not self.needs_input_grad:
            return None, slope.astype(x.dtype)
        factor = inverse if self.weight is None else inverse * self.weight.data
        # Running statistics do not depend on x, those of the batch do.
        share = batch / (extent.images * extent.pixels)
        factors = (factor, -share * factor * inverse * inverse * product, -share * factor * total)
        gx = gy if own else new(gy.shape, gy)
        vectors = tuple(v.astype(x.dtype) for v in factors)
        elementwise.norm_grad(f, x, gy, extent, affine, mean, vectors, gx)
        return gx, slope.astype(x.dtype)

    def _arguments(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}"
        )


class BatchNorm1d(_BatchNorm):
    """Batch normalisation of arrays (N, C) or (N, C, L); see `BatchNorm2d`."""

    _axes = (2, 3)


class BatchNorm2d(_BatchNorm):
    """``weight·(x - mean) / √(var + eps) + bias`` for each channel of a batch of images, (N, C, H, W).

    Mean and variance are those of the batch while training, and their running means afterwards.

    Parameters
    ----------
    num_features : int
        Channels.
    eps : float
    momentum : float or None
        The share of a batch in the running statistics; None gives all batches the same.
    affine : bool
        Whether there are weight and bias.
    track_running_stats : bool
        Whether there are running statistics; without, those of the batch always serve.
    dtype : {"float32", "float64"}, optional
        Of all that; None is float32.

    Attributes
    ----------
    weight, bias : Parameter, shape (num_features,), or None
    running_mean, running_var : ndarray, shape (num_features,), or None
        The variance with the factor n / (n - 1).
    num_batches_tracked : ndarray of int64, shape (), or None

    Raises
    ------
    TypeError, ValueError
        The message names the argument, what came and what would do.

    References
    ----------
    Ioffe and Szegedy, Batch normalization, ICML 2015.
    """

    _axes = (4,)


class BatchNorm3d(_BatchNorm):
    """Batch normalisation of volumes, (N, C, D, H, W); see `BatchNorm2d`."""

    _axes = (5,)
