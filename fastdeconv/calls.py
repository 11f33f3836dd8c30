"""What every public call shares: from arrays and arguments to a plan, and from a plan to a result."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv import memory
from fastdeconv.arrays import operand, same_dtype
from fastdeconv.dispatch import Plan, choose
from fastdeconv.kernels.geometry import Run
from fastdeconv.layouts import from_vector, pixels_first, to_vector
from fastdeconv.problem import Pass, Problem, output_padding_for, shown
from fastdeconv.tuning import Conditions, conditions

Array = NDArray[Any]
Shape = tuple[int, ...]


def plan_call(
    pass_: Pass,
    ndim: int,
    input_shape: Shape,
    weight_shape: Shape,
    dtype: str,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: Any,
    dilation: Any,
    output_size: Any,
    device: str,
    algorithm: Any,
    channels_last: bool = False,
) -> Plan:
    """Return the plan of a call on a device that `resolve` found, from a cache if the same arguments came before."""
    if not (algorithm is None or isinstance(algorithm, str)):
        raise TypeError(f"algorithm must be a kernel's name or None; got {shown(algorithm)}")
    arguments = (stride, padding, output_padding, groups, dilation, output_size)
    make = _cached_plan if _are_ints(arguments) else _make_plan
    return make(
        pass_, ndim, input_shape, weight_shape, dtype, arguments, device, algorithm, channels_last, conditions()
    )


def _are_ints(arguments: tuple[Any, ...]) -> bool:
    """Tell whether arguments are ints, tuples of ints and None alone, so that equal ones have one plan.

    1, 1.0 and True are one key to a dictionary, but only the int is a legal argument.
    """
    # Plain loops: with a small call's arguments they take a third of the time of `all` over generators.
    for value in arguments:
        kind = type(value)
        if kind is tuple:
            for each in value:
                if type(each) is not int:
                    return False
        elif kind is not int and value is not None:
            return False
    return True


def _make_plan(
    pass_: Pass,
    ndim: int,
    input_shape: Shape,
    weight_shape: Shape,
    dtype: str,
    arguments: tuple[Any, ...],
    device: str,
    algorithm: str | None,
    channels_last: bool,
    under: Conditions,
) -> Plan:
    stride, padding, output_padding, groups, dilation, output_size = arguments
    problem = Problem.from_shapes(
        input_shape,
        weight_shape,
        ndim=ndim,
        dtype=dtype,
        stride=stride,
        padding=padding,
        output_padding=output_padding,
        groups=groups,
        dilation=dilation,
        output_size=output_size,
        channels_last=channels_last,
    )
    return choose(problem, pass_, device, algorithm, under)


_cached_plan = lru_cache(maxsize=4096)(_make_plan)


def with_channels(ndim: int, activation: Shape, weight: Shape) -> tuple[Shape, Shape, bool]:
    """Read a bare image with a bare kernel, neither with a channel axis, as one image with one channel.

    The last value tells whether they are bare.
    """
    if len(activation) == len(weight) == ndim:
        return (1, *activation), (1, 1, *weight), True
    return activation, weight, False


def run(p: Plan, a: Array, b: Array, out: Array, *bias: Array | None) -> Array:
    """Run a plan on two arrays of any strides (and a bias, in the forward pass), and return `out`."""
    if p.device != "cpu":
        p.run(a, b, *bias, out)
    elif p.problem.channels_last:
        ndim, gradient = p.problem.ndim, p.pass_ == "weight_grad"
        operands = vector(a, ndim, True), vector(b, ndim, gradient), *bias
        if gradient:
            into(p.run, out, *operands)
        else:
            p.run(*operands, vector(out, ndim, True))
    elif out.flags.carray:  # as `into` does; its call is a twentieth of the time that a small problem takes
        p.run(to_vector(a), to_vector(b), *bias, np.asarray(out).ravel())
    else:
        into(p.run, out, to_vector(a), to_vector(b), *bias)
    return out


def vector(a: Array, ndim: int, channels_last: bool) -> Array:
    """Return an array's elements in the order of kernels, as a view if they lie so."""
    return np.asarray(pixels_first(ndim, a)).ravel() if channels_last else to_vector(a)


def into(run: Run, out: Array, *vectors: Array | None) -> Array:
    """Run a kernel on its inputs as vectors, with the result in an array of any strides, and return that."""
    if out.flags.carray:
        run(*vectors, np.asarray(out).ravel())
    else:
        packed = memory.empty((out.size,), out.dtype)
        run(*vectors, packed)
        from_vector(packed, out)
    return out


def check_grad_output(p: Plan, grad_output: Array, ndim: int, bare: bool) -> None:
    """Refuse a gradient whose shape is not the output's, and tell the output_padding that would give it.

    Raises
    ------
    ValueError
    """
    problem = p.problem
    expected = problem.output_shape[1:] if bare else problem.output_shape
    if grad_output.shape == expected:
        return
    message = f"grad_output must have the output's shape {expected}; got {grad_output.shape}"
    if len(grad_output.shape) == len(expected) and grad_output.shape[:-ndim] == expected[:-ndim]:
        try:
            extra = output_padding_for(
                grad_output.shape[-ndim:],
                problem.input_size,
                problem.kernel_size,
                problem.stride,
                problem.padding,
                problem.dilation,
            )
        except ValueError as error:
            message += f"; {error}".replace("output_size must", "its spatial size must")
        else:
            message += f", which output_padding={extra} gives"
    raise ValueError(message)


def check_bias(bias: Any, channels: int, like: Array) -> Array | None:
    """Return the bias as a contiguous array, if it has one value for each output channel and the dtype of `like`.

    Raises
    ------
    TypeError, ValueError
        The message names the bias, what came and what would do.
    """
    if bias is None:
        return None
    b = operand("bias", bias)
    same_dtype(input=like, bias=b)
    if b.shape != (channels,):
        raise ValueError(f"bias must have shape ({channels},), one value for each output channel; got {b.shape}")
    return b.ravel()
