"""Copies of short rows as whole vectors and one masked one, put together from phases or cut into them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastdeconv.kernels.cpu.vectors import (
    INDEX,
    LINE,
    Vectors,
    call_once_compiled,
    index,
    least,
    loop,
    pointer,
    switch,
)

# Rows are read one after the other: so many elements ahead are asked for early.
AHEAD = 1024
# Rows with more phases than this are cut and put together element by element.
MOST_INTERLEAVED = 8
# What `split_rows` is told of all its rows: elements between phases, between rows of one phase, between rows that are
# cut; how far ahead of these to read; phases; elements of a row, and of one phase of it.
SPLIT = ("out_step", "out_row", "row_step", "ahead", "stride", "present", "count")


def by_vectors(
    vectors: Vectors, count: Any, emit: Callable[[Any, Any], None], together: int = 1, again: bool = False
) -> None:
    """Emit ``emit(first element, None)`` for whole vectors, then ``emit(first element, how many)`` for the rest.

    Each stands for `together` vectors. With `again`, elements may be done twice: then the last vectors are moved back
    to end where the row does, as masks take longer. A row of less is all rest, and so is one whose elements are no
    multiple of `together`.
    """
    builder, length = vectors.builder, index(together * vectors.lanes)

    def whole(i: Any, carried: list[Any]) -> list[Any]:
        emit(builder.mul(i, length), None)
        return carried

    if not again:
        vectors_ = builder.sdiv(count, length)
        loop(builder, vectors_, [], whole)
        done = builder.mul(vectors_, length)
        rest = builder.sub(count, done)
        with builder.if_then(builder.icmp_signed(">", rest, index(0))):
            emit(done, rest)
        return

    def moved_back(i: Any, carried: list[Any]) -> list[Any]:
        emit(least(builder, builder.mul(i, length), builder.sub(count, length)), None)
        return carried

    def masked(i: Any, carried: list[Any]) -> list[Any]:
        at = builder.mul(i, length)
        emit(at, builder.sub(count, at))
        return carried

    steps = builder.sdiv(builder.add(count, builder.sub(length, index(1))), length)
    even = builder.icmp_signed("==", builder.srem(count, index(together)), index(0))
    fits = builder.and_(even, builder.icmp_signed(">=", count, length))
    with builder.if_else(fits) as (long, short):
        with long:
            loop(builder, steps, [], moved_back)
        with short:
            loop(builder, steps, [], masked, unroll=False)


def _of_count(builder: Any, present: Any, count: Any) -> Any:
    """Return how many of `count` elements are there: none if `present` is negative."""
    there = least(builder, present, count)
    return builder.select(builder.icmp_signed(">", there, index(0)), there, index(0))


@intrinsic
def zero_row(typing_context: Any, out: Any, out_at: Any, count: Any) -> Any:
    """Do ``out[out_at + j] = 0`` for `count` elements; nothing if it is not positive."""
    signature = types.void(out, types.int64, types.int64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out, out_at, count = arguments
        vectors = Vectors(builder, signature.args[0].dtype)
        _repeat(vectors, vectors.zero, pointer(context, builder, signature.args[0], out, out_at), count)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def fill_row(typing_context: Any, out: Any, out_at: Any, value: Any, count: Any) -> Any:
    """Do ``out[out_at + j] = value`` for `count` elements; nothing if it is not positive."""
    signature = types.void(out, types.int64, value, types.int64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out, out_at, value, count = arguments
        vectors = Vectors(builder, signature.args[0].dtype)
        target = pointer(context, builder, signature.args[0], out, out_at)
        _repeat(vectors, vectors.splat(value), target, count)
        return context.get_dummy_value()

    return signature, generate


def _repeat(vectors: Vectors, value: Any, target: Any, count: Any) -> None:
    by_vectors(vectors, count, lambda at, part: vectors.store_part(part, value, target, at), again=True)


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
            vectors.prefetch(source, builder.add(at, index(AHEAD)))
            if part is None:
                vectors.store(vectors.load(source, at), target, at)
            else:
                vectors.store_first(part, vectors.load_first(part, source, at), target, at)

        copied = _of_count(builder, present, count)
        by_vectors(vectors, copied, emit, again=True)
        _repeat(vectors, vectors.zero, builder.gep(target, [copied]), builder.sub(count, copied))
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def split_row(
    typing_context: Any, out: Any, out_at: Any, out_step: Any, row: Any, row_at: Any, ahead: Any, stride: Any,
    wanted: Any, present: Any, count: Any,
) -> Any:  # fmt: skip
    """Copy the phases of a row, elements `stride` apart, to rows of their own, each of `count` elements.

    ``out[out_at + f·out_step + j] = row[row_at + stride·j + r] if stride·j + r < present else 0`` for the f-th phase r
    whose bit in `wanted` is set. The stride is at most `MOST_INTERLEAVED`. What lies `ahead` elements further on is
    asked for early.
    """
    integer = types.int64
    signature = types.void(out, integer, integer, row, integer, integer, integer, integer, integer, integer)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out, out_at, out_step, row, row_at, ahead, stride, wanted, present, count = arguments
        target = pointer(context, builder, signature.args[0], out, out_at)
        source = pointer(context, builder, signature.args[3], row, row_at)
        values = [target, out_step, source, ahead, stride, wanted, present, count]
        call_once_compiled(builder, "split_row", signature.args[0].dtype, values, _split_row)
        return context.get_dummy_value()

    return signature, generate


def _split_row(vectors: Vectors, arguments: list[Any]) -> None:
    target, step, source, ahead, stride, wanted, present, count = arguments

    def emit_stride(phases: int) -> None:
        _split(vectors, phases, wanted, target, step, source, ahead, present, count)

    switch(vectors.builder, stride, range(1, MOST_INTERLEAVED + 1), emit_stride)


@intrinsic
def split_rows(
    typing_context: Any, out: Any, out_at: Any, row: Any, row_at: Any, rows: Any, wanted: Any, sizes: Any
) -> Any:
    """Do what `split_row` does with some rows, ``row_at + i·row_step``, whose phases go to ``out_at + i·out_row``.

    `sizes` are the `SPLIT` numbers, in memory: the rest is passed in registers.
    """
    integer = types.int64
    signature = types.void(out, integer, row, integer, integer, integer, sizes)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out, out_at, row, row_at, rows, wanted, sizes = arguments
        target = pointer(context, builder, signature.args[0], out, out_at)
        source = pointer(context, builder, signature.args[2], row, row_at)
        values = [target, source, rows, wanted, pointer(context, builder, signature.args[6], sizes, index(0))]
        call_once_compiled(builder, "split_rows", signature.args[0].dtype, values, _split_rows)
        return context.get_dummy_value()

    return signature, generate


def _split_rows(vectors: Vectors, arguments: list[Any]) -> None:
    target, source, rows, wanted, sizes = arguments
    builder = vectors.builder
    step, target_row, source_row, ahead, stride, present, count = (
        builder.load(builder.gep(sizes, [index(i)])) for i in range(len(SPLIT))
    )

    def emit_stride(phases: int) -> None:
        def emit_row(i: Any, carried: list[Any]) -> list[Any]:
            to = builder.gep(target, [builder.mul(i, target_row)])
            of = builder.gep(source, [builder.mul(i, source_row)])
            _split(vectors, phases, wanted, to, step, of, ahead, present, count)
            return carried

        loop(builder, rows, [], emit_row, unroll=False)

    switch(builder, stride, range(1, MOST_INTERLEAVED + 1), emit_stride)


def _split(
    vectors: Vectors, phases: int, wanted: Any, target: Any, step: Any, source: Any, ahead: Any, present: Any,
    count: Any,
) -> None:  # fmt: skip
    """Emit the copy of one row's phases."""
    builder, lanes = vectors.builder, vectors.lanes
    holds = [builder.trunc(builder.lshr(wanted, index(r)), ir.IntType(1)) for r in range(phases)]
    targets = [target]
    for held in holds[:-1]:
        targets.append(builder.gep(targets[-1], [builder.select(held, step, index(0))]))

    def emit(at: Any, part: Any) -> None:
        first = builder.mul(at, index(phases))
        places = [builder.add(first, index(v * lanes)) for v in range(phases)]
        for place in places:
            vectors.prefetch(source, builder.add(place, ahead))
        if part is None:
            values = [vectors.load(source, place) for place in places]
        else:
            values = [vectors.load_first(builder.sub(present, place), source, place) for place in places]
        for r, value in enumerate(vectors.deinterleave(values)):
            with builder.if_then(holds[r]):
                vectors.store_part(part, value, targets[r], at)

    def column(i: Any, carried: list[Any]) -> list[Any]:
        at = builder.add(reached, i)
        for r in range(phases):
            with builder.if_then(holds[r]):
                place = builder.add(builder.mul(at, index(phases)), index(r))
                there = builder.icmp_signed("<", place, present)
                # The row's first element stands for one that it lacks.
                value = builder.load(builder.gep(source, [builder.select(there, place, index(0))]))
                value = builder.select(there, value, ir.Constant(vectors.element, 0))
                builder.store(value, builder.gep(targets[r], [at]))
        return carried

    # Whole vectors as far as every phase reaches, and the few columns that are left one by one.
    reached = _of_count(builder, builder.sdiv(present, index(phases)), count)
    by_vectors(vectors, reached, emit, again=True)
    loop(builder, builder.sub(count, reached), [], column, unroll=False)


