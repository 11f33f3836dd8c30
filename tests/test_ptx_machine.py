"""The machine that executes PTX: known answers, and a planted fault of every kind it must find."""

import numpy as np
import pytest
from ptx_machine import FaultError, Machine, Program

HEAD = """
.version 8.5
.target sm_90
.address_size 64
.visible .entry k(.param .u64 x, .param .u64 y)
{
    .reg .pred %p<9>;
    .reg .b32 %r<9>;
    .reg .f32 %f<9>;
    .reg .b64 %rd<9>;
    .shared .align 16 .b8 room[4096];
    ld.param.u64 %rd1, [x];
    ld.param.u64 %rd2, [y];
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %rd3, %r1, 4;
    add.s64 %rd4, %rd1, %rd3;
    add.s64 %rd5, %rd2, %rd3;
    cvt.u32.u64 %r5, %rd3;
"""


def run(body, x, y, threads=64):
    machine = Machine()
    at = [machine.place(x), machine.place(y)]
    machine.launch(Program(HEAD + body + "\n    ret;\n}\n"), (1,), (threads,), at)
    return machine.counts


def operands(threads=64):
    return np.arange(threads, dtype=np.float32), np.full(threads, np.nan, np.float32)


def test_elementwise():
    x, y = operands()
    counts = run(
        "ld.global.f32 %f1, [%rd4]; fma.rn.f32 %f2, %f1, 0f40000000, 0f3F800000; st.global.f32 [%rd5], %f2;", x, y
    )
    np.testing.assert_array_equal(y, 2 * x + 1)
    assert counts.sectors == counts.ideal_sectors == 2 * 2 * 4
    assert counts.instructions["fma.f32"] == 2


def test_threads_that_part_meet_again():
    """Each thread goes round a loop as often as its number says; odd ones take another way before."""
    x, y = operands()
    run(
        """
        mov.u32 %r2, 0; mov.f32 %f1, 0f00000000;
        and.b32 %r3, %r1, 1; setp.eq.s32 %p1, %r3, 0; @%p1 bra $even;
        mov.f32 %f1, 0f42C80000;
    $even:
        setp.ge.u32 %p2, %r2, %r1; @%p2 bra $done;
        add.f32 %f1, %f1, 0f3F800000; add.s32 %r2, %r2, 1; bra $even;
    $done:
        bar.sync 0;
        st.global.f32 [%rd5], %f1;
        """,
        x, y,
    )  # fmt: skip
    np.testing.assert_array_equal(y, x + 100 * (x % 2))


SWAP = """
    mov.u64 %rd6, room; add.s64 %rd7, %rd6, %rd3;
    ld.global.f32 %f1, [%rd4]; st.shared.f32 [%rd7], %f1;
    {barrier}
    xor.b32 %r2, %r1, 1; mul.wide.u32 %rd8, %r2, 4; add.s64 %rd8, %rd6, %rd8;
    ld.shared.f32 %f2, [%rd8]; st.global.f32 [%rd5], %f2;
"""


def test_shared_memory():
    x, y = operands()
    run(SWAP.format(barrier="bar.sync 0;"), x, y)
    np.testing.assert_array_equal(y, x.reshape(-1, 2)[:, ::-1].reshape(-1))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (SWAP.format(barrier=""), "race: a thread reads shared memory that another one wrote"),
        ("ld.global.f32 %f1, [%rd4+4]; st.global.f32 [%rd5], %f1;", "out of bounds: global address"),
        ("ld.global.f32 %f1, [%rd4+-4]; st.global.f32 [%rd5], %f1;", "byte -4 of argument 0, which has 256"),
        ("ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%rd4];", "misaligned: an access of 16 bytes"),
        ("mov.u64 %rd6, room; add.s64 %rd7, %rd6, %rd3; ld.shared.f32 %f1, [%rd7];", "nobody wrote"),
        ("mov.u64 %rd6, room; add.s64 %rd7, %rd6, %rd3; st.shared.f32 [%rd7+4000], %f1;", "out of bounds: shared"),
        ("mov.u64 %rd6, room; st.shared.f32 [%rd6], %f1;", "race: two threads write one place of shared memory"),
        ("st.global.f32 [%rd2], %f1;", "race: two threads write one place of global memory"),
        ("setp.lt.u32 %p1, %r1, 7; @%p1 bra $a; bar.sync 0; bra $b; $a: bar.sync 0; $b:", "divergent barrier"),
        ("st.global.f32 [%rd5], 0f3F800000; ld.global.f32 %f1, [%rd2];", "race: a thread reads global memory"),
        ("vote.sync.all.pred %p1, %p2, -1;", "unknown opcode"),
        ("cvt.rn.f16x9.f32 %f1, %f2;", "unknown modifiers"),
    ],
)  # fmt: skip
def test_planted_faults(body, message):
    x, y = operands()
    with pytest.raises(FaultError, match=message):
        run(body, x, y)


def test_nothing_to_launch():
    x, y = operands()
    with pytest.raises(FaultError, match="nothing to launch"):
        run("", x, y, threads=0)


@pytest.mark.parametrize(("step", "ways"), [(4, 1), (8, 2), (128, 32)])
def test_bank_conflicts_are_counted(step, ways):
    x, y = operands(32)
    counts = run(f"mov.u64 %rd6, room; mad.wide.u32 %rd7, %r1, {step}, %rd6; st.shared.f32 [%rd7], %f1;", x, y, 32)
    assert (counts.wavefronts, counts.ideal_wavefronts) == (ways, 1)


def test_sectors_are_counted():
    x, y = np.zeros(32 * 16, np.float32), np.zeros(1, np.float32)
    counts = run("mad.wide.u32 %rd4, %r1, 64, %rd1; ld.global.f32 %f1, [%rd4];", x, y, 32)
    assert (counts.sectors, counts.ideal_sectors) == (32, 4)


@pytest.mark.parametrize(
    ("body", "want"),
    [
        ("sub.s32 %r2, %r1, 40; shr.s32 %r3, %r2, 2;", lambda i: (i - 40) >> 2),
        ("sub.s32 %r2, %r1, 40; div.s32 %r3, %r2, 7;", lambda i: np.trunc((i - 40) / 7)),
        ("sub.s32 %r2, %r1, 40; rem.s32 %r3, %r2, 7;", lambda i: np.fmod(i - 40, 7)),
        ("sub.s32 %r2, 3, %r1; max.s32 %r3, %r2, -5;", lambda i: np.maximum(3 - i, -5)),
        ("mad.lo.s32 %r3, %r1, -3, 11;", lambda i: 11 - 3 * i),
        ("mov.b64 %rd6, {%r1, %r5}; shr.u64 %rd7, %rd6, 32; cvt.u32.u64 %r3, %rd7;", lambda i: 4 * i),
        ("setp.gt.s32 %p1, %r1, 30; selp.b32 %r3, 5, -5, %p1;", lambda i: np.where(i > 30, 5, -5)),
        ("shl.b32 %r2, %r1, 40; not.b32 %r3, %r2;", lambda i: np.full(i.size, -1)),
        ("bfi.b32 %r3, %r1, 1026, 4, 5;", lambda i: 1026 + i % 32 * 16),
        ("mul.hi.s32 %r3, %r1, -2147483648;", lambda i: -((i + 1) // 2)),
    ],
)
def test_integers(body, want):
    x, y = operands()
    run(body + "cvt.rn.f32.s32 %f1, %r3; st.global.f32 [%rd5], %f1;", x, y)
    np.testing.assert_array_equal(y, want(np.arange(64)))
