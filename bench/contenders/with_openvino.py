"""OpenVINO: a model of one ConvolutionBackpropData."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdeconv.bench.contenders.base import Compute, Contender, UnsupportedError
from fastdeconv.bench.operands import Array, Operands, TimedPass


class OpenVino(Contender):
    """OpenVINO's CPU plugin; the weight is a constant of the model, which it may pack when it compiles it."""

    name = "openvino"
    modules = ("openvino",)
    install = "openvino"
    conditions = "channels first; weight constant in the model; inference precision f32, latency hint, one stream"
    passes = ("forward",)

    def __init__(self, threads: int) -> None:
        import openvino

        self._openvino = openvino
        self._core = openvino.Core()
        self._options = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
        }

    def compute(self, operands: Operands, pass_: TimedPass) -> Compute:
        """Return a function that computes the pass."""
        if operands.problem.dtype != "float32":
            raise UnsupportedError("the CPU plugin computes float64 in float32")
        openvino = self._openvino
        model = self._model(operands)
        request = self._core.compile_model(model, "CPU", self._options).create_infer_request()
        request.set_input_tensor(openvino.Tensor(operands.x, shared_memory=True))
        shape = operands.problem.output_shape

        def compute() -> Any:
            # A tensor of its own for every call: the request would otherwise write into the same one again.
            y = np.empty(shape, np.float32)
            request.set_output_tensor(openvino.Tensor(y, shared_memory=True))
            request.infer()
            return y

        return compute

    def _model(self, operands: Operands) -> Any:
        openvino, p = self._openvino, operands.problem
        ops = openvino.opset13
        x = ops.parameter(p.input_shape, np.float32, name="x")
        parameters = {
            "strides": list(p.stride), "pads_begin": list(p.padding), "pads_end": list(p.padding),
            "dilations": list(p.dilation), "output_padding": list(p.output_padding),
        }  # fmt: skip
        if p.groups == 1:
            y = ops.convolution_backprop_data(x, ops.constant(operands.w), **parameters)
        else:
            w = operands.w.reshape(p.groups, p.in_channels // p.groups, *operands.w.shape[1:])
            y = ops.group_convolution_backprop_data(x, ops.constant(w), **parameters)
        return openvino.Model([y], [x], "layer")

    def arrays(self, value: Any, operands: Operands, pass_: TimedPass) -> tuple[Array, ...]:
        """Return the result as it is."""
        return (value,)
