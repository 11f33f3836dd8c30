"""One pass of one problem on a device: bound once for each layout of its arrays, then a few launches a call."""

from __future__ import annotations

import functools
import itertools
from typing import Any, NamedTuple

import numpy as np

from fastdeconv.cuda import runtime
from fastdeconv.kernels.cuda import bias_grad
from fastdeconv.kernels.cuda.launches import (
    ALIGNED,
    DeviceImplementation,
    Launch,
    Layout,
    Scratch,
    Steps,
    Strides,
    Target,
)
from fastdeconv.kernels.geometry import Geometry, Prepared
from fastdeconv.problem import ITEMSIZE, Pass

_ALIGNMENT = 256  # bytes, of each piece of scratch memory
# What a launch can have: blocks on the three axes of a grid.
_GRID = (2**31 - 1, 65535, 65535)
# The names of a call's arrays, in the order in which they come; the last takes the result.
NAMES: dict[Pass, tuple[str, ...]] = {
    "forward": ("source", "weight", "bias", "out"),
    "input_grad": ("source", "weight", "out"),
    "weight_grad": ("x", "gy", "out"),
}
# And where the weights are prepared.
PREPARED = ("source", "bias", "out")


def contiguous(shape: tuple[int, ...]) -> Strides:
    """Return the strides, in elements, of an array in C order."""
    steps = itertools.accumulate(reversed(shape[1:]), lambda a, b: a * b, initial=1)
    return tuple(reversed(list(steps)))


