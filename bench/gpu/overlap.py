"""How well ``fd.batch.map`` overlaps transfers with computation: its time beside that of its slowest part alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

import fastdeconv as fd
from fastdeconv.bench import gate
from fastdeconv.bench.contenders.ours import parameters
from fastdeconv.bench.gpu.clock import EventClock
from fastdeconv.bench.layers import Layer
from fastdeconv.bench.operands import Operands
from fastdeconv.cuda import runtime

_SOURCE = 2**28  # bytes of items and their results
_PART = 16  # items whose parts are timed alone
_REPEATS = 5


def share(layers: list[Layer]) -> list[dict[str, Any]]:
    """Send many images of a middling layer from the host through the devices, and back.

    Raises
    ------
    RuntimeError
        A result is wrong.
    """
    cp = runtime.cupy()
    layer = sorted(layers, key=lambda layer: layer.problem.flops)[len(layers) // 2]
    problem = replace(layer.problem, batch=1)
    items = max(_PART, _SOURCE // problem.bytes)
    operands = Operands(problem)
    source = np.repeat(operands.x, items, axis=0)
    out = np.empty((items, *problem.output_shape[1:]), np.float32)
    forward, keywords = getattr(fd, f"conv_transpose{problem.ndim}d"), parameters(problem)
    weights: dict[int, Any] = {}  # by device

    def compute(stack: Any) -> Any:
        device = stack.device.id
        if device not in weights:
            weights[device] = cp.asarray(operands.w)
        return forward(stack, weights[device], **keywords)

    def through() -> None:
        fd.batch.map(compute, source, device="cuda", out=out)

    through()  # kernels are compiled, memory is taken
    alone = compute(cp.asarray(operands.x)).get()
    for row in (0, items // 2, items - 1):
        if wrong := gate.against_ours(problem, "forward", (alone,), (out[row : row + 1],)):
            raise RuntimeError(f"fd.batch.map is wrong in item {row}: {wrong}; forward {problem}")
    seconds = _wall(through)
    parts = {name: items / _PART * each for name, each in _alone(compute, source[:_PART], out[:_PART]).items()}
    slowest = max(parts, key=parts.__getitem__)
    return [{
        "layer": layer.name, "items": items, "all s": seconds, **{f"{name} s": each for name, each in parts.items()},
        "share": parts[slowest] / seconds, "of": slowest,
    }]  # fmt: skip


def _alone(compute: Callable[[Any], Any], source: Any, out: Any) -> dict[str, float]:
    """Return the seconds of each part of a batch by itself: to the device, on it, and back, from pinned memory."""
    import cupyx

    cp, clock = runtime.cupy(), EventClock()
    pinned, pinned_out = cupyx.empty_pinned(source.shape, source.dtype), cupyx.empty_pinned(out.shape, out.dtype)
    pinned[...] = source
    stack = cp.empty(source.shape, source.dtype)
    stack.set(pinned)
    result = compute(stack)
    calls: dict[str, Callable[[], Any]] = {
        "upload": lambda: stack.set(pinned),
        "compute": lambda: compute(stack),
        "download": lambda: result.get(out=pinned_out),
    }
    return {name: sorted(clock(call, 1) for _ in range(_REPEATS))[_REPEATS // 2] for name, call in calls.items()}


def _wall(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
