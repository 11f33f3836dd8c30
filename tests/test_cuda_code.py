"""Device kernels as machine code: nothing in local memory, and none worse than the page on them says."""

import itertools
import re
from pathlib import Path

import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda compiles the kernels")

from on_machine import program

from fastdeconv.bench import layers
from fastdeconv.bench.cuda_code import cases, page, toolchain
from fastdeconv.bench.cuda_code import measure as measuring
from fastdeconv.bench.cuda_code.measure import ARCHITECTURES, Code, measure
from fastdeconv.bench.cuda_code.sass import HotLoop
from fastdeconv.bench.cuda_code.toolchain import Usage
from fastdeconv.cli import main
from fastdeconv.cuda.plan import TABLES
from fastdeconv.dispatch import geometry_of
from fastdeconv.kernels.cuda.device import compile_kernel, cuda
from fastdeconv.kernels.cuda.launches import Target

PAGE = Path(__file__).parents[1] / "docs" / "cuda.md"
AGAIN = "python -m bench cuda-code -o docs/cuda.md"

# Compiled again, with places of 32 bits: one variant of each kernel and element type for the architecture whose PTX the
# tests execute, and of each family's main kernel for the newest, which has a compiler of its own.
EXECUTED, NEWEST = (8, 0), (12, 0)


def narrow(capability):
    return [key for key in cases.entries(capability) if key.places != "64"]


def subset():
    some = {(key.kernel, key.dtype): key for key in narrow(EXECUTED)}.values()
    return [(key, EXECUTED) for key in some] + [
        (key, NEWEST) for key in {key.kernel: key for key in narrow(NEWEST) if "." not in key.kernel}.values()
    ]


@pytest.fixture(scope="module")
def told():
    return page.read(PAGE.read_text(encoding="utf-8"))


@pytest.fixture
def tools():
    try:
        for tool in toolchain.TOOLS:
            toolchain.find(tool)
    except toolchain.ToolError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("at", subset(), ids=lambda at: f"{' '.join(at[0])} sm_{at[1][0]}{at[1][1]}")
def test_not_worse_than_the_page(at, told, tools):
    key, capability = at
    entry = cases.entries(capability)[key]
    code = measure(entry, capability, program(entry.launch, capability).text)
    assert page.regressions(at, code, told.get(at)) == [], f"compiled with {page.versions()}; {AGAIN}"


def test_the_page_has_every_kernel(told):
    assert set(told) == {(key, at) for at in ARCHITECTURES for key in cases.entries(at)}, AGAIN
    assert "In local memory" not in PAGE.read_text(encoding="utf-8")


def test_every_kernel_that_layers_launch_is_a_case():
    """In float32: of the other types, cases have one variant each."""
    target = Target(EXECUTED, 108, tf32=True)
    known = {entry.launch.kernel for entry in cases.entries(EXECUTED).values()}
    missing = set()
    work = [(pass_, each) for pass_, implementations in TABLES.items() for each in implementations]
    for (pass_, implementation), layer in itertools.product(work, layers.select("all")):
        geometry = geometry_of(layer.problem)._replace(dtype="float32")
        if implementation.declines(geometry, target) is None:
            steps = implementation.steps(geometry, cases.layout(geometry, pass_), target)
            if not known.issuperset(launch.kernel for launch in steps.launches):
                missing.add(f"{implementation.name} {pass_} {layer.problem}")
    assert missing == set(), "cases.CASES needs problems that launch their kernels"


def test_local_memory_is_seen(tools):
    """An array whose places are not known to the compiler cannot be in registers."""

    def kernel(out, count):
        values = cuda.local.array(64, "float32")
        for i in range(count):
            values[(i * i) % 64] += i
        out[0] = values[count % 64]

    found, text = toolchain.assemble(compile_kernel(kernel, ("float32*", "int32"), EXECUTED), EXECUTED)
    assert found.stack >= 256
    assert "STL" in text


def test_what_the_assembler_refuses(tools):
    with pytest.raises(toolchain.ToolError, match=r"ptxas: .*\.version"):
        toolchain.assemble("nonsense", EXECUTED)


