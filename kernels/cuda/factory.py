"""Functions that make kernels: one kernel for each of their arguments, with a name of its own.

The name says what a kernel is, in this process and the next, so that its code can be kept on disk.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

Kernel = Callable[..., None]


def kernel_factory(make: Callable[..., Kernel]) -> Callable[..., Kernel]:
    """Make a function return the same kernel for the same arguments, all there is that the kernel's code depends on."""

    @functools.cache
    def factory(*arguments: Any) -> Kernel:
        kernel: Any = make(*arguments)
        kernel.identity = f"{make.__module__}.{make.__qualname__}{arguments!r}"
        return kernel  # type: ignore[no-any-return]

    return functools.wraps(make)(factory)


def identity(kernel: Kernel) -> str | None:
    """Return the name of a kernel, or None if another one may have the same."""
    name = f"{kernel.__module__}.{kernel.__qualname__}"
    return getattr(kernel, "identity", None if "<locals>" in name else name)
