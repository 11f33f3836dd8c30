"""The machine for PTX, on what warps do together and on asynchronous copies: known answers and planted faults."""

import numpy as np
import pytest
from ptx_machine import FaultError, Machine, Program
from test_ptx_machine import HEAD

LANES = range(32)


def run(body, x, y, threads=32):
    machine = Machine()
    at = [machine.place(x), machine.place(y)]
    machine.launch(Program(HEAD + body + "\n    ret;\n}\n"), (1,), (threads,), at)
    return machine.counts


def vector(name, count):
    return "{" + ", ".join(f"%{name}{i}" for i in range(count)) + "}"


# -- matrices ---------------------------------------------------------------------------------------------------

MULTIPLY = """
    mad.wide.u32 %rd6, %r1, 24, %rd1;
    ld.global.b32 %a0, [%rd6]; ld.global.b32 %a1, [%rd6+4]; ld.global.b32 %a2, [%rd6+8]; ld.global.b32 %a3, [%rd6+12];
    ld.global.b32 %b0, [%rd6+16]; ld.global.b32 %b1, [%rd6+20];
    mov.f32 %c0, 0f3F800000; mov.f32 %c1, %c0; mov.f32 %c2, %c0; mov.f32 %c3, %c0;
    {guard} mma.sync.aligned.{form}
        {{%c0, %c1, %c2, %c3}}, {{%a0, %a1, %a2, %a3}}, {{%b0, %b1}}, {{%c0, %c1, %c2, %c3}};
    mad.wide.u32 %rd7, %r1, 16, %rd2;
    st.global.v4.f32 [%rd7], {{%c0, %c1, %c2, %c3}};
"""
REGISTERS = ".reg .b32 %a<4>; .reg .b32 %b<2>; .reg .f32 %c<4>;"
FORMS = {
    "f16": ("m16n8k16.row.col.f32.f16.f16.f32", np.uint16, lambda v: v.astype(np.float16).view(np.uint16)),
    "bf16": (
        "m16n8k16.row.col.f32.bf16.bf16.f32",
        np.uint16,
        lambda v: (v.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16),
    ),
    "tf32": ("m16n8k8.row.col.f32.tf32.tf32.f32", np.uint32, lambda v: v.astype(np.float32).view(np.uint32)),
}


def fragments(a, b, bits):
    """Return each lane's elements of A and B, numbered as the PTX ISA numbers them."""
    held = []
    for lane in LANES:
        group, thread = lane // 4, lane % 4
        if a.shape[1] == 16:
            rows = [group if i < 2 or 4 <= i < 6 else group + 8 for i in range(8)]
            columns = [thread * 2 + (i & 1) + (8 if i >= 4 else 0) for i in range(8)]
            of_b = [b[thread * 2 + (i & 1) + (8 if i >= 2 else 0), group] for i in range(4)]
        else:
            rows = [group if i in (0, 2) else group + 8 for i in range(4)]
            columns = [thread if i < 2 else thread + 4 for i in range(4)]
            of_b = [b[thread, group], b[thread + 4, group]]
        held.append([*(a[m, k] for m, k in zip(rows, columns)), *of_b])
    return np.array(held, bits)


