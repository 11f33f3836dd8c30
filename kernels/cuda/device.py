"""The one module that imports `cuda`, and the operations that Numba lacks: what serves the kernels can change here.

Kernels take vectors: pointers when they are compiled, NumPy arrays in Numba's simulator (``NUMBA_ENABLE_CUDASIM=1``),
which knows no intrinsics and gets Python twins of them.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import config, cuda, types

SIMULATED = bool(config.ENABLE_CUDASIM)

__all__ = [
    "SIMULATED",
    "Runs",
    "barrier",
    "bfloat_to_bits",
    "bits_to_bfloat",
    "bits_to_half",
    "compile_kernel",
    "cuda",
    "device_function",
    "divided",
    "half_to_bits",
    "intrinsic",
    "multiplier",
    "multiply_add",
    "picker",
    "read4",
    "reader",
    "scatter",
    "unravel",
    "unsigned",
    "write4",
    "writer",
]


class Runs(NamedTuple):
    """How a thread reads its part of a line: so many runs of elements, each with one access.

    Attributes
    ----------
    run : int
    runs : int
    gap : int
        From one run to the next.
    pitch : int
        From one line to the next.
    """

    run: int
    runs: int
    gap: int
    pitch: int


if SIMULATED:

    def barrier() -> None:
        """Wait for all threads of the block, in any module: the simulator has its `cuda` only in that of the kernel."""
        threading.current_thread().syncthreads()

    def intrinsic(function: Callable[..., Any]) -> Any:
        """Make an operation of inline PTX importable here, where it has no twin and nothing can run it."""

        def absent(*_: Any) -> Any:
            raise RuntimeError(f"{function.__name__} is inline PTX: Numba's simulator cannot run it")

        return absent

    @cache
    def reader(run: int, runs: int = 1, gap: int = 0) -> Any:
        """Return a device function ``(array, at)``: runs of elements, `gap` apart, each with one access.

        Places are multiples of a run.
        """

        def read(array: Any, at: int) -> tuple[Any, ...]:
            assert at % run == gap % run == 0, "misaligned"
            return tuple(array[at + n * gap + i] for n in range(runs) for i in range(run))

        return read

    @cache
    def writer(run: int, runs: int = 1, gap: int = 0) -> Any:
        """Return a device function ``(array, at, values)`` that writes what `reader` reads."""

        def write(array: Any, at: int, values: tuple[Any, ...]) -> None:
            assert at % run == gap % run == 0, "misaligned"
            for n in range(runs):
                for i in range(run):
                    array[at + n * gap + i] = values[n * run + i]

        return write

    @cache
    def picker(count: int, step: int, slots: int, slot_step: int) -> Any:
        """Return a device function ``(values, slot)``: ``values[slot · slot_step + i · step]`` for i below `count`."""

        def pick(values: tuple[Any, ...], slot: int) -> tuple[Any, ...]:
            return tuple(values[slot * slot_step + i * step] for i in range(count))

        return pick

    @cache
    def multiplier(depth: int, row_runs: Runs, column_runs: Runs) -> Any:
        """Return a device function ``(sums, array, row_at, column_at)`` that adds the products of `depth` lines.

        Each is read as `Runs` say, rows and columns of a line from places of their own.
        """
        lefts, rights = reader(*row_runs[:3]), reader(*column_runs[:3])

        def multiply(sums: tuple[Any, ...], array: Any, row_at: int, column_at: int) -> tuple[Any, ...]:
            for k in range(depth):
                left = lefts(array, row_at + k * row_runs.pitch)
                right = rights(array, column_at + k * column_runs.pitch)
                sums = multiply_add(left, right, sums)
            return sums

        return multiply

    def divided(a: Any, b: Any) -> tuple[Any, Any]:
        """Return quotient and remainder of numbers of one type, neither negative."""
        return a // b, a % b

    def bits_to_half(value: Any) -> Any:
        """Return a float16 as float32."""
        return np.float32(value)

    bits_to_bfloat = bits_to_half

    def half_to_bits(value: Any) -> Any:
        """Return what becomes a float16 when an array takes it."""
        return value

    bfloat_to_bits = half_to_bits

    def multiply_add(left: tuple[Any, ...], right: tuple[Any, ...], sums: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return ``sums[i, j] + left[i] · right[j]``, rounded once."""
        return tuple(sums[i * len(right) + j] + a * b for i, a in enumerate(left) for j, b in enumerate(right))

    def scatter(
        array: Any, columns: tuple[int, ...], rows: tuple[int, ...], more: tuple[Any, ...], sums: tuple[Any, ...]
    ) -> None:
        """Do ``array[columns[j] + rows[i]] = sums[i, j] + more[i]`` where neither place is negative."""
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                if row >= 0 and column >= 0:
                    array[column + row] = sums[i * len(columns) + j] + more[i]

