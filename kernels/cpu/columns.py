"""Rows of channels to columns and back: vectors whose lanes are channels, one for each pixel.

Where arrays have pixels side by side and channels a plane apart, a block of as many channels as a vector has lanes is
transposed in registers, so that reads and writes on both sides are whole vectors. Where channels are side by side,
pixels are such vectors already.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastdeconv.kernels.cpu.vectors import Vectors, call_once_compiled, index, loop, pointer, switch


@intrinsic
def to_columns(
    typing_context: Any, columns: Any, columns_at: Any, column_step: Any,
    array: Any, array_at: Any, channel_step: Any, channels: Any, count: Any,
) -> Any:  # fmt: skip
    """Do ``columns[columns_at + j·column_step + c] = array[array_at + c·channel_step + j]``, 0 from lane `channels` on.

    j runs over `count` elements. As columns are written in blocks of as many, up to ``lanes - 1`` after the last hold
    zeros afterwards.
    """
    integer = types.int64
    signature = types.void(columns, integer, integer, array, integer, integer, integer, integer)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        columns, columns_at, column_step, array, array_at, step, channels, count = arguments
        target = pointer(context, builder, signature.args[0], columns, columns_at)
        source = pointer(context, builder, signature.args[3], array, array_at)
        values = [target, column_step, source, step, channels, count]
        call_once_compiled(builder, "to_columns", signature.args[0].dtype, values, _to_columns)
        return context.get_dummy_value()

    return signature, generate


def _to_columns(vectors: Vectors, arguments: list[Any]) -> None:
    target, column_step, source, step, channels, count = arguments
    builder, lanes = vectors.builder, vectors.lanes

    def store(at: Any, rows: list[Any]) -> None:
        for j, value in enumerate(transposed(vectors, rows)):
            vectors.store(value, target, builder.mul(builder.add(at, index(j)), column_step))

    def whole(at: Any) -> None:
        store(at, [vectors.load(source, builder.add(at, builder.mul(step, index(c)))) for c in range(lanes)])

    def part(at: Any, left: Any) -> None:
        rows = []
        for c in range(lanes):
            there = builder.icmp_signed("<", index(c), channels)
            place = builder.add(at, builder.mul(step, index(c)))
            rows.append(vectors.load_first(builder.select(there, left, index(0)), source, place))
        store(at, rows)

    _by_blocks(vectors, channels, count, whole, part)


@intrinsic
def to_rows(
    typing_context: Any, array: Any, array_at: Any, channel_step: Any, channels: Any,
    columns: Any, columns_at: Any, column_step: Any, extra: Any, extra_at: Any, count: Any, add: Any,
) -> Any:  # fmt: skip
    """Do ``array[array_at + c·channel_step + j] = columns[columns_at + j·column_step + c] + extra[extra_at + c]``.

    c runs over `channels`, j over `count`; if `add`, what is there already is added too. Reads of columns and extra are
    whole vectors.
    """
    integer = types.int64
    signature = types.void(
        array, integer, integer, integer, columns, integer, integer, extra, integer, integer, types.boolean
    )
    return signature, _writing("to_rows", _to_rows)


def _to_rows(vectors: Vectors, arguments: list[Any]) -> None:
    target, step, channels, source, column_step, addend, count, add = arguments
    builder, lanes = vectors.builder, vectors.lanes
    extra = vectors.load(addend, index(0))

    def emit(adding: int) -> None:
        def rows(at: Any) -> list[tuple[Any, Any]]:
            places = [builder.mul(builder.add(at, index(j)), column_step) for j in range(lanes)]
            pixels = [vectors.load(source, place) for place in places]
            values = transposed(vectors, [builder.fadd(pixel, extra) for pixel in pixels])
            return [(value, builder.add(at, builder.mul(step, index(c)))) for c, value in enumerate(values)]

        def whole(at: Any) -> None:
            for value, place in rows(at):
                total = builder.fadd(value, vectors.load(target, place)) if adding else value
                vectors.store(total, target, place)

        def part(at: Any, left: Any) -> None:
            for c, (value, place) in enumerate(rows(at)):
                here = builder.select(builder.icmp_signed("<", index(c), channels), left, index(0))
                total = builder.fadd(value, vectors.load_first(here, target, place)) if adding else value
                vectors.store_first(here, total, target, place)

        _by_blocks(vectors, channels, count, whole, part)

    switch(builder, add, range(2), emit)


@intrinsic
def read_pixels(
    typing_context: Any, columns: Any, columns_at: Any,
    array: Any, array_at: Any, pixel_step: Any, channels: Any, count: Any, ahead: Any,
) -> Any:  # fmt: skip
    """Do ``columns[columns_at + j·lanes + c] = array[array_at + j·pixel_step + c]``, 0 from lane `channels` on.

    j runs over `count` pixels. Meanwhile as many vectors of the array, from the element `ahead` on, are brought into
    the second cache.
    """
    integer = types.int64
    signature = types.void(columns, integer, array, integer, integer, integer, integer, integer)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        columns, columns_at, array, array_at, step, channels, count, ahead = arguments
        target = pointer(context, builder, signature.args[0], columns, columns_at)
        source = pointer(context, builder, signature.args[2], array, array_at)
        expected = pointer(context, builder, signature.args[2], array, ahead)
        values = [target, source, step, channels, count, expected]
        call_once_compiled(builder, "read_pixels", signature.args[0].dtype, values, _read_pixels)
        return context.get_dummy_value()

    return signature, generate


def _read_pixels(vectors: Vectors, arguments: list[Any]) -> None:
    target, source, step, channels, count, ahead = arguments
    builder = vectors.builder

    def pixel(j: Any, present: Any) -> None:
        place = builder.mul(j, step)
        value = vectors.load_part(present, source, place)
        vectors.prefetch(ahead, builder.mul(j, index(vectors.lanes)), level=2)
        vectors.store(value, target, builder.mul(j, index(vectors.lanes)))

    _by_pixels(vectors, channels, count, pixel)


@intrinsic
def write_pixels(
    typing_context: Any, array: Any, array_at: Any, pixel_step: Any, channels: Any,
    columns: Any, columns_at: Any, column_step: Any, extra: Any, extra_at: Any, count: Any, add: Any,
) -> Any:  # fmt: skip
    """Do ``array[array_at + j·pixel_step + c] = columns[columns_at + j·column_step + c] + extra[extra_at + c]``.

    c runs over `channels`, j over `count`; if `add`, what is there already is added too.
    """
    integer = types.int64
    signature = types.void(
        array, integer, integer, integer, columns, integer, integer, extra, integer, integer, types.boolean
    )
    return signature, _writing("write_pixels", _write_pixels)


def _write_pixels(vectors: Vectors, arguments: list[Any]) -> None:
    target, step, channels, source, column_step, addend, count, add = arguments
    builder = vectors.builder
    extra = vectors.load(addend, index(0))

    def emit(adding: int) -> None:
        def pixel(j: Any, present: Any) -> None:
            place = builder.mul(j, step)
            value = builder.fadd(vectors.load(source, builder.mul(j, column_step)), extra)
            if adding:
                value = builder.fadd(value, vectors.load_part(present, target, place))
            vectors.store_part(present, value, target, place)

        _by_pixels(vectors, channels, count, pixel)

    switch(builder, add, range(2), emit)


def _writing(name: str, emit: Callable[[Vectors, list[Any]], None]) -> Callable[..., Any]:
    """Return what generates a call of a function that writes columns to an array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, array_at, step, channels, columns, columns_at, column_step, extra, extra_at, count, add = arguments
        target = pointer(context, builder, signature.args[0], array, array_at)
        source = pointer(context, builder, signature.args[4], columns, columns_at)
        addend = pointer(context, builder, signature.args[7], extra, extra_at)
        values = [target, step, channels, source, column_step, addend, count, builder.zext(add, ir.IntType(64))]
        call_once_compiled(builder, name, signature.args[0].dtype, values, emit)
        return context.get_dummy_value()

    return generate


