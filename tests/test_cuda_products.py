"""CUDA kernels of plain matrix products and of few output channels, as they are compiled: PTX on the tests' machine."""

import numpy as np
import pytest
from cases import problem

pytest.importorskip("numba_cuda", reason="numba-cuda compiles the kernels")

from on_machine import TARGET, empty, execute, prepared, program, run_in_simulator
from ptx_machine import Machine

from fastdeconv.dispatch import geometry_of
from fastdeconv.kernels.cuda import few_outputs, launches, plain_gemm
from fastdeconv.kernels.cuda.launches import Target

LAYOUTS = pytest.mark.parametrize("channels_last", [False, True], ids=["NCHW", "NHWC"])
SMALL = Target((8, 0), 4)  # few blocks keep it busy
PLAIN = {
    "k2_s2": problem((2, 12, 6, 12), (12, 20, 2, 2), stride=2),
    "k3_s3": problem((1, 5, 6, 7), (5, 3, 3, 3), stride=3),
    "kernel_1_many_channels": problem((1, 33, 5, 7), (33, 36, 1, 1)),
    "padding": problem((2, 8, 6, 5), (8, 9, 2, 3), stride=(2, 3), padding=1, output_padding=(1, 2)),
    "groups": problem((2, 24, 5, 4), (24, 6, 1, 4), stride=(1, 4), groups=3),
    "kernel_shorter_than_stride": problem((1, 5, 5, 6), (5, 6, 2, 1), stride=3, output_padding=2),
    "dilation": problem((1, 3, 6, 6), (3, 4, 2, 2), stride=(3, 4), dilation=(2, 3), padding=(0, 2)),
    "one_pixel": problem((19, 20, 1, 1), (20, 9, 4, 4)),
    "1d": problem((3, 8, 40), (8, 5, 4), stride=4),
    "3d": problem((1, 4, 3, 4, 3), (4, 6, 2, 2, 2), stride=2),
    "few_columns": problem((5, 70, 1, 1), (70, 9, 3, 4), padding=1),
    "few_columns_groups": problem((1, 38, 3, 4), (38, 6, 2, 2), stride=2, groups=2, output_padding=1),
}


@pytest.mark.parametrize(
    ("name", "channels_last"),
    [(n, False) for n in PLAIN] + [(n, True) for n in ("k2_s2", "padding", "one_pixel", "few_columns", "3d")],
)
def test_plain_gemm(name, channels_last):
    tile = None if name.startswith("few") else plain_gemm.TILES["float32"][3]
    work = prepared(plain_gemm.FORWARD, PLAIN[name], "forward", channels_last, tile=tile)
    execute(work)
    np.testing.assert_array_equal(work.got, work.want)


@pytest.mark.parametrize("tile", [plain_gemm.TILES["float32"][i] for i in (2, 5)], ids=str)
def test_tiles_of_plain_gemm(tile):
    work = prepared(plain_gemm.FORWARD, PLAIN["kernel_1_many_channels"], "forward", tile=tile)
    execute(work)
    np.testing.assert_array_equal(work.got, work.want)


FEW = {
    "k4_s2": problem((2, 5, 6, 37), (5, 3, 4, 4), stride=2, padding=1),
    "k9_s3": problem((1, 9, 5, 21), (9, 1, 9, 9), stride=3, padding=4),
    "k9_s2": problem((1, 8, 7, 70), (8, 1, 9, 9), stride=2, padding=4, output_padding=1),
    "k3_s1": problem((1, 33, 5, 9), (33, 3, 3, 3), padding=1),
    "groups": problem((2, 12, 5, 4), (12, 2, 3, 2), stride=(2, 3), groups=3, output_padding=(1, 0)),
    "dilation": problem((1, 3, 6, 6), (3, 4, 3, 3), stride=2, padding=2, dilation=(3, 1)),
    "dilation_of_rows": problem((1, 3, 6, 6), (3, 2, 3, 3), stride=(4, 2), padding=(5, 1), dilation=(6, 2)),
    "kernel_shorter_than_stride": problem((1, 2, 5, 6), (2, 3, 2, 1), stride=3, output_padding=2),
    "1d": problem((3, 8, 40), (8, 1, 7), stride=4, padding=2),
    "3d": problem((1, 3, 3, 4, 3), (3, 4, 2, 3, 2), stride=(2, 1, 2), padding=(0, 1, 0)),
    "whole_vectors": problem((1, 16, 4, 32), (16, 4, 4, 4), stride=2, padding=1),
}


@pytest.mark.parametrize(
    ("name", "channels_last"), [(n, False) for n in FEW] + [(n, True) for n in ("k4_s2", "groups", "3d")]
)
def test_few_outputs(name, channels_last):
    work = prepared(few_outputs.FORWARD, FEW[name], "forward", channels_last, target=SMALL)
    execute(work)
    np.testing.assert_array_equal(work.got, work.want)


CUTS = [(8, 16, 1, (1, 8), 4), (4, 32, 2, (1, 2), 6), (8, 4, 8, (2, 2), 8)]


@pytest.mark.parametrize(("positions", "lanes", "parts", "rows", "chunk"), CUTS, ids=str)
def test_cuts_of_few_outputs(positions, lanes, parts, rows, chunk):
    """Several tiles, channels in several rounds, shared among threads or not."""
    p = FEW["k9_s2"]
    row = few_outputs.plan(geometry_of(p), SMALL).row._replace(positions=positions)
    cut = few_outputs.Plan(row, lanes, parts, rows, chunk)
    work = prepared(few_outputs.FORWARD, p, "forward", target=SMALL, cut=cut)
    execute(work)
    np.testing.assert_array_equal(work.got, work.want)


