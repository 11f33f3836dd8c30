"""ONNX Runtime: a model of one ConvTranspose."""

from __future__ import annotations

from typing import Any

from fastdeconv.bench.contenders.base import Compute, Contender
from fastdeconv.bench.operands import Array, Operands, TimedPass

_OPSET, _IR_VERSION = 17, 9  # old enough for every release that has these kernels


class OnnxRuntime(Contender):
    """ONNX Runtime's CPU provider; the weight is a constant of the model, which it may pack when it loads it."""

    name = "onnxruntime"
    modules = ("onnxruntime", "onnx")
    install = "onnxruntime onnx"
    conditions = "channels first; weight constant in the model; intra_op_num_threads, spinning off"
    passes = ("forward",)

    def __init__(self, threads: int) -> None:
        import onnx
        import onnxruntime

        self._onnx, self._runtime = onnx, onnxruntime
        self._threads = threads

    def compute(self, operands: Operands, pass_: TimedPass) -> Compute:
        """Return a function that computes the pass."""
        onnx, p = self._onnx, operands.problem
        element = onnx.helper.np_dtype_to_tensor_dtype(operands.x.dtype)
        node = onnx.helper.make_node(
            "ConvTranspose", ["x", "w"], ["y"], kernel_shape=p.kernel_size, strides=p.stride, pads=p.padding * 2,
            output_padding=p.output_padding, dilations=p.dilation, group=p.groups,
        )  # fmt: skip
        graph = onnx.helper.make_graph(
            [node],
            "layer",
            [onnx.helper.make_tensor_value_info("x", element, p.input_shape)],
            [onnx.helper.make_tensor_value_info("y", element, p.output_shape)],
            [onnx.numpy_helper.from_array(operands.w, "w")],
        )
        opset = [onnx.helper.make_opsetid("", _OPSET)]
        model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=_IR_VERSION)
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4  # what it lacks, it also raises
        session = self._runtime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        feed = {"x": operands.x}
        return lambda: session.run(None, feed)[0]

    def arrays(self, value: Any, operands: Operands, pass_: TimedPass) -> tuple[Array, ...]:
        """Return the result as it is."""
        return (value,)
