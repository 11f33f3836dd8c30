"""TensorFlow: tf.nn's transposed convolutions, and the operators that its gradients call."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from fastdeconv.bench.contenders.base import Compute, Contender, UnsupportedError
from fastdeconv.bench.operands import LEARNING_RATE, Array, Operands, TimedPass
from fastdeconv.problem import Problem


class TensorFlow(Contender):
    """TensorFlow's eager operators on the CPU, channels last, the only layout it has there."""

    name = "tensorflow"
    modules = ("tensorflow",)
    install = "tensorflow-cpu"
    conditions = "channels last; eager operators; intra_op threads, one inter_op thread"

    def __init__(self, threads: int) -> None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # what it lacks, it also raises
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        self._tf = tf

    def compute(self, operands: Operands, pass_: TimedPass) -> Compute:
        """Return a function that computes the pass."""
        tf, p = self._tf, operands.problem
        if pass_ != "input_grad" and p.ndim < 3:
            if max(p.dilation) > 1:
                raise UnsupportedError("no dilation on the CPU, save in the input gradient")
            if p.groups > 1 and not _is_depthwise(p):
                raise UnsupportedError("no groups on the CPU, save depthwise and in the input gradient")
            if p.groups > 1 and len({*_lead(p), *p.stride}) > 1:
                raise UnsupportedError("no depthwise strides that differ between axes, save in the input gradient")
        forward, input_grad, weight_grad = _operators(tf, p)
        x, gy = (tf.constant(_channels_last(a, p.ndim)) for a in (operands.x, operands.gy))
        w = tf.constant(_kernel(operands.w, p))
        if pass_ == "forward":
            return lambda: forward(x, w, gy.shape)
        if pass_ == "input_grad":
            return lambda: input_grad(gy, w)
        if pass_ == "weight_grad":
            return lambda: weight_grad(gy, x, w.shape)
        rate = tf.constant(LEARNING_RATE, w.dtype)

        def step() -> Any:
            y, gx = forward(x, w, gy.shape), input_grad(gy, w)
            return y, gx, w - rate * weight_grad(gy, x, w.shape)

        return step

    def arrays(self, value: Any, operands: Operands, pass_: TimedPass) -> tuple[Array, ...]:
        """Return the result with channels first, the weight as it was."""
        p = operands.problem
        shapes = {"forward": p.output_shape, "input_grad": p.input_shape, "weight_grad": p.weight_shape}
        if pass_ != "step":
            return (_restored(value.numpy(), shapes[pass_], pass_ == "weight_grad", p),)
        return tuple(
            _restored(part.numpy(), shape, name == "weight_grad", p)
            for part, (name, shape) in zip(value, shapes.items())
        )


def _operators(tf: Any, p: Problem) -> tuple[Any, Any, Any]:
    """Return forward, input gradient and weight gradient for the problem's number of axes and its groups."""
    if any(extra >= s for extra, s in zip(p.output_padding, p.stride)):
        raise UnsupportedError("output_padding of a stride or more has no such output_shape")
    if p.ndim == 3:
        return _volumes(tf, p)
    lead = _lead(p)
    strides = [1, *lead, *p.stride, 1]
    dilations = [1, *lead, *p.dilation, 1]
    pairs = [[0, 0], *([0, 0] for _ in lead), *([q, q] for q in p.padding), [0, 0]]
    raw = {
        "strides": strides,
        "padding": "EXPLICIT",
        "explicit_paddings": [q for pair in pairs for q in pair],
        "dilations": dilations,
    }
    if _is_depthwise(p):
        ops = tf.raw_ops
        return (
            lambda x, w, shape: ops.DepthwiseConv2dNativeBackpropInput(
                input_sizes=shape, filter=w, out_backprop=x, **raw
            ),
            lambda gy, w: ops.DepthwiseConv2dNative(input=gy, filter=w, **raw),
            lambda gy, x, shape: ops.DepthwiseConv2dNativeBackpropFilter(
                input=gy, filter_sizes=shape, out_backprop=x, **raw
            ),
        )
    return (
        lambda x, w, shape: tf.nn.conv2d_transpose(x, w, shape, strides, pairs, dilations=dilations),
        lambda gy, w: tf.nn.conv2d(gy, w, strides, pairs, dilations=dilations),
        lambda gy, x, shape: tf.raw_ops.Conv2DBackpropFilter(input=gy, filter_sizes=shape, out_backprop=x, **raw),
    )


def _volumes(tf: Any, p: Problem) -> tuple[Any, Any, Any]:
    strides, dilations = [1, *p.stride, 1], [1, *p.dilation, 1]
    padding = _named_padding(p)
    return (
        lambda x, w, shape: tf.nn.conv3d_transpose(x, w, shape, strides, padding, dilations=dilations),
        lambda gy, w: tf.nn.conv3d(gy, w, strides, padding, dilations=dilations),
        lambda gy, x, shape: tf.raw_ops.Conv3DBackpropFilterV2(
            input=gy, filter_sizes=shape, out_backprop=x, strides=strides, padding=padding, dilations=dilations
        ),
    )


def _named_padding(p: Problem) -> str:
    """Return the name that TensorFlow has for the padding, as its operators on volumes take no numbers."""
    if not any(p.padding) and not any(p.output_padding):
        return "VALID"
    same = all(
        q == max((i - 1) * s + d * (k - 1) + 1 - o, 0) // 2 and -(-o // s) == i
        for q, i, s, d, k, o in zip(p.padding, p.input_size, p.stride, p.dilation, p.kernel_size, p.output_size)
    )
    if not same:
        raise UnsupportedError("operators on volumes have the paddings SAME and VALID only")
    return "SAME"


def _lead(p: Problem) -> tuple[int, ...]:
    """Return the stride of the axis that makes one dimension an image of one row, as in tf.nn.conv1d_transpose."""
    return (1,) * (2 - p.ndim)


def _is_depthwise(p: Problem) -> bool:
    return p.groups > 1 and p.groups == p.in_channels == p.out_channels


def _channels_last(array: Array, ndim: int) -> Array:
    array = np.moveaxis(array, 1, -1)
    return array[:, None] if ndim == 1 else array


def _kernel(w: Array, p: Problem) -> Array:
    """(C_in, C_out / g, *k) → (*k, C_out / g, C_in); depthwise (*k, C, 1)."""
    w = np.moveaxis(w, (0, 1), (-2, -1) if _is_depthwise(p) else (-1, -2))
    return w[None] if p.ndim == 1 else w


def _restored(array: Array, shape: tuple[int, ...], is_weight: bool, p: Problem) -> Array:
    if is_weight:
        return np.moveaxis(array, (-2, -1) if _is_depthwise(p) else (-1, -2), (0, 1)).reshape(shape)
    return np.moveaxis(array, -1, 1).reshape(shape)
