"""Compile every kernel ahead of its first call."""

from __future__ import annotations

from fastdeconv.kernels.cpu import (
    chain,
    direct_blocks,
    direct_col2im,
    direct_dot,
    direct_im2col,
    direct_im2row,
    direct_images,
    direct_joint,
    direct_linear,
    direct_local,
    direct_loops,
    direct_outer,
    direct_panels,
    direct_phases,
    direct_pointwise,
    direct_rows,
    direct_tile,
    direct_wide_stride,
    direct_windows,
    elementwise,
    interchange,
    limits,
    losses,
    normalization,
    norms,
    pixels,
    planes,
    range_sums,
    resampling,
    shared_loop,
    updates,
)
from fastdeconv.kernels.cpu.channels_last import dense, dense_weight, depthwise, depthwise_weight
from fastdeconv.kernels.cpu.jit import Kernel
from fastdeconv.kernels.cpu.long_kernel import input_grad, splits, weight_grad
from fastdeconv.kernels.cpu.winograd import ranges, tiles, units, weight

_MODULES = (
    chain, dense, dense_weight, depthwise, depthwise_weight, direct_blocks, direct_col2im, direct_dot,
    direct_im2col, direct_im2row, direct_images, direct_joint, direct_linear, direct_local, direct_loops,
    direct_outer, direct_panels, direct_phases, direct_pointwise, direct_rows, direct_tile, direct_wide_stride,
    direct_windows, elementwise, input_grad, interchange, limits, losses, normalization, norms, pixels, planes,
    range_sums, ranges, resampling, splits, tiles, units, updates, weight, weight_grad,
)  # fmt: skip


def kernels() -> list[Kernel]:
    """Return every kernel."""
    return [
        kernel
        for module in _MODULES
        for kernel in vars(module).values()
        if isinstance(kernel, Kernel) and kernel.module == module.__name__
    ]


def ready() -> int:
    """Return how many kernels this process has compiled or loaded, each element type for itself."""
    return sum(kernel.ready for kernel in kernels())


def compile_all() -> int:
    """Compile or load every kernel for every element type it serves, and the parallel loop; return how many."""
    todo = [(kernel, dtype) for kernel in kernels() for dtype in _served(kernel)]
    for kernel, dtype in todo:
        kernel.entry(dtype)
    shared_loop.loop_address()
    return len(todo)


def _served(kernel: Kernel) -> tuple[str, ...]:
    floats, levels = ("float32", "float64"), ("uint8", "uint16")
    if kernel.module == direct_loops.__name__:
        return (*floats, "int64")
    if kernel is pixels.load_units:
        return (*floats, *levels)
    if kernel is chain.chain_units:
        return ("float32",)
    return levels if kernel is pixels.store_levels_units else floats
