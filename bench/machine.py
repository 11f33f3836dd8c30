"""What the figures were measured on: processor, system, versions."""

from __future__ import annotations

import platform
from pathlib import Path

import llvmlite
import numba
import numpy as np

import fastdeconv as fd
from fastdeconv.kernels.cpu import host


def describe() -> dict[str, str]:
    """Return what is known of the machine, by what it is called."""
    return {
        "processor": f"{_model()} ({host.NAME}), {host.VECTOR_BITS}-bit vectors",
        "threads": f"{fd.get_num_threads()} of {numba.config.NUMBA_NUM_THREADS}, Numba's layer {_layer()}",
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
    }


def versions() -> dict[str, str]:
    """Return the versions of what fastdeconv itself runs on."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": numba.__version__,
        "llvmlite": llvmlite.__version__,
    }


def _model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def _layer() -> str:
    try:
        return str(numba.threading_layer())
    except ValueError:  # no parallel loop has run yet
        return "not started"
