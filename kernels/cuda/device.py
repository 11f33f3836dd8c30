"""The one module that imports `cuda`, and the operations that Numba lacks: what serves the kernels can change here.

Kernels take vectors: pointers when they are compiled, NumPy arrays in Numba's simulator (``NUMBA_ENABLE_CUDASIM=1``),
which knows no intrinsics and gets Python twins of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numba import config, cuda, types

SIMULATED = bool(config.ENABLE_CUDASIM)

__all__ = [
    "SIMULATED",
    "compile_kernel",
    "cuda",
    "device_function",
    "multiply_add",
    "read4",
    "scatter",
    "unravel",
    "write4",
]

if SIMULATED:

    def read4(array: Any, at: int) -> tuple[Any, ...]:
        """Read four elements with one access, at a place that is a multiple of four."""
        assert at % 4 == 0, "misaligned"
        return array[at], array[at + 1], array[at + 2], array[at + 3]

    def write4(array: Any, at: int, values: tuple[Any, ...]) -> None:
        """Write four elements with one access, at a place that is a multiple of four."""
        assert at % 4 == 0, "misaligned"
        for i in range(4):
            array[at + i] = values[i]

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
    from numba.cuda.extending import intrinsic

    def _base(context: Any, builder: Any, kind: Any, array: Any) -> Any:
        """Return the address of an array's first element, or the pointer."""
        return array if isinstance(kind, types.CPointer) else context.make_array(kind)(context, builder, array).data

    def _vector(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
        """Return the address of four elements."""
        place = builder.gep(_base(context, builder, kind, array), [at])
        return builder.bitcast(place, ir.VectorType(place.type.pointee, 4).as_pointer(place.type.addrspace))

    def _parts(builder: Any, packed: Any, count: int) -> list[Any]:
        return [builder.extract_value(packed, i) for i in range(count)]

    @intrinsic
    def read4(typing_context: Any, array: Any, at: Any) -> Any:
        """Read four elements with one access, at a place that is a multiple of four."""
        signature = types.UniTuple(array.dtype, 4)(array, types.int64)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kind = signature.args[0]
            value = builder.load(_vector(context, builder, kind, *arguments))
            value.align = kind.dtype.bitwidth // 2
            parts = [builder.extract_element(value, ir.Constant(ir.IntType(32), i)) for i in range(4)]
            return context.make_tuple(builder, signature.return_type, parts)

        return signature, generate

    @intrinsic
    def write4(typing_context: Any, array: Any, at: Any, values: Any) -> Any:
        """Write four elements with one access, at a place that is a multiple of four."""
        signature = types.void(array, types.int64, types.UniTuple(array.dtype, 4))

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            array, at, values = arguments
            kind = signature.args[0]
            address = _vector(context, builder, kind, array, at)
            vector = ir.Constant(address.type.pointee, ir.Undefined)
            for i, part in enumerate(_parts(builder, values, 4)):
                vector = builder.insert_element(vector, part, ir.Constant(ir.IntType(32), i))
            builder.store(vector, address).align = kind.dtype.bitwidth // 2
            return context.get_dummy_value()

        return signature, generate

    @intrinsic
    def multiply_add(typing_context: Any, left: Any, right: Any, sums: Any) -> Any:
        """Return ``sums[i, j] + left[i] · right[j]``, rounded once."""
        signature = sums(left, right, sums)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            left, right, sums = (_parts(builder, value, kind.count) for value, kind in zip(arguments, signature.args))
            wide = len(right)
            added = [builder.fma(a, b, sums[i * wide + j]) for i, a in enumerate(left) for j, b in enumerate(right)]
            return context.make_tuple(builder, signature.return_type, added)

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


@cache
def unravel(index: str) -> Any:
    """Return a device function ``(i, size0, size1, size2)``: the i-th pixel's image and its place on each axis."""
    cast = getattr(np, index)

    @device_function
    def unraveled(i: int, size0: int, size1: int, size2: int) -> Any:
        rest = cast(i // size2)
        plane = cast(rest // size1)
        return cast(plane // size0), cast(plane % size0), cast(rest % size1), cast(i % size2)

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
    return str(ptx)
