"""Elements of a row that lie a stride apart, brought side by side, and windows of rows."""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic

from fastdeconv.kernels.cpu.product_tiles import PRODUCT_SHAPES
from fastdeconv.kernels.cpu.vectors import LINE, Vectors, call_once_compiled, index, loop, pointer, switch

COLUMNS = PRODUCT_SHAPES[0][1]  # vectors
# Further apart, most of what vectors read is not wanted.
MOST_APART = 4


@intrinsic
def copy_tile(typing_context: Any, out: Any, out_at: Any, row: Any, row_at: Any, present: Any) -> Any:
    """Do ``out[out_at + j] = row[row_at + j] if j < present else 0`` for the columns j of a `product_tile`.

    There are not more of them, and less than 64.
    """
    signature = types.void(out, types.int64, row, types.int64, types.int64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out, out_at, row, row_at, present = arguments
        vectors = Vectors(builder, signature.args[0].dtype)
        target = pointer(context, builder, signature.args[0], out, out_at)
        source = pointer(context, builder, signature.args[2], row, row_at)
        some = builder.select(builder.icmp_signed(">", present, index(0)), present, index(0))
        mask = builder.sub(builder.shl(index(1), some), index(1))
        for first in range(0, COLUMNS * vectors.lanes, vectors.lanes):
            vectors.store(vectors.load_masked(mask, source, first), target, index(first))
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def gather_row(typing_context: Any, out: Any, out_at: Any, array: Any, array_at: Any, step: Any, count: Any) -> Any:
    """Do ``out[out_at + j] = array[array_at + step·j]`` for `count` elements."""
    integer = types.int64
    signature = types.void(out, integer, array, integer, integer, integer)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out, out_at, array, array_at, step, count = arguments
        element = signature.args[0].dtype
        vectors = Vectors(builder, element, part=64 // element.bitwidth)
        target = pointer(context, builder, signature.args[0], out, out_at)
        source = pointer(context, builder, signature.args[2], array, array_at)

        def whole(i: Any, carried: list[Any]) -> list[Any]:
            at = builder.mul(i, index(vectors.lanes))
            vectors.store(vectors.gather(builder.gep(source, [builder.mul(at, step)]), step), target, at)
            return carried

        def alone(i: Any, carried: list[Any]) -> list[Any]:
            at = builder.add(done, i)
            value = builder.load(builder.gep(source, [builder.mul(at, step)]))
            builder.store(value, builder.gep(target, [at]))
            return carried

        blocks = builder.sdiv(count, index(vectors.lanes))
        done = builder.mul(blocks, index(vectors.lanes))
        loop(builder, blocks, [], whole, unroll=False)
        loop(builder, builder.sub(count, done), [], alone, unroll=False)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def gather_stretches(
    typing_context: Any, out: Any, out_at: Any, array: Any, array_at: Any, to: Any, of: Any, masks: Any, at: Any,
    count: Any, stride: Any, ahead: Any,
) -> Any:  # fmt: skip
    """Do ``out[out_at + to[i] + j] = array[array_at + of[at + i] + stride·j]`` for a vector of j, and `count` i.

    Bit ``stride·j`` of ``masks[at + i]`` tells whether there is such an element, otherwise 0 is written; nothing is
    read where bits are not set. All i are done in their order: where one writes more than is wanted, a later one writes
    over it. What lies `ahead` elements further on is asked for early. The stride is at most `MOST_APART`.
    """
    integer = types.int64
    signature = types.void(out, integer, array, integer, to, of, masks, integer, integer, integer, integer)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out, out_at, array, array_at, to, of, masks, at, *numbers = arguments
        target = pointer(context, builder, signature.args[0], out, out_at)
        source = pointer(context, builder, signature.args[2], array, array_at)
        tables = [pointer(context, builder, signature.args[4], to, index(0))]
        tables += [pointer(context, builder, signature.args[5 + k], table, at) for k, table in enumerate((of, masks))]
        values = [target, source, *tables, *numbers]
        call_once_compiled(builder, "gather_stretches", signature.args[0].dtype, values, _gather_stretches)
        return context.get_dummy_value()

    return signature, generate


def _gather_stretches(vectors: Vectors, arguments: list[Any]) -> None:
    target, source, *tables, count, stride, ahead = arguments
    builder, lanes = vectors.builder, vectors.lanes

    def emit(apart: int) -> None:
        def stretch(i: Any, carried: list[Any]) -> list[Any]:
            to, of, mask = (builder.load(builder.gep(table, [i])) for table in tables)
            base = builder.gep(source, [of])
            for first in range(0, apart * lanes, LINE // vectors.bytes):
                vectors.prefetch(base, builder.add(ahead, index(first)))
            values = [vectors.load_masked(mask, base, first) for first in range(0, apart * lanes, lanes)]
            vectors.store(vectors.every(values, 0), target, to)
            return carried

        loop(builder, count, [], stretch, unroll=False)

    switch(builder, stride, range(1, MOST_APART + 1), emit)


@intrinsic
def gather_windows(
    typing_context: Any, out: Any, out_at: Any, out_step: Any, array: Any, places: Any, chunks: Any, stride: Any,
    count: Any, whole: Any,
) -> Any:  # fmt: skip
    """Do ``out[out_at + q·out_step + places[2c + 1] + j] = array[places[2c] + stride·q + j]`` for a vector of j.

    c runs over the `chunks` of a window, in the order of their places in it, and q over `count` windows. A vector may
    hold more than belongs to its chunk: what follows is written after it, and up to a vector behind the last. All of it
    must be in the array. If windows are not `whole`, zeros stand for the chunks whose place in the array is negative.
    """
    integer = types.int64
    signature = types.void(out, integer, integer, array, places, integer, integer, integer, types.boolean)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out, out_at, out_step, array, places, chunks, stride, count, whole = arguments
        target = pointer(context, builder, signature.args[0], out, out_at)
        source = pointer(context, builder, signature.args[3], array, index(0))
        table = pointer(context, builder, signature.args[4], places, index(0))
        values = [target, out_step, source, table, chunks, stride, count, builder.zext(whole, index(0).type)]
        call_once_compiled(builder, "gather_windows", signature.args[0].dtype, values, _gather_windows)
        return context.get_dummy_value()

    return signature, generate


def _gather_windows(vectors: Vectors, arguments: list[Any]) -> None:
    target, out_step, source, table, chunks, stride, count, whole = arguments
    builder = vectors.builder

    def emit(all_there: bool) -> None:
        def window(q: Any, carried: list[Any]) -> list[Any]:
            to, of = builder.gep(target, [builder.mul(q, out_step)]), builder.gep(source, [builder.mul(q, stride)])

            def chunk(c: Any, carried: list[Any]) -> list[Any]:
                entry = builder.gep(table, [builder.mul(c, index(2))])
                from_, at = builder.load(entry), builder.load(builder.gep(entry, [index(1)]))
                if all_there:
                    value = vectors.load(of, from_)
                else:
                    there = builder.icmp_signed(">=", from_, index(0))
                    base = builder.select(there, of, source)
                    value = vectors.load(base, builder.select(there, from_, index(0)))
                    value = builder.select(there, value, vectors.zero)
                vectors.store(value, to, at)
                return carried

            return loop(builder, chunks, carried, chunk, unroll=False)

        loop(builder, count, [], window, unroll=False)

    with builder.if_else(builder.icmp_signed("!=", whole, index(0))) as (then, otherwise):
        with then:
            emit(True)
        with otherwise:
            emit(False)
