"""Print what LLVM makes of every kernel, as JSON: which vector registers occur, calls for an fma, and the inner loops.

``machine_code.py`` compiles for the CPU that Numba is told; ``machine_code.py arm`` compiles the register tiles for an
ARM Neoverse N1.
"""

import json
import platform
import re
import sys

from llvmlite import binding as llvm
from llvmlite import ir
from numba import types

LABEL = re.compile(r"(?m)^(\.LBB\d+_\d+):.*$")
FMA = re.compile(r"vfn?madd\w*p[sd]|fmla\tv|mulp[sd]")
# A frame pointer has what is spilled below it; without one, %rbp is a register as any other.
STACK = re.compile(r"\(%rsp|-\d+\(%rbp\)|\[(sp|x29)\b")


def inner_loops(text):
    """Return the instructions of every block that jumps back to itself."""
    _, *parts = LABEL.split(text)
    found = []
    for label, block in zip(parts[::2], parts[1::2]):
        lines = [line for line in block.splitlines() if line.startswith("\t") and not line.startswith("\t.")]
        back = next((i for i, line in enumerate(lines) if re.search(rf"^\t[a-z.]+\s.*{re.escape(label)}$", line)), None)
        if back is not None:
            found.append(lines[: back + 1])
    return found


def report(text):
    loops = [
        {"fmas": sum(bool(FMA.search(line)) for line in loop), "stack": sum(bool(STACK.search(line)) for line in loop)}
        for loop in inner_loops(text)
    ]
    return {
        "registers": sorted(set(re.findall(r"\b([xyz]mm|[vz])\d+\b", text))),
        "calls": sorted(set(re.findall(r"\bfmaf?\b", text))),
        "loops": [loop for loop in loops if loop["fmas"]],
    }


def tiles_for_arm():
    """Yield the name and the assembly of each register tile."""
    platform.machine = lambda: "aarch64"
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    from fastdeconv.kernels.cpu import pixel_tiles, product_tiles, tiles
    from fastdeconv.kernels.cpu.vectors import INDEX, call_once_compiled

    machine = llvm.Target.from_triple("aarch64-unknown-linux-gnu").create_target_machine(cpu="neoverse-n1", opt=3)
    numbers, places = ir.FloatType().as_pointer(), INDEX.as_pointer()
    for name, kinds in {
        "outer_tile": [INDEX, INDEX, INDEX, numbers, numbers, INDEX, places, numbers],
        "inner_tile": [INDEX, INDEX, numbers, places, numbers, places, numbers],
        "product_tile": [INDEX, INDEX, numbers, INDEX, INDEX, numbers, INDEX, numbers, INDEX, INDEX],
        "block_tile": [INDEX, INDEX, numbers, INDEX, numbers, numbers, INDEX, INDEX, numbers],
        "channel_tile": [INDEX, INDEX, numbers, numbers, numbers, INDEX, INDEX, numbers],
        "window_tile": [INDEX, INDEX, numbers, numbers, places, numbers, INDEX],
        "pixel_tile": [
            INDEX, numbers, places, INDEX, places, INDEX, numbers, numbers, numbers, places, *[INDEX] * 4,
        ],
        "weight_tile": [INDEX, INDEX, numbers, numbers, numbers, *[INDEX] * 4],
    }.items():  # fmt: skip
        made = ir.Module()
        function = ir.Function(made, ir.FunctionType(ir.VoidType(), kinds), "calls")
        builder = ir.IRBuilder(function.append_basic_block())
        (module_of,) = (each for each in (tiles, product_tiles, pixel_tiles) if hasattr(each, f"_{name}"))
        emit = getattr(module_of, f"_{name}")
        call_once_compiled(builder, name, types.float32, list(function.args), emit)
        builder.ret_void()
        module = llvm.parse_assembly(re.sub(r"(?m)^target triple = .*$", "", str(made)))
        module.triple, module.data_layout = machine.triple, str(machine.target_data)
        passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=2))
        passes.getModulePassManager().run(module, passes)
        yield name, machine.emit_assembly(module)


def kernels():
    """Yield the name and the assembly of each kernel."""
    from fastdeconv.kernels.cpu import warm

    for kernel in warm.kernels():
        yield kernel.name, kernel.compiled("float32").library.get_asm_str()


if __name__ == "__main__":
    found = {name: report(text) for name, text in (tiles_for_arm() if "arm" in sys.argv else kernels())}
    from fastdeconv.kernels.cpu import host

    print(json.dumps({"bits": host.VECTOR_BITS, "kernels": found}))
