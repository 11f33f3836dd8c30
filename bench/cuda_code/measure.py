"""One kernel on one architecture, compiled and read."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import NamedTuple

from fastdeconv.bench.cuda_code.cases import Entry, Key, entries
from fastdeconv.bench.cuda_code.occupancy import LIMITS, occupancy
from fastdeconv.bench.cuda_code.sass import HotLoop, hot_loop
from fastdeconv.bench.cuda_code.toolchain import Usage, assemble
from fastdeconv.kernels.cuda.device import compile_kernel

ARCHITECTURES = tuple(LIMITS)


class Code(NamedTuple):
    """What a kernel uses on an architecture, its share of a multiprocessor's warps, and its hot loop if it has one."""

    usage: Usage
    occupancy: float
    hot: HotLoop | None


def measure(entry: Entry, capability: tuple[int, int], ptx: str = "") -> Code:
    """Compile a kernel; its PTX may be given."""
    launch = entry.launch
    usage, text = assemble(ptx or compile_kernel(launch.kernel, launch.types, capability), capability)
    share = occupancy(capability, launch.threads, usage.registers, usage.shared)
    return Code(usage, share, hot_loop(text, entry.depth))


def measure_all() -> Iterator[tuple[Key, tuple[int, int], Code]]:
    """Yield every kernel on every architecture, in their order; a process a core compiles."""
    work = [(key, capability) for capability in ARCHITECTURES for key in entries(capability)]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for (key, capability), code in zip(work, pool.map(_measured, work)):
            yield key, capability, code


def _measured(what: tuple[Key, tuple[int, int]]) -> Code:
    key, capability = what
    return measure(entries(capability)[key], capability)
