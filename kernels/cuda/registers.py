"""Operations on tuples, whose elements are in registers: gathered from an array, multiplied, scattered.

A loop cannot build a tuple, so each is one operation, with a Python twin for Numba's simulator.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from numba import types

from fastdeconv.kernels.cuda.device import SIMULATED

if SIMULATED:

    @cache
    def gatherer(count: int) -> Any:
        """Return a function ``(array, places, more, exists)``: vectors at ``place + more``, zeros where place < 0."""

        def gather(array: Any, places: tuple[int, ...], more: int, exists: bool) -> tuple[Any, ...]:
            kept = [place + more if exists and place >= 0 else None for place in places]
            assert all(at is None or at % count == 0 for at in kept), "misaligned"
            zero = array.dtype.type(0)
            return tuple(zero if at is None else array[at + i] for at in kept for i in range(count))

        return gather

    @cache
    def products(terms: tuple[tuple[int, int, int], ...]) -> Any:
        """Return a function ``(left, right, sums)``: sums after ``sums[i] += left[a] · right[b]`` for all (i, a, b)."""

        def add(left: tuple[Any, ...], right: tuple[Any, ...], sums: tuple[Any, ...]) -> tuple[Any, ...]:
            added = list(sums)
            for i, a, b in terms:
                added[i] += left[a] * right[b]
            return tuple(added)

        return add

    def put(array: Any, at: int, step: int, values: tuple[Any, ...]) -> None:
        """Write values, `step` elements apart."""
        for i, value in enumerate(values):
            array[at + i * step] = value

    def store_runs(
        array: Any, at: int, sizes: tuple[int, ...], columns: tuple[int, ...], rows: tuple[int, ...],
        more: tuple[Any, ...], sums: tuple[Any, ...],
    ) -> None:  # fmt: skip
        """Write runs of adjacent elements with one access each.

        Of each column, and of each first row of a run, there is a place and a coordinate on as many axes as there are
        `sizes`, one after the other; of each row, one of `more`. Element e of run i and column j is at `at` plus their
        places plus e. It is ``sums[i · run + e, j] + more[i · run + e]``, and is written where the sum of their
        coordinates is from 0 to below the size on every axis.
        """
        each = 1 + len(sizes)
        run, wide = len(more) * each // len(rows), len(columns) // each
        for i in range(len(more) // run):
            for j in range(wide):
                row, column = rows[i * each : (i + 1) * each], columns[j * each : (j + 1) * each]
                place, *coordinates = (a + b for a, b in zip(row, column))
                place += at
                if all(0 <= x < size for x, size in zip(coordinates, sizes)):
                    assert place % run == 0, "misaligned"
                    for e in range(run):
                        array[place + e] = sums[(i * run + e) * wide + j] + more[i * run + e]

else:
    from llvmlite import ir

    from fastdeconv.kernels.cuda.device import intrinsic

    def _parts(builder: Any, packed: Any, count: int) -> list[Any]:
        return [builder.extract_value(packed, i) for i in range(count)]

    def _base(context: Any, builder: Any, kind: Any, array: Any) -> Any:
        return array if isinstance(kind, types.CPointer) else context.make_array(kind)(context, builder, array).data

    def _vector(context: Any, builder: Any, kind: Any, array: Any, at: Any, count: int) -> Any:
        """Return the address of so many elements."""
        place = builder.gep(_base(context, builder, kind, array), [at])
        if count == 1:
            return place
        return builder.bitcast(place, ir.VectorType(place.type.pointee, count).as_pointer(place.type.addrspace))

    def _load(builder: Any, address: Any, count: int, align: int) -> list[Any]:
        value = builder.load(address)
        value.align = align
        if count == 1:
            return [value]
        return [builder.extract_element(value, ir.Constant(ir.IntType(32), i)) for i in range(count)]

    def _store(builder: Any, parts: Sequence[Any], address: Any, align: int) -> None:
        value = parts[0]
        if len(parts) > 1:
            value = ir.Constant(address.type.pointee, ir.Undefined)
            for i, part in enumerate(parts):
                value = builder.insert_element(value, part, ir.Constant(ir.IntType(32), i))
        builder.store(value, address).align = align

    @cache
    def gatherer(count: int) -> Any:
        """Return a function ``(array, places, more, exists)``: vectors at ``place + more``, zeros where place < 0."""

        @intrinsic
        def gather(typing_context: Any, array: Any, places: Any, more: Any, exists: Any) -> Any:
            signature = types.UniTuple(array.dtype, count * places.count)(array, places, places.dtype, types.boolean)

            def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                array, places, more, exists = arguments
                kind = signature.args[0]
                zero = context.get_constant(kind.dtype, 0)
                found: list[Any] = []
                for place in _parts(builder, places, signature.args[1].count):
                    before = builder.block
                    holds = builder.icmp_signed(">=", place, ir.Constant(place.type, 0))
                    with builder.if_then(builder.and_(exists, holds)):
                        address = _vector(context, builder, kind, array, builder.add(place, more), count)
                        values = _load(builder, address, count, count * kind.dtype.bitwidth // 8)
                        loaded = builder.block
                    for value in values:
                        chosen = builder.phi(value.type)
                        chosen.add_incoming(value, loaded)
                        chosen.add_incoming(zero, before)
                        found.append(chosen)
                return context.make_tuple(builder, signature.return_type, found)

            return signature, generate

        return gather

    @cache
    def products(terms: tuple[tuple[int, int, int], ...]) -> Any:
        """Return a function ``(left, right, sums)``: sums after ``sums[i] += left[a] · right[b]`` for all (i, a, b)."""

        @intrinsic
        def add(typing_context: Any, left: Any, right: Any, sums: Any) -> Any:
            signature = sums(left, right, sums)

            def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                left, right, sums = (
                    _parts(builder, value, kind.count) for value, kind in zip(arguments, signature.args)
                )
                for i, a, b in terms:
                    sums[i] = builder.fma(left[a], right[b], sums[i])
                return context.make_tuple(builder, signature.return_type, sums)

            return signature, generate

        return add

    @intrinsic
    def put(typing_context: Any, array: Any, at: Any, step: Any, values: Any) -> Any:
        """Write values, `step` elements apart."""
        signature = types.void(array, types.int64, types.int64, values)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            array, at, step, values = arguments
            base = _base(context, builder, signature.args[0], array)
            for value in _parts(builder, values, signature.args[3].count):
                builder.store(value, builder.gep(base, [at]))
                at = builder.add(at, step)
            return context.get_dummy_value()

        return signature, generate

    @intrinsic
    def store_runs(
        typing_context: Any, array: Any, at: Any, sizes: Any, columns: Any, rows: Any, more: Any, sums: Any
    ) -> Any:  # fmt: skip
        """Write runs of adjacent elements with one access each.

        Of each column, and of each first row of a run, there is a place and a coordinate on as many axes as there are
        `sizes`, one after the other; of each row, one of `more`. Element e of run i and column j is at `at` plus their
        places plus e. It is ``sums[i · run + e, j] + more[i · run + e]``, and is written where the sum of their
        coordinates is from 0 to below the size on every axis.
        """
        signature = types.void(array, sizes.dtype, sizes, columns, rows, more, sums)
        each = 1 + sizes.count
        run = more.count * each // rows.count

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kind = signature.args[0]
            sizes, columns, rows, more, sums = (
                _parts(builder, value, kind.count) for value, kind in zip(arguments[2:], signature.args[2:])
            )
            columns, rows = ([v[i : i + each] for i in range(0, len(v), each)] for v in (columns, rows))
            for j, column in enumerate(columns):
                for i, row in enumerate(rows):
                    place, *coordinates = (builder.add(a, b) for a, b in zip(row, column))
                    inside = ir.Constant(ir.IntType(1), 1)
                    for x, size in zip(coordinates, sizes):
                        inside = builder.and_(inside, builder.icmp_unsigned("<", x, size))
                    with builder.if_then(inside):
                        lines = range(i * run, (i + 1) * run)
                        values = [builder.fadd(sums[line * len(columns) + j], more[line]) for line in lines]
                        place = builder.add(place, arguments[1])
                        address = _vector(context, builder, kind, arguments[0], place, run)
                        _store(builder, values, address, run * kind.dtype.bitwidth // 8)
            return context.get_dummy_value()

        return signature, generate