@pytest.mark.parametrize("kind", FORMS)
def test_products_of_matrices(kind):
    form, bits, encoded = FORMS[kind]
    rng = np.random.default_rng(0)
    depth = 16 if bits is np.uint16 else 8
    a, b = rng.integers(-8, 9, (16, depth)), rng.integers(-8, 9, (depth, 8))
    x = fragments(encoded(a), encoded(b), bits).view(np.uint32).reshape(-1)
    y = np.full((32, 4), np.nan, np.float32)
    counts = run(REGISTERS + MULTIPLY.format(form=form, guard=""), x, y)
    want = np.empty((32, 4))
    for lane in LANES:
        for i in range(4):
            want[lane, i] = 1 + (a @ b)[lane // 4 + (8 if i >= 2 else 0), lane % 4 * 2 + (i & 1)]
    np.testing.assert_array_equal(y, want)
    assert counts.instructions["mma.f32"] == 1


@pytest.mark.parametrize("transposed", [False, True])
def test_loads_of_matrices(transposed):
    """Four matrices of 8 × 8, whose rows lie one after the other."""
    values = np.arange(256, dtype=np.uint16)
    trans = ".trans" if transposed else ""
    y = np.zeros((32, 8), np.uint16)
    counts = run(
        f"""
        .reg .b32 %m<4>;
        mov.u64 %rd6, room; cvt.u32.u64 %r6, %rd6; mad.lo.s32 %r6, %r1, 16, %r6;
        mad.wide.u32 %rd7, %r1, 16, %rd1; cp.async.cg.shared.global [%r6], [%rd7], 16; cp.async.wait_all; bar.sync 0;
        ldmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 {vector("m", 4)}, [%r6];
        mad.wide.u32 %rd7, %r1, 16, %rd2; st.global.v4.b32 [%rd7], {vector("m", 4)};
        """,
        values, y,
    )  # fmt: skip
    matrices = values.reshape(4, 8, 8)
    for lane in LANES:
        for j, matrix in enumerate(matrices.swapaxes(1, 2) if transposed else matrices):
            assert list(y[lane, 2 * j : 2 * j + 2]) == list(matrix[lane // 4, lane % 4 * 2 : lane % 4 * 2 + 2])
    assert counts.loads == {16: 1}
    assert (counts.wavefronts, counts.ideal_wavefronts) == (8, 8)  # of the copy, and of the load


@pytest.mark.parametrize(("step", "ways"), [(16, 1), (32, 2), (128, 8), (80, 1)])
def test_bank_conflicts_of_loads_of_matrices(step, ways):
    x, y = np.zeros(1024, np.float32), np.zeros(1, np.float32)
    counts = run(
        """
        .reg .b32 %m<4>;
        mov.u64 %rd6, room; cvt.u32.u64 %r6, %rd6; mad.lo.s32 %r7, %r1, 128, %r6; mov.u64 %rd7, %rd1;
        """
        + "".join(
            f"cp.async.cg.shared.global [%r7+{i}], [%rd7+{i}], 16; cp.async.wait_all;" for i in range(0, 128, 16)
        )
        + f"""
        bar.sync 0; mad.lo.s32 %r7, %r1, {step}, %r6;
        ldmatrix.sync.aligned.m8n8.x4.shared.b16 {vector("m", 4)}, [%r7];
        """,
        x, y,
    )  # fmt: skip
    copies = 8 * 4 * 8  # each of eight lanes of a quarter at the same bank
    assert counts.wavefronts == copies + 4 * ways


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "setp.lt.u32 %p1, %r1, 31;" + MULTIPLY.format(form=FORMS["f16"][0], guard="@%p1"),
            "divergent mma: 31 of a warp's 32 lanes take part",
        ),
        (MULTIPLY.format(form="m16n8k16.row.col.f16.f16.f16.f16", guard=""), "unknown modifiers"),
        (MULTIPLY.format(form=FORMS["tf32"][0], guard="add.u32 %b1, %b1, 0x3F800001;"), "more bits than TF32"),
        ("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%a0, %a1, %a2, %a3}, [room+8];", "misaligned: an access of 16"),
        ("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%a0, %a1, %a2, %a3}, [room];", "nobody wrote"),
        ("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%a0, %a1, %a2, %a3}, [room+4096];", "out of bounds: shared"),
        ("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%a0, %a1}, [room];", "unknown modifiers"),
        (
            "mov.u64 %rd6, room; mad.wide.u32 %rd7, %r1, 16, %rd6; mov.b32 %b0, 0; cvt.u32.u64 %r6, %rd7;"
            "st.shared.v4.b32 [%rd7], {%b0, %b0, %b0, %b0};"
            "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%a0, %a1, %a2, %a3}, [%r6];",
            "race: a thread reads shared memory that another one wrote",
        ),
    ],
)
def test_planted_faults_of_matrices(body, message):
    with pytest.raises(FaultError, match=message):
        run(REGISTERS + body, np.zeros(1024, np.uint32), np.zeros(1024, np.float32))


# -- copies -----------------------------------------------------------------------------------------------------

# Threads copy 16 bytes to each of two places, and read what their neighbours copied.
COPY = """
    mov.u64 %rd6, room; cvt.u32.u64 %r6, %rd6; mad.lo.s32 %r6, %r1, 16, %r6; mad.wide.u32 %rd7, %r1, 16, %rd1;
    cp.async.cg.shared.global [%r6], [%rd7], 16, {size}; cp.async.commit_group;
    cp.async.cg.shared.global [%r6+1024], [%rd7], 16; cp.async.commit_group;
    {wait}
    {barrier}
    xor.b32 %r7, %r1, 1; mad.wide.u32 %rd8, %r7, 16, %rd6;
    ld.shared.v4.f32 {{%f1, %f2, %f3, %f4}}, [%rd8];
    {after}
    mad.wide.u32 %rd8, %r1, 16, %rd2; st.global.v4.f32 [%rd8], {{%f1, %f2, %f3, %f4}};
    cp.async.wait_group 0;
"""
SOUND = {"size": "16", "wait": "cp.async.wait_group 1;", "barrier": "bar.sync 0;", "after": ""}