else:
    from llvmlite import ir
    from numba.cuda.extending import intrinsic  # type: ignore[no-redef]

    barrier = cuda.syncthreads

    def _base(context: Any, builder: Any, kind: Any, array: Any) -> Any:
        """Return the address of an array's first element, or the pointer."""
        return array if isinstance(kind, types.CPointer) else context.make_array(kind)(context, builder, array).data

    def _vector(context: Any, builder: Any, kind: Any, array: Any, at: Any, count: int) -> Any:
        """Return the address of so many elements."""
        place = builder.gep(_base(context, builder, kind, array), [at])
        return builder.bitcast(place, ir.VectorType(place.type.pointee, count).as_pointer(place.type.addrspace))

    def _parts(builder: Any, packed: Any, count: int) -> list[Any]:
        return [builder.extract_value(packed, i) for i in range(count)]

    def _read(context: Any, builder: Any, kind: Any, array: Any, at: Any, run: int, runs: int, gap: int) -> list[Any]:
        parts = []
        for n in range(runs):
            address = _vector(context, builder, kind, array, builder.add(at, at.type(n * gap)), run)
            value = builder.load(address)
            value.align = kind.dtype.bitwidth // 8 * run
            parts += [builder.extract_element(value, ir.IntType(32)(i)) for i in range(run)]
        return parts

    @cache
    def reader(run: int, runs: int = 1, gap: int = 0) -> Any:
        """Return a device function ``(array, at)``: runs of elements, `gap` apart, each with one access.

        Places are multiples of a run.
        """

        @intrinsic
        def read(typing_context: Any, array: Any, at: Any) -> Any:
            signature = types.UniTuple(array.dtype, run * runs)(array, types.int64)

            def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                array, at = arguments
                parts = _read(context, builder, signature.args[0], array, at, run, runs, gap)
                return context.make_tuple(builder, signature.return_type, parts)

            return signature, generate

        return read

    @cache
    def writer(run: int, runs: int = 1, gap: int = 0) -> Any:
        """Return a device function ``(array, at, values)`` that writes what `reader` reads."""

        @intrinsic
        def write(typing_context: Any, array: Any, at: Any, values: Any) -> Any:
            signature = types.void(array, types.int64, types.UniTuple(array.dtype, run * runs))

            def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                array, at, values = arguments
                kind = signature.args[0]
                parts = _parts(builder, values, run * runs)
                for n in range(runs):
                    address = _vector(context, builder, kind, array, builder.add(at, at.type(n * gap)), run)
                    vector = ir.Constant(address.type.pointee, ir.Undefined)
                    for i in range(run):
                        vector = builder.insert_element(vector, parts[n * run + i], ir.IntType(32)(i))
                    builder.store(vector, address).align = kind.dtype.bitwidth // 8 * run
                return context.get_dummy_value()

            return signature, generate

        return write

    @cache
    def picker(count: int, step: int, slots: int, slot_step: int) -> Any:
        """Return a device function ``(values, slot)``: ``values[slot · slot_step + i · step]`` for i below `count`."""

        @intrinsic
        def pick(typing_context: Any, values: Any, slot: Any) -> Any:
            signature = types.UniTuple(values.dtype, count)(values, types.int64)

            def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                values, slot = arguments
                parts = _parts(builder, values, signature.args[0].count)
                picked = [parts[i * step] for i in range(count)]
                for n in range(1, slots):
                    this = builder.icmp_signed("==", slot, slot.type(n))
                    picked = [
                        builder.select(this, parts[n * slot_step + i * step], other) for i, other in enumerate(picked)
                    ]
                return context.make_tuple(builder, signature.return_type, picked)

            return signature, generate

        return pick

    def _add_products(builder: Any, left: list[Any], right: list[Any], sums: list[Any]) -> list[Any]:
        wide = len(right)
        return [builder.fma(a, b, sums[i * wide + j]) for i, a in enumerate(left) for j, b in enumerate(right)]

    @cache
    def multiplier(depth: int, row_runs: Runs, column_runs: Runs) -> Any:
        """Return a device function ``(sums, array, row_at, column_at)`` that adds the products of `depth` lines.

        Each is read as `Runs` say, rows and columns of a line from places of their own.
        """

        @intrinsic
        def multiply(typing_context: Any, sums: Any, array: Any, row_at: Any, column_at: Any) -> Any:
            signature = sums(sums, array, types.int64, types.int64)

            def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                packed, array, row_at, column_at = arguments
                kind = signature.args[1]

                def part(k: int, at: Any, runs: Runs) -> list[Any]:
                    place = builder.add(at, at.type(k * runs.pitch))
                    return _read(context, builder, kind, array, place, runs.run, runs.runs, runs.gap)

                def line(k: int) -> tuple[list[Any], list[Any]]:
                    return part(k, row_at, row_runs), part(k, column_at, column_runs)

                sums = _parts(builder, packed, signature.args[0].count)
                left, right = line(0)
                for k in range(depth):
                    # The next line is read while this one is used.
                    ahead = line(k + 1) if k + 1 < depth else ([], [])
                    sums = _add_products(builder, left, right, sums)
                    left, right = ahead
                return context.make_tuple(builder, signature.return_type, sums)

            return signature, generate

        return multiply

    @intrinsic
    def divided(typing_context: Any, a: Any, b: Any) -> Any:
        """Return quotient and remainder of numbers of one type, neither negative: Numba would divide in 64 bits."""
        pair = types.UniTuple(a, 2)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            quotient = builder.udiv(*arguments)
            remainder = builder.sub(arguments[0], builder.mul(quotient, arguments[1]))
            return context.make_tuple(builder, pair, [quotient, remainder])

        return pair(a, a), generate

    def _conversion(of: Any, to: Any, build: Callable[[Any, Any], Any]) -> Any:
        """Return a device function of one value, by how to build it."""

        @intrinsic
        def convert(typing_context: Any, value: Any) -> Any:
            def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                return build(builder, arguments[0])

            return to(of), generate

        return convert

    _BITS16, _BITS32, _HALF, _FLOAT = ir.IntType(16), ir.IntType(32), ir.HalfType(), ir.FloatType()

    def _bfloat(builder: Any, bits: Any) -> Any:
        return builder.bitcast(builder.shl(builder.zext(bits, _BITS32), _BITS32(16)), _FLOAT)

    def _bfloat_bits(builder: Any, value: Any) -> Any:
        # To nearest even: a carry from the lower half; a NaN stays one.
        bits = builder.bitcast(value, _BITS32)
        even = builder.and_(builder.lshr(bits, _BITS32(16)), _BITS32(1))
        rounded = builder.add(bits, builder.add(even, _BITS32(0x7FFF)))
        quiet = builder.or_(bits, _BITS32(0x400000))
        kept = builder.select(builder.fcmp_unordered("uno", value, value), quiet, rounded)
        return builder.trunc(builder.lshr(kept, _BITS32(16)), _BITS16)

    def _half(builder: Any, bits: Any) -> Any:
        # Were the compiler told that these are halves, it would load them in pairs.
        return builder.call(ir.InlineAsm(ir.FunctionType(_FLOAT, [_BITS16]), "cvt.f32.f16 $0, $1;", "=f,h"), [bits])

    bits_to_half = _conversion(types.uint16, types.float32, _half)
    half_to_bits = _conversion(
        types.float32, types.uint16, lambda builder, value: builder.bitcast(builder.fptrunc(value, _HALF), _BITS16)
    )
    bits_to_bfloat = _conversion(types.uint16, types.float32, _bfloat)
    bfloat_to_bits = _conversion(types.float32, types.uint16, _bfloat_bits)

    @intrinsic
    def multiply_add(typing_context: Any, left: Any, right: Any, sums: Any) -> Any:
        """Return ``sums[i, j] + left[i] · right[j]``, rounded once."""
        signature = sums(left, right, sums)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            left, right, sums = (_parts(builder, value, kind.count) for value, kind in zip(arguments, signature.args))
            return context.make_tuple(builder, signature.return_type, _add_products(builder, left, right, sums))

        return signature, generate

    @intrinsic
    def scatter(typing_context: Any, array: Any, columns: Any, rows: Any, more: Any, sums: Any) -> Any:
        """Do ``array[columns[j] + rows[i]] = sums[i, j] + more[i]`` where neither place is negative."""
        signature = types.void(array, columns, rows, more, sums)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            base = _base(context, builder, signature.args[0], arguments[0])
            columns, rows, more, sums = (
                _parts(builder, value, kind.count) for value, kind in zip(arguments[1:], signature.args[1:])
            )
            for j, column in enumerate(columns):
                with builder.if_then(builder.icmp_signed(">=", column, ir.Constant(column.type, 0))):
                    for i, row in enumerate(rows):
                        with builder.if_then(builder.icmp_signed(">=", row, ir.Constant(row.type, 0))):
                            value = builder.fadd(sums[i * len(columns) + j], more[i])
                            builder.store(value, builder.gep(base, [builder.add(column, row)]))
            return context.get_dummy_value()

        return signature, generate


