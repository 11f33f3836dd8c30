"""The device itself: what it is, and checks on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib import metadata
from typing import Any

import numpy as np

import fastdeconv as fd
from fastdeconv.bench.contenders import one_line
from fastdeconv.bench.gpu import checks
from fastdeconv.bench.gpu.checks import (
    Check,
    DeviceLostError,
    Execute,
    Memory,
    Tallies,
    Tally,
    channels_last,
    compare,
    exactness,
    poisoned,
)
from fastdeconv.bench.operands import Array
from fastdeconv.cuda import runtime
from fastdeconv.cuda.run import NAMES, DeviceRun
from fastdeconv.lowering import CUDA
from fastdeconv.problem import Problem, numpy_dtype


def dtypes() -> tuple[list[str], dict[str, str]]:
    """Return the element types that CuPy holds, and why not others of those that device kernels are for."""
    cp = runtime.cupy()
    held, refused = [], {}
    for dtype in CUDA:
        try:
            cp.asarray(np.zeros(1, numpy_dtype(dtype)))
            held.append(dtype)
        except (TypeError, ValueError) as error:
            refused[dtype] = f"CuPy {cp.__version__}: {one_line(error)}"
    return held, refused


def uncompilable() -> str | None:
    """Return why kernels cannot be compiled, or None."""

    def empty(out: Any) -> None:
        out[0] = 0

    try:
        runtime.ptx(empty, ("float32*",), runtime.FLOOR)
    except RuntimeError as error:
        return str(error)
    return None


def describe(index: int) -> dict[str, str]:
    """Return what is known of a device, by what it is called."""
    cp = runtime.cupy()
    driver, toolkit = cp.cuda.runtime.driverGetVersion(), cp.cuda.runtime.runtimeGetVersion()
    memory = cp.cuda.Device(index).mem_info[1]
    return {
        "gpu": f"{runtime.names()[index]}, {runtime.target(index).multiprocessors} multiprocessors, "
        f"{memory / 2**30:.0f} GiB",
        "cuda": f"driver for {driver // 1000}.{driver % 1000 // 10}, runtime {toolkit // 1000}.{toolkit % 1000 // 10}",
    }


def versions() -> dict[str, str]:
    """Return the versions of what kernels are compiled and launched by."""
    try:
        compiler = metadata.version("numba-cuda")
    except metadata.PackageNotFoundError:
        compiler = "Numba's own"
    return {"cupy": runtime.cupy().__version__, "numba-cuda": compiler}


def executor(index: int) -> Execute:
    """Return what runs checks on a device."""

    def execute(check: Check, inputs: dict[str, Array | None]) -> Array:
        run = DeviceRun(check.implementation, check.geometry, check.pass_, 3, index, check.target)
        named = inputs | {"out": poisoned(check)}
        arrays = [
            None
            if (array := named[name]) is None
            else _up(array, Memory(channels_last(name, array, check), check.memory.offset))
            for name in NAMES[check.pass_]
        ]

        def compute() -> Any:
            run(*arrays)
            return arrays[-1]

        return _guarded(compute)

    return execute


def check_bias(dtypes: Sequence[str], found: Tallies, end: float) -> None:
    """Check the gradient of the bias, which has no table, through its public calls, until the time `end`."""
    tally = found["bias_grad", "public call"] = Tally("bias_grad", "public call")
    for case, problem in checks.CASES.items():
        for dtype in dtypes:
            for memory in checks.MEMORY:
                words = f"bias_grad {case}, {memory}: {replace(problem, dtype=dtype)}"
                tally.add(partial(_wrong_bias, problem, dtype, memory), dtype, words, end)


def _wrong_bias(problem: Problem, dtype: str, memory: Memory) -> str | None:
    call = getattr(fd.grad, f"conv_transpose{problem.ndim}d_bias")
    others = (0, *range(2, problem.ndim + 2))
    return compare(
        {"gy": problem.output_shape},
        dtype,
        lambda inputs: _guarded(lambda: call(_up(inputs["gy"], memory))),
        lambda inputs: np.asarray(inputs["gy"].sum(others)),
        problem.batch * math.prod(problem.output_size),
        exactness(dtype),
    )


def _up(array: Any, memory: Memory) -> Any:
    """Return an array on the device."""
    cp = runtime.cupy()
    host = np.ascontiguousarray(np.moveaxis(array, 1, -1) if memory.channels_last else array)
    whole = cp.empty(memory.offset + host.size, host.dtype)
    whole[memory.offset :] = cp.asarray(host.reshape(-1))
    there = whole[memory.offset :].reshape(host.shape)
    return there.transpose(0, array.ndim - 1, *range(1, array.ndim - 1)) if memory.channels_last else there


def _guarded(compute: Callable[[], Any]) -> Array:
    """Return a result as an array of NumPy, and tell an error that ends the device's work from others."""
    try:
        result: Array = compute().get()
    except Exception:
        must_be_there()
        raise
    return result


def must_be_there() -> None:
    """Check that an error has left the device usable.

    Raises
    ------
    DeviceLostError
        It has not.
    """
    try:
        runtime.cupy().cuda.get_current_stream().synchronize()
    except Exception as error:  # of CuPy's runtime or its driver
        raise DeviceLostError(f"the device is lost for this process: {one_line(error)}") from error
