"""Matrices transposed, a square of vectors at a time: arrays with channels last to channels first, and back.

``target[b, j, i] = source[b, i, j]``; parallel over the matrices b and blocks of them.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic

from fastdeconv.kernels.cpu.columns import transposed
from fastdeconv.kernels.cpu.jit import kernel
from fastdeconv.kernels.cpu.vectors import Vectors, call_once_compiled, index, pointer

# Rows and columns of a block: a few squares, so that its lines on both sides are filled while they are near.
_BLOCK = 128


@intrinsic
def _square(
    typing_context: Any, target: Any, target_at: Any, target_step: Any, source: Any, source_at: Any, source_step: Any,
    rows: Any, columns: Any,
) -> Any:  # fmt: skip
    """Transpose up to as many rows and columns as a vector has lanes."""
    integer = types.int64
    signature = types.void(target, integer, integer, source, integer, integer, integer, integer)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, target_at, target_step, source, source_at, source_step, rows, columns = arguments
        to = pointer(context, builder, signature.args[0], target, target_at)
        of = pointer(context, builder, signature.args[3], source, source_at)
        values = [to, target_step, of, source_step, rows, columns]
        call_once_compiled(builder, "transpose", signature.args[0].dtype, values, _emit_square)
        return context.get_dummy_value()

    return signature, generate


def _emit_square(vectors: Vectors, arguments: list[Any]) -> None:
    target, target_step, source, source_step, rows, columns = arguments
    builder, lanes = vectors.builder, vectors.lanes

    def places(step: Any) -> list[Any]:
        return [builder.mul(step, index(i)) for i in range(lanes)]

    def part(count: Any, i: int, limit: Any) -> Any:
        return builder.select(builder.icmp_signed("<", index(i), limit), count, index(0))

    whole = builder.and_(*(builder.icmp_signed(">=", count, index(lanes)) for count in (rows, columns)))
    with builder.if_else(whole) as (then, otherwise):
        with then:
            values = transposed(vectors, [vectors.load(source, at) for at in places(source_step)])
            for value, at in zip(values, places(target_step)):
                vectors.store(value, target, at)
        with otherwise:
            values = transposed(
                vectors,
                [vectors.load_first(part(columns, i, rows), source, at) for i, at in enumerate(places(source_step))],
            )
            for j, (value, at) in enumerate(zip(values, places(target_step))):
                vectors.store_first(part(rows, j, columns), value, target, at)


@kernel("T[]", "T[]", "int", "int", "int")
def interchange_units(lo: int, hi: int, source: Any, target: Any, rows: int, columns: int, lanes: int) -> None:
    """Transpose one block of one matrix."""
    across, down = (columns + _BLOCK - 1) // _BLOCK, (rows + _BLOCK - 1) // _BLOCK
    for unit in range(lo, hi):
        matrix = unit // (across * down) * rows * columns
        top, left = unit // across % down * _BLOCK, unit % across * _BLOCK
        for j in range(left, min(columns, left + _BLOCK), lanes):
            for i in range(top, min(rows, top + _BLOCK), lanes):
                _square(target, matrix + j * rows + i, rows, source, matrix + i * columns + j, columns,
                        rows - i, columns - j)  # fmt: skip


def blocks(rows: int, columns: int) -> int:
    """Return how many units a matrix is."""
    return -(-rows // _BLOCK) * -(-columns // _BLOCK)
