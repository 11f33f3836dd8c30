"""Transposed convolution of NumPy arrays, with torch's signatures, and its vector-Jacobian products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from fastdeconv import grad
from fastdeconv.arrays import new, operand, operands, result, returned
from fastdeconv.calls import check_bias, plan_call, run, with_channels
from fastdeconv.devices import resolve
from fastdeconv.layouts import channels_last, new_channels_last
from fastdeconv.problem import AXIS_NAMES, IntOrTuple

Array = NDArray[Any]

_PARAMETERS = """\
    stride, padding, output_padding, dilation : int or tuple of int
        One value for all spatial axes or one for each. ``output_padding < max(stride, dilation)``.
    groups : int
        Divides both channel counts; each group of input channels sees its own group of output channels."""

_FORWARD_DOC = """Compute the {n}-D transposed convolution: the gradient of a convolution with respect to its input.

    ``y[n, co, o] = bias[co] + Σ x[n, ci, i] · w[ci, co, k]`` over all ``i, k`` with
    ``o = stride·i + dilation·k - padding``; the semantics and the argument order of
    ``torch.nn.functional.conv_transpose{n}d``.

    Parameters
    ----------
    input : ndarray, shape (N, C_in, {axes}) or (C_in, {axes})
        NumPy's, CuPy's, or another array on a GPU that shares its memory through ``__cuda_array_interface__`` or
        DLPack; all arrays of a call are in one place. Float, complex or integer. With a bare `weight` also a bare
        ({axes}) signal: one signal with one channel.
    weight : ndarray, shape (C_in, C_out / groups, {kernel})
        Of input's dtype.
    bias : ndarray, shape (C_out,), optional
        Of input's dtype.
{parameters}
    output_size : int or tuple of int, optional
        Spatial size of the output; chooses output_padding.
    out : ndarray, optional
        Takes the result: of its shape and dtype, overlapping no input.
    device : {{"cpu", "cuda", "cuda:N", "auto"}}, optional
        Where to compute on NumPy arrays; `fastdeconv.set_device` sets what None means. Arrays on a GPU are computed
        there, on the current stream.
    algorithm : str, optional
        Force an implementation by name or family prefix, "direct" for instance; see `fastdeconv.explain`.

    Returns
    -------
    ndarray, shape (N, C_out, {out_axes}) or (C_out, {out_axes})
        Of input's dtype and kind, in its place, with channels last in memory if input has them so. On each axis
        ``(i - 1)·stride - 2·padding + dilation·(k - 1) + output_padding + 1``.

    Raises
    ------
    TypeError, ValueError
        The message names the argument, what came and what would do.
    RuntimeError
        A GPU is asked for and missing, or what it needs is not installed.

    References
    ----------
    Dumoulin and Visin, A guide to convolution arithmetic for deep learning, 2016, section 4.
    """

_VJP_DOC = """Return the gradients of ``Σ grad_output · conv_transpose{n}d(input, weight, bias, …)``.

    Parameters
    ----------
    grad_output : ndarray
        Of the output's shape and of input's dtype.
    input, weight, bias : ndarray
        As in `conv_transpose{n}d`; bias is used for its presence and shape only.
{parameters}
    device, algorithm
        As in `conv_transpose{n}d`; the same algorithm for both gradients.

    Returns
    -------
    grad_input, grad_weight : ndarray
        Of the shapes of input and weight.
    grad_bias : ndarray, shape (C_out,), or None
        None if bias is None.

    Raises
    ------
    TypeError, ValueError
        The message names the argument, what came and what would do.

    Notes
    -----
    For complex arrays these are the gradients of a real loss in the convention of torch and JAX.
    """


def _forward(ndim: int) -> Callable[..., Array]:
    def conv_transpose(
        input: Array,
        weight: Array,
        bias: Array | None = None,
        stride: IntOrTuple = 1,
        padding: IntOrTuple = 0,
        output_padding: IntOrTuple = 0,
        groups: int = 1,
        dilation: IntOrTuple = 1,
        *,
        output_size: IntOrTuple | None = None,
        out: Array | None = None,
        device: str | None = None,
        algorithm: str | None = None,
    ) -> Array:
        x, w, dtype = operands("input", input, "weight", weight)
        x_shape, w_shape, bare = with_channels(ndim, x.shape, w.shape)
        last = channels_last(ndim, x, out)
        p = plan_call(
            "forward", ndim, x_shape, w_shape, dtype,
            stride, padding, output_padding, groups, dilation, output_size, resolve(device, x), algorithm, last,
        )  # fmt: skip
        b = check_bias(bias, p.problem.out_channels, x)
        y_shape = p.problem.output_shape[1:] if bare else p.problem.output_shape
        if out is not None:
            y = result(out, y_shape, dtype, input=x, weight=w, bias=b)
        else:
            y = new_channels_last(ndim, y_shape, x) if last else new(y_shape, x)
        if y.size:
            run(p, x, w, y, b)
        if out is not None:
            return out
        return y if x is input else returned(y, input)

    return _named(conv_transpose, f"conv_transpose{ndim}d", _FORWARD_DOC, ndim)


def _vjp(ndim: int) -> Callable[..., tuple[Array, Array, Array | None]]:
    def conv_transpose_vjp(
        grad_output: Array,
        input: Array,
        weight: Array,
        bias: Array | None = None,
        stride: IntOrTuple = 1,
        padding: IntOrTuple = 0,
        output_padding: IntOrTuple = 0,
        groups: int = 1,
        dilation: IntOrTuple = 1,
        *,
        device: str | None = None,
        algorithm: str | None = None,
    ) -> tuple[Array, Array, Array | None]:
        gy, x, w = operand("grad_output", grad_output), operand("input", input), operand("weight", weight)
        parameters = (stride, padding, output_padding, groups, dilation)
        place = resolve(device, gy)
        gx = grad.input_grad(ndim, x.shape, w, gy, parameters, None, place, algorithm)
        # gy's shape is known to be right only now.
        b = check_bias(bias, 1 if gy.ndim == ndim else gy.shape[-ndim - 1], x)
        gw = grad.weight_grad(ndim, x, w.shape, gy, parameters, None, place, algorithm)
        gb = None if b is None else returned(grad.bias_grad(ndim, gy), grad_output)
        return returned(gx, grad_output), returned(gw, grad_output), gb

    return _named(conv_transpose_vjp, f"conv_transpose{ndim}d_vjp", _VJP_DOC, ndim)


def _named(function: Callable[..., Any], name: str, doc: str, ndim: int) -> Callable[..., Any]:
    axes = [axis[0].upper() for axis in AXIS_NAMES[ndim]]
    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc.format(
        n=ndim,
        axes=", ".join(axes),
        out_axes=", ".join(f"{a}_out" for a in axes),
        kernel=", ".join(f"k{a.lower()}" for a in axes),
        parameters=_PARAMETERS,
    )
    return function


conv_transpose1d, conv_transpose2d, conv_transpose3d = _forward(1), _forward(2), _forward(3)
conv_transpose1d_vjp, conv_transpose2d_vjp, conv_transpose3d_vjp = _vjp(1), _vjp(2), _vjp(3)
