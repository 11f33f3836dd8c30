"""A small network that enlarges or restores one plane, and the file that holds it.

After FSRCNN: a convolution finds features, 1×1 convolutions shrink them and expand them again around a chain of small
ones that do most of the work, and a transposed convolution makes the pixels, with PReLU between. Changed from there:

- The network learns only what is to be added to bicubic enlargement (at scale 1 to the plane itself), so it starts from
  there, and flat regions stay flat.
- No layer pads. The plane is mirrored once, by what the network sees around a pixel, so every pixel of the result is
  computed alike, at a border, in a tile and in a training crop.
- The kernel of the transposed convolution is as large as its stride times an odd number. Each pixel of the result is
  made of as many taps as any other, which is what keeps checkerboards away.

References
----------
Dong, Loy and Tang, Accelerating the super-resolution convolutional neural network, ECCV 2016. Odena, Dumoulin and Olah,
Deconvolution and checkerboard artifacts, Distill 2016.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv import nn, tensor_file
from fastdeconv.arrays import namespace
from fastdeconv.functional import conv_transpose2d
from fastdeconv.imaging.resize import REACH, bicubic_kernel
from fastdeconv.optim import number
from fastdeconv.problem import Problem, as_int

Array = NDArray[Any]

SCALES = (1, 2, 3, 4)
# What a file's metadata says it is, and in which version of the format.
_FORMAT, _VERSION = "fastdeconv.imaging.network", 1
_SLOPE = 0.25  # of PReLU for negative values, before training


class NetworkError(ValueError):
    """A file that holds no network; its text is one line for the user."""


@dataclass(frozen=True)
class Degradation:
    """What spoiled the pictures that a network restores: each a range, whose ends are equal where it is one value.

    Parameters
    ----------
    blur : (float, float)
        Standard deviation of a Gaussian, in pixels; 0 is none.
    noise : (float, float)
        Standard deviation of white noise, as a share of the full scale; 0 is none.
    jpeg : (int, int) or None
        Quality from 1 to 100; None where pictures were not compressed.
    """

    blur: tuple[float, float] = (0.0, 0.0)
    noise: tuple[float, float] = (0.0, 0.0)
    jpeg: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name in ("blur", "noise"):
            low, high = (number(name, value) for value in _pair(name, getattr(self, name)))
            if low > high:
                raise ValueError(f"{name} must be a range (low, high); got {getattr(self, name)!r}")
            object.__setattr__(self, name, (low, high))
        if self.jpeg is not None:
            low, high = (as_int("jpeg", value) for value in _pair("jpeg", self.jpeg))
            if not 1 <= low <= high <= 100:
                raise ValueError(f"jpeg must be a range (low, high) of qualities from 1 to 100; got {self.jpeg!r}")
            object.__setattr__(self, "jpeg", (low, high))

    def __str__(self) -> str:
        parts = []
        if self.blur[1]:
            parts.append(f"blur of σ {_range(*self.blur)} px")
        if self.noise[1]:
            parts.append(f"noise of σ {_range(*(255 * value for value in self.noise))}/255")
        if self.jpeg:
            parts.append(f"JPEG of quality {_range(*self.jpeg)}")
        return " and ".join(parts) or "nothing"


def _pair(name: str, value: Any) -> tuple[Any, Any]:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise TypeError(f"{name} must be a pair (low, high); got {value!r}")
    return value[0], value[1]


def _range(low: float, high: float) -> str:
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"


@dataclass(frozen=True)
class Description:
    """A network without its weights; the default sizes are what did best for its time (docs/decisions/0013).

    Parameters
    ----------
    scale : int
        How many times larger the result is: 2, 3 or 4 to enlarge, 1 to restore.
    features : int
        Channels of the first convolution, and of the transposed one at the end.
    shrunk : int
        Channels of the convolutions between.
    maps : int
        How many of those there are.
    feature_size, map_size : int
        Odd side of the kernels of the first convolution and of those between.
    taps : int
        Odd: input pixels on each axis that the transposed convolution makes a pixel of; its kernel has ``scale·taps``.
    degradation : Degradation, optional
        What it undoes besides the reduction.

    Raises
    ------
    TypeError, ValueError
        The message names the argument, what came and what would do.
    """

    scale: int
    features: int = 32
    shrunk: int = 16
    maps: int = 8
    feature_size: int = 5
    map_size: int = 3
    taps: int = 3
    degradation: Degradation | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name != "degradation":
                object.__setattr__(self, field.name, as_int(field.name, getattr(self, field.name)))
        if self.scale not in SCALES:
            raise ValueError(f"scale must be 2, 3 or 4 to enlarge, or 1 to restore; got {self.scale}")
        for name, low in (("features", 1), ("shrunk", 1), ("maps", 0)):
            if not low <= getattr(self, name) <= 4096:
                raise ValueError(f"{name} must be from {low} to 4096; got {getattr(self, name)}")
        for name in ("feature_size", "map_size", "taps"):
            if not 1 <= getattr(self, name) <= 255 or getattr(self, name) % 2 == 0:
                raise ValueError(f"{name} must be odd, from 1 to 255; got {getattr(self, name)}")
        if self.scale > 1 and self.radius < REACH:
            raise ValueError(
                f"a network that enlarges must see at least {REACH} pixels around one, as bicubic enlargement does; "
                f"got {self.radius}: make feature_size, maps or taps larger"
            )
        if not (self.degradation is None or isinstance(self.degradation, Degradation)):
            raise TypeError(f"degradation must be a Degradation or None; got {self.degradation!r}")

    @property
    def task(self) -> str:
        """``"upscale"`` or ``"restore"``."""
        return "restore" if self.scale == 1 else "upscale"

    @property
    def radius(self) -> int:
        """Input pixels that the network sees on each side of one."""
        return (self.feature_size + self.maps * (self.map_size - 1) + self.taps - 2) // 2

    @property
    def kernel_size(self) -> int:
        """Side of the kernel of the transposed convolution."""
        return self.scale * self.taps

    @property
    def multiplications(self) -> int:
        """Multiplications for each input pixel."""
        first = self.features * self.feature_size**2
        maps = self.maps * (self.shrunk * self.map_size) ** 2
        return first + 2 * self.features * self.shrunk + maps + self.features * self.kernel_size**2

    def to_json(self) -> str:
        """Return the description as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Description:
        """Return the description that `to_json` wrote.

        Raises
        ------
        TypeError, ValueError
        """
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError(f"a description must be a JSON object; got {text[:80]!r}")
        if values.get("degradation") is not None:
            values["degradation"] = Degradation(**values["degradation"])
        return cls(**values)