def device_function(function: Callable[..., Any]) -> Any:
    """Make a function that kernels call, and that is part of them."""
    return function if SIMULATED else cuda.jit(device=True, inline=True)(function)


read4, write4 = reader(4), writer(4)


@cache
def unsigned(index: str) -> Any:
    """Return the unsigned type of as many bits: what is negative is larger than any size."""
    return getattr(np, f"u{index}")


@cache
def unravel(index: str) -> Any:
    """Return a device function ``(i, size0, size1, size2)``: the i-th pixel's image and its place on each axis."""
    cast = getattr(np, index)

    @device_function
    def unraveled(i: int, size0: int, size1: int, size2: int) -> Any:
        rest, i2 = divided(cast(i), cast(size2))
        rest, i1 = divided(rest, cast(size1))
        n, i0 = divided(rest, cast(size0))
        return n, i0, i1, i2

    return unraveled


def compile_kernel(kernel: Callable[..., None], arguments: Sequence[str], capability: tuple[int, int]) -> str:
    """Return the PTX of a kernel.

    Parameters
    ----------
    arguments : sequence of str
        "float32*" is a pointer to such elements; "int64" a number.
    capability : tuple of int
        Compute capability, (9, 0) for instance.
    """
    kinds = [
        types.CPointer(getattr(types, name[:-1])) if name.endswith("*") else getattr(types, name) for name in arguments
    ]
    ptx, _ = cuda.compile_ptx(kernel, types.void(*kinds), cc=capability)
    # Numba aligns shared arrays to their elements, and its simulator knows no other alignment; kernels access 16 bytes.
    return re.sub(r"(\.shared \.align )[1248] ", r"\g<1>16 ", str(ptx))
