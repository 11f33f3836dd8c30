"""CUDA kernels as they are compiled: PTX executed instruction by instruction, exact on small integers."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cases import integers, oracle, problem
from ptx_machine import Machine, Program

pytest.importorskip("numba_cuda", reason="numba-cuda compiles the kernels")

from fastdeconv.dispatch import geometry_of
from fastdeconv.kernels.cuda import gather_gemm, launches, weight_gemm
from fastdeconv.kernels.cuda.device import compile_kernel
from fastdeconv.kernels.cuda.launches import THREADS

CASES = {
    "k4_s2": problem((2, 5, 6, 7), (5, 9, 4, 4), stride=2, padding=1),
    "k3_s1": problem((1, 17, 5, 9), (17, 33, 3, 3), padding=1),
    "groups": problem((2, 6, 5, 4), (6, 3, 3, 2), stride=(2, 3), groups=3, output_padding=(1, 0)),
    "dilation": problem((1, 3, 6, 6), (3, 4, 3, 3), stride=2, padding=2, dilation=(3, 1)),
    "kernel_shorter_than_stride": problem((1, 2, 5, 6), (2, 3, 2, 1), stride=3, output_padding=2),
    "1d": problem((3, 8, 40), (8, 5, 7), stride=4, padding=2),
    "3d": problem((1, 3, 3, 4, 3), (3, 4, 2, 3, 2), stride=(2, 1, 2), padding=(0, 1, 0)),
}
LAYOUTS = pytest.mark.parametrize("channels_last", [False, True], ids=["NCHW", "NHWC"])
PROGRAMS = {}


def laid_out(array, channels_last):
    """Return the array in a layout, as float32, and its strides in elements."""
    if not channels_last:
        array = np.ascontiguousarray(array, "f4")
        return array, tuple(s // 4 for s in array.strides)
    array = np.ascontiguousarray(np.moveaxis(array, 1, -1), "f4")
    return array, tuple(s // 4 for s in np.moveaxis(array, -1, 1).strides)


def execute(steps, **arrays):
    """Run the launches of a pass on a machine, and return it."""
    machine = Machine()
    arrays |= steps.tables | {name: np.full(n, np.nan, "f4") for name, n in steps.scratch.items()}
    places = {name: machine.place(array) for name, array in arrays.items()}
    for launch in steps.launches:
        if launch.kernel not in PROGRAMS:
            PROGRAMS[launch.kernel] = Program(compile_kernel(launch.kernel, launch.types, (8, 0)))
        arguments = [places[a] if isinstance(a, str) else a for a in launch.arguments]
        machine.launch(PROGRAMS[launch.kernel], launch.grid, (THREADS,), arguments)
    return machine


def gather(p, pass_, channels_last, tile=None):
    """Return what runs a pass, its arrays, the view of its result with channels first, and the result that is right."""
    g, forward = geometry_of(p), pass_ == "forward"
    a, b = integers(p, pass_)
    shapes = (g.input_shape, g.output_shape) if forward else (g.output_shape, g.input_shape)
    source, source_strides = laid_out(a.reshape(shapes[0]), channels_last)
    out, out_strides = laid_out(np.full(shapes[1], np.nan), channels_last)
    bias = np.arange(p.out_channels, dtype="f4")
    want = oracle(p, pass_, a, b).reshape(shapes[1]) + (bias.reshape(-1, 1, 1, 1) if forward else 0)
    steps = gather_gemm.steps(g, forward, forward, source_strides, out_strides, tile)
    arrays = {"source": source, "weight": b.reshape(-1).astype("f4"), "bias": bias, "out": out}
    return steps, arrays, np.moveaxis(out, -1, 1) if channels_last else out, want


@pytest.mark.parametrize("tile", [None, gather_gemm.TILES[0]], ids=str)
@LAYOUTS
@pytest.mark.parametrize("pass_", ["forward", "input_grad"])
@pytest.mark.parametrize("name", CASES)
def test_gather_gemm(name, pass_, channels_last, tile):
    steps, arrays, got, want = gather(CASES[name], pass_, channels_last, tile)
    execute(steps, **arrays)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("ranges", [0, 3])
@LAYOUTS
@pytest.mark.parametrize("name", CASES)
def test_weight_gemm(name, channels_last, ranges):
    p = CASES[name]
    g = geometry_of(p)
    a, b = integers(p, "weight_grad")
    x, x_strides = laid_out(a.reshape(g.input_shape), channels_last)
    gy, gy_strides = laid_out(b.reshape(g.output_shape), channels_last)
    out = np.full(math.prod(g.weight_shape), np.nan, "f4")
    execute(weight_gemm.steps(g, x_strides, gy_strides, ranges), x=x, gy=gy, out=out)
    np.testing.assert_array_equal(out, oracle(p, "weight_grad", a, b).reshape(-1))


@pytest.mark.parametrize("pass_", ["forward", "input_grad", "weight_grad"])
def test_places_of_64_bits(pass_, monkeypatch):
    monkeypatch.setattr(launches, "SMALL", 0)
    if pass_ == "weight_grad":
        test_weight_gemm("groups", True, 3)
    else:
        test_gather_gemm("groups", pass_, True, None)


def test_register_tiles_stay_in_registers():
    """Sums in local memory would cost an access for each product; banks of shared memory do not conflict."""
    p = problem((1, 64, 8, 16), (64, 128, 3, 3), padding=1)
    steps, arrays, got, want = gather(p, "forward", False)
    machine = execute(steps, **arrays)
    np.testing.assert_array_equal(got, want)
    multiply = PROGRAMS[steps.launches[1].kernel]
    assert multiply.local == {}
    assert machine.counts.wavefronts == machine.counts.ideal_wavefronts
    assert set(machine.counts.loads) == {16}


SIMULATED = """
import numpy as np
from test_cuda_machine import CASES, gather
from fastdeconv.kernels.cuda.device import SIMULATED, cuda
from fastdeconv.kernels.cuda.launches import THREADS
assert SIMULATED
steps, arrays, got, want = gather(CASES["groups"], "forward", True)
arrays |= steps.tables | {name: np.full(n, np.nan, "f4") for name, n in steps.scratch.items()}
flat = {name: array.reshape(-1) for name, array in arrays.items()}
for launch in steps.launches:
    cuda.jit(launch.kernel)[launch.grid, THREADS](*(flat[a] if isinstance(a, str) else a for a in launch.arguments))
np.testing.assert_array_equal(got, want)
"""


def test_simulator():
    """The same Python, with no compiler between."""
    done = subprocess.run(
        [sys.executable, "-c", SIMULATED],
        env=os.environ | {"NUMBA_ENABLE_CUDASIM": "1", "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True, text=True, timeout=250, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
