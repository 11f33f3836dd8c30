"""What is asked of CuPy and the driver: devices, memory, and kernels that are ready to launch.

Kernels are compiled to PTX by Numba, which needs no driver, and loaded through CuPy, so that memory, streams and
devices are those of the caller's arrays.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import threading
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from fastdeconv.kernels import cache
from fastdeconv.kernels.cuda.factory import identity
from fastdeconv.kernels.cuda.launches import Target

FLOOR = (7, 5)
# What kernels are compiled for: the latest of these that the device has; the driver goes on from there.
ARCHITECTURES = ((7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0))
_INSTALL = 'install "fastdeconv[cuda13]", or "fastdeconv[cuda12]" for a driver of CUDA 12'
_compiling = threading.Lock()


def cupy() -> Any:
    """Return CuPy.

    Raises
    ------
    RuntimeError
        It cannot be imported.
    """
    try:
        import cupy
    except ImportError as error:
        raise RuntimeError(f'device "cuda" needs CuPy, which cannot be imported ({error}): {_INSTALL}') from None
    return cupy


def unusable() -> str | None:
    """Return why no GPU can be used, or None."""
    try:
        place()
    except RuntimeError as error:
        return str(error)
    return None


def place(index: int | None = None) -> str:
    """Return "cuda:N" for a device that kernels can use, by default the current one.

    Raises
    ------
    RuntimeError
        The message says what is missing: CuPy, a driver, such a device, its capability.
    """
    cp = cupy()
    try:
        count = cp.cuda.runtime.getDeviceCount()
        found = cp.cuda.runtime.getDevice() if index is None else index
    except cp.cuda.runtime.CUDARuntimeError as error:
        raise RuntimeError(
            f'device "cuda" is not available: CuPy {cp.__version__} reports {error}; it needs an NVIDIA GPU and a '
            f'driver of its CUDA version or later. Device "cpu" or None computes NumPy arrays on the CPU'
        ) from None
    if found >= count:
        raise RuntimeError(
            f'device must be a GPU of this machine, from "cuda:0" on there are {count}; got "cuda:{found}"'
        )
    target(found)
    return f"cuda:{found}"


@functools.cache
def target(index: int) -> Target:
    """Return what kernels are told about a device, with products of full precision.

    Raises
    ------
    RuntimeError
        It is older than the kernels need.
    """
    device = cupy().cuda.Device(index)
    digits = device.compute_capability
    capability = int(digits[:-1]), int(digits[-1])
    if capability < FLOOR:
        raise RuntimeError(
            f'device "cuda:{index}" has compute capability {capability[0]}.{capability[1]}; the kernels need '
            f"{FLOOR[0]}.{FLOOR[1]} (Turing) or later"
        )
    return Target(capability, device.attributes["MultiProcessorCount"])


def indices() -> list[int]:
    """Return the numbers of the devices that kernels can use.

    Raises
    ------
    RuntimeError
        There is none; see `place`.
    """
    place()
    found = []
    for index in range(cupy().cuda.runtime.getDeviceCount()):
        with contextlib.suppress(RuntimeError):  # too old
            target(index)
            found.append(index)
    return found


def names() -> list[str]:
    """Return a line for each device."""
    cp = cupy()
    found = []
    for index in range(cp.cuda.runtime.getDeviceCount()):
        name = cp.cuda.runtime.getDeviceProperties(index)["name"].decode()
        digits = cp.cuda.Device(index).compute_capability
        found.append(f"cuda:{index} {name}, compute capability {digits[:-1]}.{digits[-1]}")
    return found


def on(index: int) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which a device is the current one."""
    cp = cupy()
    if cp.cuda.runtime.getDevice() == index:
        return contextlib.nullcontext()
    device: contextlib.AbstractContextManager[Any] = cp.cuda.Device(index)
    return device


@functools.cache
def function(kernel: Callable[..., None], types: tuple[str, ...], index: int) -> Any:
    """Return a kernel loaded on a device, which must be the current one: ``function(grid, block, arguments)`` launches.

    Raises
    ------
    RuntimeError
        It cannot be compiled or loaded; the message says what is missing.
    """
    cp = cupy()
    module = cp.cuda.function.Module()
    capability = max(each for each in ARCHITECTURES if each <= target(index).capability)
    code = ptx(kernel, types, capability)
    try:
        module.load(code.encode())
    except cp.cuda.driver.CUDADriverError as error:
        raise RuntimeError(
            f'device "cuda:{index}" cannot load a kernel: {error}. A driver that is older than the NVVM of numba-cuda '
            f"does not know its PTX: update the driver, or {_INSTALL}"
        ) from None
    return module.get_function(_entry(code))


@functools.cache
def ptx(kernel: Callable[..., None], types: tuple[str, ...], capability: tuple[int, int]) -> str:
    """Return the code of a kernel.

    Raises
    ------
    RuntimeError
        What compiles it is not installed.
    """
    path = _file(kernel, types, capability)
    if path is not None and (kept := cache.read(path)) is not None:
        return kept.decode()
    try:
        with _compiling:
            from fastdeconv.kernels.cuda.device import compile_kernel

            code = compile_kernel(kernel, types, capability)
    except (ImportError, OSError, RuntimeError) as error:
        raise RuntimeError(
            f'device "cuda" needs numba-cuda with NVVM to compile kernels ({type(error).__name__}: {error}): {_INSTALL}'
        ) from error
    if path is not None:
        cache.write(path, code.encode())
    return code


def _file(kernel: Callable[..., None], types: tuple[str, ...], capability: tuple[int, int]) -> Path | None:
    """Return where a kernel's code is kept."""
    folder, name = cache.directory()[0], identity(kernel)
    if folder is None or name is None:
        return None
    key = (name, types, capability, _compiler())
    return folder / f"{kernel.__name__}-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.ptx"


@functools.cache
def _compiler() -> tuple[tuple[str, str], ...]:
    """Return the versions of what compiles kernels beside Numba, those that are installed."""
    found = ((each.metadata["Name"].lower(), each.version) for each in metadata.distributions())
    return tuple(sorted(each for each in found if each[0].startswith(("numba-cuda", "nvidia-nvvm"))))


def _entry(code: str) -> str:
    return code.partition(".entry")[2].split("(", 1)[0].strip()


def upload(table: NDArray[Any]) -> Any:
    """Return an array on the current device, complete there for every stream."""
    cp = cupy()
    array = cp.asarray(table)
    cp.cuda.get_current_stream().synchronize()
    return array
