"""Copies of short rows as whole vectors and one masked one, and of elements that a table places."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastdeconv.kernels.cpu.vectors import Vectors, call_once_compiled, index, loop, pointer

# Rows are read one after the other: so many elements ahead are asked for early.
_AHEAD = 1024


def _by_vectors(vectors: Vectors, count: Any, emit: Callable[[Any, Any], None]) -> None:
    """Emit ``emit(first element, None)`` for whole vectors, then ``emit(first element, how many)`` for the rest."""
    builder, lanes = vectors.builder, index(vectors.lanes)
    whole = builder.sdiv(count, lanes)

    def body(i: Any, carried: list[Any]) -> list[Any]:
        emit(builder.mul(i, lanes), None)
        return carried

    loop(builder, whole, [], body)
    done = builder.mul(whole, lanes)
    rest = builder.sub(count, done)
    with builder.if_then(builder.icmp_signed(">", rest, index(0))):
        emit(done, rest)


@intrinsic
def zero_row(typing_context: Any, out: Any, out_at: Any, count: Any) -> Any:
    """Do ``out[out_at + j] = 0`` for `count` elements; nothing if it is not positive."""
    signature = types.void(out, types.int64, types.int64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out, out_at, count = arguments
        vectors = Vectors(builder, signature.args[0].dtype)
        target = pointer(context, builder, signature.args[0], out, out_at)

        def emit(at: Any, part: Any) -> None:
            vectors.store_part(part, vectors.zero, target, at)

        _by_vectors(vectors, count, emit)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def copy_padded(typing_context: Any, out: Any, out_at: Any, row: Any, row_at: Any, present: Any, count: Any) -> Any:
    """Do ``out[out_at + j] = row[row_at + j] if j < present else 0`` for `count` elements."""
    signature = types.void(out, types.int64, row, types.int64, types.int64, types.int64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out, out_at, row, row_at, present, count = arguments
        vectors = Vectors(builder, signature.args[0].dtype)
        target = pointer(context, builder, signature.args[0], out, out_at)
        source = pointer(context, builder, signature.args[2], row, row_at)

        def emit(at: Any, part: Any) -> None:
            vectors.prefetch(source, builder.add(at, index(_AHEAD)))
            value = vectors.load_first(builder.sub(present, at), source, at)
            vectors.store_part(part, value, target, at)

        _by_vectors(vectors, count, emit)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def split_padded(
    typing_context: Any, out: Any, even_at: Any, odd_at: Any, row: Any, row_at: Any, present: Any, count: Any
) -> Any:
    """Split a row in two: ``out[(even_at, odd_at)[b] + j] = row[row_at + 2·j + b] if 2·j + b < present else 0``."""
    signature = types.void(out, types.int64, types.int64, row, types.int64, types.int64, types.int64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out, even_at, odd_at, row, row_at, present, count = arguments
        vectors = Vectors(builder, signature.args[0].dtype)
        targets = [pointer(context, builder, signature.args[0], out, at) for at in (even_at, odd_at)]
        source = pointer(context, builder, signature.args[3], row, row_at)
        lanes = vectors.lanes

        def emit(at: Any, part: Any) -> None:
            first = builder.mul(at, index(2))
            for line in range(2):
                vectors.prefetch(source, builder.add(first, index(_AHEAD + line * lanes)))
            left = builder.sub(present, first)
            low = vectors.load_first(left, source, first)
            high = vectors.load_first(builder.sub(left, index(lanes)), source, builder.add(first, index(lanes)))
            for b, target in enumerate(targets):
                half = vectors.select(low, high, list(range(b, 2 * lanes, 2)))
                vectors.store_part(part, half, target, at)

        _by_vectors(vectors, count, emit)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def add_row(typing_context: Any, out: Any, out_at: Any, row: Any, row_at: Any, extra: Any, count: Any) -> Any:
    """Do ``out[out_at + j] = row[row_at + j] + extra`` for `count` elements; nothing if it is not positive."""
    signature = types.void(out, types.int64, row, types.int64, extra, types.int64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out, out_at, row, row_at, extra, count = arguments
        vectors = Vectors(builder, signature.args[0].dtype)
        target = pointer(context, builder, signature.args[0], out, out_at)
        source = pointer(context, builder, signature.args[2], row, row_at)
        addend = vectors.splat(extra)

        def emit(at: Any, part: Any) -> None:
            # Rows of a tile are followed by others, so reading past the end of one is harmless.
            value = builder.fadd(vectors.load(source, at), addend)
            vectors.store_part(part, value, target, at)

        _by_vectors(vectors, count, emit)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def add_pairs(
    typing_context: Any, out: Any, out_at: Any, rows: Any, even_at: Any, odd_at: Any, extra: Any, count: Any
) -> Any:
    """Do ``out[out_at + 2·j + b] = rows[(even_at, odd_at)[b] + j] + extra`` for `count` pairs, none if negative."""
    signature = types.void(out, types.int64, rows, types.int64, types.int64, extra, types.int64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out, out_at, rows, even_at, odd_at, extra, count = arguments
        vectors = Vectors(builder, signature.args[0].dtype)
        target = pointer(context, builder, signature.args[0], out, out_at)
        even = pointer(context, builder, signature.args[2], rows, even_at)
        odd = pointer(context, builder, signature.args[2], rows, odd_at)
        addend, lanes = vectors.splat(extra), vectors.lanes

        def emit(at: Any, part: Any) -> None:
            a = builder.fadd(vectors.load(even, at), addend)
            b = builder.fadd(vectors.load(odd, at), addend)
            for half in range(2):
                picked = [half * lanes // 2 + i // 2 + i % 2 * lanes for i in range(lanes)]
                value = vectors.select(a, b, picked)
                place = builder.add(builder.mul(at, index(2)), index(half * lanes))
                room = None if part is None else builder.sub(builder.mul(part, index(2)), index(half * lanes))
                vectors.store_part(room, value, target, place)

        _by_vectors(vectors, count, emit)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def transpose(typing_context: Any, out: Any, out_at: Any, out_step: Any, rows: Any, rows_at: Any) -> Any:
    """Do ``out[out_at + j·out_step + i] = rows[rows_at + i·lanes + j]``, i and j up to the lanes of a vector."""
    signature = types.void(out, types.int64, types.int64, rows, types.int64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out, out_at, out_step, rows, rows_at = arguments
        target = pointer(context, builder, signature.args[0], out, out_at)
        source = pointer(context, builder, signature.args[3], rows, rows_at)
        call_once_compiled(builder, "transpose", signature.args[0].dtype, [target, out_step, source], _transpose)
        return context.get_dummy_value()

    return signature, generate


def _transpose(vectors: Vectors, arguments: list[Any]) -> None:
    target, step, source = arguments
    lanes = vectors.lanes
    v = [vectors.load(source, index(i * lanes)) for i in range(lanes)]
    distance = 1
    while distance < lanes:  # swap blocks of this size off the diagonal
        upper = [j - distance + lanes if j & distance else j for j in range(lanes)]
        lower = [j + lanes if j & distance else j + distance for j in range(lanes)]
        for i in range(lanes):
            if not i & distance:
                a, b = v[i], v[i + distance]
                v[i], v[i + distance] = vectors.select(a, b, upper), vectors.select(a, b, lower)
        distance *= 2
    for j, value in enumerate(v):
        vectors.store(value, target, vectors.builder.mul(step, index(j)))


@intrinsic
def gather(
    typing_context: Any, out: Any, out_at: Any, array: Any, array_at: Any, table: Any, table_at: Any, count: Any
) -> Any:
    """Do ``out[out_at + j] = array[array_at + table[table_at + j]]``, 0 where the table is negative.

    j runs over `count` elements, whole vectors. Those that lie side by side are copied as one.
    """
    signature = types.void(out, types.int64, array, types.int64, table, types.int64, types.int64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out, out_at, array, array_at, table, table_at, count = arguments
        target = pointer(context, builder, signature.args[0], out, out_at)
        source = pointer(context, builder, signature.args[2], array, array_at)
        places = pointer(context, builder, signature.args[4], table, table_at)
        call_once_compiled(builder, "gather", signature.args[0].dtype, [target, source, places, count], _gather)
        return context.get_dummy_value()

    return signature, generate


def _gather(vectors: Vectors, arguments: list[Any]) -> None:
    target, source, places, count = arguments
    builder, lanes = vectors.builder, vectors.lanes
    zero = ir.Constant(vectors.element, 0)

    def body(v: Any, carried: list[Any]) -> list[Any]:
        at = builder.mul(v, index(lanes))
        here = builder.gep(places, [at])
        first = builder.load(here)
        beside = builder.and_(vectors.ascending(here, first), builder.icmp_signed(">=", first, index(0)))
        with builder.if_else(beside) as (then, otherwise):
            with then:
                vectors.store(vectors.load(source, first), target, at)
            with otherwise:
                for step in range(lanes):
                    place = builder.load(builder.gep(here, [index(step)]))
                    inside = builder.icmp_signed(">=", place, index(0))
                    value = builder.load(builder.gep(source, [builder.select(inside, place, index(0))]))
                    value = builder.select(inside, value, zero)
                    builder.store(value, builder.gep(target, [builder.add(at, index(step))]))
        return carried

    loop(builder, builder.sdiv(count, index(lanes)), [], body)


@intrinsic
def scatter(
    typing_context: Any, out: Any, out_at: Any, table: Any, table_at: Any, row: Any, row_at: Any, extra: Any, add: Any,
    count: Any,
) -> Any:  # fmt: skip
    """Do ``out[out_at + table[table_at + j]] = row[row_at + j] + extra`` for `count` elements.

    Nothing where the table is negative; if `add`, what is there already is added too.
    """
    signature = types.void(out, types.int64, table, types.int64, row, types.int64, extra, types.boolean, types.int64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out, out_at, table, table_at, row, row_at, extra, add, count = arguments
        target = pointer(context, builder, signature.args[0], out, out_at)
        places = pointer(context, builder, signature.args[2], table, table_at)
        source = pointer(context, builder, signature.args[4], row, row_at)
        values = [target, places, source, extra, add, count]
        call_once_compiled(builder, "scatter", signature.args[0].dtype, values, _scatter)
        return context.get_dummy_value()

    return signature, generate


def _scatter(vectors: Vectors, arguments: list[Any]) -> None:
    target, places, source, extra, add, count = arguments
    builder = vectors.builder

    def emit(adding: bool) -> None:
        def body(j: Any, carried: list[Any]) -> list[Any]:
            place = builder.load(builder.gep(places, [j]))
            with builder.if_then(builder.icmp_signed(">=", place, index(0)), likely=True):
                value = builder.fadd(builder.load(builder.gep(source, [j])), extra)
                at = builder.gep(target, [place])
                builder.store(builder.fadd(value, builder.load(at)) if adding else value, at)
            return carried

        loop(builder, count, [], body)

    with builder.if_else(add) as (then, otherwise):
        with then:
            emit(True)
        with otherwise:
            emit(False)