@intrinsic
def expect_row(typing_context: Any, out: Any, out_at: Any, count: Any) -> Any:
    """Have the cache lines of ``out[out_at : out_at + count]`` fetched while something else is computed."""
    return _fetch(out, count, write=True)


@intrinsic
def read_ahead(typing_context: Any, row: Any, row_at: Any, count: Any) -> Any:
    """Have ``row[row_at : row_at + count]`` fetched into the cache before it is read; it may lie outside the array."""
    return _fetch(row, count, write=False)


def _fetch(array: Any, count: Any, write: bool) -> Any:
    signature = types.void(array, types.int64, types.int64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, at, count = arguments
        vectors = Vectors(builder, signature.args[0].dtype)
        target = pointer(context, builder, signature.args[0], array, at)
        line = index(LINE // vectors.bytes)

        def body(i: Any, carried: list[Any]) -> list[Any]:
            vectors.prefetch(target, builder.mul(i, line), write)
            return carried

        # Whatever the row's first address, one more line than it fills.
        loop(builder, builder.add(builder.sdiv(count, line), index(1)), [], body)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def add_row(typing_context: Any, out: Any, out_at: Any, row: Any, row_at: Any, extra: Any, count: Any) -> Any:
    """Do ``out[out_at + j] = row[row_at + j] + extra`` for `count` elements; nothing if it is not positive.

    A row may move to the left within one array.
    """
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

        by_vectors(vectors, count, emit)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def accumulate_rows(
    typing_context: Any, out: Any, out_at: Any, out_step: Any, row: Any, row_at: Any, row_step: Any, rows: Any,
    count: Any,
) -> Any:  # fmt: skip
    """Do ``out[out_at + m·out_step + j] += row[row_at + m·row_step + j]`` for m below `rows`, `count` elements each."""
    integer = types.int64
    signature = types.void(out, integer, integer, row, integer, integer, integer, integer)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out, out_at, out_step, row, row_at, row_step, rows, count = arguments
        target = pointer(context, builder, signature.args[0], out, out_at)
        source = pointer(context, builder, signature.args[3], row, row_at)
        values = [target, out_step, source, row_step, rows, count]
        call_once_compiled(builder, "accumulate_rows", signature.args[0].dtype, values, _accumulate_rows)
        return context.get_dummy_value()

    return signature, generate


def _accumulate_rows(vectors: Vectors, arguments: list[Any]) -> None:
    target, out_step, source, row_step, rows, count = arguments
    builder = vectors.builder

    def row(m: Any, carried: list[Any]) -> list[Any]:
        to = builder.gep(target, [builder.mul(m, out_step)])
        of = builder.gep(source, [builder.mul(m, row_step)])

        def emit(at: Any, part: Any) -> None:
            # Both rows are followed by others, so reading past the end of one is harmless.
            value = builder.fadd(vectors.load(to, at), vectors.load(of, at))
            vectors.store_part(part, value, to, at)

        by_vectors(vectors, count, emit)
        return carried

    loop(builder, rows, [], row)


@intrinsic
def interleave_rows(
    typing_context: Any, out: Any, out_at: Any, out_step: Any, tile: Any, tile_at: Any, tile_step: Any, phase_step: Any,
    phases: Any, extra: Any, extra_at: Any, rows: Any, count: Any,
) -> Any:  # fmt: skip
    """Put the phases of some rows of a tile together, and add a number to each row.

    ``out[out_at + m·out_step + phases·j + r] = tile[tile_at + m·tile_step + r·phase_step + j] + extra[extra_at + m]``
    for m below `rows` and the first `count` elements of each; nothing is added if `extra` is empty. There are at most
    `MOST_INTERLEAVED` phases r.
    """
    integer = types.int64
    signature = types.void(
        out, integer, integer, tile, integer, integer, integer, integer, extra, integer, integer, integer
    )

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out, out_at, out_step, tile, tile_at, tile_step, phase_step, phases, extra, extra_at, rows, count = arguments
        target = pointer(context, builder, signature.args[0], out, out_at)
        source = pointer(context, builder, signature.args[3], tile, tile_at)
        extras = context.make_array(signature.args[8])(context, builder, extra)
        some = builder.zext(builder.icmp_signed(">", extras.nitems, index(0)), INDEX)
        addends = builder.gep(extras.data, [extra_at])
        values = [target, out_step, source, tile_step, phase_step, phases, addends, some, rows, count]
        call_once_compiled(builder, "interleave_rows", signature.args[0].dtype, values, _interleave_rows)
        return context.get_dummy_value()

    return signature, generate


def _interleave_rows(vectors: Vectors, arguments: list[Any]) -> None:
    target, out_step, source, tile_step, phase_step, phases, addends, some, rows, count = arguments
    builder, lanes = vectors.builder, vectors.lanes
    nothing = builder.alloca(vectors.element)
    builder.store(ir.Constant(vectors.element, 0), nothing)
    addends = builder.select(builder.trunc(some, ir.IntType(1)), addends, nothing)

    def emit_phases(number: int) -> None:
        def row(m: Any, carried: list[Any]) -> list[Any]:
            addend = vectors.broadcast(addends, builder.mul(m, some))
            to = builder.gep(target, [builder.mul(m, out_step)])
            sources = [builder.gep(source, [builder.mul(m, tile_step)])]
            for _ in range(number - 1):
                sources.append(builder.gep(sources[-1], [phase_step]))

            def emit(at: Any, part: Any) -> None:
                # Rows of a tile are followed by others, so reading past the end of one is harmless.
                here = builder.sdiv(at, index(number))
                values = [builder.fadd(vectors.load(each, here), addend) for each in sources]
                for v, value in enumerate(vectors.interleave(values)):
                    room = None if part is None else builder.sub(part, index(v * lanes))
                    vectors.store_part(room, value, to, builder.add(at, index(v * lanes)))

            by_vectors(vectors, count, emit, number, again=True)
            return carried

        loop(builder, rows, [], row)

    switch(builder, phases, range(1, MOST_INTERLEAVED + 1), emit_phases)
