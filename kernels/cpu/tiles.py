"""Register tiles of outer products, rows and inner products; `product_tiles` has those of matrix products.

A tile is ``rows × columns(rows)``; its accumulators, the operands of one side and one of the other just fit the
register file of the host.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastdeconv.kernels.cpu.host import REGISTERS
from fastdeconv.kernels.cpu.vectors import LINE, Vectors, call_once_compiled, index, loop, pointer, switch

OUTER_ROWS = 8 if REGISTERS == 32 else 6
INNER_ROWS = 4 if REGISTERS == 32 else 3
ROW_COLUMNS = 8  # vectors of a `row_tile`
# What a `row_tile` is told of all its rows, before the offset of each tap.
ROW_SIZES = ("columns", "channels", "taps", "source_row", "channel_step", "out_row")


def outer_columns(rows: int) -> int:
    """Return the vectors in a row of an `outer_tile`: rows·columns accumulators, columns operands, one broadcast."""
    return min(8, (REGISTERS - 1) // (rows + 1))


def inner_columns(rows: int) -> int:
    """Return the columns of an `inner_tile`: rows·columns accumulators, rows operands, one of a column."""
    return min(8, (REGISTERS - 1 - rows) // rows)


@intrinsic
def outer_tile(
    typing_context: Any,
    rows: Any, channels: Any, taps: Any,
    weight: Any, weight_at: Any,
    source: Any, source_at: Any, channel_step: Any,
    tap_offset: Any, tap_at: Any,
    tile: Any, tile_at: Any,
) -> Any:  # fmt: skip
    """Compute ``tile[m, q] = Σ weight[c, t, m] · source[c·channel_step + tap_offset[t] + q]`` over c and t.

    m runs over `rows`, q over ``outer_columns(rows)`` vectors. weight is packed (c, t, m); tile is (m, q); the
    ``*_at`` arguments are where each array starts. Sums run in the order of c, then t, with one rounding a product.
    """
    integer = types.int64
    signature = types.void(
        integer, integer, integer, weight, integer, source, integer, integer, tap_offset, integer, tile, integer
    )

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rows, channels, taps, weight, weight_at, source, source_at, step, offsets, tap_at, tile, tile_at = arguments
        types_ = signature.args
        weight_base = pointer(context, builder, types_[3], weight, weight_at)
        source_base = pointer(context, builder, types_[5], source, source_at)
        offset_base = pointer(context, builder, types_[8], offsets, tap_at)
        tile_base = pointer(context, builder, types_[10], tile, tile_at)
        values = [rows, channels, taps, weight_base, source_base, step, offset_base, tile_base]
        call_once_compiled(builder, "outer_tile", types_[3].dtype, values, _outer_tile)
        return context.get_dummy_value()

    return signature, generate


def _outer_tile(vectors: Vectors, arguments: list[Any]) -> None:
    rows, channels, taps, weight, source, step, offsets, tile = arguments

    def emit(count: int) -> None:
        for i, value in enumerate(outer_sums(vectors, count, channels, taps, weight, source, step, offsets, True)):
            vectors.store(value, tile, index(i * vectors.lanes))

    switch(vectors.builder, rows, range(1, OUTER_ROWS + 1), emit)


@intrinsic
def row_tile(
    typing_context: Any,
    rows: Any, weight: Any, weight_at: Any, source: Any, source_at: Any, out: Any, out_at: Any, present: Any,
    sizes: Any,
) -> Any:  # fmt: skip
    """Compute ``out[i·out_row + q] = Σ weight[c, t] · source[i·source_row + c·channel_step + tap_offset[t] + q]``.

    Sums run over c, then t, as in `outer_tile`, for each of some rows i: in one call, as one row's sums wait for one
    another. q runs over `columns` vectors, at most `ROW_COLUMNS`, of which the first `present` elements are written;
    weight is packed (c, t). `sizes` are the `ROW_SIZES`, then tap_offset, in memory, as passing them takes long.
    """
    integer = types.int64
    signature = types.void(integer, weight, integer, source, integer, out, integer, integer, sizes)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rows, weight, weight_at, source, source_at, out, out_at, present, sizes = arguments
        types_ = signature.args
        weight_base = pointer(context, builder, types_[1], weight, weight_at)
        source_base = pointer(context, builder, types_[3], source, source_at)
        out_base = pointer(context, builder, types_[5], out, out_at)
        size_base = pointer(context, builder, types_[8], sizes, index(0))
        values = [rows, weight_base, source_base, out_base, present, size_base]
        call_once_compiled(builder, "row_tile", types_[1].dtype, values, _row_tile)
        return context.get_dummy_value()

    return signature, generate


def _row_tile(vectors: Vectors, arguments: list[Any]) -> None:
    rows, weight, source, out, present, sizes = arguments
    builder = vectors.builder
    columns, channels, taps, source_row, step, out_row = (
        builder.load(builder.gep(sizes, [index(i)])) for i in range(len(ROW_SIZES))
    )
    offsets = builder.gep(sizes, [index(len(ROW_SIZES))])

    def emit(count: int) -> None:
        def emit_row(i: Any, carried: list[Any]) -> list[Any]:
            row = builder.gep(source, [builder.mul(i, source_row)])
            sums = outer_sums(vectors, 1, channels, taps, weight, row, step, offsets, columns=count)
            target = builder.gep(out, [builder.mul(i, out_row)])
            for v, value in enumerate(sums):
                vectors.store_present(present, value, target, index(v * vectors.lanes))
            return carried

        loop(builder, rows, [], emit_row, unroll=False)

    switch(builder, columns, range(1, ROW_COLUMNS + 1), emit)


def outer_sums(
    vectors: Vectors, rows: int, channels: Any, taps: Any, weight: Any, source: Any, step: Any, offsets: Any,
    fetch: bool = False, columns: int | None = None,
) -> list[Any]:  # fmt: skip
    """Emit the sums of an `outer_tile`, or of one with so many `columns`, and return them, row by row.

    With `fetch`, what the first tap reads in the tile to the right is brought into the cache meanwhile: that tap should
    be the one whose row no other has read before.
    """
    builder, columns = vectors.builder, columns or outer_columns(rows)
    width, line_elements = columns * vectors.lanes, LINE // vectors.bytes

    def channel_body(c: Any, sums: list[Any]) -> list[Any]:
        channel = builder.gep(source, [builder.mul(c, step)])
        panel = builder.gep(weight, [builder.mul(c, builder.mul(taps, index(rows)))])
        if fetch:
            # A phase without taps has no offset to read.
            with builder.if_then(builder.icmp_signed(">", taps, index(0))):
                ahead = builder.gep(channel, [builder.load(offsets)])
                for line in range(-(-width // line_elements)):
                    vectors.prefetch(ahead, index(width + line * line_elements))

        def tap_body(t: Any, sums: list[Any]) -> list[Any]:
            pixels = builder.gep(channel, [builder.load(builder.gep(offsets, [t]))])
            x = [vectors.load(pixels, index(r * vectors.lanes)) for r in range(columns)]
            at = builder.mul(t, index(rows))
            return vectors.add_products(((panel, builder.add(at, index(m))) for m in range(rows)), x, sums)

        return loop(builder, taps, sums, tap_body)

    return loop(builder, channels, [vectors.zero] * (rows * columns), channel_body)


@intrinsic
def inner_tile(
    typing_context: Any,
    rows: Any, vectors_: Any,
    left: Any, row_offset: Any,
    right: Any, column_offset: Any,
    start: Any, tile: Any,
) -> Any:  # fmt: skip
    """Compute ``tile[m, j] = Σ left[row_offset[m] + q] · right[column_offset[j] + q]`` over `vectors_` vectors of q.

    q runs from `start`; m over `rows`, j over ``inner_columns(rows)``. Each lane sums its own q in order; the lanes are
    added pairwise at the end.
    """
    integer = types.int64
    signature = types.void(integer, integer, left, row_offset, right, column_offset, integer, tile)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rows, count_of_vectors, left, row_offset, right, column_offset, start, tile = arguments
        types_ = signature.args
        zero = index(0)
        left_base = pointer(context, builder, types_[2], left, start)
        right_base = pointer(context, builder, types_[4], right, start)
        row_base = pointer(context, builder, types_[3], row_offset, zero)
        column_base = pointer(context, builder, types_[5], column_offset, zero)
        tile_base = pointer(context, builder, types_[7], tile, zero)
        values = [rows, count_of_vectors, left_base, row_base, right_base, column_base, tile_base]
        call_once_compiled(builder, "inner_tile", types_[2].dtype, values, _inner_tile)
        return context.get_dummy_value()

    return signature, generate


def _inner_tile(vectors: Vectors, arguments: list[Any]) -> None:
    rows, count_of_vectors, left, row_offset, right, column_offset, tile = arguments
    builder = vectors.builder

    def streams(base: Any, offsets: Any, count: int) -> list[Any]:
        at = [builder.load(builder.gep(offsets, [index(i)])) for i in range(count)]
        return [builder.gep(base, [offset]) for offset in at]

    def emit(count: int) -> None:
        columns = inner_columns(count)
        x, y = streams(left, row_offset, count), streams(right, column_offset, columns)

        def body(i: Any, sums: list[Any]) -> list[Any]:
            at = builder.mul(i, index(vectors.lanes))
            a = [vectors.load(pointer, at) for pointer in x]
            updated = list(sums)
            for j in range(columns):
                b = vectors.load(y[j], at)
                for m in range(count):
                    k = m * columns + j
                    updated[k] = vectors.multiply_add(a[m], b, sums[k])
            return updated

        sums = loop(builder, count_of_vectors, [vectors.zero] * (count * columns), body)
        for k in range(0, len(sums), vectors.lanes):
            part = vectors.sums(sums[k : k + vectors.lanes])
            count_of_sums = min(vectors.lanes, len(sums) - k)
            for i in range(count_of_sums):
                value = builder.extract_element(part, ir.Constant(ir.IntType(32), i))
                builder.store(value, builder.gep(tile, [index(k + i)]))

    switch(builder, rows, range(1, INNER_ROWS + 1), emit)
