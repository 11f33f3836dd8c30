"""How compiled units of work run: one after the other, or on all threads of the one parallel loop.

Each thread has a range of the units, which it takes piece by piece; then it takes pieces of the others' ranges. So
threads end together on cores of different speed, and beside other programs, and where nothing disturbs them each has
touched what the same thread has in its cache from the kernel before.

A kernel that Numba compiles into a parallel loop is optimised again in each of three functions around the loop, which
takes several times as long as the kernel itself. Here the loop is compiled once for all kernels and reaches them by
address. What is compiled for a kernel is a function that puts its arguments into a frame on the stack, where all
threads read them:

    run(loop, threads, count, piece, arguments) → loop(threads, count, piece, taken, chunk, frame) on all threads
        → chunk(lo, hi, slot, frame) → units(lo, hi, *arguments)
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
_CHUNK = ir.FunctionType(ir.VoidType(), [_WORD] * 4)
_LOOP = (types.int64,) * 6
# Words between what threads count: each count has a cache line of its own.
_APART = 8


def runner(name: str, units: Any, slot: bool) -> Any:
    """Return a function ``(loop, threads, count, piece, arguments)`` that does all units of a kernel, kept on disk.

    `piece` is how many units a thread takes at a time. One thread is the calling one, whatever `loop` is; for more it
    is the address of the parallel loop. With `slot`, the units' last argument is a number below `threads`, one for what
    runs at the same time.
    """
    run_units = _run_in_slots if slot else _run

    def run(loop: int, threads: int, count: int, piece: int, arguments: tuple[Any, ...]) -> None:
        run_units(units, loop, threads, count, piece, arguments)

    # Symbols are called after the function: those of several kernels must differ.
    run.__qualname__ = f"run.{name}"
    compiled = njit(pipeline_class=KernelCompiler, **OPTIONS)(run)
    compiled._cache = DiskCache(name)
    return compiled


def runner_signature(arguments: list[types.Type]) -> tuple[types.Type, ...]:
    """Return the types of that function's arguments."""
    return (types.int64,) * 4 + (types.Tuple(arguments),)


@cache
def loop_address() -> int:
    """Compile the parallel loop and return where it is."""
    _loop.compile(_LOOP)
    compiled = _loop.overloads[_LOOP]
    return int(compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name))


@intrinsic
def _call_chunk(typing_context: Any, chunk: Any, lo: Any, hi: Any, slot: Any, frame: Any) -> Any:
    signature = types.void(*(types.int64,) * 5)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        chunk, *arguments = values
        builder.call(builder.inttoptr(chunk, _CHUNK.as_pointer()), arguments)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def _take(typing_context: Any, taken: Any, owner: Any, piece: Any) -> Any:
    """Return how many units of a thread's range have been taken, and take a piece more, in one step."""
    signature = types.int64(types.int64, types.int64, types.int64)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        taken, owner, piece = values
        counts = builder.inttoptr(taken, _WORD.as_pointer())
        return builder.atomic_rmw("add", builder.gep(counts, [builder.mul(owner, _WORD(_APART))]), piece, "monotonic")

    return signature, generate


@njit(parallel=True, pipeline_class=KernelCompiler, no_cpython_wrapper=True, **OPTIONS)
def _loop(threads: int, count: int, piece: int, taken: int, chunk: int, frame: int) -> None:
    for i in prange(threads):
        for j in range(threads):
            owner = (i + j) % threads
            begin, end = count * owner // threads, count * (owner + 1) // threads
            lo = begin + _take(taken, owner, piece)
            while lo < end:
                _call_chunk(chunk, lo, min(lo + piece, end), i, frame)
                lo = begin + _take(taken, owner, piece)


_loop._cache = DiskCache("shared_loop.loop")


def _make_run(slot: bool) -> Any:
    def run(
        typing_context: Any, units: Any, loop: Any, threads: Any, count: Any, piece: Any, arguments: Any
    ) -> Any:  # fmt: skip
        integer = types.int64
        signature = types.void(units, integer, integer, integer, integer, arguments)
        unit_types = (integer, integer, *arguments.types) + (integer,) * slot
        units_signature = typing_context.resolve_function_type(units, unit_types, {})

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            _, *numbers, packed = values
            _emit_run(context, builder, numbers, packed, units, units_signature, slot)
            return context.get_dummy_value()

        return signature, generate

    return intrinsic(run)


_run, _run_in_slots = _make_run(False), _make_run(True)


def _emit_run(
    context: Any, builder: Any, numbers: list[Any], packed: Any, units: Any, units_signature: Any, slot: bool
) -> None:  # fmt: skip
    loop, threads, count, piece = numbers
    content = ir.LiteralStructType([_WORD, packed.type])  # whether it failed, the arguments
    frame = cgutils.alloca_once(builder, content)
    for i, value in enumerate((_WORD(0), packed)):
        builder.store(value, cgutils.gep_inbounds(builder, frame, 0, i))
    chunk = _chunk(context, builder.module, content, units, units_signature, slot)
    address = builder.ptrtoint(frame, _WORD)
    with builder.if_else(builder.icmp_signed("==", threads, _WORD(1))) as (alone, together):
        with alone:
            builder.call(chunk, [_WORD(0), count, _WORD(0), address])
        with together:
            words = builder.mul(threads, _WORD(_APART))
            taken = builder.alloca(_WORD, words)
            cgutils.memset(builder, taken, builder.mul(words, _WORD(8)), 0)
            values = [builder.ptrtoint(taken, _WORD), builder.ptrtoint(chunk, _WORD), address]
            _call_loop(context, builder, loop, [threads, count, piece, *values])
    failed = builder.load(cgutils.gep_inbounds(builder, frame, 0, 0))
    with builder.if_then(builder.trunc(failed, ir.IntType(1)), likely=False):
        # Memory is all that a kernel can fail at. What is raised inside the loop would be lost with its thread.
        context.call_conv.return_user_exc(builder, MemoryError, ("no memory for a kernel's buffers",))


def _call_loop(context: Any, builder: Any, address: Any, values: list[Any]) -> None:
    """Call the parallel loop as Numba compiled it; it fails at nothing."""
    function = context.call_conv.get_function_type(types.none, _LOOP)
    result, error = (cgutils.alloca_once(builder, pointer.pointee) for pointer in function.args[:2])
    builder.call(builder.inttoptr(address, function.as_pointer()), [result, error, *values])


def _chunk(context: Any, module: Any, content: Any, units: Any, signature: Any, slot: bool) -> Any:
    """Add a function ``(lo, hi, slot, frame)`` to a module that calls the units with the arguments of the frame."""
    compiled = units.dispatcher.get_compile_result(signature)
    context.active_code_library.add_linking_library(compiled.library)
    function = ir.Function(module, _CHUNK, module.get_unique_name("chunk"))
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block())
    lo, hi, number, address = function.args
    frame = builder.inttoptr(address, content.as_pointer())
    _, packed = cgutils.unpack_tuple(builder, builder.load(frame), 2)
    values = [lo, hi, *cgutils.unpack_tuple(builder, packed, len(signature.args) - 2 - slot), *[number] * slot]
    status, _ = context.call_internal_no_propagate(builder, compiled.fndesc, signature, values)
    with builder.if_then(status.is_error, likely=False):
        builder.store(_WORD(1), cgutils.gep_inbounds(builder, frame, 0, 0))
    builder.ret_void()
    return function
