"""Update rules of gradient descent on arrays of CuPy, on the current stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastdeconv.cuda import runtime
from fastdeconv.kernels.cuda.updates import launch


def launcher(name: str, like: Any) -> Callable[..., None]:
    """Return ``run(vectors, settings, flags=0)``, which launches a kernel on vectors like one and does not wait."""
    index, scalar = like.device.id, like.dtype.type
    step = launch(name, str(like.dtype), like.size)
    grid, block = (*step.grid, 1, 1), (step.threads, 1, 1)

    def run(vectors: tuple[Any, ...], settings: tuple[float, ...], flags: int = 0) -> None:
        if not like.size:
            return
        with runtime.on(index):
            function = runtime.function(step.kernel, step.types, index)
            places = (np.uintp(each.data.ptr if each.size else 0) for each in vectors)
            function(grid, block, [*places, np.int64(like.size), np.int32(flags), *map(scalar, settings)])

    return run
