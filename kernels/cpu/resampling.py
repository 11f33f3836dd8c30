"""Separable resampling of planes: every row and column of the result is a weighted sum of a few of the source's.

    target[p, i, j] = Σ_u column_weights[j, u] · (Σ_t row_weights[i, t] · source[p, rows[i, t], columns[j, u]])

Rows are summed first, as many at a time as a vector has lanes. These are transposed, so that sums of columns are whole
vectors too, one lane for each row, and the results back. Nothing between the two sums leaves the cache; both run in the
order of their taps. Parallel over blocks of rows of the result.

Ladder, each on enlarging a plane of 1920×1080 twice:
1. NumPy, one tap at a time over the whole plane.
2. One row at a time, columns element by element: 5 times as fast.
3. Vectors across rows: 10 times as fast again.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic

from fastdeconv.kernels.cpu.buffers import empty
from fastdeconv.kernels.cpu.columns import to_columns, to_rows
from fastdeconv.kernels.cpu.jit import kernel
from fastdeconv.kernels.cpu.rows import by_vectors, zero_row
from fastdeconv.kernels.cpu.vectors import Vectors, call_once_compiled, index, loop, pointer

# Vectors of a row that are summed together.
_TOGETHER = 4


@intrinsic
def _sum_rows(
    typing_context: Any, out: Any, out_at: Any, source: Any, source_at: Any, pitch: Any,
    rows: Any, weights: Any, first: Any, taps: Any, count: Any,
) -> Any:  # fmt: skip
    """Do ``out[out_at + j] = Σ_t weights[first + t] · source[source_at + rows[first + t]·pitch + j]``."""
    integer = types.int64
    signature = types.void(
        out, integer, source, integer, integer, rows, weights, integer, integer, integer
    )  # fmt: skip

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out, out_at, source, source_at, pitch, rows, weights, first, taps, count = arguments
        types_ = signature.args
        values = [
            pointer(context, builder, types_[0], out, out_at),
            pointer(context, builder, types_[2], source, source_at),
            pitch,
            pointer(context, builder, types_[5], rows, first),
            pointer(context, builder, types_[6], weights, first),
            taps,
            count,
        ]
        call_once_compiled(builder, "sum_rows", types_[0].dtype, values, _emit_sum_rows)
        return context.get_dummy_value()

    return signature, generate


def _emit_sum_rows(vectors: Vectors, arguments: list[Any]) -> None:
    target, source, pitch, rows, weights, taps, count = arguments
    builder, lanes = vectors.builder, vectors.lanes

    def emit(at: Any, part: Any) -> None:
        places = [builder.add(at, index(v * lanes)) for v in range(_TOGETHER)]
        rooms = [None if part is None else builder.sub(part, index(v * lanes)) for v in range(_TOGETHER)]

        def tap(t: Any, sums: list[Any]) -> list[Any]:
            row = builder.gep(source, [builder.mul(builder.load(builder.gep(rows, [t])), pitch)])
            weight = vectors.broadcast(weights, t)
            values = [
                vectors.load(row, place) if room is None else vectors.load_first(room, row, place)
                for place, room in zip(places, rooms)
            ]
            return [vectors.multiply_add(weight, value, total) for value, total in zip(values, sums)]

        for place, room, total in zip(places, rooms, loop(builder, taps, [vectors.zero] * _TOGETHER, tap)):
            vectors.store_part(room, total, target, place)

    by_vectors(vectors, count, emit, _TOGETHER)


@intrinsic
def _sum_columns(
    typing_context: Any, out: Any, source: Any, columns: Any, weights: Any, taps: Any, count: Any
) -> Any:  # fmt: skip
    """Do ``out[j] = Σ_u weights[j·taps + u] · source[columns[j·taps + u]]`` for `count` vectors j."""
    signature = types.void(out, source, columns, weights, types.int64, types.int64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out, source, columns, weights, taps, count = arguments
        kinds = signature.args[:4]
        bases = [
            pointer(context, builder, kind, array, index(0))
            for kind, array in zip(kinds, (out, source, columns, weights))
        ]
        call_once_compiled(builder, "sum_columns", kinds[0].dtype, [*bases, taps, count], _emit_sum_columns)
        return context.get_dummy_value()

    return signature, generate


def _emit_sum_columns(vectors: Vectors, arguments: list[Any]) -> None:
    target, source, columns, weights, taps, count = arguments
    builder, lanes = vectors.builder, index(vectors.lanes)

    def body(j: Any, carried: list[Any]) -> list[Any]:
        first = builder.mul(j, taps)

        def tap(u: Any, sums: list[Any]) -> list[Any]:
            at = builder.add(first, u)
            column = builder.mul(builder.load(builder.gep(columns, [at])), lanes)
            return [vectors.multiply_add(vectors.broadcast(weights, at), vectors.load(source, column), sums[0])]

        (total,) = loop(builder, taps, [vectors.zero], tap)
        vectors.store(total, target, builder.mul(j, lanes))
        return carried

    loop(builder, count, [], body)


@kernel("T[]", "T[]", "int[]", "T[]", "int[]", "T[]", "int", "int", "int", "int", "int")
def resample_units(
    lo: int, hi: int, source: Any, target: Any, rows: Any, row_weights: Any, columns: Any, column_weights: Any,
    height: int, width: int, out_height: int, out_width: int, lanes: int,
) -> None:  # fmt: skip
    """Compute as many rows of the result as a vector has lanes."""
    row_taps, column_taps = rows.size // out_height, columns.size // out_width
    blocks = (out_height + lanes - 1) // lanes
    sums = empty(lanes * width, source.dtype)
    # Transposing works on squares of vectors.
    turned = empty((width + lanes) * lanes, source.dtype)
    results = empty((out_width + lanes) * lanes, source.dtype)
    zeros = empty(lanes, source.dtype)
    zero_row(zeros, 0, lanes)
    for unit in range(lo, hi):
        plane, first = unit // blocks, unit % blocks * lanes
        count = min(lanes, out_height - first)
        for i in range(count):
            _sum_rows(sums, i * width, source, plane * height * width, width, rows, row_weights,
                      (first + i) * row_taps, row_taps, width)  # fmt: skip
        to_columns(turned, 0, lanes, sums, 0, width, count, width)
        _sum_columns(results, turned, columns, column_weights, column_taps, out_width)
        to_rows(target, (plane * out_height + first) * out_width, out_width, count, results, 0, lanes, zeros, 0,
                out_width, False)  # fmt: skip