def _by_pixels(vectors: Vectors, channels: Any, count: Any, pixel: Callable[[Any, Any], None]) -> None:
    """Emit a loop over pixels: ``pixel(number, None)``, or how many lanes there are instead of None."""
    builder = vectors.builder

    def every(present: Any) -> None:
        def body(j: Any, carried: list[Any]) -> list[Any]:
            pixel(j, present)
            return carried

        loop(builder, count, [], body)

    with builder.if_else(builder.icmp_signed(">=", channels, index(vectors.lanes))) as (whole, part):
        with whole:
            every(None)
        with part:
            every(channels)


def _by_blocks(
    vectors: Vectors, channels: Any, count: Any, whole: Callable[[Any], None], part: Callable[[Any, Any], None]
) -> None:
    """Emit a loop over blocks of pixels: ``whole(first)`` or, where lanes lack something, ``part(first, pixels)``."""
    builder, lanes = vectors.builder, index(vectors.lanes)
    every_lane = builder.icmp_signed(">=", channels, lanes)

    def body(i: Any, carried: list[Any]) -> list[Any]:
        at = builder.mul(i, lanes)
        left = builder.sub(count, at)
        with builder.if_else(builder.and_(every_lane, builder.icmp_signed(">=", left, lanes))) as (then, otherwise):
            with then:
                whole(at)
            with otherwise:
                part(at, left)
        return carried

    loop(builder, builder.sdiv(builder.add(count, index(vectors.lanes - 1)), lanes), [], body)


def transposed(vectors: Vectors, rows: list[Any]) -> list[Any]:
    """Return the transpose of a square of vectors: blocks off the diagonal change places, of 1 lane, then 2, 4, 8."""
    lanes = vectors.lanes
    rows = list(rows)
    distance = 1
    while distance < lanes:
        upper = [j - distance + lanes if j & distance else j for j in range(lanes)]
        lower = [j + lanes if j & distance else j + distance for j in range(lanes)]
        for i in range(lanes):
            if not i & distance:
                a, b = rows[i], rows[i + distance]
                rows[i], rows[i + distance] = vectors.select(a, b, upper), vectors.select(a, b, lower)
        distance *= 2
    return rows