def activations(g: Geometry, pass_: Pass) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of the two arrays whose strides a `Layout` holds."""
    return (g.output_shape, g.input_shape) if pass_ == "input_grad" else (g.input_shape, g.output_shape)


@functools.lru_cache(maxsize=64)
def steps_of(implementation: DeviceImplementation, g: Geometry, pass_: Pass, target: Target) -> Steps:
    """Return the launches for arrays in C order that begin anywhere: no other layout takes more scratch memory.

    Kept for a while: whether a kernel declines, what it takes, and what its weights take are asked one after the other.
    """
    first, second = map(contiguous, activations(g, pass_))
    return implementation.steps(g, Layout(first, second, bias=pass_ == "forward"), target)


def too_large(steps: Steps) -> str | None:
    """Return why a device cannot launch the steps, or None."""
    for launch in steps.launches:
        for blocks, most in zip(launch.grid, _GRID):
            if blocks > most:
                return f"would need {blocks} blocks on one axis of a grid, and {most} is the limit"
    return None


def scratch_bytes(steps: Steps) -> int:
    """Return the bytes of scratch memory that the steps take."""
    return sum(map(_room, steps.scratch.values()))


def _room(scratch: Scratch) -> int:
    return -(-scratch.elements * ITEMSIZE[scratch.dtype] // _ALIGNMENT) * _ALIGNMENT


class _Ready(NamedTuple):
    """A launch with all but the addresses of a call: where those go."""

    function: Any
    grid: tuple[int, ...]
    block: tuple[int, ...]
    arguments: list[Any]
    slots: tuple[tuple[int, str], ...]

    def __call__(self, addresses: dict[str, int]) -> None:
        filled = self.arguments.copy()
        for at, name in self.slots:
            filled[at] = np.uintp(addresses[name])
        self.function(self.grid, self.block, filled)


class _Memory:
    """Scratch memory in one piece."""

    def __init__(self, scratch: dict[str, Scratch]) -> None:
        self.offsets: dict[str, int] = {}
        self.nbytes = 0
        for name, each in scratch.items():
            self.offsets[name] = self.nbytes
            self.nbytes += _room(each)

    def take(self, addresses: dict[str, int]) -> Any:
        """Add the addresses of new memory, from the pool of the current stream; return what keeps it."""
        held = runtime.cupy().cuda.alloc(self.nbytes) if self.nbytes else None
        for name, at in self.offsets.items():
            addresses[name] = at if held is None else held.ptr + at
        return held


class _Bound:
    """The launches for one layout: those that see only the weights come first, and need not be repeated for them."""

    def __init__(self, steps: Steps, index: int) -> None:
        self._tables = {name: runtime.upload(table) for name, table in steps.tables.items()}
        of_weights = {"weight", *steps.tables}
        lasting: dict[str, Scratch] = {}
        first = 0
        for launch in steps.launches:
            names = {a for a in launch.arguments if isinstance(a, str)}
            if not names <= of_weights | steps.scratch.keys() or "weight" not in names:
                break
            lasting |= {name: steps.scratch[name] for name in names & steps.scratch.keys()}
            first += 1
        ready = [self._ready(launch, index) for launch in steps.launches]
        self._first, self._rest = ready[:first], ready[first:]
        self._weights = _Memory(lasting)
        self._scratch = _Memory({name: each for name, each in steps.scratch.items() if name not in lasting})

    def _ready(self, launch: Launch, index: int) -> _Ready:
        arguments: list[Any] = []
        slots = []
        for at, (argument, kind) in enumerate(zip(launch.arguments, launch.types)):
            if not isinstance(argument, str):
                arguments.append(getattr(np, kind)(argument))
            elif argument in self._tables:
                arguments.append(np.uintp(self._tables[argument].data.ptr))
            else:
                arguments.append(None)
                slots.append((at, argument))
        function = runtime.function(launch.kernel, launch.types, index)
        grid = (*launch.grid, 1, 1)[:3]
        return _Ready(function, grid, (launch.threads, 1, 1), arguments, tuple(slots))

    def prepare(self, weight: Any) -> tuple[dict[str, int], Any]:
        """Launch what sees only the weights; return the addresses for `launch`, and what must be kept with them."""
        addresses = {"weight": weight.data.ptr}
        held = self._weights.take(addresses)
        for each in self._first:
            each(addresses)
        return addresses, (weight, held)

    def launch(self, addresses: dict[str, int]) -> None:
        """Launch the rest on the current stream."""
        held = self._scratch.take(addresses)
        for each in self._rest:
            each(addresses)
        del held  # after the launches: the pool gives it to later work of the same stream only


class DeviceRun:
    """Runs a pass on arrays of CuPy, on the current stream, and never waits for the device after the first call.

    The first call with a new layout compiles and loads what it needs and uploads tables.
    """

    def __init__(
        self,
        implementation: DeviceImplementation,
        geometry: Geometry,
        pass_: Pass,
        ndim: int,
        index: int,
        target: Target,
    ) -> None:
        self._implementation = implementation
        self._geometry = geometry
        self._names = NAMES[pass_]
        self._activations = ("x", "gy") if pass_ == "weight_grad" else ("source", "out")
        self._ndim = ndim
        self._index = index
        self._target = target
        # Replaced as a whole: threads meet in it without a lock, and two that bind at once do the same.
        self._bound: dict[Layout, _Bound] = {}

    def __call__(self, *arrays: Any) -> None:
        """Run on ``(x, w, bias or None, y)``, ``(gy, w, gx)`` or ``(x, gy, gw)``, the device being the current one.

        Activations have `ndim` spatial axes, with or without channels and batch before them, or five axes; no stride is
        negative. Weights are contiguous.
        """
        named = dict(zip(self._names, arrays))
        bound = self._for(named)
        weight = named.pop("weight", None)
        addresses, kept = ({}, None) if weight is None else bound.prepare(weight)
        bound.launch(addresses | _addresses(named))
        del kept

    def prepare(self, weight: Any) -> Prepared:
        """Return the forward pass with one contiguous array of weights, which it keeps."""
        held: dict[_Bound, tuple[dict[str, int], Any]] = {}

        def run(x: Any, bias: Any, y: Any) -> None:
            named = {"source": x, "bias": bias, "out": y}
            bound = self._for(named)
            if bound not in held:
                held[bound] = bound.prepare(weight)
                # For calls on other streams.
                runtime.cupy().cuda.get_current_stream().synchronize()
            bound.launch(held[bound][0] | _addresses(named))

        steps = steps_of(self._implementation, self._geometry, "forward", self._target)
        return Prepared(run, weight.nbytes + scratch_bytes(steps))

    def _for(self, named: dict[str, Any]) -> _Bound:
        """Return what is bound to the layout of the arrays."""
        first, second = (_strides(named[name], self._ndim) for name in self._activations)
        aligned = not any(a.data.ptr % ALIGNED for a in named.values() if a is not None)
        layout = Layout(first, second, named.get("bias") is not None, aligned)
        bound = self._bound.get(layout)
        if bound is None:
            bound = _Bound(self._implementation.steps(self._geometry, layout, self._target), self._index)
            self._bound = {**self._bound, layout: bound}
        return bound


def bias_gradient(gy: Any, ndim: int) -> Any:
    """Return the sums of an array's channels, on its device; the array has a type that kernels take as it is."""
    index = gy.device.id
    with runtime.on(index):
        if min(gy.strides) < 0:
            gy = runtime.cupy().ascontiguousarray(gy)
        out = runtime.cupy().empty(gy.shape[1], gy.dtype)
        bound = _bias_bound(str(gy.dtype), gy.shape[0], gy.shape[1], gy.shape[2:], _strides(gy, ndim), index)
        bound.launch(_addresses({"gy": gy, "out": out}))
    return out


@functools.lru_cache(maxsize=256)
def _bias_bound(dtype: str, batch: int, channels: int, size: tuple[int, ...], strides: Strides, index: int) -> _Bound:
    ones, zeros = (1, 1, 1), (0, 0, 0)
    output: Any = (*ones[len(size) :], *size)
    g = Geometry(dtype, batch, 1, 1, channels, ones, output, ones, ones, zeros, ones)
    return _Bound(bias_grad.steps(g, strides, runtime.target(index)), index)


def _addresses(named: dict[str, Any]) -> dict[str, int]:
    # Kernels of the input gradient may have a parameter for the bias, and do not look at it.
    return {"bias": 0} | {name: 0 if a is None else a.data.ptr for name, a in named.items()}


def _strides(array: Any, ndim: int) -> Strides:
    """Return an array's strides in elements on (batch, channel, three axes); 0 on axes that it lacks."""
    spatial = 3 if array.ndim == 5 else ndim
    steps = [s // array.itemsize for s in array.strides]
    lead, rest = steps[:-spatial], steps[-spatial:]
    return (*[0] * (2 - len(lead)), *lead, *[0] * (3 - spatial), *rest)
