"""Training steps of whole models beside torch: time by layer, time of the step, memory.

A step is forward, loss (mean squared error), backward and Adam's update. Every contender starts from the same weights
and data. What a step takes in memory is measured in a process of its own.
"""

from __future__ import annotations

import gc
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import fastdeconv as fd
from fastdeconv import nn, optim
from fastdeconv.bench.timing import Times, interleaved, settle, summary
from fastdeconv.losses import MSE

Array = NDArray[Any]
Step = Callable[[], float]

OURS = "fastdeconv"
LEARNING_RATE = 2e-4
# Steps after which a process's memory has come to rest, and steps that are watched.
_SETTLED, _WATCHED = 3, 5
_TIMEOUT = 300.0  # seconds


class Layer(NamedTuple):
    """A layer of a model as both libraries build it: the name of its class, and its arguments."""

    kind: str
    arguments: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Model:
    """A model and the shape of what it is trained on."""

    name: str
    source: str
    layers: tuple[Layer, ...]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]


def _fsrcnn(d: int = 56, s: int = 12, m: int = 4) -> tuple[Layer, ...]:
    def conv(*arguments: int) -> tuple[Layer, Layer]:
        inputs, outputs, k = arguments
        return Layer("Conv2d", (inputs, outputs, k), {"padding": k // 2}), Layer("PReLU", (outputs,))

    deconv = Layer("ConvTranspose2d", (d, 1, 9, 2, 4, 1))
    maps = [layer for _ in range(m) for layer in conv(s, s, 3)]
    return (*conv(1, d, 5), *conv(d, s, 1), *maps, *conv(s, d, 1), deconv)


def _dcgan(z: int = 100, f: int = 64, colours: int = 3) -> tuple[Layer, ...]:
    widths = [z, 8 * f, 4 * f, 2 * f, f]
    layers = []
    for i, (inputs, outputs) in enumerate(pairwise(widths)):
        shape = (1, 0) if i == 0 else (2, 1)
        layers.append(Layer("ConvTranspose2d", (inputs, outputs, 4, *shape), {"bias": False}))
        layers += [Layer("BatchNorm2d", (outputs,)), Layer("ReLU", (True,))]
    return (*layers, Layer("ConvTranspose2d", (f, colours, 4, 2, 1), {"bias": False}), Layer("Tanh"))


MODELS = {
    model.name: model
    for model in (
        Model(
            "fsrcnn", "FSRCNN (56, 12, 4) for ×2, Dong et al. 2016; 16 patches of 48×48", _fsrcnn(),
            (16, 1, 48, 48), (16, 1, 96, 96),
        ),
        Model(
            "dcgan", "DCGAN generator for 64×64 images, Radford et al. 2016; batch 64", _dcgan(),
            (64, 100, 1, 1), (64, 3, 64, 64),
        ),
        Model("tiny", "FSRCNN (4, 2, 1) on 2 patches, for trying out", _fsrcnn(4, 2, 1), (2, 1, 9, 10), (2, 1, 18, 20)),
    )
}  # fmt: skip


class _Ours:
    """fastdeconv on NumPy arrays."""

    name = OURS

    def __init__(self, model: Model, threads: int) -> None:
        fd.set_num_threads(threads)
        self.layers = [getattr(nn, kind)(*a, **k) for kind, a, k in model.layers]

    def load(self, state: dict[str, Array]) -> None:
        """Take weights."""
        nn.Sequential(*self.layers).load_state_dict(state)

    def step(self, x: Array, y_true: Array) -> Step:
        """Return a function that does one step and returns the loss."""
        model = nn.Sequential(*self.layers)
        model.needs_input_grad = False
        loss, rule = MSE(), optim.Adam(LEARNING_RATE)
        updates = [(parameter, rule.start(parameter.data)) for parameter in model.parameters()]
        gradient = np.empty_like(y_true)

        def step() -> float:
            model.zero_grad()
            value, gy = loss.value_and_gradient(model(x), y_true, gradient)
            model.backward(gy)
            for parameter, update in updates:
                assert parameter.grad is not None
                update(parameter.grad)
            return value

        return step

    def part(self, lo: int, hi: int, x: Array, gy: Array) -> tuple[Callable[[], Any], Callable[[], Any]]:
        """Return the forward and the backward call of some layers."""
        part = nn.Sequential(*self.layers[lo:hi])
        part.needs_input_grad = lo > 0

        def backward() -> None:
            part.zero_grad()
            part.backward(gy)

        return lambda: part(x), backward

    def output(self, lo: int, hi: int, x: Array) -> Array:
        """Return the result of some layers."""
        with nn.no_grad():
            return nn.Sequential(*self.layers[lo:hi])(x)


class _Torch:
    """PyTorch in its default layout."""

    name = "torch"

    def __init__(self, model: Model, threads: int) -> None:
        import torch

        self.torch = torch
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision("highest")
        layers = [getattr(torch.nn, kind)(*a, **k) for kind, a, k in model.layers]
        self.model = self.laid_out(torch.nn.Sequential(*layers))

    def laid_out(self, what: Any) -> Any:
        """Return a tensor or module in the contender's memory format."""
        return what

    def state(self) -> dict[str, Array]:
        """Return copies of the weights."""
        return {name: value.numpy().copy() for name, value in self.model.state_dict().items()}

    def load(self, state: dict[str, Array]) -> None:
        """Take weights."""
        self.model.load_state_dict({name: self.torch.tensor(value) for name, value in state.items()})

    def step(self, x: Array, y_true: Array) -> Step:
        """Return a function that does one step and returns the loss."""
        torch = self.torch
        inputs, wanted = (self.laid_out(torch.tensor(a)) for a in (x, y_true))
        rule = torch.optim.Adam(self.model.parameters(), lr=LEARNING_RATE)

        def step() -> float:
            rule.zero_grad()
            loss = torch.nn.functional.mse_loss(self.model(inputs), wanted)
            loss.backward()
            rule.step()
            return float(loss.detach())

        return step

    def part(self, lo: int, hi: int, x: Array, gy: Array) -> tuple[Callable[[], Any], Callable[[], Any]]:
        """Return the forward and the backward call of some layers."""
        part = self.model[lo:hi]
        inputs, gradient = (self.laid_out(self.torch.tensor(a)) for a in (x, gy))
        inputs.requires_grad = lo > 0
        held = []

        def forward() -> None:
            held.append(part(inputs))

        def backward() -> None:
            part.zero_grad()
            inputs.grad = None
            held.pop().backward(gradient)

        return forward, backward


class _TorchChannelsLast(_Torch):
    """PyTorch with weights and activations in channels_last."""

    name = "torch_cl"

    def laid_out(self, what: Any) -> Any:
        """Return a tensor or module in the contender's memory format."""
        return what.to(memory_format=self.torch.channels_last)


CONTENDERS: dict[str, Any] = {each.name: each for each in (_Ours, _Torch, _TorchChannelsLast)}


@dataclass(slots=True)
class Part:
    """Layers that one pass of ours does together, with times by contender."""

    name: str
    forward: dict[str, Times] = field(default_factory=dict)
    backward: dict[str, Times] = field(default_factory=dict)


@dataclass(slots=True)
class Memory:
    """Bytes that a process holds: before its first step, and at most during later ones."""

    before: int
    peak: int


@dataclass(slots=True)
class Figures:
    """What was measured on one model."""

    model: str
    source: str
    losses: dict[str, list[float]]  # of the first steps
    steps: dict[str, Times] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)
    memory: dict[str, Memory] = field(default_factory=dict)


def data(model: Model) -> tuple[Array, Array]:
    """Return the input of a model, and what it should give."""
    rng = np.random.default_rng(0)
    return rng.standard_normal(model.input_shape, np.float32), rng.uniform(-0.5, 0.5, model.output_shape).astype(
        "float32"
    )


def measure(model: Model, threads: int, rounds: int, seconds: float = 60.0) -> Figures:
    """Time and weigh a model's step with every contender.

    Raises
    ------
    ValueError
        The contenders' losses differ by more than rounding explains.
    """
    x, y_true = data(model)
    made = {name: kind(model, threads) for name, kind in CONTENDERS.items()}
    state = made["torch"].state()
    for each in made.values():
        each.load(state)
    steps = {name: each.step(x, y_true) for name, each in made.items()}
    losses = {name: [step() for _ in range(3)] for name, step in steps.items()}
    first = losses["torch"]
    for name, values in losses.items():
        if not np.allclose(values, first, rtol=1e-4):
            raise ValueError(f"{name} has the losses {values} on {model.name}, torch {first}")
    figures = Figures(model.name, model.source, losses)
    times = interleaved(list(steps.values()), rounds, seconds)
    figures.steps = dict(zip(steps, times))
    figures.parts = _parts(model, made, x, rounds, seconds)
    figures.memory = {name: _in_a_process(model, name, threads) for name in made}
    return figures


def _parts(model: Model, made: dict[str, Any], x: Array, rounds: int, seconds: float) -> list[Part]:
    """Time the layers that ours runs together, one group after the other."""
    found = []
    lo = 0
    while lo < len(model.layers):
        hi = lo + 1
        while hi < len(model.layers) and not model.layers[hi].kind.startswith("Conv"):
            hi += 1
        y = made[OURS].output(lo, hi, x)
        gy = np.random.default_rng(lo).standard_normal(y.shape, np.float32)
        names = " + ".join(layer.kind for layer in model.layers[lo:hi])
        channels = model.layers[lo].arguments[:3]
        part = Part(f"{names} {channels[0]}→{channels[1]} k{channels[2]}")
        calls = {name: each.part(lo, hi, x, gy) for name, each in made.items()}
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
        share = seconds / len(model.layers)
        start = time.perf_counter()
        gc.disable()
        try:
            for number in range(rounds + 1):
                for name, pair in calls.items():
                    settle()
                    both = _timed(*pair)
                    if number:  # the first calls compile
                        taken[name].append(both)
                if number and time.perf_counter() - start > share:
                    break
        finally:
            gc.enable()
        for name, pairs in taken.items():
            part.forward[name], part.backward[name] = (summary(side) for side in zip(*pairs))
        found.append(part)
        x, lo = y, hi
    return found


def _timed(forward: Callable[[], Any], backward: Callable[[], Any]) -> tuple[float, float]:
    # One call of each wakes the threads, and brings weights and data near.
    forward()
    backward()
    start = time.perf_counter()
    forward()
    middle = time.perf_counter()
    backward()
    return middle - start, time.perf_counter() - middle


def _in_a_process(model: Model, name: str, threads: int) -> Memory:
    program = "import sys; from fastdeconv.bench import training; training.child(*sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", program, model.name, name, str(threads)],
        capture_output=True, text=True, timeout=_TIMEOUT,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1])
    return Memory(**json.loads(done.stdout.splitlines()[-1]))


def child(model_name: str, name: str, threads: str) -> None:
    """Print the memory that the steps of a model take in this process, as JSON."""
    model = MODELS[model_name]
    x, y_true = data(model)
    step = CONTENDERS[name](model, int(threads)).step(x, y_true)
    before = _status("VmRSS")
    for _ in range(_SETTLED):
        step()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    for _ in range(_WATCHED):
        step()
    print(json.dumps(asdict(Memory(before, _status("VmHWM")))))


def _status(name: str) -> int:
    """Return a line of what Linux tells of the process, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name + ":"))


def geometric(figures: list[Figures], peer: str) -> float:
    """Return how many times as long as ours a peer's steps take, by the geometric mean over models."""
    ratios = [each.steps[peer].median / each.steps[OURS].median for each in figures]
    return math.exp(sum(map(math.log, ratios)) / len(ratios))
