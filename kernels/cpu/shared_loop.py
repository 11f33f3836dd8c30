"""The one parallel loop of all kernels: it reaches them by address, so neither is compiled into the other.

A kernel that Numba compiles into a parallel loop is optimised again in each of three functions around the loop, which
takes several times as long as the kernel itself. Here the loop is compiled once, and what a kernel adds is a
function that puts its arguments into a frame on the stack, where all threads read them:

    share(loop, kernel, chunks, count, arguments) → loop(chunks, count, chunk, frame) on all threads
        → chunk(lo, hi, frame) → kernel(lo, hi, *arguments)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from llvmlite import ir
from numba import njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from fastdeconv.kernels.cpu.cache import DiskCache

# error_model: division by zero must not raise inside a kernel; nogil: calls from several Python threads overlap.
OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}

_WORD = ir.IntType(64)
_CHUNK = ir.FunctionType(ir.VoidType(), [_WORD, _WORD, _WORD])
_LOOP = (types.int64,) * 4


def entry(kernel: Any, arguments: list[types.Type]) -> Callable[..., None]:
    """Return ``(chunks, count, arguments)``, which runs a compiled kernel's units on several threads."""
    signature = (*_LOOP, types.Tuple(arguments))
    return partial(_compiled(_share, signature).entry_point, _address(_compiled(_loop, _LOOP)), _address(kernel))


def _compiled(function: Any, signature: tuple[types.Type, ...]) -> Any:
    function.compile(signature)
    return function.overloads[signature]


def _address(compiled: Any) -> int:
    return int(compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name))


def _call(context: Any, builder: Any, address: Any, argument_types: tuple[types.Type, ...], values: list[Any]) -> Any:
    """Call a compiled function that returns nothing; return its status."""
    convention = context.call_conv
    function = convention.get_function_type(types.none, argument_types)
    result, error = (cgutils.alloca_once(builder, pointer.pointee) for pointer in function.args[:2])
    packed = context.get_arg_packer(argument_types).as_arguments(builder, values)
    code = builder.call(builder.inttoptr(address, function.as_pointer()), [result, error, *packed])
    return convention._get_return_status(builder, code, builder.load(error))


@intrinsic
def _call_chunk(typing_context: Any, chunk: Any, lo: Any, hi: Any, frame: Any) -> Any:
    signature = types.void(*_LOOP)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        chunk, *arguments = values
        builder.call(builder.inttoptr(chunk, _CHUNK.as_pointer()), arguments)
        return context.get_dummy_value()

    return signature, generate


@njit(parallel=True, **OPTIONS)
def _loop(chunks: int, count: int, chunk: int, frame: int) -> None:
    for i in prange(chunks):
        _call_chunk(chunk, count * i // chunks, count * (i + 1) // chunks, frame)


@intrinsic
def _call_loop(typing_context: Any, loop: Any, kernel: Any, chunks: Any, count: Any, arguments: Any) -> Any:
    signature = types.void(*_LOOP, arguments)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        loop, kernel, chunks, count, packed = values
        content = ir.LiteralStructType([_WORD, _WORD, packed.type])  # whether it failed, the kernel, its arguments
        frame = cgutils.alloca_once(builder, content)
        for i, value in enumerate((_WORD(0), kernel, packed)):
            builder.store(value, cgutils.gep_inbounds(builder, frame, 0, i))
        chunk = _chunk(context, builder.module, content, tuple(signature.args[4].types))
        _call(
            context, builder, loop, _LOOP,
            [chunks, count, builder.ptrtoint(chunk, _WORD), builder.ptrtoint(frame, _WORD)],
        )  # fmt: skip
        failed = builder.load(cgutils.gep_inbounds(builder, frame, 0, 0))
        with builder.if_then(builder.trunc(failed, ir.IntType(1)), likely=False):
            # Memory is all that a kernel can fail at. What is raised inside the loop would be lost with its thread.
            context.call_conv.return_user_exc(builder, MemoryError, ("no memory for a kernel's buffers",))
        return context.get_dummy_value()

    return signature, generate


def _chunk(context: Any, module: Any, content: Any, arguments: tuple[types.Type, ...]) -> Any:
    """Add a function ``(lo, hi, frame)`` to a module that calls the kernel of the frame."""
    function = ir.Function(module, _CHUNK, module.get_unique_name("chunk"))
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block())
    lo, hi, address = function.args
    frame = builder.inttoptr(address, content.as_pointer())
    _, kernel, packed = cgutils.unpack_tuple(builder, builder.load(frame), 3)
    values = [lo, hi, *cgutils.unpack_tuple(builder, packed, len(arguments))]
    status = _call(context, builder, kernel, (types.int64, types.int64, *arguments), values)
    with builder.if_then(status.is_error, likely=False):
        builder.store(_WORD(1), cgutils.gep_inbounds(builder, frame, 0, 0))
    builder.ret_void()
    return function


@njit(**OPTIONS)
def _share(loop: int, kernel: int, chunks: int, count: int, arguments: tuple[Any, ...]) -> None:
    _call_loop(loop, kernel, chunks, count, arguments)


_loop._cache = DiskCache("shared_loop.loop")
_share._cache = DiskCache("shared_loop.share")
