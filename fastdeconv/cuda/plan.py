"""Device kernels as entries of the dispatch, and their launches as calls on arrays of any kind."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from fastdeconv.cuda import runtime
from fastdeconv.cuda.run import NAMES, PREPARED, DeviceRun, activations, scratch_bytes, steps_of, too_large
from fastdeconv.kernels.cuda import (
    depthwise,
    depthwise_weight,
    few_outputs,
    gather_gemm,
    per_output,
    plain_gemm,
    tensor_gemm,
    tensor_weight_gemm,
    weight_gemm,
)
from fastdeconv.kernels.cuda.launches import DeviceImplementation, Target
from fastdeconv.kernels.geometry import Bound, Geometry, Implementation, Prepared, Run
from fastdeconv.lowering import CUDA, Adapt, lower, lower_prepared
from fastdeconv.problem import Pass, Problem

# Best first; the last takes anything.
TABLES: dict[Pass, tuple[DeviceImplementation, ...]] = {
    "forward": (
        depthwise.FORWARD,
        few_outputs.FORWARD,
        tensor_gemm.FORWARD,
        plain_gemm.FORWARD,
        gather_gemm.FORWARD,
        per_output.FORWARD,
    ),
    "input_grad": (depthwise.INPUT_GRAD, tensor_gemm.INPUT_GRAD, gather_gemm.INPUT_GRAD, per_output.INPUT_GRAD),
    "weight_grad": (
        depthwise_weight.WEIGHT_GRAD,
        tensor_weight_gemm.WEIGHT_GRAD,
        weight_gemm.WEIGHT_GRAD,
        per_output.WEIGHT_GRAD,
    ),
}


@cache
def table(index: int, pass_: Pass, ndim: int, tf32: bool) -> tuple[Implementation, ...]:
    """Return the implementations of a pass on a device, for problems of `ndim` spatial axes."""
    target = runtime.target(index)._replace(tf32=tf32)
    return tuple(_entry(each, pass_, ndim, index, target) for each in TABLES[pass_])


def _entry(each: DeviceImplementation, pass_: Pass, ndim: int, index: int, target: Target) -> Implementation:
    def declines(g: Geometry) -> str | None:
        return each.declines(g, target) or too_large(steps_of(each, g, pass_, target))

    def bind(g: Geometry) -> Bound:
        run = DeviceRun(each, g, pass_, ndim, index, target)
        return Bound(run, scratch_bytes(steps_of(each, g, pass_, target)), run.prepare)

    return Implementation(each.name, each.idea, declines, bind, lambda g: each.yields(g, target))


def finish(
    bound: Bound, problem: Problem, g: Geometry, pass_: Pass, index: int
) -> tuple[Run, Callable[[Any], Prepared] | None]:
    """Return a plan's runner on arrays of the call, and what prepares weights in the forward pass."""
    native, adapt, _ = lower(problem, pass_, CUDA)
    lowered = native is not problem

    def run_of(run: Run, names: tuple[str, ...], adapt: Adapt) -> Run:
        if lowered:
            run = _vectors_of(adapt(_by_vectors(run, g, pass_, names)))
        return _at_device(run, names, index)

    run = run_of(bound.run, NAMES[pass_], adapt)
    if pass_ != "forward" or bound.prepare is None:
        return run, None
    make = bound.prepare
    convert, adapt_prepared = lower_prepared(problem, CUDA)

    def prepare(w: Any) -> Prepared:
        with runtime.on(index):
            held = make(convert(runtime.cupy().asarray(w).reshape(-1)))
        return held._replace(run=run_of(held.run, PREPARED, adapt_prepared))

    return run, prepare


def _by_vectors(run: Run, g: Geometry, pass_: Pass, names: tuple[str, ...]) -> Run:
    """Return a runner on vectors, as those for the CPU are, of one on arrays with axes."""
    first, second = activations(g, pass_)
    weight = g.weight_shape
    shapes = {"source": first, "x": first, "gy": second, "weight": weight, "bias": (g.out_channels,)}
    shapes["out"] = weight if pass_ == "weight_grad" else second

    def run_vectors(*vectors: Any) -> None:
        run(*(None if v is None else v.reshape(shapes[name]) for v, name in zip(vectors, names)))

    return run_vectors


def _vectors_of(run: Run) -> Run:
    """Return a runner on arrays with any axes and strides, of one on vectors."""

    def run_arrays(*arrays: Any) -> None:
        cp = runtime.cupy()
        *inputs, out = arrays
        vector = cp.empty(out.size, out.dtype)
        run(*(None if a is None else cp.ascontiguousarray(a).reshape(-1) for a in inputs), vector)
        out[...] = vector.reshape(out.shape)

    return run_arrays


def _at_device(run: Run, names: tuple[str, ...], index: int) -> Run:
    """Return a runner that takes arrays of CuPy or of NumPy: those go to the device, and the result comes back."""
    weight = names.index("out") if "gy" in names else names.index("weight") if "weight" in names else -1

    def run_arrays(*arrays: Any) -> None:
        with runtime.on(index):
            out = arrays[-1]
            if isinstance(out, np.ndarray):
                cp = runtime.cupy()
                result = cp.empty(out.shape, out.dtype)
                run(*(a if a is None else cp.asarray(a) for a in arrays[:-1]), result)
                out[...] = result.get()
                return
            served = [_served(a, at == weight) for at, a in enumerate(arrays)]
            run(*served)
            if served[-1] is not out:
                out[...] = served[-1]

    return run_arrays


def _served(array: Any, whole: bool) -> Any:
    """Return an array as kernels take it, itself where possible: with no negative stride, or in C order."""
    if array is None or array.flags.c_contiguous or not (whole or min(array.strides) < 0):
        return array
    return runtime.cupy().ascontiguousarray(array)
