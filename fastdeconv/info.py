"""What fastdeconv runs on: versions, CPU, threads, CUDA, and the cache of compiled kernels."""

from __future__ import annotations

import importlib.util
import platform
import time

import llvmlite
import numba
import numpy as np

from fastdeconv import tuning
from fastdeconv.kernels import cache
from fastdeconv.kernels.cpu import host, warm
from fastdeconv.kernels.cpu.threads import get_num_threads


def report(compile_ahead: bool = False) -> str:
    """Return the report of ``fastdeconv info``; with `compile_ahead`, compile every kernel into the cache first."""
    from fastdeconv import __version__

    warmed = ""
    if compile_ahead:
        start = time.perf_counter()
        count = warm.compile_all()
        warmed = f"{count} kernels ready after {time.perf_counter() - start:.1f} s"
    lines = [
        ("fastdeconv", __version__),
        ("Python", f"{platform.python_version()} on {platform.platform()}"),
        ("NumPy, Numba, llvmlite", f"{np.__version__}, {numba.__version__}, {llvmlite.__version__}"),
        ("CPU", f"{host.NAME}, {', '.join(host.known_features()) or 'no vector features known'}"),
        ("vectors", _vectors()),
        ("threads", f"{get_num_threads()} of {numba.config.NUMBA_NUM_THREADS}, layer {numba.threading_layer()}"),
        ("CUDA", _cuda()),
        ("cache", _cache()),
        ("autotune", f"times for {tuning.number_of_entries()} problems, passes and numbers of threads"),
    ]
    if warmed:
        lines.append(("warm", warmed))
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:{width}}  {value}" for name, value in lines)


def _vectors() -> str:
    source = "set by FASTDECONV_SIMD_BITS" if host.FORCED else "of this CPU"
    fused = "with" if host.HAS_FMA else "without"
    lanes = f"{host.lanes('float32')} float32 or {host.lanes('float64')} float64"
    return f"{host.VECTOR_BITS} bits, {source}: {lanes}, {fused} fused multiply-add"


def _cuda() -> str:
    if importlib.util.find_spec("cupy") is None:
        return 'CuPy is not installed: pip install "fastdeconv[cuda13]", or [cuda12]'
    from fastdeconv.cuda import runtime

    reason = runtime.unusable()
    return f"not available: {reason}" if reason else ", ".join(runtime.names())


def _cache() -> str:
    path, sentence = cache.directory()
    if path is None:
        return sentence
    sizes = [file.stat().st_size for file in path.glob("*.bin")]
    return f"{path}, {len(sizes)} kernels, {sum(sizes) / 1e6:.1f} MB"
