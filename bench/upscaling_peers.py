"""Who enlarges images side by side: fastdeconv, and the same weights in other libraries."""

from __future__ import annotations

import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fastdeconv.bench import upscaling_models
from fastdeconv.bench.contenders import one_line
from fastdeconv.bench.upscaling_models import MODELS, Sizes
from fastdeconv.imaging.colour import STUDIO_BLACK, STUDIO_RANGE, STUDIO_WEIGHTS
from fastdeconv.imaging.enhance import Restorer, Upscaler
from fastdeconv.imaging.inference import applied, body_chain
from fastdeconv.imaging.network import Degradation, Network, widths
from fastdeconv.imaging.picture import png

Image = NDArray[np.float32]


class Contender(ABC):
    """One library's way.

    Attributes
    ----------
    modules : tuple of str
        What must be installed.
    conditions : str
        What a reader of the figures should know.
    limits : bool
        Whether images are enlarged within limits (`fastdeconv.imaging.limits`).
    """

    name: ClassVar[str]
    modules: ClassVar[tuple[str, ...]] = ()
    conditions: ClassVar[str]
    limits: ClassVar[bool] = False

    @abstractmethod
    def __init__(self, network: Network, threads: int) -> None: ...

    @abstractmethod
    def body(self, padded: Image) -> Callable[[], Image]:
        """Return a function that computes what the network adds, from luminance with its margin."""

    @abstractmethod
    def image(self, rgb: NDArray[np.uint8]) -> Callable[[], NDArray[np.uint8]]:
        """Return a function that enlarges an image of shape (H, W, 3)."""

    @abstractmethod
    def command(self, model: Path, source: Path, target: Path) -> list[str]:
        """Return a command that enlarges a picture file to a PNG file with the network of `model`."""

    def version(self) -> str:
        """Return the library's version."""
        from importlib.metadata import version

        return version(self.modules[0])


class Ours(Contender):
    """`Upscaler.transform`, or `Restorer.transform`."""

    name = "fastdeconv"
    conditions = "all layers in one kernel, row by row; of an image what is added is limited, too"
    limits = True

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

    def command(self, model: Path, source: Path, target: Path) -> list[str]:
        """Return ``fastdeconv upscale``."""
        arguments = ["upscale", source, "--model", model, "-o", target, "--overwrite", "--no-progress"]
        return [sys.executable, "-m", "fastdeconv", *map(str, arguments)]

    def version(self) -> str:
        """Return this package's version."""
        import fastdeconv

        return fastdeconv.__version__


class _Peer(Contender):
    """A model of `upscaling_models`."""

    def __init__(self, network: Network, threads: int) -> None:
        self._sizes, self._threads = _sizes(network), threads
        self._model = MODELS[self.name](network.body.state_dict(), self._sizes, threads)

    def body(self, padded: Image) -> Callable[[], Image]:
        """Return the network alone."""
        return lambda: self._model.body(padded)

    def image(self, rgb: NDArray[np.uint8]) -> Callable[[], NDArray[np.uint8]]:
        """Return the whole."""
        return lambda: self._model.image(rgb)

    def command(self, model: Path, source: Path, target: Path) -> list[str]:
        """Return a program that imports this library, NumPy, Pillow and safetensors alone."""
        arguments = [self.name, json.dumps(self._sizes._asdict()), self._threads, model, source, target]
        return [sys.executable, upscaling_models.__file__, *map(str, arguments)]


def _sizes(network: Network) -> Sizes:
    d = network.description
    *convolutions, (c_in, _, size) = widths(d)
    last = [c_in, size, d.scale * (d.taps - 1)]
    sides = [list(each) for each in convolutions]
    weights = list(STUDIO_WEIGHTS)
    return Sizes(sides, last, d.scale, d.radius, weights, STUDIO_BLACK, STUDIO_RANGE, png.LEVEL)


class Torch(_Peer):
    """PyTorch in its default layout; colours by its own bicubic interpolation."""

    name = "torch"
    modules = ("torch",)
    conditions = "channels first; inference_mode; bicubic by torch.nn.functional.interpolate"


class TorchChannelsLast(_Peer):
    """The same in channels_last."""

    name = "torch_cl"
    modules = ("torch",)
    conditions = "channels_last; otherwise as torch"


class OnnxRuntime(_Peer):
    """ONNX Runtime for the network; Pillow and NumPy for colours."""

    name = "onnxruntime"
    modules = ("onnxruntime", "onnx", "PIL")
    conditions = "CPU provider, weights constant in the model; bicubic by Pillow"


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
