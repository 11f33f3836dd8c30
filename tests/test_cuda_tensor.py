"""Kernels for tensor cores as they are compiled, executed instruction by instruction: exact on small integers."""

from dataclasses import replace

import fake_cupy
import numpy as np
import pytest
from cases import floats, oracle, problem

pytest.importorskip("numba_cuda", reason="numba-cuda compiles the kernels")

from on_machine import execute, prepared, program, run_in_simulator
from test_cuda_machine import CASES

import fastdeconv as fd
from fastdeconv.cuda import plan
from fastdeconv.dispatch import geometry_of
from fastdeconv.kernels.cuda import launches, tensor_gemm, tensor_weight_gemm
from fastdeconv.kernels.cuda.launches import Target

TARGET = Target((8, 0), 108, tf32=True)
GEMM = {"forward": tensor_gemm.FORWARD, "input_grad": tensor_gemm.INPUT_GRAD}
# Channels of groups that fill chunks of 16 bytes, so that arrays with channels last are read where they lie.
WHOLE = problem((2, 32, 5, 6), (32, 16, 4, 3), stride=2, padding=1, groups=2)
WIDE = problem((1, 24, 9, 17), (24, 144, 3, 3), padding=1)


def checked(p, pass_, channels_last, **options):
    """Run a pass, compare its result, and return it with the machine."""
    work = prepared(GEMM[pass_], p, pass_, channels_last, TARGET, **{"dtype": "float16"} | options)
    machine = execute(work)
    np.testing.assert_array_equal(work.got, work.want.astype(work.got.dtype))
    return work, machine


LAYOUTS = pytest.mark.parametrize("channels_last", [False, True], ids=["NCHW", "NHWC"])


@LAYOUTS
@pytest.mark.parametrize("pass_", GEMM)
@pytest.mark.parametrize("name", CASES)
def test_gemm(name, pass_, channels_last):
    checked(CASES[name], pass_, channels_last, tile=tensor_gemm.NARROW)


@pytest.mark.parametrize(
    ("dtype", "channels_last"), [("float16", True), ("float16", False), ("bfloat16", False), ("float32", True)]
)
def test_types(dtype, channels_last):
    work, machine = checked(WHOLE, "forward", channels_last, dtype=dtype)
    assert len(work.steps.launches) == (2 if channels_last else 3)
    assert machine.counts.wavefronts == machine.counts.ideal_wavefronts


@pytest.mark.parametrize("tile", tensor_gemm.TILES[:2], ids=str)
def test_tiles(tile):
    """Several blocks of rows and pixels, the last of each in part; nothing conflicts, nothing is in local memory."""
    work, machine = checked(WIDE, "forward", tile is tensor_gemm.WIDE, tile=tile)
    assert program(work.steps.launches[-1]).local == {}
    assert machine.counts.wavefronts == machine.counts.ideal_wavefronts


def test_main_loop():
    """What more depth adds: operands come in pieces of 16 bytes, products are over 30 % of all instructions."""
    products, loads = [], []
    for channels in (32, 64):
        p = problem((1, channels, 4, 8), (channels, 128, 1, 1))
        work, machine = checked(p, "forward", True, tile=tensor_gemm.WIDE)
        pack = execute(replace(work, steps=work.steps._replace(launches=work.steps.launches[:1])))
        products.append(machine.counts.instructions - pack.counts.instructions)
        loads.append(machine.counts.loads)
    added = products[1] - products[0]
    assert added["mma.f32"] == 4 * 64  # of four warps
    assert added["mma.f32"] > 0.3 * sum(added.values())
    assert set(loads[1] - loads[0]) == {16}


def test_places_of_64_bits(monkeypatch):
    monkeypatch.setattr(launches, "SMALL", 0)
    checked(CASES["groups"], "forward", False)


@pytest.mark.parametrize("pass_", ["forward", "weight_grad"])
def test_factors_are_rounded_to_tf32(pass_):
    """The machine refuses factors that are not. Either rounding is by half a unit of 11 bits, the sums' by less."""

    def operands(p, pass_):
        return tuple(array.astype("float32").astype("float64") for array in floats(p, pass_))

    implementation = tensor_gemm.FORWARD if pass_ == "forward" else tensor_weight_gemm.WEIGHT_GRAD
    work = prepared(implementation, WHOLE, pass_, True, TARGET, dtype="float32", operands=operands)
    execute(work)
    scale = oracle(WHOLE, pass_, *map(abs, operands(WHOLE, pass_)))
    assert (abs(work.got - work.want) <= 1.01 * 2**-10 * scale).all()
    assert (work.got != work.want).any()


