"""Device families without matrix products: exact on small integers, as they are compiled and in the simulator."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda compiles the kernels")

from cases import integers, oracle, problem
from on_machine import Pass, Target, execute, laid_out, prepared, program, run_in_simulator
from ptx_machine import machine
from test_cuda_machine import CASES

from fastdeconv.dispatch import geometry_of
from fastdeconv.kernels.cuda import bias_grad, depthwise, depthwise_weight, launches, per_output

DIRECT = {"forward": per_output.FORWARD, "input_grad": per_output.INPUT_GRAD, "weight_grad": per_output.WEIGHT_GRAD}
DEPTHWISE = {
    "forward": depthwise.FORWARD, "input_grad": depthwise.INPUT_GRAD, "weight_grad": depthwise_weight.WEIGHT_GRAD,
}  # fmt: skip
FAMILIES = {"direct_gather": DIRECT, "depthwise": DEPTHWISE}
ANY = CASES | {"k3_s1": problem((1, 7, 5, 9), (7, 5, 3, 3), padding=1)}  # no tiles here, whose edges would need more
FEW = {
    "k3_s2": problem((2, 9, 6, 7), (9, 1, 3, 3), stride=2, padding=1, output_padding=1, groups=9),
    "two_to_three": problem((1, 4, 5, 6), (4, 3, 3, 2), stride=(2, 3), padding=1, groups=2, output_padding=(1, 0)),
    "one_group": problem((1, 3, 6, 6), (3, 4, 3, 3), stride=2, padding=2, dilation=(3, 1)),
    "k16_s8": problem((1, 3, 4, 5), (3, 1, 16, 16), stride=8, padding=4, groups=3),
    "k64_s16_1d": problem((1, 5, 9), (5, 1, 64), stride=16, groups=5),
    "3d": problem((1, 3, 3, 4, 3), (3, 4, 2, 3, 2), stride=(2, 1, 2), padding=(0, 1, 0)),
    "kernel_shorter_than_stride": problem((1, 2, 5, 6), (2, 1, 2, 1), stride=3, output_padding=2, groups=2),
}
ONE = Target((8, 0), 1)  # multiprocessor: blocks go through several tiles
PASSES = pytest.mark.parametrize("pass_", DIRECT)
LAYOUTS = pytest.mark.parametrize("channels_last", [False, True], ids=["NCHW", "NHWC"])


@LAYOUTS
@PASSES
@pytest.mark.parametrize("name", ANY)
def test_direct_gather(name, pass_, channels_last):
    exact(prepared(DIRECT[pass_], ANY[name], pass_, channels_last))


@LAYOUTS
@PASSES
@pytest.mark.parametrize("name", FEW)
def test_depthwise(name, pass_, channels_last):
    exact(prepared(DEPTHWISE[pass_], FEW[name], pass_, channels_last, ONE))


def exact(work):
    """Execute a `Pass`; nothing is in local memory, as what is indexed there costs an access each time."""
    done = execute(work)
    np.testing.assert_array_equal(work.got, work.want)
    assert [program(launch).local for launch in work.steps.launches] == [{}] * len(work.steps.launches)
    return done


@pytest.mark.parametrize("family", FAMILIES)
@PASSES
def test_doubles_and_places_of_64_bits(family, pass_, monkeypatch):
    monkeypatch.setattr(launches, "SMALL", 0)
    exact(prepared(FAMILIES[family][pass_], replace(FEW["two_to_three"], dtype="float64"), pass_, True))


@pytest.mark.parametrize("family", FAMILIES)
def test_integers_wrap_around(family):
    p, factor = replace(FEW["two_to_three"], dtype="int64"), 2**61 + 1
    with np.errstate(invalid="ignore"):  # memory that nobody wrote is of NaN
        work = prepared(FAMILIES[family]["weight_grad"], p, "weight_grad")
        work.arrays["x"] *= factor
        execute(work)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(work.got, work.want.astype(np.int64) * factor)


@pytest.mark.parametrize("family", FAMILIES)
@PASSES
def test_nan_reaches_what_it_touches(family, pass_):
    p = FEW["k3_s2"]
    work = prepared(FAMILIES[family][pass_], p, pass_)
    array = work.arrays["x" if pass_ == "weight_grad" else "source"]
    other = work.arrays["gy" if pass_ == "weight_grad" else "weight"]
    array[0, 4, 0, 3] = np.nan
    execute(work)
    touched = oracle(p, pass_, np.isnan(array) * 1.0, np.ones(other.shape)) > 0
    assert touched.any()
    np.testing.assert_array_equal(np.isnan(work.got), touched)


def summed(p, channels_last):
    """Return the gradient of the bias as a `Pass`."""
    g = geometry_of(p)
    gy, _, strides = laid_out(integers(p, "input_grad")[0].reshape(g.output_shape), p.dtype, channels_last)
    out = np.full(g.out_channels, 77).astype(p.dtype)
    want = (np.moveaxis(gy, -1, 1) if channels_last else gy).reshape(g.batch, g.out_channels, -1).sum((0, 2))
    return Pass(bias_grad.steps(g, strides, ONE), {"gy": gy, "out": out}, out, want)


@LAYOUTS
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_bias_grad(dtype, channels_last):
    with np.errstate(invalid="ignore"):
        exact(summed(replace(problem((3, 5, 23, 30), (5, 11, 1, 1)), dtype=dtype), channels_last))


def sectors(work, name, monkeypatch):
    """Return how many sectors an execution moves of an array, for one that its bytes would fill."""
    array = work.arrays[name]
    begin, moved = array.ctypes.data, [0, 0]
    count = machine._Block._sectors

    def counted(block, addresses, size, lanes):
        before = block.counts.sectors, block.counts.ideal_sectors
        count(block, addresses, size, lanes)
        if block.memory._find(addresses, size, 1)[0].data.ctypes.data == begin:
            moved[0] += block.counts.sectors - before[0]
            moved[1] += block.counts.ideal_sectors - before[1]

    monkeypatch.setattr(machine._Block, "_sectors", counted)
    exact(work)
    return moved[0] / moved[1]


LARGE = {
    "k3_s2": problem((1, 16, 16, 16), (16, 1, 3, 3), stride=2, padding=1, output_padding=1, groups=16),
    "k16_s8": problem((1, 8, 4, 8), (8, 1, 16, 16), stride=8, padding=4, groups=8),
    "k1024_s256": problem((1, 8, 4), (8, 1, 1024), stride=256, groups=8),
}


@LAYOUTS
@PASSES
@pytest.mark.parametrize("name", LARGE)
def test_depthwise_moves_whole_sectors(name, pass_, channels_last, monkeypatch):
    work = prepared(DEPTHWISE[pass_], LARGE[name], pass_, channels_last, ONE)
    large = {"forward": "out", "input_grad": "source", "weight_grad": "gy"}[pass_]
    # 1024 taps leave room for the weights of four groups side by side, which are half a sector.
    half = (name, pass_, channels_last) == ("k1024_s256", "input_grad", True)
    assert sectors(work, large, monkeypatch) <= (2 if half else 1.1)


@LAYOUTS
def test_bias_grad_reads_whole_sectors(channels_last, monkeypatch):
    work = summed(problem((2, 3, 16, 16), (3, 32, 1, 1)), channels_last)
    assert sectors(work, "gy", monkeypatch) == 1


@pytest.mark.parametrize(("pass_", "most"), [("forward", 1.05), ("input_grad", 1.5), ("weight_grad", 1.3)])
def test_banks_rarely_conflict(pass_, most):
    """Inputs that read outputs eight apart would meet in four banks: 3.5 times the wavefronts."""
    p = problem((1, 2, 2, 64), (2, 1, 4, 16), stride=(2, 8), padding=(1, 4), groups=2)
    counts = exact(prepared(DEPTHWISE[pass_], p, pass_, target=ONE)).counts
    assert counts.wavefronts <= most * counts.ideal_wavefronts


@pytest.mark.parametrize(
    ("p", "sentence"),
    [
        (problem((1, 8, 5, 5), (8, 5, 3, 3)), "serves at most 4 channels a group, not 8 and 5"),
        (problem((1, 4, 5, 5), (4, 1, 3, 3), groups=4, dtype="complex64"), "serves float32, "),
        (problem((1, 4, 5, 5), (4, 4, 700, 1)), "do not fit"),
    ],
)
def test_depthwise_declines(p, sentence):
    for each in DEPTHWISE.values():
        assert sentence in str(each.declines(geometry_of(p), ONE))


def test_depthwise_yields_to_matrix_products():
    g = geometry_of(problem((1, 1, 5, 5), (1, 3, 3, 3)))
    assert "with 3 rows of 16, matrix products take 7 instructions" in str(depthwise.FORWARD.yields(g, ONE))
    assert depthwise.INPUT_GRAD.yields(g, ONE) is None
    assert depthwise.FORWARD.yields(g._replace(dtype="int64"), ONE) is None


@pytest.mark.parametrize("family", FAMILIES)
@PASSES
def test_scratch_memory_is_the_same_in_all_layouts(family, pass_):
    """What is told of a plan before its arrays are there."""
    for p in (*FEW.values(), *LARGE.values()):
        first, last = (prepared(FAMILIES[family][pass_], p, pass_, layout).steps for layout in (False, True))
        assert first.scratch == last.scratch


SIMULATED = """
import numpy as np
from on_machine import prepared, simulate
from test_cuda_direct import FAMILIES, ONE, summed
from cases import problem
from fastdeconv.kernels.cuda.device import SIMULATED
assert SIMULATED
p = problem((1, 2, 2, 3), (2, 1, 3, 2), stride=2, groups=2)
works = [prepared(family[pass_], p, pass_, True, ONE) for family in FAMILIES.values() for pass_ in family]
for work in (*works, summed(p, True)):
    simulate(work)
    np.testing.assert_array_equal(work.got, work.want)
"""


def test_simulator():
    """The same Python, with no compiler between."""
    run_in_simulator(SIMULATED)
