"""Register tiles of matrix products: a left matrix times a panel of the right one.

A panel has the columns of one tile; see `panels`. What is multiplied next may lie in a far cache: tiles fetch their
share of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import types
from numba.extending import intrinsic

from fastdeconv.kernels.cpu.fetching import ask
from fastdeconv.kernels.cpu.host import REGISTERS
from fastdeconv.kernels.cpu.vectors import LINE, Vectors, call_once_compiled, index, loop, pointer, switch

# Rows and vectors in a row of a `product_tile`.
PRODUCT_SHAPES = ((8, 3), (8, 2), (8, 1), (4, 6), (4, 4)) if REGISTERS == 32 else ((4, 3), (4, 2), (4, 1), (2, 5))
# How many of these a `channel_tile` has.
CHANNEL_SHAPES = 2
# The same of a `window_tile`, for many rows and for few.
WINDOW_SHAPES = ((8, 3), (4, 6)) if REGISTERS == 32 else ((4, 3), (2, 5))
# The same of a `block_tile`.
BLOCK_SHAPES = ((8, 3), (8, 2), (8, 1)) if REGISTERS == 32 else ((6, 2), (4, 3), (8, 1))
# Terms in a turn of a `channel_tile`, and lines that it and a `block_tile` fetch in one.
CHANNEL_TERMS, AHEAD = 4, 4
# Terms between what a `window_tile` multiplies and the weights that it fetches: a far cache takes as long to answer.
_FAR = 128


@intrinsic
def product_tile(
    typing_context: Any,
    shape: Any, depth: Any,
    left: Any, left_at: Any, left_row: Any, left_step: Any,
    right: Any, right_at: Any, right_step: Any,
    tile: Any, tile_at: Any, tile_row: Any, add: Any,
) -> Any:  # fmt: skip
    """Compute ``tile[m·tile_row + q] = Σ_k left[m·left_row + k·left_step] · right[k·right_step + q]`` over `depth` k.

    ``PRODUCT_SHAPES[shape]`` tells the rows m, and the vectors that q runs over. If `add`, what is in the tile already
    is added.
    """
    integer = types.int64
    signature = types.void(
        integer, integer, left, integer, integer, integer, right, integer, integer, tile, integer, integer,
        types.boolean,
    )  # fmt: skip

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        shape, depth, left, left_at, row, step, right, right_at, right_step, tile, tile_at, tile_row, add = arguments
        types_ = signature.args
        left_base = pointer(context, builder, types_[2], left, left_at)
        right_base = pointer(context, builder, types_[6], right, right_at)
        tile_base = pointer(context, builder, types_[9], tile, tile_at)
        values = [
            shape, depth, left_base, row, step, right_base, right_step, tile_base, tile_row,
            builder.zext(add, index(0).type),
        ]  # fmt: skip
        call_once_compiled(builder, "product_tile", types_[2].dtype, values, _product_tile)
        return context.get_dummy_value()

    return signature, generate


def _product_tile(vectors: Vectors, arguments: list[Any]) -> None:
    shape, depth, left, row, step, right, right_step, tile, tile_row, add = arguments
    builder, lanes = vectors.builder, vectors.lanes

    def emit(which: int) -> None:
        rows, columns = PRODUCT_SHAPES[which]
        lefts = [builder.gep(left, [builder.mul(row, index(m))]) for m in range(rows)]

        def body(k: Any, sums: list[Any]) -> list[Any]:
            at = builder.mul(k, right_step)
            x = [vectors.load(right, builder.add(at, index(r * lanes))) for r in range(columns)]
            here = builder.mul(k, step)
            return vectors.add_products(((each, here) for each in lefts), x, sums)

        sums = loop(builder, depth, [vectors.zero] * (rows * columns), body)
        _store_tile(vectors, sums, tile, tile_row, add, columns)

    switch(builder, shape, range(len(PRODUCT_SHAPES)), emit)


def _store_tile(
    vectors: Vectors, sums: list[Any], tile: Any, tile_row: Any, add: Any, columns: int = PRODUCT_SHAPES[0][1]
) -> None:
    """Store the sums of a tile row by row, or `add` them to what is there."""
    builder = vectors.builder
    places = [
        builder.add(builder.mul(tile_row, index(i // columns)), index(i % columns * vectors.lanes))
        for i in range(len(sums))
    ]
    with builder.if_else(builder.icmp_signed("!=", add, index(0))) as (then, otherwise):
        with then:
            for value, place in zip(sums, places):
                vectors.store(builder.fadd(vectors.load(tile, place), value), tile, place)
        with otherwise:
            for value, place in zip(sums, places):
                vectors.store(value, tile, place)


@intrinsic
def panel_tile(
    typing_context: Any,
    depth: Any, left: Any, left_at: Any, left_row: Any, panel: Any, panel_at: Any,
    tile: Any, tile_at: Any, tile_row: Any, add: Any,
) -> Any:  # fmt: skip
    """Compute what `product_tile` does with the first shape, where the right side's rows follow one another.

    The left side's elements are ``left[m·left_row + k]``. As places in the panel are constants of the loop, sums of
    some 50 terms take a fifteenth less time than with `product_tile`.
    """
    integer = types.int64
    signature = types.void(integer, left, integer, integer, panel, integer, tile, integer, integer, types.boolean)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        depth, left, left_at, left_row, panel, panel_at, tile, tile_at, tile_row, add = arguments
        types_ = signature.args
        left_base = pointer(context, builder, types_[1], left, left_at)
        panel_base = pointer(context, builder, types_[4], panel, panel_at)
        tile_base = pointer(context, builder, types_[6], tile, tile_at)
        flag = builder.zext(add, index(0).type)
        values = [depth, left_base, left_row, panel_base, tile_base, tile_row, flag]
        call_once_compiled(builder, "panel_tile", types_[1].dtype, values, _panel_tile)
        return context.get_dummy_value()

    return signature, generate


def _panel_tile(vectors: Vectors, arguments: list[Any]) -> None:
    depth, left, left_row, panel, tile, tile_row, add = arguments
    builder, (rows, _) = vectors.builder, PRODUCT_SHAPES[0]
    lefts = [builder.gep(left, [builder.mul(left_row, index(m))]) for m in range(rows)]
    # Each row takes a register for its address: eight leave none for more terms.
    sums = _panel_sums(vectors, depth, lefts, 1, panel, 4 if rows == 4 else 1)
    _store_tile(vectors, sums, tile, tile_row, add)


def _panel_sums(
    vectors: Vectors, depth: Any, lefts: list[Any], step: int, panel: Any, terms: int,
    columns: int = PRODUCT_SHAPES[0][1], expect: Callable[[Any], None] | None = None,
) -> list[Any]:  # fmt: skip
    """Emit a loop with so many terms of a panel's sums in each turn, and one for those left; return the sums.

    What `expect` emits for a turn is called with its number.
    """
    builder, rows = vectors.builder, len(lefts)

    def add_terms(first: Any, count: int, sums: list[Any]) -> list[Any]:
        if expect is not None and count == terms:
            expect(builder.sdiv(first, index(terms)))
        here = builder.gep(panel, [builder.mul(first, index(columns * vectors.lanes))])
        there = [builder.gep(each, [builder.mul(first, index(step))]) for each in lefts]
        for k in range(count):
            x = [vectors.load(here, index((k * columns + r) * vectors.lanes)) for r in range(columns)]
            sums = vectors.add_products(((each, index(k * step)) for each in there), x, sums)
        return sums

    return _in_turns(builder, depth, terms, [vectors.zero] * (rows * columns), add_terms)


def _expect_lines(vectors: Vectors, ahead: Any, turn: Any) -> None:
    """Bring the lines of a turn, which follow those of the turn before, into the second cache."""
    line = LINE // vectors.bytes
    first = vectors.builder.gep(ahead, [vectors.builder.mul(turn, index(AHEAD * line))])
    for i in range(AHEAD):
        vectors.prefetch(first, index(i * line), level=2)


def _in_turns(
    builder: Any, depth: Any, terms: int, sums: list[Any], add_terms: Callable[[Any, int, list[Any]], list[Any]]
) -> list[Any]:
    """Emit a loop of ``add_terms(first, count, sums)`` with so many terms in each turn, and one for those left."""
    turns = builder.sdiv(depth, index(terms))
    done = builder.mul(turns, index(terms))
    sums = loop(builder, turns, sums, lambda i, sums: add_terms(builder.mul(i, index(terms)), terms, sums))
    return loop(builder, builder.sub(depth, done), sums, lambda i, sums: add_terms(builder.add(done, i), 1, sums))


@intrinsic
def channel_tile(
    typing_context: Any, shape: Any, depth: Any, left: Any, left_at: Any, panel: Any, panel_at: Any,
    tile: Any, tile_at: Any, tile_row: Any, add: Any, ahead: Any,
) -> Any:  # fmt: skip
    """Compute what `panel_tile` does where a row of the left side follows another after `channel_step` elements.

    ``tile[m·tile_row + q] = Σ_k left[k·channel_step + m] · panel[k, q]``: vectors of channels multiply a panel.
    ``PRODUCT_SHAPES[shape]`` tells the rows m, and the vectors that q runs over; it is one of the first
    `CHANNEL_SHAPES`, which have equal rows. Meanwhile `AHEAD` lines for each `CHANNEL_TERMS` terms, from the element
    `ahead` of the panel's array on, are brought into the second cache.
    """
    integer = types.int64
    signature = types.void(
        integer, integer, left, integer, panel, integer, tile, integer, integer, types.boolean, integer
    )

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        shape, depth, left, left_at, panel, panel_at, tile, tile_at, tile_row, add, ahead = arguments
        types_ = signature.args
        left_base = pointer(context, builder, types_[2], left, left_at)
        panel_base = pointer(context, builder, types_[4], panel, panel_at)
        tile_base = pointer(context, builder, types_[6], tile, tile_at)
        ahead_base = pointer(context, builder, types_[4], panel, ahead)
        flag = builder.zext(add, index(0).type)
        values = [shape, depth, left_base, panel_base, tile_base, tile_row, flag, ahead_base]
        call_once_compiled(builder, "channel_tile", types_[2].dtype, values, _channel_tile)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def packed_tile(
    typing_context: Any, depth: Any, left: Any, left_at: Any, panel: Any, panel_at: Any,
    tile: Any, tile_at: Any, tile_row: Any, add: Any, address: Any, table: Any,
) -> Any:  # fmt: skip
    """Compute what the first shape of `channel_tile` does; meanwhile lines are fetched that a table names.

    There are `CHANNEL_TERMS` terms in a turn; see `fetching`.
    """
    integer = types.int64
    signature = types.void(
        integer, left, integer, panel, integer, tile, integer, integer, types.boolean, integer, table
    )

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        depth, left, left_at, panel, panel_at, tile, tile_at, tile_row, add, address, table = arguments
        types_ = signature.args
        left_base = pointer(context, builder, types_[1], left, left_at)
        panel_base = pointer(context, builder, types_[3], panel, panel_at)
        tile_base = pointer(context, builder, types_[5], tile, tile_at)
        table_base = pointer(context, builder, types_[10], table, index(0))
        flag = builder.zext(add, index(0).type)
        values = [depth, left_base, panel_base, tile_base, tile_row, flag, address, table_base]
        call_once_compiled(builder, "packed_tile", types_[1].dtype, values, _packed_tile)
        return context.get_dummy_value()

    return signature, generate


def _packed_tile(vectors: Vectors, arguments: list[Any]) -> None:
    *operands, address, table = arguments
    _emit_channels(vectors, 0, operands, lambda turn: ask(vectors, address, table, turn))


def channel_step(lanes: int) -> int:
    """Return the elements between rows of the left side of a `channel_tile`: those of a vector, or of its rows."""
    return max(lanes, PRODUCT_SHAPES[0][0])


def _channel_tile(vectors: Vectors, arguments: list[Any]) -> None:
    shape, *operands, ahead = arguments

    def emit(which: int) -> None:
        _emit_channels(vectors, which, operands, lambda turn: _expect_lines(vectors, ahead, turn))

    switch(vectors.builder, shape, range(CHANNEL_SHAPES), emit)


def _emit_channels(vectors: Vectors, shape: int, operands: list[Any], expect: Callable[[Any], None]) -> None:
    """Emit a `channel_tile` of some shape, and what its turns ask for."""
    depth, left, panel, tile, tile_row, add = operands
    rows, columns = PRODUCT_SHAPES[shape]
    lefts = [vectors.builder.gep(left, [index(m)]) for m in range(rows)]
    sums = _panel_sums(vectors, depth, lefts, channel_step(vectors.lanes), panel, CHANNEL_TERMS, columns, expect)
    _store_tile(vectors, sums, tile, tile_row, add, columns)


@intrinsic
def window_tile(
    typing_context: Any, shape: Any, depth: Any, left: Any, left_at: Any, panel: Any, panel_at: Any,
    rows: Any, rows_at: Any, tile: Any, tile_at: Any, add: Any,
) -> Any:  # fmt: skip
    """Compute ``tile[m, q] = Σ_k left[k, m] · panel[rows[k] + q]`` over `depth` k, or add it to what is there.

    ``WINDOW_SHAPES[shape]`` tells the rows m, and the vectors that q runs over. Where the panel's rows lie comes from a
    table, as a sum takes some of them only: that costs one load for all products of a row. The left side of some
    terms later is brought into the second cache.
    """
    integer = types.int64
    signature = types.void(integer, integer, left, integer, panel, integer, rows, integer, tile, integer, types.boolean)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        shape, depth, left, left_at, panel, panel_at, rows, rows_at, tile, tile_at, add = arguments
        types_ = signature.args
        left_base = pointer(context, builder, types_[2], left, left_at)
        panel_base = pointer(context, builder, types_[4], panel, panel_at)
        table = pointer(context, builder, types_[6], rows, rows_at)
        tile_base = pointer(context, builder, types_[8], tile, tile_at)
        values = [shape, depth, left_base, panel_base, table, tile_base, builder.zext(add, index(0).type)]
        call_once_compiled(builder, "window_tile", types_[2].dtype, values, _window_tile)
        return context.get_dummy_value()

    return signature, generate


def _window_tile(vectors: Vectors, arguments: list[Any]) -> None:
    shape, depth, left, panel, table, tile, add = arguments
    builder, lanes = vectors.builder, vectors.lanes

    def emit(which: int) -> None:
        rows, columns = WINDOW_SHAPES[which]

        def add_terms(first: Any, count: int, sums: list[Any]) -> list[Any]:
            there, places = builder.gep(left, [builder.mul(first, index(rows))]), builder.gep(table, [first])
            for at in range(0, count * rows, LINE // vectors.bytes):
                vectors.prefetch(there, index(_FAR * rows + at), level=2)
            for k in range(count):
                here = builder.gep(panel, [builder.load(builder.gep(places, [index(k)]))])
                x = [vectors.load(here, index(r * lanes)) for r in range(columns)]
                sums = vectors.add_products(((there, index(k * rows + m)) for m in range(rows)), x, sums)
            return sums

        sums = _in_turns(builder, depth, 2, [vectors.zero] * (rows * columns), add_terms)
        _store_tile(vectors, sums, tile, index(columns * lanes), add, columns)

    switch(builder, shape, range(len(WINDOW_SHAPES)), emit)


@intrinsic
def block_tile(
    typing_context: Any,
    shape: Any, depth: Any, left: Any, left_at: Any, left_step: Any, panel: Any, panel_at: Any,
    tile: Any, tile_at: Any, tile_row: Any, add: Any, ahead: Any,
) -> Any:  # fmt: skip
    """Compute ``tile[m·tile_row + q] = Σ_k left[k // lanes · left_step + m·lanes + k % lanes] · panel[k, q]``.

    ``BLOCK_SHAPES[shape]`` tells the rows m, and the vectors that q runs over; k runs over `depth`, whole vectors. If
    `add`, what is in the tile already is added. Rows on the left are a vector apart, so that places are constants of
    the loop: 20 instructions for 12 multiply-adds, where `product_tile` takes 24 to 29. Meanwhile `AHEAD` lines for
    each vector of k, from the element `ahead` of the panel's array on, are brought into the second cache.
    """
    integer = types.int64
    signature = types.void(
        integer, integer, left, integer, integer, panel, integer, tile, integer, integer, types.boolean, integer
    )

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        shape, depth, left, left_at, left_step, panel, panel_at, tile, tile_at, tile_row, add, ahead = arguments
        types_ = signature.args
        left_base = pointer(context, builder, types_[2], left, left_at)
        panel_base = pointer(context, builder, types_[5], panel, panel_at)
        tile_base = pointer(context, builder, types_[7], tile, tile_at)
        ahead_base = pointer(context, builder, types_[5], panel, ahead)
        flag = builder.zext(add, index(0).type)
        values = [shape, depth, left_base, left_step, panel_base, tile_base, tile_row, flag, ahead_base]
        call_once_compiled(builder, "block_tile", types_[2].dtype, values, _block_tile)
        return context.get_dummy_value()

    return signature, generate


def _block_tile(vectors: Vectors, arguments: list[Any]) -> None:
    *operands, ahead = arguments
    _emit_blocks(vectors, operands, lambda block: _expect_lines(vectors, ahead, block), lambda turn: None)


@intrinsic
def gathered_tile(
    typing_context: Any,
    shape: Any, depth: Any, left: Any, left_at: Any, left_step: Any, panel: Any, panel_at: Any,
    tile: Any, tile_at: Any, tile_row: Any, add: Any, address: Any, table: Any, table_at: Any,
) -> Any:  # fmt: skip
    """Compute what `block_tile` does; meanwhile lines are fetched that a table names, see `fetching`.

    There are `block_terms` terms in a turn.
    """
    integer = types.int64
    signature = types.void(
        integer, integer, left, integer, integer, panel, integer, tile, integer, integer, types.boolean,
        integer, table, integer,
    )  # fmt: skip

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        shape, depth, left, left_at, left_step, panel, panel_at, tile, tile_at, tile_row, add, *lines = arguments
        address, table, table_at = lines
        types_ = signature.args
        left_base = pointer(context, builder, types_[2], left, left_at)
        panel_base = pointer(context, builder, types_[5], panel, panel_at)
        tile_base = pointer(context, builder, types_[7], tile, tile_at)
        table_base = pointer(context, builder, types_[12], table, table_at)
        flag = builder.zext(add, index(0).type)
        values = [shape, depth, left_base, left_step, panel_base, tile_base, tile_row, flag, address, table_base]
        call_once_compiled(builder, "gathered_tile", types_[2].dtype, values, _gathered_tile)
        return context.get_dummy_value()

    return signature, generate


def _gathered_tile(vectors: Vectors, arguments: list[Any]) -> None:
    *operands, address, table = arguments
    _emit_blocks(vectors, operands, lambda block: None, lambda turn: ask(vectors, address, table, turn))


def block_terms(lanes: int) -> int:
    """Return the terms in a turn of a `block_tile`: more of 24 sums each would go to the stack."""
    return min(lanes, 8 if REGISTERS == 16 else 4)


def _emit_blocks(
    vectors: Vectors, operands: list[Any], at_block: Callable[[Any], None], at_turn: Callable[[Any], None]
) -> None:
    """Emit a `block_tile`, and what its blocks and turns ask for."""
    shape, depth, left, step, panel, tile, tile_row, add = operands
    builder, lanes, terms = vectors.builder, vectors.lanes, block_terms(vectors.lanes)

    def emit(which: int) -> None:
        rows, columns = BLOCK_SHAPES[which]

        def add_block(block: Any, sums: list[Any]) -> list[Any]:
            there = builder.gep(left, [builder.mul(block, step)])
            here = builder.gep(panel, [builder.mul(block, index(lanes * columns * lanes))])
            line = LINE // vectors.bytes
            for at in range(rows * lanes, 2 * rows * lanes, line):
                vectors.prefetch(there, index(at))
            at_block(block)

            def add_terms(turn: Any, sums: list[Any]) -> list[Any]:
                at_turn(builder.add(builder.mul(block, index(lanes // terms)), turn))
                row = builder.gep(there, [builder.mul(turn, index(terms))])
                right = builder.gep(here, [builder.mul(turn, index(terms * columns * lanes))])
                for k in range(terms):
                    x = [vectors.load(right, index((k * columns + r) * lanes)) for r in range(columns)]
                    sums = vectors.add_products(((row, index(m * lanes + k)) for m in range(rows)), x, sums)
                return sums

            return (
                add_terms(index(0), sums) if lanes == terms else loop(builder, index(lanes // terms), sums, add_terms)
            )

        blocks = builder.sdiv(depth, index(lanes))
        sums = loop(builder, blocks, [vectors.zero] * (rows * columns), add_block)
        _store_tile(vectors, sums, tile, tile_row, add, columns)

    switch(builder, shape, range(len(BLOCK_SHAPES)), emit)