def layer_problems(description: Description, shape: tuple[int, int]) -> list[Problem]:
    """Return the layers' transposed convolutions, whose adjoints the convolutions are, for planes of about a shape."""
    *convolutions, (c_in, c_out, size) = widths(description)
    problems = [
        Problem.from_shapes((1, c, *shape), (c, before, k, k), ndim=2, padding=k // 2) for before, c, k in convolutions
    ]
    last = Problem.from_shapes((1, c_in, *shape), (c_in, c_out, size, size), ndim=2, stride=description.scale)
    return [*problems, last]


def widths(description: Description) -> list[tuple[int, int, int]]:
    """Return C_in, C_out and the side of the kernel of each layer."""
    d, s = description.features, description.shrunk
    maps = [(s, s, description.map_size)] * description.maps
    return [(1, d, description.feature_size), (d, s, 1), *maps, (s, d, 1), (d, 1, description.kernel_size)]


def layers(description: Description, rng: np.random.Generator) -> nn.Sequential:
    """Return the layers of a network with fresh weights, named "0", "1", … in ``state_dict``.

    Convolutions keep the variance of what goes through them; the last layer begins near zero, so that the result begins
    as what the network's is added to.
    """
    *convolutions, (features, _, kernel_size) = widths(description)
    chain: list[nn.Module] = []
    for c_in, c_out, size in convolutions:
        layer = nn.Conv2d(c_in, c_out, size)
        deviation = math.sqrt(2 / ((1 + _SLOPE**2) * c_in * size**2))
        chain += [_initialised(layer, deviation, rng), nn.PReLU(c_out, init=_SLOPE)]
    stride, padding = description.scale, description.scale * (description.taps - 1)
    last = nn.ConvTranspose2d(features, 1, kernel_size, stride=stride, padding=padding)
    return nn.Sequential(*chain, _initialised(last, 1e-3, rng))


def _initialised(layer: Any, deviation: float, rng: np.random.Generator) -> Any:
    weight, bias = layer.weight.data, layer.bias.data
    weight[...] = rng.normal(0, deviation, weight.shape).astype(weight.dtype)
    bias[...] = 0
    return layer


class Network(nn.Module):
    """A network with its weights; as a module it takes planes that bring the margin it needs.

    Parameters
    ----------
    description : Description
    seed : int or numpy.random.Generator
        Of the weights.
    notes : mapping of str to str, optional
        What else the file is to tell: how it was trained, say.

    Attributes
    ----------
    body : Sequential
        What is learned: what is added to bicubic enlargement, or to the plane itself at scale 1.

    See Also
    --------
    fastdeconv.imaging.tiles.apply : A network on a plane of any size, mirrored at its borders.
    """

    def __init__(
        self, description: Description, seed: int | np.random.Generator = 0, notes: Mapping[str, str] | None = None
    ) -> None:
        super().__init__()
        self.description = description
        self.notes = dict(notes or {})
        self.body = layers(description, np.random.default_rng(seed))
        self.body.needs_input_grad = False  # nothing is learned before it

    def forward(self, x: Array) -> Array:
        """Return what becomes of planes without their margin.

        Parameters
        ----------
        x : ndarray, shape (N, 1, H, W)
            With `Description.radius` pixels more on each side than the result is of.

        Returns
        -------
        ndarray, shape (N, 1, scale·(H - 2·radius), scale·(W - 2·radius))
        """
        y: Array = self.body(x)
        y += self.skip(x)
        return y

    def backward(self, grad_output: Array) -> None:
        """Add the gradients of the last forward pass's weights to theirs."""
        self.body.backward(grad_output)

    def skip(self, x: Array) -> Array:
        """Return what the body's result is added to; shapes as of `forward`."""
        radius, scale = self.description.radius, self.description.scale
        if scale == 1:
            return x[..., radius : x.shape[-2] - radius, radius : x.shape[-1] - radius]
        margin = radius - REACH
        x = x[..., margin : x.shape[-2] - margin, margin : x.shape[-1] - margin]
        kernel = bicubic_kernel(scale)
        weight = namespace(x).asarray(kernel[None, None], dtype=x.dtype)
        # As many pixels on each side as bicubic enlargement reaches have too few taps.
        padding = (len(kernel) - scale) // 2 + scale * REACH
        return conv_transpose2d(x, weight, stride=scale, padding=padding)


def save(network: Network, path: str | Path, *, overwrite: bool = False) -> None:
    """Write a network to a safetensors file: weights as float32 under their names in ``body``, the rest as metadata.

    Raises
    ------
    OSError
        The file cannot be written, or exists and `overwrite` is False.
    """
    path = Path(path)
    if os.path.lexists(path) and not overwrite:
        raise FileExistsError(f"{path}: exists already; overwrite=True replaces it")
    tensor_file.write(path, *_content(network))


def to_bytes(network: Network) -> bytes:
    """Return what a network's file holds."""
    return tensor_file.content(*_content(network))


def _content(network: Network) -> tuple[dict[str, Array], dict[str, str]]:
    tensors = {}
    for name, array in network.body.state_dict().items():
        on_host = array if isinstance(array, np.ndarray) else array.get()
        tensors[name] = on_host.astype(np.float32, copy=False)
    metadata = {
        "format": _FORMAT,
        "version": str(_VERSION),
        "description": network.description.to_json(),
        "notes": json.dumps(network.notes),
    }
    return tensors, metadata


def load(path: str | Path) -> Network:
    """Read a network from a file that `save` wrote.

    Raises
    ------
    NetworkError
        It is missing, truncated, damaged, or holds something else.
    """
    tensors, metadata = _read(path)
    description, notes = _described(path, metadata)
    network = Network(description, notes=notes)
    expected = {name: array.shape for name, array in network.body.state_dict().items()}
    if set(tensors) != set(expected):
        difference = ", ".join(sorted(set(tensors) ^ set(expected))[:4])
        raise NetworkError(f"{path}: its weights are not those of its description; they differ by {difference}")
    for name, array in tensors.items():
        if array.shape != expected[name] or array.dtype != np.float32 or not np.isfinite(array).all():
            raise NetworkError(
                f"{path}: {name} must be finite float32 of shape {expected[name]}; "
                f"got {array.dtype} of shape {array.shape}"
            )
    network.body.load_state_dict(tensors)
    return network


def describe(path: str | Path) -> tuple[Description, dict[str, str]]:
    """Read the description and the notes of a network's file.

    Raises
    ------
    NetworkError
        As of `load`.
    """
    return _described(path, _read(path)[1])


def _read(path: str | Path) -> tuple[dict[str, Array], dict[str, str]]:
    try:
        return tensor_file.read(Path(path))
    except tensor_file.FormatError as error:
        raise NetworkError(f"{path}: cannot be read as a network: {error}") from None
    except OSError as error:
        raise NetworkError(f"{path}: cannot be read ({error.strerror or error})") from error


def _described(path: str | Path, metadata: Mapping[str, str]) -> tuple[Description, dict[str, str]]:
    if metadata.get("format") != _FORMAT:
        raise NetworkError(f"{path}: is a safetensors file, but holds no network of fastdeconv.imaging")
    if metadata.get("version") != str(_VERSION):
        raise NetworkError(f"{path}: has format {metadata.get('version')}; this version of fastdeconv reads {_VERSION}")
    try:
        notes = json.loads(metadata["notes"])
        return Description.from_json(metadata["description"]), {str(name): str(note) for name, note in notes.items()}
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise NetworkError(f"{path}: its description cannot be read: {error}") from error