def test_a_missing_tool_is_a_line(monkeypatch):
    monkeypatch.setitem(toolchain.TOOLS, "ptx_no_such_tool", "no-such-package")
    with pytest.raises(
        toolchain.ToolError, match=r'ptx_no_such_tool is not installed: pip install "fastdeconv\[cuda-check'
    ):
        toolchain.find("ptx_no_such_tool")


KEY = cases.Key("gather_gemm", "128 × 128", "float32", "32")
GOOD = Code(Usage(128, 16384, 0, 0), 0.25, HotLoop(0.76, 0.61, (128,), (128, 32)))
TOLD = page.Told(128, 0.76, 0.61)


def test_the_page_reads_as_it_was_written(tools):
    plain = Code(Usage(32, 0, 0, 0), 1.0, None)
    packs = [
        KEY._replace(kernel="gather_gemm.pack", variant=variant, places="–") for variant in ("128 × 128", "64 × 8")
    ]
    text = page.render({(KEY, EXECUTED): GOOD} | {(pack, NEWEST): plain for pack in packs})
    assert page.read(text) == {(KEY, EXECUTED): TOLD} | {(pack, NEWEST): page.Told(32, None, None) for pack in packs}
    assert "| `gather_gemm.pack` | 128 × 128, 64 × 8 | float32 | – | 0 |" in text
    assert "| `gather_gemm` | innermost loop | 76% to 76% | 0 of 1 |" in text
    assert "In local memory" not in text


@pytest.mark.parametrize(
    ("code", "told", "message"),
    [
        (GOOD, None, "is not in the page"),
        (GOOD._replace(usage=Usage(128, 16384, 8, 16)), TOLD, "spills 16 bytes and has a stack frame of 8"),
        (GOOD._replace(usage=Usage(137, 16384, 0, 0)), TOLD, "takes 137 registers; the page says 128"),
        (GOOD._replace(hot=GOOD.hot._replace(share=0.73)), TOLD, r"73 % of the hot loop \(share\); the page says 76%"),
        (GOOD._replace(hot=GOOD.hot._replace(step=None)), TOLD, r"– % of the hot loop \(step\); the page says 61%"),
        (GOOD._replace(hot=None), page.Told(128, 0.76, None), "share"),
    ],
)  # fmt: skip
def test_what_is_worse_is_told(code, told, message):
    (found,) = page.regressions((KEY, EXECUTED), code, told)
    assert found.startswith("gather_gemm 128 × 128 float32 32 on sm_80")
    assert re.search(message, found)


def test_as_good_as_the_page_or_better():
    better = Code(Usage(136, 16384, 0, 0), 0.25, HotLoop(0.75, 0.9, (128,), (128,)))
    assert page.regressions((KEY, EXECUTED), GOOD, TOLD) == page.regressions((KEY, EXECUTED), better, TOLD) == []


def test_spills_are_on_the_page(tools):
    bad = GOOD._replace(usage=Usage(255, 16384, 24, 48))
    text = page.render({(KEY, EXECUTED): bad})
    assert "**In local memory:** gather_gemm 128 × 128 float32 32 on sm_80 (48 bytes spilled, stack frame 24)." in text


@pytest.mark.parametrize(("spills", "status"), [(0, 0), (48, 1)])
def test_the_command(spills, status, tools, monkeypatch, tmp_path, capsys):
    code = GOOD._replace(usage=Usage(128, 16384, 0, spills))
    monkeypatch.setattr(measuring, "measure_all", lambda: iter([(KEY, EXECUTED, code)]))
    output = tmp_path / "page.md"
    assert main(["bench", "cuda-code", "-o", str(output)]) == status
    assert page.read(output.read_text(encoding="utf-8")) == {(KEY, EXECUTED): TOLD}
    assert capsys.readouterr().out == f"wrote {output}\n"


def test_the_command_without_its_tools(monkeypatch, capsys):
    monkeypatch.setitem(toolchain.TOOLS, "ptx_no_such_tool", "no-such-package")
    assert main(["bench", "cuda-code"]) == 1
    assert " is not installed: pip install" in capsys.readouterr().err
