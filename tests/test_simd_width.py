"""Every vector width is the same source: narrower ones are forced and must be as exact."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from llvmlite import binding as llvm

EXACT = """
import numpy as np
from cases import EDGE_CASES, IMPLEMENTATIONS, call, declines, integers, oracle
from dataclasses import replace
from fastdeconv.kernels.cpu import host
names = ("dcgan", "fsrcnn", "each_axis_its_own", "depthwise", "one_pixel_many_taps", "parallel", "3d", "deblur",
         "fcn", "wide_stride_cut_at_both_ends", "wide_stride_24", "1d_depthwise_long_kernel", "long_kernel_stride_2",
         "rows_of_one_channel", "rows_early_phases", "kernel_shorter_than_stride", "stride_7")
for name in names:
    for dtype in ("float32", "float64"):
        p = replace(EDGE_CASES[name], dtype=dtype)
        for pass_, implementation in IMPLEMENTATIONS:
            if not implementation.name.startswith(("direct", "winograd")) or declines(implementation, pass_, p):
                continue
            a, b = integers(p, pass_)
            got = call(p, pass_, a, b, implementation.name)
            np.testing.assert_array_equal(got, oracle(p, pass_, a, b), f"{pass_} {implementation.name} {p}")
print(host.VECTOR_BITS, host.REGISTERS)
"""


def run(code: str, **environment: str) -> str:
    environment = os.environ | environment | {"PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("bits", ["128", "256"])
def test_narrow_vectors_are_exact(bits):
    assert run(EXACT, FASTDECONV_SIMD_BITS=bits).split()[0] == bits


@pytest.mark.parametrize(
    ("cpu", "features", "bits"), [("haswell", "+sse4.2,+avx,+avx2,+fma", "256"), ("x86-64", "", "128")]
)
def test_code_for_older_cpus_is_exact(cpu, features, bits):
    if not llvm.get_host_cpu_features().get("avx2"):
        pytest.skip("this CPU cannot run the code")
    assert run(EXACT, NUMBA_CPU_NAME=cpu, NUMBA_CPU_FEATURES=features).split() == [bits, "16"]


@pytest.mark.quick
@pytest.mark.parametrize("bits", ["64", "wide", "256 "])
def test_impossible_widths_are_named(bits):
    done = subprocess.run(
        [sys.executable, "-c", "import fastdeconv"],
        env=os.environ | {"FASTDECONV_SIMD_BITS": bits}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0
    assert f"FASTDECONV_SIMD_BITS must be 128, 256 or 512; got {bits!r}" in done.stderr