@pytest.mark.parametrize(
    ("family", "p", "channels_last"),
    [
        (plain_gemm, problem((2, 8, 6, 12), (8, 9, 2, 2), stride=2, dtype="float64"), False),
        (plain_gemm, problem((5, 38, 1, 1), (38, 10, 3, 4), padding=1, dtype="float64"), True),
        (few_outputs, problem((1, 6, 5, 19), (6, 3, 4, 4), stride=2, padding=1, dtype="float64"), True),
    ],
    ids=["plain_gemm", "few_columns", "few_outputs"],
)
def test_doubles(family, p, channels_last):
    work = prepared(family.FORWARD, p, "forward", channels_last, target=SMALL)
    execute(work)
    np.testing.assert_array_equal(work.got, work.want)


@pytest.mark.parametrize(
    ("family", "p"),
    [(plain_gemm, PLAIN["padding"]), (plain_gemm, PLAIN["few_columns"]), (few_outputs, FEW["groups"])],
    ids=["plain_gemm", "few_columns", "few_outputs"],
)
def test_places_of_64_bits(family, p, monkeypatch):
    monkeypatch.setattr(launches, "SMALL", 0)
    work = prepared(family.FORWARD, p, "forward", True, target=SMALL)
    execute(work)
    np.testing.assert_array_equal(work.got, work.want)


@pytest.mark.parametrize(
    ("family", "p"),
    [(plain_gemm, PLAIN["k2_s2"]), (plain_gemm, PLAIN["few_columns"]), (few_outputs, FEW["k9_s2"])],
    ids=["plain_gemm", "few_columns", "few_outputs"],
)
def test_arrays_at_any_element(family, p):
    """Arrays that begin one element after a multiple of 16 bytes: a vector access would be misaligned."""
    work = prepared(family.FORWARD, p, "forward", True, target=SMALL, aligned=False)
    machine = Machine()
    arrays = work.arrays | work.steps.tables | empty(work.steps)
    moved = {name: np.append(array.dtype.type(0), array) for name, array in work.arrays.items()}
    places = {n: machine.place(moved[n]) + 4 if n in moved else machine.place(array) for n, array in arrays.items()}
    for launch in work.steps.launches:
        arguments = [places[a] if isinstance(a, str) else a for a in launch.arguments]
        machine.launch(program(launch), launch.grid, (launch.threads,), arguments)
    work.arrays["out"].reshape(-1)[:] = moved["out"][1:]
    np.testing.assert_array_equal(work.got, work.want)


@LAYOUTS
def test_quality_of_plain_gemm(channels_last):
    """Sums are in registers, banks do not conflict, and stores fill the sectors that they touch."""
    p = problem((1, 24, 8, 16), (24, 32, 2, 2), stride=2)
    work = prepared(plain_gemm.FORWARD, p, "forward", channels_last, tile=plain_gemm.TILES["float32"][0])
    machine = execute(work)
    np.testing.assert_array_equal(work.got, work.want)
    assert program(work.steps.launches[-1]).local == {}
    assert machine.counts.wavefronts == machine.counts.ideal_wavefronts
    assert set(machine.counts.loads) == {16}
    if not channels_last:  # else weights are packed, with steps of as many elements as there are taps
        assert machine.counts.sectors <= 1.2 * machine.counts.ideal_sectors


@LAYOUTS
def test_quality_of_few_outputs(channels_last):
    work = prepared(few_outputs.FORWARD, FEW["whole_vectors"], "forward", channels_last, target=SMALL)
    machine = execute(work)
    np.testing.assert_array_equal(work.got, work.want)
    assert program(work.steps.launches[-1]).local == {}
    assert machine.counts.conflicts[16] == 0
    assert machine.counts.wavefronts <= 1.1 * machine.counts.ideal_wavefronts


def test_rules():
    """What a family cannot serve, it declines in a sentence; what it should not, it yields."""

    def asked(family, *shapes, **parameters):
        g = geometry_of(problem(*shapes, **parameters))
        return family.FORWARD.declines(g, TARGET), family.FORWARD.yields(g, TARGET)

    assert asked(plain_gemm, (1, 64, 9, 9), (64, 32, 2, 2), stride=2) == (None, None)
    assert "overlap" in asked(plain_gemm, (1, 64, 9, 9), (64, 32, 3, 3), stride=2)[0]
    assert "8 rows" in asked(plain_gemm, (1, 64, 9, 9), (64, 2, 2, 2), stride=2)[1]
    assert asked(few_outputs, (1, 64, 9, 32), (64, 3, 4, 4), stride=2) == (None, None)
    assert "not 5" in asked(few_outputs, (1, 64, 9, 32), (64, 5, 4, 4), stride=2)[0]
    assert "too many" in asked(few_outputs, (1, 64, 9, 32), (64, 3, 64, 64), stride=32)[0]
    assert "idle" in asked(few_outputs, (1, 64, 9, 1), (64, 3, 3, 3))[1]


SIMULATED = """
import numpy as np
from on_machine import prepared, simulate
from test_cuda_products import FEW, PLAIN, SMALL
from fastdeconv.kernels.cuda import few_outputs, plain_gemm
from fastdeconv.kernels.cuda.device import SIMULATED
assert SIMULATED
for family, p in ((plain_gemm, PLAIN["padding"]), (plain_gemm, PLAIN["few_columns"]), (few_outputs, FEW["1d"])):
    work = prepared(family.FORWARD, p, "forward", True, target=SMALL)
    simulate(work)
    np.testing.assert_array_equal(work.got, work.want)
"""


def test_simulator():
    """The same Python, with no compiler between."""
    run_in_simulator(SIMULATED)
