"""``bench gpu --dry-run``: the kernels' own Python in Numba's simulator, where there is no GPU.

The simulator must be chosen before Numba is imported, so it runs in a process of its own. Kernels that hold inline PTX
are not for it. It cannot see what the compiler does, nor races: the tests execute the compiled code for that.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections import Counter
from typing import Any

import numpy as np

from fastdeconv.bench.gpu import checks
from fastdeconv.bench.gpu.checks import Check, channels_last, poisoned
from fastdeconv.bench.operands import Array
from fastdeconv.kernels.cuda.launches import Layout, Target
from fastdeconv.lowering import CUDA
from fastdeconv.problem import Pass

_PROGRAM = """\
import sys
from fastdeconv.bench.gpu import simulator
sys.exit(simulator.main())
"""
_TARGET = Target((8, 0), 4)
# Seconds for checks, and until a kernel that hangs is stopped.
_BUDGET, _TIMEOUT = 90.0, 180.0
# A thread of the simulator is one of Python's: cases are tiny, and few for each kernel.
_FLOPS, _FLOAT32_CHECKS, _OTHER_CHECKS = 6_000, 3, 1
_LAST = (0, 2, 3, 4, 1)


def run() -> int:
    """Run `main` in a process with the simulator and return its exit status, 1 if a kernel is wrong.

    Raises
    ------
    TimeoutError
        It does not end.
    """
    try:
        return subprocess.run(
            [sys.executable, "-c", _PROGRAM], env=os.environ | {"NUMBA_ENABLE_CUDASIM": "1"},
            stdin=subprocess.DEVNULL, timeout=_TIMEOUT,
        ).returncode  # fmt: skip
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"the simulator did not end within {_TIMEOUT:.0f} s: a kernel hangs") from None


def main() -> int:
    """Check every kernel that the simulator can take and print a line for each; return 1 if one is wrong."""
    from fastdeconv.kernels.cuda.device import SIMULATED

    assert SIMULATED, "NUMBA_ENABLE_CUDASIM must be set before Numba is imported"
    found = checks.tallies(simulated=True)
    checks.run(few(), _execute, found, time.perf_counter() + _BUDGET, floats=False)
    for tally in found.values():
        if not (tally.note or tally.right or tally.wrong):
            tally.wrong.append("no case is small and served, or no time was left")
        print(tally, flush=True)
    return int(any(tally.wrong for tally in found.values()))


def few() -> list[Check]:
    """Return some checks of each kernel: in turn, so that each has its first before any has its second."""
    taken: Counter[tuple[Pass, str, str]] = Counter()
    chosen = []
    for check in checks.planned(_TARGET, _dtypes(), _FLOPS, checks.ALIGNED):
        dtype = check.problem.dtype
        key = check.pass_, check.implementation.name, dtype
        if taken[key] < (_FLOAT32_CHECKS if dtype == "float32" else _OTHER_CHECKS):
            chosen.append((taken[key], dtype != "float32", check))
        taken[key] += 1
    return [check for *_, check in sorted(chosen, key=lambda each: each[:2])]


def _dtypes() -> list[str]:
    return [dtype for dtype in CUDA if dtype != "bfloat16" or importlib.util.find_spec("ml_dtypes")]


def _execute(check: Check, inputs: dict[str, Array | None]) -> Array:
    """Run a check's launches; see `fastdeconv.bench.gpu.checks.Execute`."""
    from fastdeconv.kernels.cuda.device import cuda

    arrays: dict[str, Any] = {}
    views: dict[str, Array] = {}
    for name, array in (inputs | {"out": poisoned(check)}).items():
        if array is None:
            continue
        if channels_last(name, array, check):
            memory = np.ascontiguousarray(array.transpose(_LAST))
            views[name] = memory.transpose(0, 4, 1, 2, 3)
        else:
            memory = views[name] = np.ascontiguousarray(array)
        arrays[name] = memory.reshape(-1)
    arrays.setdefault("bias", arrays["out"][:1].copy())  # not looked at
    first, second = ("x", "gy") if check.pass_ == "weight_grad" else ("source", "out")
    bias = inputs.get("bias") is not None
    steps = check.implementation.steps(
        check.geometry, Layout(_strides(views[first]), _strides(views[second]), bias), check.target
    )
    arrays |= steps.tables
    for name, scratch in steps.scratch.items():
        size = scratch.elements * np.dtype(scratch.dtype).itemsize
        arrays[name] = np.full(size, 255, np.uint8).view(scratch.dtype)  # NaN: not written yet
    for launch in steps.launches:
        arguments = (arrays[a].reshape(-1) if isinstance(a, str) else a for a in launch.arguments)
        cuda.jit(launch.kernel)[launch.grid, launch.threads](*arguments)
    return views["out"]


def _strides(array: Array) -> tuple[int, ...]:
    return tuple(step // array.itemsize for step in array.strides)
