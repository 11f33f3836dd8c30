"""What device "auto" decides by: a coarse estimate of the time on the CPU, and on the GPU with transfers.

The GPU's figures are what its driver reports, the shares below what well-tuned kernels commonly reach. None has been
fitted to a measurement yet.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from fastdeconv.cuda import runtime
from fastdeconv.devices import number
from fastdeconv.kernels.cpu import host
from fastdeconv.kernels.cpu.threads import get_num_threads
from fastdeconv.problem import Pass, Problem

# CPU: fused multiply-adds a cycle in units of a vector, cycles a second, and the share of the peak that kernels reach;
# bytes a second from memory for all threads.
_CPU_UNITS, _CPU_HZ, _CPU_SHARE, _CPU_BANDWIDTH = 2, 3e9, 0.6, 2e10
_CPU_CALL = 5e-6
# GPU: lanes of a multiprocessor, and the shares of peak and bandwidth that kernels reach.
_GPU_LANES, _GPU_SHARE, _GPU_BANDWIDTH_SHARE = 64, 0.5, 0.7
# Bytes a second between pageable memory and the device (PCIe 3.0 x16 has 1.3e10), seconds a transfer and a launch.
_TRANSFER, _TRANSFER_CALL, _LAUNCH = 6e9, 2e-5, 1e-5


def faster(problem: Problem, pass_: Pass) -> tuple[str, str]:
    """Return the device that should be faster for NumPy arrays, and a sentence with the estimate."""
    try:
        place = runtime.place()
    except RuntimeError as error:
        return "cpu", f"no GPU to send arrays to: {error}"
    cpu, gpu, transfer = on_cpu(problem), on_gpu(problem, number(place)), transfers(problem)
    chosen = place if gpu + transfer < cpu else "cpu"
    told = f"estimated {_ms(cpu)} on the CPU, {_ms(gpu)} on {place} and {_ms(transfer)} for transfers"
    return chosen, f"{told}, so {chosen}"


def faster_chain(problems: Sequence[Problem], moved: int) -> str:
    """Return the device that should be faster for layers one after the other, with so many bytes to it and back."""
    try:
        place = runtime.place()
    except RuntimeError:
        return "cpu"
    gpu = sum(on_gpu(problem, number(place)) for problem in problems) + 2 * _TRANSFER_CALL + moved / _TRANSFER
    return place if gpu < sum(map(on_cpu, problems)) else "cpu"


def on_cpu(problem: Problem) -> float:
    """Return seconds on the CPU."""
    lanes = host.lanes("float64" if problem.dtype in ("float64", "complex128", "int64") else "float32")
    peak = 2 * _CPU_UNITS * lanes * _CPU_HZ * get_num_threads() * _CPU_SHARE
    return _CPU_CALL + max(problem.flops / peak, problem.bytes / _CPU_BANDWIDTH)


def on_gpu(problem: Problem, index: int) -> float:
    """Return seconds on a GPU, arrays being there."""
    peak, bandwidth = _limits(index, problem.dtype in ("float64", "complex128"))
    return _LAUNCH + max(problem.flops / peak, problem.bytes / bandwidth)


def transfers(problem: Problem) -> float:
    """Return seconds for two arrays to the device and one back."""
    return 3 * _TRANSFER_CALL + problem.bytes / _TRANSFER


@functools.cache
def _limits(index: int, double: bool) -> tuple[float, float]:
    """Return flops and bytes a second that kernels should reach."""
    attributes = runtime.cupy().cuda.Device(index).attributes
    peak = 2 * _GPU_LANES * attributes["MultiProcessorCount"] * attributes["ClockRate"] * 1e3 * _GPU_SHARE
    if double:
        peak /= attributes["SingleToDoublePrecisionPerfRatio"]
    bandwidth = 2 * attributes["MemoryClockRate"] * 1e3 * attributes["GlobalMemoryBusWidth"] / 8 * _GPU_BANDWIDTH_SHARE
    return peak, bandwidth


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"
