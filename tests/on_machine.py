"""Passes of device kernels on the machine for PTX, or in Numba's simulator, with operands of small integers."""

import math
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import ml_dtypes  # noqa: F401  # makes "bfloat16" a type
import numpy as np
from cases import integers, oracle
from ptx_machine import Counts, Machine, Program

from fastdeconv.dispatch import geometry_of
from fastdeconv.kernels.cuda.device import compile_kernel, cuda
from fastdeconv.kernels.cuda.launches import Layout, Steps, Target

TARGET = Target((8, 0), 108)
PROGRAMS = {}
# Integers up to these are exact in types of fewer bits than float32.
EXACT = {"float16": 2**11, "bfloat16": 2**8}


@dataclass
class Pass:
    """What runs a pass, its arrays by name, the result as a view in the order of its shape, and what it must be."""

    steps: Steps
    arrays: dict
    got: np.ndarray
    want: np.ndarray


def laid_out(array, dtype, channels_last):
    """Return the array in a layout, the view of it with channels first, and that view's strides in elements."""
    if channels_last:
        array = np.ascontiguousarray(np.moveaxis(array, 1, -1)).astype(dtype)
        view = np.moveaxis(array, -1, 1)
    else:
        array = view = np.ascontiguousarray(array).astype(dtype)
    return array, view, tuple(s // view.itemsize for s in view.strides)


def numpy_dtype(name):
    """Return NumPy's dtype, that of ml_dtypes for bfloat16."""
    if name == "bfloat16":
        import ml_dtypes

        name = ml_dtypes.bfloat16
    return np.dtype(name)


def prepared(
    implementation, p, pass_, channels_last=False, target=TARGET, *, dtype=None, aligned=True, operands=integers,
    largest=4, **options,
):  # fmt: skip
    """Return a `Pass` of a problem, in another type if one is given; the options go to the implementation's ``steps``.

    Arrays are aligned; `aligned` is whether the implementation is told so. Integers are at most `largest`.
    """
    g = geometry_of(p)
    if dtype:
        g = g._replace(dtype=dtype)
    dtype = numpy_dtype(g.dtype)
    if operands is integers:
        operands = partial(integers, limit=EXACT.get(g.dtype, 2**24), largest=largest)
    a, b = (array.astype(dtype).astype("float64") for array in operands(p, pass_))
    want = oracle(p, pass_, a, b)
    if pass_ == "weight_grad":
        x, _, first = laid_out(a.reshape(g.input_shape), dtype, channels_last)
        gy, _, second = laid_out(b.reshape(g.output_shape), dtype, channels_last)
        out = np.full(math.prod(g.weight_shape), np.nan).astype(dtype)
        steps = implementation.steps(g, Layout(first, second, aligned=aligned), target, **options)
        return Pass(steps, {"x": x, "gy": gy, "out": out}, out.reshape(want.shape), want)
    forward = pass_ == "forward"
    shapes = (g.input_shape, g.output_shape) if forward else (g.output_shape, g.input_shape)
    source, _, first = laid_out(a.reshape(shapes[0]), dtype, channels_last)
    out, view, second = laid_out(np.full(shapes[1], np.nan), dtype, channels_last)
    bias = np.arange(p.out_channels).astype(dtype)
    if forward:
        want = want + np.arange(p.out_channels).reshape(-1, *[1] * p.ndim)
    steps = implementation.steps(g, Layout(first, second, bias=forward, aligned=aligned), target, **options)
    arrays = {"source": source, "weight": b.reshape(-1).astype(dtype), "bias": bias, "out": out}
    return Pass(steps, arrays, view.reshape(want.shape), want)


def empty(steps):
    """Return scratch memory that shows what reads it before it is written."""
    # All ones are NaN in every type of floats.
    return {name: np.full(s.elements * np.dtype(s.dtype).itemsize, 255, np.uint8).view(s.dtype)
            for name, s in steps.scratch.items()}  # fmt: skip


def program(launch, capability=TARGET.capability):
    """Return a launch's compiled kernel."""
    key = launch.kernel, launch.types, capability
    if key not in PROGRAMS:
        PROGRAMS[key] = Program(compile_kernel(launch.kernel, launch.types, capability))
    return PROGRAMS[key]


def execute(work, capability=TARGET.capability, only=None):
    """Run the launches of a `Pass` on a machine, and return it; its counts may be those of one launch `only`."""
    machine = Machine()
    arrays = work.arrays | work.steps.tables | empty(work.steps)
    places = {name: machine.place(array) for name, array in arrays.items()}
    for launch in work.steps.launches:
        arguments = [places[a] if isinstance(a, str) else a for a in launch.arguments]
        machine.launch(program(launch, capability), launch.grid, (launch.threads,), arguments)
        if only is launch:
            break
        if only:
            machine.counts = Counts()
    return machine


def simulate(work):
    """Run the launches of a `Pass` in Numba's simulator."""
    arrays = work.arrays | work.steps.tables | empty(work.steps)
    flat = {name: array.reshape(-1) for name, array in arrays.items()}
    for launch in work.steps.launches:
        cuda.jit(launch.kernel)[launch.grid, launch.threads](
            *(flat[a] if isinstance(a, str) else a for a in launch.arguments)
        )


def run_in_simulator(code):
    """Run a program that sees the tests in a process where Numba simulates CUDA; it must end well."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"NUMBA_ENABLE_CUDASIM": "1", "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True, text=True, timeout=250, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
