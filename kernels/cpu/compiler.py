"""Numba's compiler, for what kernels are made of: a first call takes half the time.

Numba optimises a function when it is lowered, then together with what it calls, twice, makes machine code of it, and
does the last two again in each function that calls it. Here a function that only others call is kept as it was lowered,
and one that Python calls is optimised once, when everything is there. Passes for what kernels do not use are left out,
and what an operator does with its types is looked up once: Numba asks some twenty others first, each time.
"""

from __future__ import annotations

from typing import Any, ClassVar

from numba.core import compiler_machinery, typed_passes, types, untyped_passes
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler


class _KernelLibrary(JITCodeLibrary):
    """Optimised as a whole."""

    def _optimize_functions(self, module: Any) -> None:
        module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self) -> None:
        # Level 3 takes a quarter longer, and kernels are no faster for it.
        passes, builder = self._codegen._module_pass_manager(opt=2)
        passes.run(self._final_module, builder)


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


# Closures, array expressions, literal unrolling, inlined overloads and branches on constants, for which Numba has more
# passes, do not occur in kernels.
_PASSES = (
    untyped_passes.TranslateByteCode,
    untyped_passes.FixupArgs,
    untyped_passes.IRProcessing,
    untyped_passes.ReconstructSSA,
    typed_passes.NopythonTypeInference,
    typed_passes.PreLowerStripPhis,
    typed_passes.IRLegalization,
    typed_passes.NativeLowering,
    typed_passes.NoPythonBackend,
)


class _Typing:
    """Numba's typing context; it remembers what it found for operators and other functions of Numba's."""

    _found: ClassVar[dict[Any, Any]] = {}

    def __init__(self, context: Any) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def resolve_function_type(self, function: Any, arguments: Any, keywords: Any) -> Any:
        """Return the signature of a call."""
        if keywords or isinstance(function, types.Dispatcher):
            return self._context.resolve_function_type(function, arguments, keywords)
        call = function, tuple(arguments)
        if call not in self._found:
            self._found[call] = self._context.resolve_function_type(function, arguments, keywords)
        return self._found[call]


class DeviceCompiler(KernelCompiler):
    """For functions that are only called from such ones."""

    library = _DeviceLibrary

    def __init__(self, typing_context: Any, *arguments: Any) -> None:
        super().__init__(_Typing(typing_context), *arguments)

    def define_pipelines(self) -> list[Any]:
        """Return the one pipeline of `_PASSES`."""
        passes = compiler_machinery.PassManager("kernel")
        for each in _PASSES:
            passes.add_pass(each, each.__name__)
        passes.finalize()
        return [passes]
