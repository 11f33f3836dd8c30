"""CUDA kernels as they are compiled: PTX executed instruction by instruction, exact on small integers."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cases import problem

pytest.importorskip("numba_cuda", reason="numba-cuda compiles the kernels")

from on_machine import execute, prepared, program

from fastdeconv.kernels.cuda import gather_gemm, launches, weight_gemm

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
GATHER = {"forward": gather_gemm.FORWARD, "input_grad": gather_gemm.INPUT_GRAD}


@pytest.mark.parametrize("tile", [None, gather_gemm.TILES[0]], ids=str)
@LAYOUTS
@pytest.mark.parametrize("pass_", ["forward", "input_grad"])
@pytest.mark.parametrize("name", CASES)
def test_gather_gemm(name, pass_, channels_last, tile):
    work = prepared(GATHER[pass_], CASES[name], pass_, channels_last, tile=tile)
    execute(work)
    np.testing.assert_array_equal(work.got, work.want)


@pytest.mark.parametrize("ranges", [0, 3])
@LAYOUTS
@pytest.mark.parametrize("name", CASES)
def test_weight_gemm(name, channels_last, ranges):
    work = prepared(weight_gemm.WEIGHT_GRAD, CASES[name], "weight_grad", channels_last, ranges=ranges)
    execute(work)
    np.testing.assert_array_equal(work.got, work.want)


@pytest.mark.parametrize("pass_", ["forward", "input_grad", "weight_grad"])
def test_places_of_64_bits(pass_, monkeypatch):
    monkeypatch.setattr(launches, "SMALL", 0)
    if pass_ == "weight_grad":
        test_weight_gemm("groups", True, 3)
    else:
        test_gather_gemm("groups", pass_, True, None)


def test_register_tiles_stay_in_registers():
    """Sums in local memory would cost an access for each product; banks of shared memory do not conflict."""
    work = prepared(gather_gemm.FORWARD, problem((1, 64, 8, 16), (64, 128, 3, 3), padding=1), "forward")
    machine = execute(work)
    np.testing.assert_array_equal(work.got, work.want)
    assert program(work.steps.launches[1]).local == {}
    assert machine.counts.wavefronts == machine.counts.ideal_wavefronts
    assert set(machine.counts.loads) == {16}


SIMULATED = """
import numpy as np
from on_machine import prepared, simulate
from test_cuda_machine import CASES
from fastdeconv.kernels.cuda import gather_gemm
from fastdeconv.kernels.cuda.device import SIMULATED
assert SIMULATED
work = prepared(gather_gemm.FORWARD, CASES["groups"], "forward", True)
simulate(work)
np.testing.assert_array_equal(work.got, work.want)
"""


def test_simulator():
    """The same Python, with no compiler between."""
    done = subprocess.run(
        [sys.executable, "-c", SIMULATED],
        env=os.environ | {"NUMBA_ENABLE_CUDASIM": "1", "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True, text=True, timeout=250, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
