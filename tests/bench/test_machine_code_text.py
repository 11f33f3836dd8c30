"""What is read from the texts of ptxas and nvdisasm, and occupancy, on examples that were counted by hand."""

import pytest

from fastdeconv.bench.cuda_code.flow import natural_loops
from fastdeconv.bench.cuda_code.occupancy import occupancy, resident_blocks
from fastdeconv.bench.cuda_code.sass import Instruction, hot_loop, loops, parse
from fastdeconv.bench.cuda_code.toolchain import ToolError, Usage, usage

pytestmark = pytest.mark.quick

SAID = """\
ptxas info    : 8 bytes gmem, 8 bytes cmem[4]
ptxas info    : Compiling entry function 'kernel' for 'sm_80'
ptxas info    : Function properties for kernel
    {} bytes stack frame, {} bytes spill stores, {} bytes spill loads
ptxas info    : Used {} registers, used 1 barriers{}
ptxas info    : Compile time = 122.279 ms
"""


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((0, 0, 0, 93, ", 10240 bytes smem, 396 bytes cmem[0]"), Usage(93, 10240, 0, 0)),
        ((136, 308, 204, 40, ", 136 bytes cumulative stack size, 16 bytes smem"), Usage(40, 16, 136, 512)),
        ((0, 0, 0, 32, ""), Usage(32, 0, 0, 0)),  # from sm_90 on constants are not told
    ],
)
def test_usage(numbers, expected):
    assert usage(SAID.format(*numbers)) == expected


@pytest.mark.parametrize("said", ["", SAID.format(0, 0, 0, 8, "") * 2])
def test_usage_of_other_than_one_entry(said):
    with pytest.raises(ToolError, match="registers of one entry"):
        usage(said)


def sass(text):
    """Return lines as nvdisasm prints them: labels as they are, instructions with their places."""
    lines = [line.strip() for line in text.strip().splitlines()]
    return "\n".join(
        line if line.endswith(":") else f"        /*{16 * i:04x}*/                   {line} ;"
        for i, line in enumerate(lines)
    )


# Steps between barriers, each with a loop over depth that is not unrolled, and one that only skips.
ROLLED = sass(
    """
    _kernel:
    S2R R0, SR_TID.X
    .L_step:
    @!P0 BRA `(.L_multiply)
    LDG.E.128 R4, [R2.64]
    LDG.E R8, [R2.64+0x10]
    .L_skip:
    ISETP.GE.AND P1, PT, R9, R10, PT
    @P1 BRA `(.L_skip)
    .L_multiply:
    LDS.128 R12, [R11]
    LDS.64 R16, [R11+0x100]
    HFMA2.MMA R20, -RZ, RZ, 0, 0
    FFMA R24, R12, R16.reuse, R24
    FFMA R27, R13.reuse, R16, R25
    FFMA R24, R14, R17, R24
    @P2 FFMA R25, R15, R17, R27
    BRA.U UP0, `(.L_multiply)
    STS.128 [R11], R4
    BAR.SYNC.DEFER_BLOCKING 0x0
    @!P3 CALL.REL.NOINC `(.L_done)
    BRA `(.L_step)
    .L_done:
    CALL.REL.NOINC `($__internal_0_$__cuda_sm20_div_s64)
    FFMA R1, R24, R25, R1
    EXIT
    .L_trap:
    BRA `(.L_trap)
    """
)


def test_loops():
    """Each once, what lies behind the end not at all."""
    code, labels = parse(ROLLED)
    assert len(code) == 22
    assert sorted(sorted(loop) for loop in loops(code, labels)) == [list(range(1, 18)), [4, 5], list(range(6, 14))]


def test_a_loop_that_runs_several_times_between_barriers():
    """Two sums, four products a run: eight times each between barriers is four runs, of eight instructions."""
    found = hot_loop(ROLLED, depth=8)
    assert found.share == 4 / 8
    assert found.step == 4 * 4 / (4 * 8 + 9)
    assert found.shared_loads == (128, 64)
    assert found.global_loads == (128, 32)


def test_a_loop_whose_runs_are_unknown():
    assert hot_loop(ROLLED).step is None
    assert hot_loop(ROLLED, depth=3).step is None


def test_a_loop_that_is_unrolled():
    text = sass(
        """
        .L_step:
        LDGSTS.E.BYPASS.128 [R0], [R2.64]
        LDSM.16.M88.4 R4, [R1]
        HMMA.16816.F32 R8, R4, R6, R8
        HMMA.16816.F32 R12, R4, R7, R12
        BAR.SYNC.DEFER_BLOCKING 0x0
        @P0 BRA `(.L_step)
        EXIT
        """
    )
    assert hot_loop(text) == (2 / 6, 2 / 6, (128,), (128,))


def test_products_outside_loops_are_no_hot_loop():
    assert hot_loop(sass("FFMA R0, R1, R2, R0\nEXIT")) is None


@pytest.mark.parametrize(
    ("name", "width"),
    [("LDG.E", 32), ("LDG.E.64.CONSTANT", 64), ("LDG.E.U16", 16), ("LDS.128", 128), ("LDS.U.S8", 8),
     ("LDSM.16.M88", 32), ("LDSM.16.MT88.2", 64)],
)  # fmt: skip
def test_width(name, width):
    assert Instruction(None, name, "R0, [R1]").width == width


def test_a_way_into_the_middle_is_no_loop():
    assert natural_loops([[1, 2], [2], [1, 3], []]) == []
    assert natural_loops([[1], [2], [1, 3], []]) == [{1, 2}]


@pytest.mark.parametrize(
    ("capability", "threads", "registers", "shared", "blocks"),
    [
        # 150 registers are 4800 a warp, 4864 as given: 3 warps in each quarter of 16384, 12 in all, one block of 8.
        ((8, 0), 256, 150, 16384, 1),
        # 128 are 4096 a warp: 4 in each quarter, 16 in all.
        ((8, 0), 256, 128, 16384, 2),
        # 32 registers would do for 16 blocks of 4 warps; 33 kB and the system's 1 kB fit 4 times into 164 kB.
        ((8, 0), 128, 32, 33 << 10, 4),
        # No such kilobyte on Turing: 32 kB fit twice into 64.
        ((7, 5), 128, 32, 32 << 10, 2),
        # Warps: 48 of 8 each; blocks: 16 at most.
        ((8, 6), 256, 16, 0, 6),
        ((8, 6), 32, 16, 0, 16),
        ((8, 9), 32, 16, 0, 24),
        # 100 kB hold one block of 64 kB; 228 hold three.
        ((12, 0), 256, 64, 64 << 10, 1),
        ((9, 0), 256, 64, 64 << 10, 3),
        # More registers than a multiprocessor has.
        ((9, 0), 1024, 255, 0, 0),
    ],
)
def test_resident_blocks(capability, threads, registers, shared, blocks):
    assert resident_blocks(capability, threads, registers, shared) == blocks


def test_occupancy():
    assert occupancy((8, 0), 256, 150, 16384) == 8 / 64
    assert occupancy((8, 6), 256, 150, 16384) == 8 / 48
    assert occupancy((7, 5), 256, 124, 12288) == 16 / 32
