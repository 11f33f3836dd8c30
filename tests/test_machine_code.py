"""What LLVM makes of the kernels for CPUs with other vectors, and that arithmetic stays in registers."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

X86 = {
    "skylake-avx512": (512, "+sse4.2,+avx,+avx2,+fma,+avx512f,+avx512vl,+avx512bw,+avx512dq,+avx512cd"),
    "haswell": (256, "+sse4.2,+avx,+avx2,+fma"),
    "x86-64": (128, ""),
}
# What has a register tile, and the products of its largest one, in vectors.
TILES = {
    "direct_tile.tile_units": "outer",
    "direct_joint.joint_units": "outer",
    "chain.chain_units": "outer",
    "direct_dot.dot_units": "inner",
    "products.product_units": "product",
    "weight.weight_units": "product",
}
LARGEST = {512: {"outer": 25, "inner": 24, "product": 24}, 256: {"outer": 12, "inner": 12, "product": 12}}

on_x86 = pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="Numba compiles for x86 here")


def report(tmp_path, *arguments, **environment):
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("machine_code.py")), *arguments],
        env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)} | environment,
        capture_output=True, text=True, timeout=280, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["kernels"]
    assert {name: kernel["calls"] for name, kernel in found["kernels"].items() if kernel["calls"]} == {}
    return found


@on_x86
@pytest.mark.parametrize("cpu", X86)
def test_registers_of_other_cpus(cpu, tmp_path):
    bits, features = X86[cpu]
    found = report(tmp_path, NUMBA_CPU_NAME=cpu, NUMBA_CPU_FEATURES=features)
    assert found["bits"] == bits
    widest = {128: "xmm", 256: "ymm", 512: "zmm"}[bits]
    for name, kernel in found["kernels"].items():
        assert max(kernel["registers"]) <= widest, f"{name} has {kernel['registers']} for {cpu}"
    for name, tile in TILES.items():
        kernel = found["kernels"][name]
        assert widest in kernel["registers"], name
        if bits > 128:
            assert max(loop["fmas"] for loop in kernel["loops"]) == LARGEST[bits][tile], f"{name}: {kernel['loops']}"
            assert all(loop["stack"] == 0 for loop in kernel["loops"]), f"{name} spills for {cpu}: {kernel['loops']}"


def test_register_tiles_for_arm(tmp_path):
    found = report(tmp_path, "arm", FASTDECONV_SIMD_BITS="128")
    for name, tile in found["kernels"].items():
        assert tile["registers"] == ["v"], name
        assert max(loop["fmas"] for loop in tile["loops"]) >= 24, f"{name}: {tile['loops']}"
