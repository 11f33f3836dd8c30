"""Explicit vector code: the register tiles that all arithmetic of the direct kernels happens in.

LLVM's own vectoriser stops at 256 bits on CPUs with 512, and does not keep a two-dimensional tile of accumulators in
registers. So these two functions emit the vector instructions themselves, for the width of the host.
A tile is ``rows × columns(rows)``; its accumulators, one operand of each column (or row) and one of the other
kind just fit the register file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastdeconv.kernels.cpu.host import HAS_FMA, REGISTERS, VECTOR_BITS

_INDEX = ir.IntType(64)

OUTER_ROWS = 8 if REGISTERS == 32 else 6
INNER_ROWS = 4 if REGISTERS == 32 else 3


def outer_columns(rows: int) -> int:
    """Return the vectors in a row of an `outer_tile`: rows·columns accumulators, columns operands, one broadcast."""
    return min(8, (REGISTERS - 1) // (rows + 1))


def inner_columns(rows: int) -> int:
    """Return the columns of an `inner_tile`: rows·columns accumulators, rows operands, one of a column."""
    return min(8, (REGISTERS - 1 - rows) // rows)


class _Vectors:
    """Vectors of one element type in one function under construction."""

    def __init__(self, builder: Any, element: types.Float) -> None:
        self.builder = builder
        self.element = ir.FloatType() if element.bitwidth == 32 else ir.DoubleType()
        self.bytes = element.bitwidth // 8
        self.lanes = VECTOR_BITS // element.bitwidth
        self.type = ir.VectorType(self.element, self.lanes)
        self.zero = ir.Constant(self.type, None)

    def _address(self, pointer: Any, offset: Any) -> Any:
        return self.builder.bitcast(self.builder.gep(pointer, [offset]), self.type.as_pointer())

    def load(self, pointer: Any, offset: Any) -> Any:
        return self.builder.load(self._address(pointer, offset), align=self.bytes)

    def store(self, value: Any, pointer: Any, offset: Any) -> None:
        self.builder.store(value, self._address(pointer, offset), align=self.bytes)

    def broadcast(self, pointer: Any, offset: Any) -> Any:
        b = self.builder
        undefined = ir.Constant(self.type, ir.Undefined)
        first = b.insert_element(undefined, b.load(b.gep(pointer, [offset])), ir.Constant(ir.IntType(32), 0))
        return b.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), None))

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        if not HAS_FMA:
            return self.builder.fadd(self.builder.fmul(a, b), c)
        name = f"llvm.fma.v{self.lanes}f{8 * self.bytes}"
        function = cgutils.get_or_insert_function(
            self.builder.module, ir.FunctionType(self.type, [self.type] * 3), name
        )
        return self.builder.call(function, [a, b, c])

    def sum(self, vector: Any) -> Any:
        """Add the lanes pairwise, halves first."""
        b, width = self.builder, self.lanes
        while width > 1:
            width //= 2
            lane = ir.VectorType(ir.IntType(32), width)
            low = b.shuffle_vector(vector, vector, ir.Constant(lane, list(range(width))))
            high = b.shuffle_vector(vector, vector, ir.Constant(lane, list(range(width, 2 * width))))
            vector = b.fadd(low, high)
        return b.extract_element(vector, ir.Constant(ir.IntType(32), 0))


def _loop(builder: Any, count: Any, carried: list[Any], body: Callable[[Any, list[Any]], list[Any]]) -> list[Any]:
    """Emit ``for i in range(count): carried = body(i, carried)`` and return the last values."""
    before, head = builder.block, builder.append_basic_block("head")
    step, after = builder.append_basic_block("body"), builder.append_basic_block("after")
    builder.branch(head)
    builder.position_at_end(head)
    index = builder.phi(_INDEX)
    index.add_incoming(ir.Constant(_INDEX, 0), before)
    values = [builder.phi(value.type) for value in carried]
    for phi, value in zip(values, carried):
        phi.add_incoming(value, before)
    builder.cbranch(builder.icmp_signed("<", index, count), step, after)
    builder.position_at_end(step)
    results = body(index, values)
    index.add_incoming(builder.add(index, ir.Constant(_INDEX, 1)), builder.block)
    for phi, value in zip(values, results):
        phi.add_incoming(value, builder.block)
    builder.branch(head)
    builder.position_at_end(after)
    return values


def _switch(builder: Any, rows: Any, limit: int, emit: Callable[[int], None]) -> None:
    """Emit one variant of the code for each number of rows from 1 to `limit`, and a jump to the right one."""
    after = builder.append_basic_block("tiled")
    switch = builder.switch(rows, after)
    for count in range(1, limit + 1):
        block = builder.append_basic_block(f"rows{count}")
        switch.add_case(ir.Constant(_INDEX, count), block)
        builder.position_at_end(block)
        emit(count)
        builder.branch(after)
    builder.position_at_end(after)


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, offset: Any) -> Any:
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [offset])


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
        vectors = _Vectors(builder, types_[3].dtype)
        weight_base = _pointer(context, builder, types_[3], weight, weight_at)
        source_base = _pointer(context, builder, types_[5], source, source_at)
        offset_base = _pointer(context, builder, types_[8], offsets, tap_at)
        tile_base = _pointer(context, builder, types_[10], tile, tile_at)

        def constant(value: int) -> Any:
            return ir.Constant(_INDEX, value)

        def emit(count: int) -> None:
            columns = outer_columns(count)

            def channel_body(c: Any, sums: list[Any]) -> list[Any]:
                channel = builder.gep(source_base, [builder.mul(c, step)])
                panel = builder.gep(weight_base, [builder.mul(c, builder.mul(taps, constant(count)))])

                def tap_body(t: Any, sums: list[Any]) -> list[Any]:
                    pixels = builder.gep(channel, [builder.load(builder.gep(offset_base, [t]))])
                    x = [vectors.load(pixels, constant(r * vectors.lanes)) for r in range(columns)]
                    at = builder.mul(t, constant(count))
                    updated = []
                    for m in range(count):
                        w = vectors.broadcast(panel, builder.add(at, constant(m)))
                        updated += [vectors.multiply_add(w, x[r], sums[m * columns + r]) for r in range(columns)]
                    return updated

                return _loop(builder, taps, sums, tap_body)

            sums = _loop(builder, channels, [vectors.zero] * (count * columns), channel_body)
            for i, value in enumerate(sums):
                vectors.store(value, tile_base, constant(i * vectors.lanes))

        _switch(builder, rows, OUTER_ROWS, emit)
        return context.get_dummy_value()

    return signature, generate


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
        vectors = _Vectors(builder, types_[2].dtype)
        zero = ir.Constant(_INDEX, 0)
        left_base = _pointer(context, builder, types_[2], left, start)
        right_base = _pointer(context, builder, types_[4], right, start)
        row_base = _pointer(context, builder, types_[3], row_offset, zero)
        column_base = _pointer(context, builder, types_[5], column_offset, zero)
        tile_base = _pointer(context, builder, types_[7], tile, zero)

        def streams(base: Any, offsets: Any, count: int) -> list[Any]:
            at = [builder.load(builder.gep(offsets, [ir.Constant(_INDEX, i)])) for i in range(count)]
            return [builder.gep(base, [offset]) for offset in at]

        def emit(count: int) -> None:
            columns = inner_columns(count)
            x, y = streams(left_base, row_base, count), streams(right_base, column_base, columns)

            def body(i: Any, sums: list[Any]) -> list[Any]:
                at = builder.mul(i, ir.Constant(_INDEX, vectors.lanes))
                a = [vectors.load(pointer, at) for pointer in x]
                updated = list(sums)
                for j in range(columns):
                    b = vectors.load(y[j], at)
                    for m in range(count):
                        k = m * columns + j
                        updated[k] = vectors.multiply_add(a[m], b, sums[k])
                return updated

            sums = _loop(builder, count_of_vectors, [vectors.zero] * (count * columns), body)
            for k, value in enumerate(sums):
                builder.store(vectors.sum(value), builder.gep(tile_base, [ir.Constant(_INDEX, k)]))

        _switch(builder, rows, INNER_ROWS, emit)
        return context.get_dummy_value()

    return signature, generate
