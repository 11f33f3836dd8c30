"""CUDA kernels as they are compiled: PTX executed instruction by instruction, exact on small integers."""

import re

import numpy as np
import pytest
from cases import floats, operand_shapes, oracle, problem

pytest.importorskip("numba_cuda", reason="numba-cuda compiles the kernels")
pytest.importorskip("ml_dtypes", reason="ml_dtypes defines bfloat16")

from on_machine import execute, numpy_dtype, prepared, program, run_in_simulator

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
# Its only products lie in the padding.
NO_TAPS = problem((1, 2, 1, 1), (2, 3, 1, 1), stride=3, padding=1, output_padding=2)
FAMILIES = {
    "forward": gather_gemm.FORWARD, "input_grad": gather_gemm.INPUT_GRAD, "weight_grad": weight_gemm.WEIGHT_GRAD,
}  # fmt: skip
PASSES = pytest.mark.parametrize("pass_", FAMILIES)
# Channels that fill units of every type, more than one tile of rows and of pixels, and an image's edge in each tile.
WHOLE = problem((1, 24, 9, 17), (24, 16, 3, 3), padding=1)


def run(name_or_problem, pass_, channels_last=False, **options):
    """Run a case and compare it with the reference bit for bit; return the machine."""
    p = CASES.get(name_or_problem, name_or_problem) if isinstance(name_or_problem, str) else name_or_problem
    work = prepared(FAMILIES[pass_], p, pass_, channels_last, **options)
    machine = execute(work)
    np.testing.assert_array_equal(work.got.astype("float64"), work.want)
    return machine


@PASSES
@pytest.mark.parametrize(("number", "name"), list(enumerate(CASES)))
def test_float32(number, name, pass_):
    run(name, pass_, channels_last=number % 2 == 1)


@PASSES
@pytest.mark.parametrize(("name", "channels_last"), [("groups", False), ("k4_s2", True)])
@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_other_types(dtype, name, channels_last, pass_):
    run(name, pass_, channels_last, dtype=dtype, largest=1)


@PASSES
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_vectors(dtype, pass_):
    """Channels last, so many that all accesses are of several."""
    run(WHOLE, pass_, True, dtype=dtype, largest=1)


@PASSES
def test_vectors_need_alignment(pass_):
    """Nothing is known of where arrays begin: one element an access."""
    run(WHOLE, pass_, True, aligned=False)


@pytest.mark.parametrize("tile", gather_gemm.TILES, ids=lambda tile: f"{tile.rows}x{tile.columns}")
def test_tiles(tile):
    """Rows of blocks that end before, at and after those of the problem."""
    run("k3_s1", "forward", tile=tile)


@pytest.mark.parametrize("ranges", [1, 3])
def test_ranges(ranges):
    run("k4_s2", "weight_grad", ranges=ranges)


@PASSES
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_places_of_64_bits(dtype, pass_, monkeypatch):
    monkeypatch.setattr(launches, "SMALL", 0)
    run("groups", pass_, True, dtype=dtype, largest=1)


@PASSES
@pytest.mark.parametrize(
    ("dtype", "channels_last"), [("float32", False), ("float32", True), ("float64", True), ("bfloat16", True)]
)
def test_memory(dtype, pass_, channels_last):
    """Sums and what is loaded stay in registers; banks do not conflict; sectors are used whole where they can be."""
    p = problem((1, 32, 4, 32), (32, 32, 1, 3), padding=(0, 1))
    work = prepared(FAMILIES[pass_], p, pass_, channels_last, dtype=dtype)
    launch = next(launch for launch in work.steps.launches if "gemm" in launch.kernel.__name__)
    machine = execute(work, only=launch)
    assert program(launch).local == {}
    assert machine.counts.wavefronts == machine.counts.ideal_wavefronts
    assert set(machine.counts.loads) >= {16}
    # Rows of planes that taps move by an element begin within a sector: three are read where two would be enough.
    assert machine.counts.sectors <= (1.1 if channels_last else 1.5) * machine.counts.ideal_sectors


@PASSES
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_float_bounds(dtype, pass_):
    """Sums are of float32, whatever their length: beside their error there is the result's rounding alone."""
    p = WHOLE
    work = prepared(FAMILIES[pass_], p, pass_, dtype=dtype, operands=floats)
    a, b = (abs(array.astype(numpy_dtype(dtype)).astype("f8")) for array in floats(p, pass_))
    magnitudes = oracle(p, pass_, a, b) + (np.arange(16).reshape(-1, 1, 1) if pass_ == "forward" else 0)
    execute(work)
    half = {"float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    bound = half * abs(work.want) * (1 + half) + p.accumulation_length(pass_) * 2.0**-24 * magnitudes
    assert (abs(work.got.astype("f8") - work.want) <= bound).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("value", [np.nan, np.inf], ids=str)
def test_what_is_not_finite_reaches_what_it_touches(value, dtype):
    p = CASES["k4_s2"]

    def marked(p, pass_, value=value):
        a, b = (np.ones(shape, "f4") for shape in operand_shapes(p, pass_)[:2])
        a[1, 3, 2, 4] = value
        return a, b

    for pass_, implementation in FAMILIES.items():
        with np.errstate(invalid="ignore"):
            work = prepared(implementation, p, pass_, dtype=dtype, operands=marked)
        execute(work)
        counted = [oracle(p, pass_, *marked(p, pass_, one)) for one in (1, 2)]
        np.testing.assert_array_equal(~np.isfinite(work.got.astype("f4")), counted[0] != counted[1])


def test_weights_that_reach_no_output():
    """Then none are packed, and a grid has a block all the same."""
    run(NO_TAPS, "forward")


def test_shared_arrays_are_aligned_for_their_accesses():
    """Wherever the assembler places them."""
    (multiply,) = prepared(gather_gemm.FORWARD, WHOLE, "forward").steps.launches[1:]
    arrays = re.findall(r"\.shared \.align (\d+)", program(multiply).text)
    assert set(arrays) == {"16"}


SIMULATED = """
import numpy as np
from on_machine import prepared, simulate
from test_cuda_machine import CASES, FAMILIES
from fastdeconv.kernels.cuda.device import SIMULATED
assert SIMULATED
for dtype, channels_last in (("float32", True), ("bfloat16", False)):
    for pass_, implementation in FAMILIES.items():
        work = prepared(implementation, CASES["groups"], pass_, channels_last, dtype=dtype, largest=1)
        simulate(work)
        np.testing.assert_array_equal(work.got.astype("float64"), work.want)
"""


def test_simulator():
    """The same Python, with no compiler between."""
    run_in_simulator(SIMULATED)
