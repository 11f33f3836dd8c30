"""Compiled kernels of the CPU on disk: one file for each kernel, signature and kind of CPU.

Numba's own cache knows only the file a function stands in, so an edit to another file that it calls returns the old
answer; a truncated file raises; nowhere to write raises; and two processes that start cold may swap each other's
entries in the shared index.
"""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

from numba.core import compiler
from numba.core.caching import _Cache
from numba.core.runtime import rtsys
from numba.core.serialize import dumps

from fastdeconv.kernels import cache


class DiskCache(_Cache):
    """What a Numba dispatcher asks for compiled code, for one function."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def cache_path(self) -> str:
        """The directory, or an empty string."""
        return str(cache.directory()[0] or "")

    def enable(self) -> None:
        """Do nothing: the directory decides."""

    def disable(self) -> None:
        """Do nothing: the directory decides."""

    def flush(self) -> None:
        """Do nothing: files of other versions are never read."""

    def _path(self, signature: Any, codegen: Any) -> Path | None:
        folder = cache.directory()[0]
        if folder is None:
            return None
        key = hashlib.sha256(repr((signature, codegen.magic_tuple())).encode()).hexdigest()[:16]
        return folder / f"{self._name}-{key}.bin"

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the compiled function, or None if it is not there, damaged or unreadable."""
        # Not target_context.refresh(), as Numba does: it imports half of Numba, and SciPy's linear algebra, which only
        # a compilation needs, and each one refreshes by itself. Machine code needs the reference counter's symbols.
        rtsys.initialize(target_context)
        path = self._path(sig, target_context.codegen())
        if path is None:
            return None
        payload = cache.read(path)
        if payload is None:
            return None
        try:
            return compiler.CompileResult._rebuild(target_context, *pickle.loads(payload))
        except Exception:  # whatever a foreign file makes of unpickling, compiling again is right
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Write the compiled function in one step, or not at all."""
        path = self._path(sig, data.codegen)
        if path is None or data.library.has_dynamic_globals:
            return
        cache.write(path, dumps(data._reduce()))
