"""Numba's compiler, with every function optimised once.

Numba optimises a function when it is lowered, then together with what it calls, makes machine code of it, and does the
last two again in each function that calls it. Here a function that only others call is kept as it was lowered,
and one that Python calls is optimised when everything is there.
"""

from __future__ import annotations

from typing import Any

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler


class _KernelLibrary(JITCodeLibrary):
    """Optimised as a whole."""

    def _optimize_functions(self, module: Any) -> None:
        module.data_layout = self._codegen._data_layout


class _DeviceLibrary(_KernelLibrary):
    """Not optimised, and never run by itself."""

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True

    @property
    def codegen(self) -> Any:
        """What Numba tells where a function's globals are: itself, which has no machine code that would read them."""
        return self

    def set_env(self, name: str, environment: Any) -> None:
        """Do nothing."""


class KernelCompiler(Compiler):
    """For functions that Python calls."""

    library = _KernelLibrary

    def compile_extra(self, function: Any) -> Any:
        """Compile a Python function."""
        self.state.library = self.library(self.state.targetctx.codegen(), function.__qualname__)
        self.state.library.enable_object_caching()
        return super().compile_extra(function)


class DeviceCompiler(KernelCompiler):
    """For functions that are only called from such ones."""

    library = _DeviceLibrary
