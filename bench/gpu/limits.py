"""The device's own limits, measured: a copy of more than its caches hold, and products of matrices by cuBLAS."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

from fastdeconv.bench.contenders.base import UnsupportedError
from fastdeconv.bench.gpu.precisions import Precision
from fastdeconv.bench.timing import Clock
from fastdeconv.cuda import runtime

_COPIED = 2**28  # bytes
_SIZE = 8192  # of square matrices: enough blocks for every device
_REPEATS = 9


def bytes_per_second(clock: Clock) -> float:
    """Return the speed of a copy from device to device: bytes read and bytes written, together."""
    cp = runtime.cupy()
    source, target = cp.empty(_COPIED, "uint8"), cp.empty(_COPIED, "uint8")
    return 2 * _COPIED / _median(clock, lambda: cp.copyto(target, source))


def flops_per_second(precision: Precision, clock: Clock) -> float:
    """Return the floating-point operations a second of a product of large matrices.

    Raises
    ------
    UnsupportedError
        It takes PyTorch with CUDA, which is not there.
    """
    return 2 * _SIZE**3 / _median(clock, _product(precision))


def _product(precision: Precision) -> Callable[[], Any]:
    shape = (_SIZE, _SIZE)
    if precision.name == "float32":
        cp = runtime.cupy()
        a = cp.ones(shape, "float32")
        out = cp.empty(shape, "float32")
        return lambda: cp.matmul(a, a, out=out)
    torch = _torch()
    if torch is None:
        raise UnsupportedError(f"the peak of {precision.name} is measured through PyTorch, which has no GPU here")
    ones = torch.ones(shape, dtype=getattr(torch, precision.dtype), device="cuda")
    result = torch.empty_like(ones)
    return lambda: torch.matmul(ones, ones, out=result)


def _torch() -> Any:
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    return torch if torch.cuda.is_available() else None


def _median(clock: Clock, call: Callable[[], Any]) -> float:
    clock(call, 2)  # clocks rise, libraries choose their kernels
    return sorted(clock(call, 1) for _ in range(_REPEATS))[_REPEATS // 2]
