"""GPUs through CuPy. Not yet run on hardware."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CUDA_OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation, which allocations of pinned memory raise


class CupyDevice:
    """A `Device` of `lanes`: three streams and a memory pool of its own on one GPU."""

    def __init__(self, number: int) -> None:
        import cupy

        self._cupy = cupy
        self._device = cupy.cuda.Device(number)
        with self._device:
            self._pool = cupy.cuda.MemoryPool()
            self._upload, self._compute, self._download = (cupy.cuda.Stream(non_blocking=True) for _ in range(3))

    def free_memory(self) -> int:
        """Return how many bytes are free."""
        return int(self._device.mem_info[0])

    def bound(self, nbytes: int) -> None:
        """Limit the pool."""
        with self._device:
            self._pool.set_limit(size=max(nbytes, 1))  # 0 would be no limit

    def _malloc(self, nbytes: int) -> Any:
        try:
            return self._pool.malloc(nbytes)
        except self._cupy.cuda.memory.OutOfMemoryError:  # which the pool raises without looking for blocks to free
            self._pool.free_all_blocks()
            return self._pool.malloc(nbytes)

    def put(self, array: Any) -> Any:
        """Copy an array to the GPU."""
        with self._device:
            return self._cupy.array(array)

    def pinned(self, nbytes: int) -> NDArray[np.uint8]:
        """Allocate pinned host memory."""
        import cupyx

        with self._device:
            buffer: NDArray[np.uint8] = cupyx.empty_pinned(max(nbytes, 1), np.uint8)
            return buffer

    def upload(self, host: NDArray[Any]) -> tuple[Any, Any]:
        """Enqueue a copy to the GPU."""
        with self._device, self._upload, self._cupy.cuda.using_allocator(self._malloc):
            x = self._cupy.empty(host.shape, host.dtype)
            x.set(host, stream=self._upload)
            return x, self._upload.record()

    def compute(self, function: Callable[[Any], Any], x: Any, after: Any) -> tuple[Any, Any]:
        """Call the function with the stream for computing as the current one."""
        with self._device, self._compute, self._cupy.cuda.using_allocator(self._malloc):
            self._compute.wait_event(after)
            y = self._cupy.ascontiguousarray(function(x))
            return y, self._compute.record()

    def download(self, y: Any, host: NDArray[Any], after: Any) -> Any:
        """Enqueue a copy to the host."""
        with self._device:
            self._download.wait_event(after)
            y.get(stream=self._download, out=host, blocking=False)
            return self._download.record()

    def wait(self, event: Any) -> None:
        """Wait for an event."""
        event.synchronize()

    def settle(self) -> None:
        """Wait for the streams, and free the blocks that the pool keeps."""
        with self._device:
            for stream in (self._upload, self._compute, self._download):
                with contextlib.suppress(self._cupy.cuda.runtime.CUDARuntimeError):  # who waits for an event is told
                    stream.synchronize()
            self._pool.free_all_blocks()

    def is_out_of_memory(self, error: Exception) -> bool:
        """Tell an allocation that failed from other errors of CUDA."""
        return getattr(error, "status", None) == _CUDA_OUT_OF_MEMORY
