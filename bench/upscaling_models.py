"""A network in PyTorch and in ONNX Runtime, on a plane, on an image, and as a program from file to file.

Nothing of fastdeconv is imported: run as a program, this file takes no longer than the library needs.
"""

from __future__ import annotations

import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Plane = NDArray[np.float32]
Rgb = NDArray[np.uint8]

_OPSET, _IR_VERSION = 17, 9  # old enough for every release that has these operators


class Sizes(NamedTuple):
    """A network's layers, and how luminance comes from colours.

    Attributes
    ----------
    widths : list of (C_in, C_out, kernel size)
        Of the convolutions before the last, transposed one.
    last : (C_in, kernel size, padding)
    scale, radius : int
        Of the image, and of the margin in pixels of the input.
    weights : (red, green, blue)
    black, full : float
        Luminance of black, and by how much white is above it.
    compression : int
        zlib's level of the files.
    """

    widths: list[list[int]]
    last: list[int]
    scale: int
    radius: int
    weights: list[float]
    black: float
    full: float
    compression: int


class Model(ABC):
    """A network with given weights in a library."""

    @abstractmethod
    def __init__(self, state: Mapping[str, Array], sizes: Sizes, threads: int) -> None: ...

    @abstractmethod
    def body(self, padded: Plane) -> Plane:
        """Return what the network adds, from luminance with its margin."""

    @abstractmethod
    def image(self, rgb: Rgb) -> Rgb:
        """Return an image of shape (H, W, 3) enlarged."""


class Torch(Model):
    """PyTorch in its default layout: tensors from the first step to the last but for the mirrored border."""

    channels_last = False

    def __init__(self, state: Mapping[str, Array], sizes: Sizes, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._torch, self._sizes = torch, sizes
        layers: list[Any] = []
        for c_in, c_out, size in sizes.widths:
            layers += [torch.nn.Conv2d(c_in, c_out, size), torch.nn.PReLU(c_out)]
        c_in, size, padding = sizes.last
        layers.append(torch.nn.ConvTranspose2d(c_in, 1, size, stride=sizes.scale, padding=padding))
        self._model = torch.nn.Sequential(*layers).eval()
        self._model.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in state.items()})
        if self.channels_last:
            self._model = self._model.to(memory_format=torch.channels_last)
        self._weights = torch.tensor(sizes.weights)[:, None, None]

    def body(self, padded: Plane) -> Plane:
        """Return the network's result."""
        with self._torch.inference_mode():
            return self._apply(self._torch.from_numpy(padded)).numpy()  # type: ignore[no-any-return]

    def _apply(self, x: Any) -> Any:
        x = x[None, None]
        return self._model(x.contiguous(memory_format=self._torch.channels_last) if self.channels_last else x)[0, 0]

    def image(self, rgb: Rgb) -> Rgb:
        """Return the image enlarged."""
        torch, sizes = self._torch, self._sizes
        with torch.inference_mode():
            x = torch.from_numpy(rgb).permute(2, 0, 1).float().div_(255)
            luma = (x * self._weights).sum(0).add_(sizes.black)
            added = self._apply(torch.from_numpy(np.pad(luma.numpy(), sizes.radius, mode="symmetric")))
            # Antialiased, it interpolates with Keys' a = -1/2, as MATLAB does; there is nothing to filter here.
            large = torch.nn.functional.interpolate(
                x[None], scale_factor=sizes.scale, mode="bicubic", antialias=True
            )[0]  # fmt: skip
            large.add_(added, alpha=1 / sizes.full).mul_(255).round_().clamp_(0, 255)
            return large.permute(1, 2, 0).to(torch.uint8).contiguous().numpy()  # type: ignore[no-any-return]


class TorchChannelsLast(Torch):
    """The same in channels_last."""

    channels_last = True


class OnnxRuntime(Model):
    """ONNX Runtime for the network; Pillow and NumPy for colours."""

    def __init__(self, state: Mapping[str, Array], sizes: Sizes, threads: int) -> None:
        import onnxruntime

        self._sizes = sizes
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        model = _onnx_model(dict(state), sizes)
        self._session = onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])

    def body(self, padded: Plane) -> Plane:
        """Return the network's result."""
        return self._session.run(None, {"x": padded[None, None]})[0][0, 0]  # type: ignore[no-any-return]

    def image(self, rgb: Rgb) -> Rgb:
        """Return the image enlarged."""
        from PIL import Image

        sizes = self._sizes
        luma = rgb.astype(np.float32) @ (np.array(sizes.weights, np.float32) / np.float32(255)) + np.float32(
            sizes.black
        )
        added = self.body(np.pad(luma, sizes.radius, mode="symmetric"))
        size = sizes.scale * rgb.shape[1], sizes.scale * rgb.shape[0]
        large = np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC), np.float32)
        large += (added * np.float32(255 / sizes.full))[..., None]
        return np.clip(np.rint(large, out=large), 0, 255, out=large).astype(np.uint8)


def _onnx_model(state: dict[str, Array], sizes: Sizes) -> bytes:
    import onnx

    nodes, value = [], "x"
    count = 2 * len(sizes.widths) + 1
    for i in range(count):
        inputs, result = [value, f"{i}.weight"], f"y{i}"
        if i == count - 1:
            strides, pads = [sizes.scale] * 2, [sizes.last[2]] * 4
            node = onnx.helper.make_node("ConvTranspose", [*inputs, f"{i}.bias"], [result], strides=strides, pads=pads)
        elif i % 2:
            state[inputs[1]] = state[inputs[1]].reshape(-1, 1, 1)
            node = onnx.helper.make_node("PRelu", inputs, [result])
        else:
            node = onnx.helper.make_node("Conv", [*inputs, f"{i}.bias"], [result])
        nodes.append(node)
        value = result
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "network",
        [onnx.helper.make_tensor_value_info("x", kind, (1, 1, "height", "width"))],
        [onnx.helper.make_tensor_value_info(value, kind, (1, 1, "out_height", "out_width"))],
        [onnx.numpy_helper.from_array(array, name) for name, array in state.items()],
    )
    opset = [onnx.helper.make_opsetid("", _OPSET)]
    content: bytes = onnx.helper.make_model(graph, opset_imports=opset, ir_version=_IR_VERSION).SerializeToString()
    return content


MODELS: dict[str, type[Model]] = {"torch": Torch, "torch_cl": TorchChannelsLast, "onnxruntime": OnnxRuntime}


def main() -> None:
    """Enlarge a picture file: NAME SIZES THREADS MODEL IN OUT."""
    from PIL import Image
    from safetensors.numpy import load_file

    name, sizes, threads, weights, source, target = sys.argv[1:]
    parts = Sizes(**json.loads(sizes))
    model = MODELS[name](load_file(weights), parts, int(threads))
    with Image.open(source) as picture:
        result = model.image(np.array(picture.convert("RGB")))
    Image.fromarray(result).save(target, compress_level=parts.compression)


if __name__ == "__main__":
    main()
