"""Elements of a row that lie a stride apart, brought side by side, and windows of rows."""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic

from fastdeconv.kernels.cpu.tiles import PRODUCT_SHAPES
from fastdeconv.kernels.cpu.vectors import Vectors, call_once_compiled, index, loop, pointer, switch

COLUMNS = PRODUCT_SHAPES[0][1]  # vectors
# Further apart, most of what vectors read is not wanted.
MOST_APART = 4


@intrinsic
def gather_row(
    typing_context: Any, out: Any, out_at: Any, row: Any, row_at: Any, stride: Any, first: Any, stop: Any, count: Any
) -> Any:
    """Do ``out[out_at + j] = row[row_at + stride·j] if first ≤ j < stop else 0`` for `count` elements.

    Up to a vector of what follows them is overwritten; nothing is read but what lies between the elements wanted. The
    stride is at most `MOST_APART`.
    """
    integer = types.int64
    signature = types.void(out, integer, row, integer, integer, integer, integer, integer)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out, out_at, row, row_at, *numbers = arguments
        target = pointer(context, builder, signature.args[0], out, out_at)
        source = pointer(context, builder, signature.args[2], row, row_at)
        call_once_compiled(builder, "gather_row", signature.args[0].dtype, [target, source, *numbers], _gather_row)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def gather_tile(typing_context: Any, out: Any, out_at: Any, row: Any, row_at: Any, stride: Any) -> Any:
    """Do ``out[out_at + j] = row[row_at + stride·j]`` for the pixels j of a `product_tile` of `COLUMNS` vectors.

    Up to ``stride - 1`` elements after the last are read. The stride is at most `MOST_APART`.
    """
    integer = types.int64
    signature = types.void(out, integer, row, integer, integer)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out, out_at, row, row_at, stride = arguments
        vectors = Vectors(builder, signature.args[0].dtype)
        target = pointer(context, builder, signature.args[0], out, out_at)
        source = pointer(context, builder, signature.args[2], row, row_at)

        def emit(apart: int) -> None:
            for j in range(COLUMNS):
                values = [vectors.load(source, index((j * apart + v) * vectors.lanes)) for v in range(apart)]
                vectors.store(vectors.every(values, 0), target, index(j * vectors.lanes))

        switch(builder, stride, range(1, MOST_APART + 1), emit)
        return context.get_dummy_value()

    return signature, generate


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


def _gather_row(vectors: Vectors, arguments: list[Any]) -> None:
    target, source, stride, first, stop, count = arguments
    builder, lanes = vectors.builder, vectors.lanes

    def for_vectors(start: Any, number: Any, emit: Any) -> None:
        def body(i: Any, carried: list[Any]) -> list[Any]:
            emit(builder.add(start, builder.mul(i, index(lanes))))
            return carried

        loop(builder, number, [], body, unroll=False)

    def zeros(start: Any, end: Any) -> None:
        number = builder.sdiv(builder.add(builder.sub(end, start), index(lanes - 1)), index(lanes))
        for_vectors(start, number, lambda at: vectors.store(vectors.zero, target, at))

    def emit(apart: int) -> None:
        def copy(at: Any, present: Any = None) -> None:
            places = [builder.add(builder.mul(at, index(apart)), index(v * lanes)) for v in range(apart)]
            if present is None:
                values = [vectors.load(source, place) for place in places]
            else:
                there = [builder.sub(present, index(v * lanes)) for v in range(apart)]
                values = [vectors.load_first(some, source, place) for some, place in zip(there, places)]
            vectors.store(vectors.every(values, 0), target, at)

        zeros(index(0), first)
        # A whole vector reads what follows its last element: the last element of all is left to the masked one.
        behind = int(apart > 1)
        whole = builder.sdiv(builder.sub(builder.sub(stop, first), index(behind)), index(lanes))
        for_vectors(first, whole, copy)
        done = builder.add(first, builder.mul(whole, index(lanes)))
        rest = builder.sub(stop, done)
        some = builder.icmp_signed(">", rest, index(0))
        with builder.if_then(some):
            copy(done, builder.add(builder.mul(builder.sub(rest, index(1)), index(apart)), index(1)))
        zeros(builder.select(some, builder.add(done, index(lanes)), done), count)

    switch(builder, stride, range(1, MOST_APART + 1), emit)
