"""How compiled units of work run: one chunk after the other, or on all threads of the one parallel loop.

A kernel that Numba compiles into a parallel loop is optimised again in each of three functions around the loop, which
takes several times as long as the kernel itself. Here the loop is compiled once for all kernels and reaches them by
address. What is compiled for a kernel is a function that puts its arguments into a frame on the stack, where all
threads read them:

    run(loop, chunks, count, arguments) → loop(chunks, count, chunk, frame) on all threads
        → chunk(lo, hi, frame) → units(lo, hi, *arguments)
"""

from __future__ import annotations

from functools import cache
from typing import Any

from llvmlite import ir
from numba import njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from fastdeconv.kernels.cpu.compiler import KernelCompiler
from fastdeconv.kernels.cpu.disk_cache import DiskCache

# error_model: division by zero must not raise inside a kernel; nogil: calls from several Python threads overlap.
OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}

_WORD = ir.IntType(64)
_CHUNK = ir.FunctionType(ir.VoidType(), [_WORD, _WORD, _WORD])
_LOOP = (types.int64,) * 4


def runner(name: str, units: Any) -> Any:
    """Return a function ``(loop, chunks, count, arguments)`` that does all units of a kernel, kept on disk.

    One chunk runs in the calling thread, whatever `loop` is; for more it is the address of the parallel loop.
    """

    def run(loop: int, chunks: int, count: int, arguments: tuple[Any, ...]) -> None:
        _run(units, loop, chunks, count, arguments)

    # Symbols are called after the function: those of several kernels must differ.
    run.__qualname__ = f"run.{name}"
    compiled = njit(pipeline_class=KernelCompiler, **OPTIONS)(run)
    compiled._cache = DiskCache(name)
    return compiled


def runner_signature(arguments: list[types.Type]) -> tuple[types.Type, ...]:
    """Return the types of that function's arguments."""
    return (types.int64,) * 3 + (types.Tuple(arguments),)


@cache
def loop_address() -> int:
    """Compile the parallel loop and return where it is."""
    _loop.compile(_LOOP)
    compiled = _loop.overloads[_LOOP]
    return int(compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name))


@intrinsic
def _call_chunk(typing_context: Any, chunk: Any, lo: Any, hi: Any, frame: Any) -> Any:
    signature = types.void(*_LOOP)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        chunk, *arguments = values
        builder.call(builder.inttoptr(chunk, _CHUNK.as_pointer()), arguments)
        return context.get_dummy_value()

    return signature, generate


@njit(parallel=True, pipeline_class=KernelCompiler, no_cpython_wrapper=True, **OPTIONS)
def _loop(chunks: int, count: int, chunk: int, frame: int) -> None:
    for i in prange(chunks):
        _call_chunk(chunk, count * i // chunks, count * (i + 1) // chunks, frame)


_loop._cache = DiskCache("shared_loop.loop")


@intrinsic
def _run(typing_context: Any, units: Any, loop: Any, chunks: Any, count: Any, arguments: Any) -> Any:
    signature = types.void(units, types.int64, types.int64, types.int64, arguments)
    units_signature = typing_context.resolve_function_type(units, (types.int64, types.int64, *arguments.types), {})

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        _, loop, chunks, count, packed = values
        content = ir.LiteralStructType([_WORD, packed.type])  # whether it failed, the arguments
        frame = cgutils.alloca_once(builder, content)
        for i, value in enumerate((_WORD(0), packed)):
            builder.store(value, cgutils.gep_inbounds(builder, frame, 0, i))
        chunk = _chunk(context, builder.module, content, units, units_signature)
        address = builder.ptrtoint(frame, _WORD)
        with builder.if_else(builder.icmp_signed("==", chunks, _WORD(1))) as (alone, together):
            with alone:
                builder.call(chunk, [_WORD(0), count, address])
            with together:
                _call_loop(context, builder, loop, [chunks, count, builder.ptrtoint(chunk, _WORD), address])
        failed = builder.load(cgutils.gep_inbounds(builder, frame, 0, 0))
        with builder.if_then(builder.trunc(failed, ir.IntType(1)), likely=False):
            # Memory is all that a kernel can fail at. What is raised inside the loop would be lost with its thread.
            context.call_conv.return_user_exc(builder, MemoryError, ("no memory for a kernel's buffers",))
        return context.get_dummy_value()

    return signature, generate


def _call_loop(context: Any, builder: Any, address: Any, values: list[Any]) -> None:
    """Call the parallel loop as Numba compiled it; it fails at nothing."""
    function = context.call_conv.get_function_type(types.none, _LOOP)
    result, error = (cgutils.alloca_once(builder, pointer.pointee) for pointer in function.args[:2])
    builder.call(builder.inttoptr(address, function.as_pointer()), [result, error, *values])


def _chunk(context: Any, module: Any, content: Any, units: Any, signature: Any) -> Any:
    """Add a function ``(lo, hi, frame)`` to a module that calls the units with the arguments of the frame."""
    compiled = units.dispatcher.get_compile_result(signature)
    context.active_code_library.add_linking_library(compiled.library)
    function = ir.Function(module, _CHUNK, module.get_unique_name("chunk"))
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block())
    lo, hi, address = function.args
    frame = builder.inttoptr(address, content.as_pointer())
    _, packed = cgutils.unpack_tuple(builder, builder.load(frame), 2)
    values = [lo, hi, *cgutils.unpack_tuple(builder, packed, len(signature.args) - 2)]
    status, _ = context.call_internal_no_propagate(builder, compiled.fndesc, signature, values)
    with builder.if_then(status.is_error, likely=False):
        builder.store(_WORD(1), cgutils.gep_inbounds(builder, frame, 0, 0))
    builder.ret_void()
    return function
