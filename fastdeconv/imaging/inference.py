"""A network made ready to use: its layers as one kernel of the CPU, or in turn on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv import memory, nn
from fastdeconv.cuda import cost
from fastdeconv.devices import number, resolve
from fastdeconv.imaging.limits import limit
from fastdeconv.imaging.network import Network, layer_problems
from fastdeconv.kernels.cpu.chain import Chain, Layer

Array = NDArray[Any]
Image = NDArray[np.float32]


@dataclass(frozen=True)
class Body:
    """What a network adds to an enlarged plane.

    Attributes
    ----------
    add : callable
        From luminance with a margin of `radius` pixels to `scale` times the size without it.
    """

    add: Callable[[Image], Image]
    scale: int
    radius: int


def body(network: Network, device: str | None, shape: tuple[int, int], limits: bool = True) -> Body:
    """Return the body of a network with its weights as they are now, for NumPy planes of about a shape.

    Parameters
    ----------
    limits : bool
        Whether what an enlarging network adds is kept within the range around; see `fastdeconv.imaging.limits`.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        `device` is none, or not there; as of `fastdeconv.set_device`.
    """
    scale, radius = network.description.scale, network.description.radius
    place = resolve(device)
    if place == "auto":
        # One plane there, and an enlarged one back.
        moved = 4 * shape[0] * shape[1] * (1 + scale * scale)
        place = cost.faster_chain(layer_problems(network.description, shape), moved)
    add = _on_cpu(network) if place == "cpu" else _on_gpu(network, place)

    def add_limited(plane: Image) -> Image:
        added = add(plane)
        limit(added, plane, radius, scale)
        return added

    return Body(add_limited if limits and scale > 1 else add, scale, radius)


def _on_cpu(network: Network) -> Callable[[Image], Image]:
    chain = body_chain(network)
    return lambda plane: applied(chain, plane)


def _on_gpu(network: Network, place: str) -> Callable[[Image], Image]:
    from fastdeconv.cuda.runtime import cupy, on

    copy = Network(network.description)
    copy.load_state_dict(network.state_dict())
    copy.to(place)

    def add(plane: Image) -> Image:
        with on(number(place)), nn.no_grad():
            result: Image = copy.body(cupy().asarray(plane)[None, None])[0, 0].get()
        return result

    return add


def body_chain(network: Network) -> Chain:
    """Return the body of a network on the CPU as one kernel, with its weights as they are now."""
    *convolutions, last = network.body
    layers = []
    for convolution, activation in zip(convolutions[::2], convolutions[1::2]):
        weight, bias, slope = (_float32(p) for p in (convolution.weight, convolution.bias, activation.weight))
        layers.append(Layer(weight, bias, np.broadcast_to(slope, bias.shape)))
    layers.append(phases(_float32(last.weight), network.description.scale, float(_float32(last.bias)[0])))
    return Chain(layers, network.description.scale)


def _float32(parameter: nn.Parameter) -> Image:
    return np.asarray(parameter.data, np.float32)


def phases(weight: Image, scale: int, bias: float = 0.0) -> Layer:
    """Return a transposed convolution as a convolution to one channel for each phase of its stride.

    Parameters
    ----------
    weight : ndarray, shape (C_in, 1, scale·taps, scale·taps)
        Whose padding keeps the outputs alone that all their taps reach.
    """
    channels, taps = len(weight), weight.shape[-1] // scale
    # Of an output, tap t reads the input t places before: the convolution's kernel runs the other way.
    split = weight.reshape(channels, taps, scale, taps, scale)[:, ::-1, :, ::-1]
    w = np.ascontiguousarray(split.transpose(2, 4, 0, 1, 3)).reshape(scale * scale, channels, taps, taps)
    return Layer(w, np.full(scale * scale, bias, np.float32), np.ones(scale * scale, np.float32))


def applied(chain: Chain, plane: Image) -> Image:
    """Return what a chain makes of a plane that has its margin."""
    height, width = (chain.scale * (n - chain.margin) for n in plane.shape)
    result: Image = memory.empty((height, width), np.dtype(np.float32))
    chain.run(plane, result)
    return result
