"""Gradients of transposed convolution, named as torch.nn.grad names those of convolution."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.arrays import dtype_of_both, namespace, operand, result, returned, same_dtype
from fastdeconv.calls import Shape, check_grad_output, plan_call, run, with_channels
from fastdeconv.devices import resolve
from fastdeconv.layouts import channels_last, new_channels_last, to_vector
from fastdeconv.problem import IntOrTuple, as_shape

Array = NDArray[Any]
Parameters = tuple[Any, Any, Any, Any, Any]  # stride, padding, output_padding, groups, dilation


def input_grad(
    ndim: int, x_shape: Shape, w: Array, gy: Array, parameters: Parameters, out: Any, device: Any, algorithm: Any
) -> Array:
    """Compute the gradient with respect to an input of shape `x_shape`; see `conv_transpose2d_input`."""
    dtype = dtype_of_both(w, gy) or same_dtype(weight=w, grad_output=gy)
    full_shape, w_full_shape, bare = with_channels(ndim, x_shape, w.shape)
    last = channels_last(ndim, gy, out)
    p = plan_call("input_grad", ndim, full_shape, w_full_shape, dtype, *parameters, None, device, algorithm, last)
    check_grad_output(p, gy, ndim, bare)
    if last and out is None:
        out = new_channels_last(ndim, x_shape, gy)
    gx = result(out, x_shape, dtype, grad_output=gy, weight=w)
    return run(p, gy, w, gx) if gx.size else gx


def weight_grad(
    ndim: int, x: Array, w_shape: Shape, gy: Array, parameters: Parameters, out: Any, device: Any, algorithm: Any
) -> Array:
    """Compute the gradient with respect to a weight of shape `w_shape`; see `conv_transpose2d_weight`."""
    dtype = dtype_of_both(x, gy) or same_dtype(input=x, grad_output=gy)
    x_full_shape, full_shape, bare = with_channels(ndim, x.shape, w_shape)
    last = channels_last(ndim, x, gy)
    p = plan_call("weight_grad", ndim, x_full_shape, full_shape, dtype, *parameters, None, device, algorithm, last)
    check_grad_output(p, gy, ndim, bare)
    gw = result(out, w_shape, dtype, input=x, grad_output=gy)
    if x.size:
        return run(p, x, gy, gw)
    gw[...] = 0
    return gw


def bias_grad(ndim: int, gy: Array) -> Array:
    """Compute the gradient with respect to the bias; see `conv_transpose2d_bias`."""
    if gy.ndim not in (ndim, ndim + 1, ndim + 2):
        raise ValueError(f"grad_output must have {ndim + 1} or {ndim + 2} axes (N, C_out, …); got shape {gy.shape}")
    gy = gy.reshape((1,) * (ndim + 2 - gy.ndim) + gy.shape)
    if not isinstance(gy, np.ndarray) and gy.size and gy.dtype.kind != "c":
        return _device_bias_grad(ndim, gy)
    wide = gy.dtype
    if wide.kind in "iu":
        wide = np.dtype("int64")
    elif wide.itemsize < 4:
        wide = np.dtype("float32")
    # NumPy sums pairwise along contiguous memory only: each plane first, then the planes of each channel.
    if isinstance(gy, np.ndarray):
        gy = to_vector(gy).reshape(gy.shape)
    with np.errstate(all="ignore"):
        planes = gy.reshape(*gy.shape[:2], math.prod(gy.shape[2:])).sum(axis=2, dtype=wide)
        total: Array = namespace(gy).ascontiguousarray(planes.T).sum(axis=1, dtype=wide).astype(gy.dtype)
    return total


def _device_bias_grad(ndim: int, gy: Array) -> Array:
    from fastdeconv.cuda.run import bias_gradient

    wide = gy.astype("int64") if gy.dtype.kind in "iu" else gy
    total: Array = bias_gradient(wide, ndim).astype(gy.dtype, copy=False)
    return total


_PARAMETERS = """\
    stride, padding, output_padding, groups, dilation
        As in the forward call.
    out : ndarray, optional
        Takes the result: of its shape and dtype, overlapping no input.
    device, algorithm
        As in the forward call."""

_INPUT_DOC = """Return the gradient of ``Σ grad_output · conv_transpose{n}d(input, weight, …)`` with respect to input.

    Parameters
    ----------
    input_size : tuple of int
        Shape of the input, channels (and batch) included.
    weight, grad_output : ndarray
        Of one dtype.
{parameters}

    Returns
    -------
    ndarray, shape input_size
        With channels last in memory if grad_output has them so. For complex arrays in the convention of torch and JAX.

    Raises
    ------
    TypeError, ValueError
        The message names the argument, what came and what would do.
    """

_WEIGHT_DOC = """Return the gradient of ``Σ grad_output · conv_transpose{n}d(input, weight, …)`` with respect to weight.

    Parameters
    ----------
    input : ndarray
    weight_size : tuple of int
        Shape of the weight, (C_in, C_out / groups, …).
    grad_output : ndarray
        Of input's dtype.
{parameters}

    Returns
    -------
    ndarray, shape weight_size
        For complex arrays in the convention of torch and JAX.

    Raises
    ------
    TypeError, ValueError
        The message names the argument, what came and what would do.
    """

_BIAS_DOC = """Return the gradient of ``Σ grad_output · conv_transpose{n}d(…)`` with respect to bias.

    Parameters
    ----------
    grad_output : ndarray
        With or without a batch axis.

    Returns
    -------
    ndarray, shape (C_out,)

    Raises
    ------
    TypeError, ValueError
        The message names the argument, what came and what would do.
    """


def _input(ndim: int) -> Callable[..., Array]:
    def conv_transpose_input(
        input_size: tuple[int, ...],
        weight: Array,
        grad_output: Array,
        *,
        stride: IntOrTuple = 1,
        padding: IntOrTuple = 0,
        output_padding: IntOrTuple = 0,
        groups: int = 1,
        dilation: IntOrTuple = 1,
        out: Array | None = None,
        device: str | None = None,
        algorithm: str | None = None,
    ) -> Array:
        w, gy = operand("weight", weight), operand("grad_output", grad_output)
        parameters = (stride, padding, output_padding, groups, dilation)
        place, size = resolve(device, gy), as_shape("input_size", input_size)
        gx = input_grad(ndim, size, w, gy, parameters, out, place, algorithm)
        return returned(gx, grad_output) if out is None else out

    return _named(conv_transpose_input, f"conv_transpose{ndim}d_input", _INPUT_DOC, ndim)


def _weight(ndim: int) -> Callable[..., Array]:
    def conv_transpose_weight(
        input: Array,
        weight_size: tuple[int, ...],
        grad_output: Array,
        *,
        stride: IntOrTuple = 1,
        padding: IntOrTuple = 0,
        output_padding: IntOrTuple = 0,
        groups: int = 1,
        dilation: IntOrTuple = 1,
        out: Array | None = None,
        device: str | None = None,
        algorithm: str | None = None,
    ) -> Array:
        x, gy = operand("input", input), operand("grad_output", grad_output)
        parameters = (stride, padding, output_padding, groups, dilation)
        place, size = resolve(device, gy), as_shape("weight_size", weight_size)
        gw = weight_grad(ndim, x, size, gy, parameters, out, place, algorithm)
        return returned(gw, grad_output) if out is None else out

    return _named(conv_transpose_weight, f"conv_transpose{ndim}d_weight", _WEIGHT_DOC, ndim)


def _bias(ndim: int) -> Callable[..., Array]:
    def conv_transpose_bias(grad_output: Array) -> Array:
        return returned(bias_grad(ndim, operand("grad_output", grad_output)), grad_output)  # type: ignore[no-any-return]

    return _named(conv_transpose_bias, f"conv_transpose{ndim}d_bias", _BIAS_DOC, ndim)


def _named(function: Callable[..., Array], name: str, doc: str, ndim: int) -> Callable[..., Array]:
    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc.format(n=ndim, parameters=_PARAMETERS)
    return function


conv_transpose1d_input, conv_transpose2d_input, conv_transpose3d_input = _input(1), _input(2), _input(3)
conv_transpose1d_weight, conv_transpose2d_weight, conv_transpose3d_weight = _weight(1), _weight(2), _weight(3)
conv_transpose1d_bias, conv_transpose2d_bias, conv_transpose3d_bias = _bias(1), _bias(2), _bias(3)
