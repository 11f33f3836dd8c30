"""Numba's compiler, with code optimised once.

Numba optimises each function when it is lowered, again with all it calls, turns that into machine code, and does the same
once more in every function that calls it. Functions that are only called from others go without all that here.
"""

from __future__ import annotations

from typing import Any

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler


class _KernelLibrary(JITCodeLibrary):
    """Optimised when all its functions are together."""

    def _optimize_functions(self, module: Any) -> None:
        module.data_layout = self._codegen._data_layout


class _DeviceLibrary(_KernelLibrary):
    """Neither optimised nor run by itself, only linked into others."""

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True

    @property
    def codegen(self) -> Any:
        """What Numba tells the function's environment, which has no machine code to go into."""
        return self

    def set_env(self, name: str, environment: Any) -> None:
        """Do nothing."""


class KernelCompiler(Compiler):
    """Compile what is called from Python, and in loops over its units."""

    library = _KernelLibrary

    def compile_extra(self, function: Any) -> Any:
        """Compile a Python function."""
        codegen = self.state.targetctx.codegen()
        self.state.library = self.library(codegen, function.__qualname__)
        self.state.library.enable_object_caching()
        return super().compile_extra(function)


class DeviceCompiler(KernelCompiler):
    """Compile what is called from kernels alone."""

    library = _DeviceLibrary
