"""What the machine offers a kernel: vector width, registers, fused multiply-add.

``FASTDECONV_SIMD_BITS`` (128, 256 or 512) overrides the width, so that every width can be tried on one machine.
``NUMBA_CPU_NAME`` and ``NUMBA_CPU_FEATURES``, Numba's own, have code made for another CPU of the same kind.
"""

from __future__ import annotations

import os
import platform

import numpy as np
from llvmlite import binding as llvm
from numba import config


def _features() -> dict[str, bool]:
    if config.CPU_FEATURES is not None:
        return {name[1:]: name[0] == "+" for name in config.CPU_FEATURES.split(",") if name}
    try:
        return dict(llvm.get_host_cpu_features())
    except RuntimeError:  # LLVM cannot tell on this host
        return {}


FEATURES = _features()
IS_ARM = platform.machine().lower() in ("aarch64", "arm64")


NAME = config.CPU_NAME or llvm.get_host_cpu_name()
FORCED = os.environ.get("FASTDECONV_SIMD_BITS", "")


def _vector_bits() -> int:
    if FORCED:
        if FORCED not in ("128", "256", "512"):
            raise ValueError(f"FASTDECONV_SIMD_BITS must be 128, 256 or 512; got {FORCED!r}")
        return int(FORCED)
    if FEATURES.get("avx512f"):
        return 512
    return 256 if FEATURES.get("avx2") else 128


VECTOR_BITS = _vector_bits()
REGISTERS = 32 if VECTOR_BITS == 512 or IS_ARM else 16
# Without the instruction, LLVM would call the C library for every fma.
HAS_FMA = IS_ARM or bool(FEATURES.get("fma"))


def lanes(dtype: str) -> int:
    """Return how many elements a vector register holds."""
    return VECTOR_BITS // 8 // np.dtype(dtype).itemsize


def known_features() -> list[str]:
    """Return the features that decide about vectors, those that the CPU has."""
    return [name for name in ("sse4.2", "avx", "fma", "avx2", "avx512f", "neon", "sve") if FEATURES.get(name)]
