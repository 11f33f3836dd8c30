"""Compile every kernel ahead of its first call."""

from __future__ import annotations

from fastdeconv.kernels.cpu import (
    direct_dot,
    direct_joint,
    direct_local,
    direct_loops,
    direct_phases,
    direct_tile,
    direct_wide_stride,
    interchange,
    planes,
    shared_loop,
)
from fastdeconv.kernels.cpu.jit import Kernel
from fastdeconv.kernels.cpu.long_kernel import input_grad, weight_grad
from fastdeconv.kernels.cpu.winograd import products, tiles, weight

_MODULES = (
    direct_dot, direct_joint, direct_local, direct_loops, direct_phases, direct_tile,
    direct_wide_stride, input_grad, interchange, planes, products, tiles, weight, weight_grad,
)  # fmt: skip


def compile_all() -> int:
    """Compile or load every kernel for every element type it serves, and the parallel loop; return how many."""
    count = 0
    for module in _MODULES:
        dtypes = ["float32", "float64", "int64"] if module is direct_loops else ["float32", "float64"]
        for kernel in vars(module).values():
            if isinstance(kernel, Kernel) and kernel.module == module.__name__:
                for dtype in dtypes:
                    kernel.entry(dtype)
                    count += 1
    shared_loop.loop_address()
    return count