def test_outputs_that_no_tap_reaches():
    p = problem((1, 8, 1, 1), (8, 9, 1, 1), stride=3, padding=1, output_padding=2)
    checked(p, "forward", True, tile=tensor_gemm.NARROW)


@pytest.mark.parametrize("channels_last", [False, True])
def test_nan_reaches_what_it_touches(channels_last):
    p = problem((1, 3, 5, 6), (3, 4, 3, 3), stride=2, padding=1)
    work = prepared(tensor_gemm.FORWARD, p, "forward", channels_last, TARGET, dtype="float16")
    # On (batch, three spatial axes, channels), or with channels second.
    work.arrays["source"][(0, 0, 2, 3, 1) if channels_last else (0, 1, 0, 2, 3)] = np.nan
    execute(work)
    touched = np.zeros(work.got.shape, bool)
    touched[:, :, 3:6, 5:8] = True
    np.testing.assert_array_equal(np.isnan(work.got), touched)
    np.testing.assert_array_equal(work.got[~touched], work.want[~touched])


def checked_weights(p, channels_last, **options):
    """Compute a weight gradient, compare it, and return it with the machine."""
    options = {"dtype": "float16", "tile": tensor_weight_gemm.TILES[1], "ranges": 3} | options
    work = prepared(tensor_weight_gemm.WEIGHT_GRAD, p, "weight_grad", channels_last, TARGET, **options)
    machine = execute(work)
    np.testing.assert_array_equal(work.got, work.want.astype(work.got.dtype))
    return work, machine


@LAYOUTS
@pytest.mark.parametrize("name", CASES)
def test_weight_gemm(name, channels_last):
    checked_weights(CASES[name], channels_last)


@pytest.mark.parametrize(("tile", "dtype"), [(0, "float16"), (0, "float32"), (1, "bfloat16")])
def test_weight_gemm_tiles(tile, dtype):
    """Several tiles of rows and columns, arrays read where they lie; nothing conflicts, nothing is in local memory."""
    p = problem((2, 160, 5, 8), (160, 24, 3, 2), stride=(1, 2), padding=1)
    work, machine = checked_weights(p, True, tile=tensor_weight_gemm.TILES[tile], dtype=dtype, ranges=0)
    multiply, _ = work.steps.launches
    assert program(multiply).local == {}
    assert machine.counts.wavefronts == machine.counts.ideal_wavefronts
    assert set(machine.counts.loads) == {4 if dtype == "float32" else 16}


@pytest.mark.parametrize("first", [0, 1])
def test_calls(monkeypatch, first):
    """Views of a channels-last array, one of which begins where no chunk does."""
    monkeypatch.setitem(plan.TABLES, "forward", (tensor_gemm.FORWARD,))
    fake_cupy.install(monkeypatch)
    rng = np.random.default_rng(0)
    x, w = (rng.integers(-3, 4, shape).astype("f2") for shape in ((1, 4, 5, 24), (16, 8, 3, 3)))
    got = fd.conv_transpose2d(
        fake_cupy.asarray(x).transpose(0, 3, 1, 2)[:, first : first + 16], fake_cupy.asarray(w), stride=2
    )
    want = fd.conv_transpose2d(x.transpose(0, 3, 1, 2)[:, first : first + 16], w, stride=2)
    np.testing.assert_array_equal(got.get(), want)
    assert len(fake_cupy.STATE.launches) == 2 + first


@pytest.mark.parametrize(
    ("dtype", "target", "message"),
    [
        ("float64", TARGET, "not float64"),
        ("float32", Target((8, 0), 108), "only at precision 'high'"),
        ("float16", Target((7, 5), 40), "needs compute capability 8.0, not 7.5"),
    ],
)
def test_declines(dtype, target, message):
    g = geometry_of(WHOLE)._replace(dtype=dtype)
    for implementation in (tensor_gemm.FORWARD, tensor_gemm.INPUT_GRAD, tensor_weight_gemm.WEIGHT_GRAD):
        assert message in implementation.declines(g, target)
        assert implementation.declines(g._replace(dtype="bfloat16"), TARGET) is None


SIMULATED = """
from on_machine import prepared
from test_cuda_tensor import GEMM, WHOLE
from fastdeconv.kernels.cuda.device import SIMULATED
assert SIMULATED
for pass_, implementation in GEMM.items():
    assert implementation.inline_ptx
    assert prepared(implementation, WHOLE, pass_, dtype="float16").steps.launches
"""


def test_simulator():
    """It cannot run these kernels; what chooses among kernels runs there all the same, and is told."""
    run_in_simulator(SIMULATED)
