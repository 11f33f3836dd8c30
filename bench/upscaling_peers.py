"""A network in other libraries, with the same weights, and what they need around it for an image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastdeconv.bench.contenders import one_line
from fastdeconv.imaging.colour import STUDIO_BLACK, STUDIO_RANGE, STUDIO_WEIGHTS
from fastdeconv.imaging.enhance import Restorer, Upscaler
from fastdeconv.imaging.inference import applied, body_chain
from fastdeconv.imaging.network import Degradation, Network

Array = NDArray[Any]
Image = NDArray[np.float32]

_OPSET, _IR_VERSION = 17, 9  # old enough for every release that has these operators


class Contender(ABC):
    """One library's way.

    Attributes
    ----------
    modules : tuple of str
        What must be installed.
    conditions : str
        What a reader of the figures should know.
    """

    name: ClassVar[str]
    modules: ClassVar[tuple[str, ...]] = ()
    conditions: ClassVar[str]

    @abstractmethod
    def __init__(self, network: Network, threads: int) -> None: ...

    @abstractmethod
    def body(self, padded: Image) -> Callable[[], Image]:
        """Return a function that computes what the network adds, from luminance with its margin."""

    @abstractmethod
    def image(self, rgb: NDArray[np.uint8]) -> Callable[[], NDArray[np.uint8]]:
        """Return a function that enlarges an image of shape (H, W, 3)."""

    def version(self) -> str:
        """Return the library's version."""
        from importlib.metadata import version

        return version(self.modules[0])


class Ours(Contender):
    """`Upscaler.transform`, or `Restorer.transform`."""

    name = "fastdeconv"
    conditions = "all layers in one kernel, row by row"

    def __init__(self, network: Network, threads: int) -> None:
        scale, degradation = network.description.scale, network.description.degradation
        self._enhancer = Restorer(degradation or Degradation()) if scale == 1 else Upscaler(scale)
        self._enhancer.network = network
        self._chain = body_chain(network)

    def body(self, padded: Image) -> Callable[[], Image]:
        """Return the network alone."""
        return lambda: applied(self._chain, padded)

    def image(self, rgb: NDArray[np.uint8]) -> Callable[[], NDArray[np.uint8]]:
        """Return the whole."""
        return lambda: self._enhancer.transform(rgb, channel_axis=-1)

    def version(self) -> str:
        """Return this package's version."""
        import fastdeconv

        return fastdeconv.__version__


class Torch(Contender):
    """PyTorch in its default layout; colours by its own bicubic interpolation."""

    name = "torch"
    modules = ("torch",)
    conditions = "channels first; inference_mode; bicubic by torch.nn.functional.interpolate"
    _channels_last = False

    def __init__(self, network: Network, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._torch = torch
        d = network.description
        self._scale, self._radius = d.scale, d.radius
        widths = [(1, d.features, d.feature_size), (d.features, d.shrunk, 1)]
        widths += [(d.shrunk, d.shrunk, d.map_size)] * d.maps + [(d.shrunk, d.features, 1)]
        layers: list[Any] = []
        for c_in, c_out, size in widths:
            layers += [torch.nn.Conv2d(c_in, c_out, size), torch.nn.PReLU(c_out)]
        padding = d.scale * (d.taps - 1)
        layers.append(torch.nn.ConvTranspose2d(d.features, 1, d.kernel_size, stride=d.scale, padding=padding))
        self._model = torch.nn.Sequential(*layers).eval()
        state = network.body.state_dict()
        self._model.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in state.items()})
        if self._channels_last:
            self._model = self._model.to(memory_format=torch.channels_last)

    def _apply(self, x: Any) -> Any:
        x = x[None, None]
        return self._model(x.contiguous(memory_format=self._torch.channels_last) if self._channels_last else x)[0, 0]

    def body(self, padded: Image) -> Callable[[], Image]:
        """Return the network alone."""
        x = self._torch.from_numpy(padded)

        def run() -> Image:
            with self._torch.inference_mode():
                return self._apply(x).numpy()  # type: ignore[no-any-return]

        return run

    def image(self, rgb: NDArray[np.uint8]) -> Callable[[], NDArray[np.uint8]]:
        """Return the whole, in tensors from the first step to the last but for the mirrored border, which it lacks."""
        torch = self._torch
        weights = torch.tensor(STUDIO_WEIGHTS)[:, None, None]

        def run() -> NDArray[np.uint8]:
            with torch.inference_mode():
                x = torch.from_numpy(rgb).permute(2, 0, 1).float().div_(255)
                luma = (x * weights).sum(0).add_(STUDIO_BLACK)
                added = self._apply(torch.from_numpy(np.pad(luma.numpy(), self._radius, mode="symmetric")))
                # Antialiased, it interpolates with Keys' a = -1/2, as MATLAB does; there is nothing to filter here.
                large = torch.nn.functional.interpolate(
                    x[None], scale_factor=self._scale, mode="bicubic", antialias=True
                )[0]
                large.add_(added, alpha=1 / STUDIO_RANGE).mul_(255).round_().clamp_(0, 255)
                return large.permute(1, 2, 0).to(torch.uint8).contiguous().numpy()  # type: ignore[no-any-return]

        return run


