"""Every vector width is the same source: narrower ones are forced and must be as exact."""

import os
import subprocess
import sys

import pytest
from other_cpus import run


@pytest.mark.parametrize("bits", ["128", "256"])
def test_narrow_vectors_are_exact(bits):
    # Code for older CPUs has these widths too, and runs on all cases in test_other_cpus with float32.
    assert run("exactness.py", "dcgan,fcn", "float64", FASTDECONV_SIMD_BITS=bits).split()[0] == bits


@pytest.mark.quick
@pytest.mark.parametrize("bits", ["64", "wide", "256 "])
def test_impossible_widths_are_named(bits):
    done = subprocess.run(
        [sys.executable, "-c", "import fastdeconv"],
        env=os.environ | {"FASTDECONV_SIMD_BITS": bits}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0
    assert f"FASTDECONV_SIMD_BITS must be 128, 256 or 512; got {bits!r}" in done.stderr
