"""ONNX Runtime as a second independent oracle of the forward pass. Skipped where it is not installed."""

import numpy as np
import pytest
from cases import EDGE_CASES, floats, parameters

import fastdeconv as fd

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def onnxruntime_result(p, x, w, bias):
    """Run a model of one ConvTranspose node."""
    tensor = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node(
        "ConvTranspose", ["x", "w", "b"], ["y"], strides=p.stride, dilations=p.dilation, group=p.groups,
        pads=p.padding + p.padding, output_padding=p.output_padding,
    )  # fmt: skip
    float32 = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [node], "layer", [tensor(name, float32, a.shape) for name, a in (("x", x), ("w", w), ("b", bias))],
        [tensor("y", float32, p.output_shape)],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x, "w": w, "b": bias})[0]


# It reads output_padding only below the stride.
SERVED = {
    name: p
    for name, p in EDGE_CASES.items()
    if p.batched and all(op < s for op, s in zip(p.output_padding, p.stride)) and p.flops < 3_000_000
}


@pytest.mark.parametrize("p", SERVED.values(), ids=SERVED)
def test_forward(p):
    x, w = floats(p, "forward")
    bias = np.random.default_rng(1).standard_normal(p.out_channels).astype("float32")
    want = onnxruntime_result(p, x, w, bias)
    got = getattr(fd, f"conv_transpose{p.ndim}d")(x, w, bias, **parameters(p))
    tolerance = 64 * np.finfo("float32").eps * np.sqrt(p.accumulation_length("forward"))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=tolerance, err_msg=str(p))