class TorchChannelsLast(Torch):
    """The same in channels_last."""

    name = "torch_cl"
    conditions = "channels_last; otherwise as torch"
    _channels_last = True


class OnnxRuntime(Contender):
    """ONNX Runtime for the network; Pillow and NumPy for colours."""

    name = "onnxruntime"
    modules = ("onnxruntime", "onnx", "PIL")
    conditions = "CPU provider, weights constant in the model; bicubic by Pillow"

    def __init__(self, network: Network, threads: int) -> None:
        import onnx
        import onnxruntime

        d = network.description
        self._scale, self._radius = d.scale, d.radius
        state = {name: np.array(array) for name, array in network.body.state_dict().items()}
        nodes, value = [], "x"
        count = len(network.body)
        for i in range(count):
            inputs, result = [value, f"{i}.weight"], f"y{i}"
            if i == count - 1:
                node = onnx.helper.make_node(
                    "ConvTranspose", [*inputs, f"{i}.bias"], [result], strides=[d.scale] * 2,
                    pads=[d.scale * (d.taps - 1)] * 4,
                )  # fmt: skip
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
        model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=_IR_VERSION)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])

    def body(self, padded: Image) -> Callable[[], Image]:
        """Return the network alone."""
        return lambda: self._session.run(None, {"x": padded[None, None]})[0][0, 0]

    def image(self, rgb: NDArray[np.uint8]) -> Callable[[], NDArray[np.uint8]]:
        """Return the whole."""
        from PIL import Image as Pillow

        size = self._scale * rgb.shape[1], self._scale * rgb.shape[0]
        weights = np.array(STUDIO_WEIGHTS, np.float32) / np.float32(255)

        def run() -> NDArray[np.uint8]:
            luma = rgb.astype(np.float32) @ weights + np.float32(STUDIO_BLACK)
            added = self.body(np.pad(luma, self._radius, mode="symmetric"))()
            large = np.asarray(Pillow.fromarray(rgb).resize(size, Pillow.Resampling.BICUBIC), np.float32)
            large += (added * np.float32(255 / STUDIO_RANGE))[..., None]
            return np.clip(np.rint(large, out=large), 0, 255, out=large).astype(np.uint8)

        return run


CONTENDERS: tuple[type[Contender], ...] = (Ours, Torch, TorchChannelsLast, OnnxRuntime)


def start(names: list[str], network: Network, threads: int) -> tuple[list[Contender], dict[str, str]]:
    """Return the contenders that are wanted and can be started, ours first; and why the others are left out."""
    started: list[Contender] = []
    left_out = {}
    for kind in CONTENDERS:
        if kind.modules and kind.name not in names:
            continue
        missing = [module for module in kind.modules if find_spec(module) is None]
        if missing:
            left_out[kind.name] = f"{missing[0]} is not installed"
            continue
        try:
            started.append(kind(network, threads))
        except Exception as error:  # whatever another library raises, the others can still be timed
            left_out[kind.name] = f"does not start: {one_line(error)}"
    return started, left_out