def copied(threads=64, **changes):
    x, y = np.arange(4 * threads, dtype=np.float32), np.full(4 * threads, np.nan, np.float32)
    counts = run(COPY.format(**SOUND | changes), x, y, threads)
    return x.reshape(-1, 2, 4), y.reshape(-1, 2, 4), counts


def test_copies():
    """Each thread waits for the older of its two groups."""
    x, y, counts = copied()
    np.testing.assert_array_equal(y, x[:, ::-1])
    assert counts.sectors == counts.ideal_sectors == 2 * 32 + 32


@pytest.mark.parametrize("words", [0, 1, 2, 3])
def test_copies_are_filled_with_zeros(words):
    x, y, _ = copied(size=str(4 * words))
    np.testing.assert_array_equal(y, x[:, ::-1] * (np.arange(4) < words))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wait": ""}, "race: an access to shared memory that a copy under way writes"),
        ({"wait": "cp.async.wait_group 2;"}, "a copy under way writes"),
        ({"barrier": ""}, "race: a thread reads shared memory that another one wrote since the last barrier"),
        ({"barrier": "", "wait": "bar.sync 0; cp.async.wait_group 1;"}, "that another one wrote since"),
        ({"after": "cp.async.cg.shared.global [%r6], [%rd7], 16;"}, "writes shared memory that another one read"),
        ({"after": "cp.async.cg.shared.global [%r6+1024], [%rd7], 16;"}, "a copy under way writes"),
        ({"after": "st.shared.f32 [%rd6+1024], %f1;"}, "a copy under way writes"),
        ({"after": "bar.sync 0; cp.async.cg.shared.global [%r6+8], [%rd7], 16;"}, "misaligned: an access of 16 bytes"),
        ({"after": "cp.async.cg.shared.global [%r6+2048], [%rd7+8], 16;"}, "misaligned: an access of 16 bytes"),
        ({"after": "cp.async.cg.shared.global [%r6+2048], [%rd7+1024], 16;"}, "out of bounds: global"),
        ({"after": "cp.async.cg.shared.global [%r6+4000], [%rd7], 16;"}, "out of bounds: shared"),
        ({"after": "cp.async.cg.shared.global [%r6+2048], [%rd7], 16, 17;"}, "more than 16"),
        ({"after": "cp.async.ca.shared.global [%r6+2048], [%rd7], 4;"}, "unknown copy"),
        ({"after": "cp.async.cg.shared.global [%r6+2048], [%rd7], 16; ret;"}, "ends while copies"),
    ],
)
def test_planted_faults_of_copies(changes, message):
    with pytest.raises(FaultError, match=message):
        copied(**changes)


# -- inline assembly --------------------------------------------------------------------------------------------


def test_scopes_of_registers():
    """Inline assembly in braces has registers of its own, under names that others use too."""
    x, y = np.arange(32, dtype=np.float32), np.full(32, np.nan, np.float32)
    run(
        """
        ld.global.f32 %f1, [%rd4];
        { .reg .f32 t; add.f32 t, %f1, %f1; mov.f32 %f2, t; }
        {
            .reg .b32 t, u; mov.b32 t, %f2; mov.b32 u, t;
            { .reg .f32 t; mov.f32 t, 0f3F800000; add.f32 %f2, %f2, t; }
            mov.b32 %f3, t;
        }
        add.f32 %f2, %f2, %f3; st.global.f32 [%rd5], %f2;
        """,
        x, y,
    )  # fmt: skip
    np.testing.assert_array_equal(y, 4 * x + 1)


@pytest.mark.parametrize(
    ("conversion", "values", "want"),
    [
        ("cvt.rna.tf32.f32", [1 + 2**-11, 1 + 2**-12, -1 - 2**-11, 1 - 2**-13], [1 + 2**-10, 1, -1 - 2**-10, 1]),
        ("cvt.rna.tf32.f32", [np.inf, np.nan, 3, 0], [np.inf, np.nan, 3, 0]),
        ("cvt.rn.bf16.f32", [1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-7, -np.inf], [1, 1 + 2**-6, 1 + 2**-7, -np.inf]),
        ("cvt.rn.bf16.f32", [np.nan, -3, 257, 259], [np.nan, -3, 256, 260]),
    ],
)
def test_shorter_floats(conversion, values, want):
    x, y = np.tile(np.array(values, np.float32), 8), np.full(32, np.nan, np.float32)
    to = "%rs1" if "bf16" in conversion else "%r2"
    back = "mov.b32 %r2, {%rs0, %rs1};" if "bf16" in conversion else ""
    run(
        f".reg .b16 %rs<2>; mov.b16 %rs0, 0; ld.global.f32 %f1, [%rd4]; {conversion} {to}, %f1; {back}"
        "st.global.b32 [%rd5], %r2;",
        x, y,
    )  # fmt: skip
    np.testing.assert_array_equal(y[:4], want)
