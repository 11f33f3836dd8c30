"""Register tiles of arrays with channels last: vectors run along channels, rows are pixels wherever they lie."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import types
from numba.extending import intrinsic

from fastdeconv.kernels.cpu.host import REGISTERS
from fastdeconv.kernels.cpu.vectors import Vectors, call_once_compiled, index, loop, pointer, switch

# Pixels of a `pixel_tile`, and its vectors of channels, by its shape.
PIXELS = 8 if REGISTERS == 32 else 4
VECTORS = (1, 2, 3)
# Columns of its table of segments.
SEGMENT = 4
# Rows and vectors of an `weight_tile`.
WEIGHT_SHAPES = (
    ((8, 3), (8, 2), (8, 1), (6, 4), (6, 3)) if REGISTERS == 32 else ((4, 3), (4, 2), (6, 2), (8, 1), (3, 3))
)
# Pixels and vectors of a `channelwise_tile`; taps and vectors of a `channelwise_sums`.
CHANNELWISE = (4, 4) if REGISTERS == 32 else (4, 2)


@intrinsic
def distance(typing_context: Any, array: Any, base: Any) -> Any:
    """Return the elements from the start of `base` to that of another array of its type."""
    signature = types.int64(array, base)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = index(0).type
        to, of = (
            builder.ptrtoint(pointer(context, builder, array_type, array, index(0)), kind)
            for array_type, array in zip(signature.args, arguments)
        )
        return builder.sdiv(builder.sub(to, of), index(signature.args[0].dtype.bitwidth // 8))

    return signature, generate


@intrinsic
def pixel_tile(
    typing_context: Any,
    shape: Any, x: Any, places: Any, places_at: Any, places_row: Any, segments: Any, segment: Any, count: Any,
    weight: Any, weight_at: Any, start: Any, start_at: Any, out: Any, outs: Any, outs_at: Any, out_at: Any,
    pixels: Any, channels: Any, add: Any, ahead: Any,
) -> Any:  # fmt: skip
    """Compute ``out[outs[m] + out_at + q] = start[q] + Σ_k x[places[run(k), m] + term(k)] · weight[k, q]``.

    k runs over `count` segments, each of which is four integers: the row of `places`, the first term, how many there
    are, and how many vectors of them the tile after this is the first to read, which it brings into the second cache if
    told to look `ahead`. q runs over ``VECTORS[shape]`` vectors, of which the first `channels` elements are written,
    for the first `pixels` of the `PIXELS` pixels m. If `add`, what is in `out` already is added instead of `start`.
    """
    integer = types.int64
    signature = types.void(
        integer, x, places, integer, integer, segments, integer, integer, weight, integer, start, integer, out, outs,
        integer, integer, integer, integer, types.boolean, types.boolean,
    )  # fmt: skip

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (shape, x, places, places_at, places_row, segments, segment, count, weight, weight_at, start, start_at, out,
         outs, outs_at, out_at, pixels, channels, add, ahead) = arguments  # fmt: skip
        kinds = signature.args
        values = [
            shape,
            pointer(context, builder, kinds[1], x, index(0)),
            pointer(context, builder, kinds[2], places, places_at),
            places_row,
            pointer(context, builder, kinds[5], segments, builder.mul(segment, index(SEGMENT))),
            count,
            pointer(context, builder, kinds[8], weight, weight_at),
            pointer(context, builder, kinds[10], start, start_at),
            pointer(context, builder, kinds[12], out, out_at),
            pointer(context, builder, kinds[13], outs, outs_at),
            pixels, channels, *(builder.zext(flag, index(0).type) for flag in (add, ahead)),
        ]  # fmt: skip
        call_once_compiled(builder, "pixel_tile", kinds[1].dtype, values, _pixel_tile)
        return context.get_dummy_value()

    return signature, generate


def _pixel_tile(vectors: Vectors, arguments: list[Any]) -> None:
    shape, x, places, places_row, segments, count, weight, start, out, outs, pixels, channels, add, ahead = arguments
    builder, lanes = vectors.builder, vectors.lanes
    adds, looks_ahead = (builder.icmp_signed("!=", flag, index(0)) for flag in (add, ahead))

    def emit(which: int) -> None:
        columns = VECTORS[which]

        def add_segment(i: Any, carried: list[Any]) -> list[Any]:
            *sums, panel = carried
            entry = builder.gep(segments, [builder.mul(i, index(SEGMENT))])
            run, first, terms, fresh = (builder.load(builder.gep(entry, [index(k)])) for k in range(SEGMENT))
            row, here = builder.gep(places, [builder.mul(run, places_row)]), builder.gep(x, [first])
            bases = [builder.gep(here, [builder.load(builder.gep(row, [index(m)]))]) for m in range(PIXELS)]
            with builder.if_then(looks_ahead):
                after = [builder.load(builder.gep(row, [index(PIXELS + m)])) for m in range(PIXELS)]

                def fetch(r: Any, carried: list[Any]) -> list[Any]:
                    for place in after:
                        vectors.prefetch(here, builder.add(place, builder.mul(r, index(lanes))), level=2)
                    return carried

                loop(builder, fresh, [], fetch, unroll=False)

            def add_term(k: Any, sums: list[Any]) -> list[Any]:
                at = builder.mul(k, index(columns * lanes))
                w = [vectors.load(panel, builder.add(at, index(r * lanes))) for r in range(columns)]
                return vectors.add_products(((base, k) for base in bases), w, sums)

            sums = loop(builder, terms, sums, add_term, unroll=False)
            return [*sums, builder.gep(panel, [builder.mul(terms, index(columns * lanes))])]

        with builder.if_then(builder.not_(adds)):  # what is added to is near already
            for m in range(PIXELS):
                to = builder.gep(out, [builder.load(builder.gep(outs, [index(m)]))])
                for r in range(columns):
                    vectors.prefetch(to, index(r * lanes), write=True)
        carried = loop(builder, count, [vectors.zero] * (PIXELS * columns) + [weight], add_segment, unroll=False)
        _store_pixels(vectors, carried[:-1], start, out, outs, pixels, channels, adds, columns)

    switch(builder, shape, range(len(VECTORS)), emit)


def _store_pixels(
    vectors: Vectors, sums: list[Any], start: Any, out: Any, outs: Any, pixels: Any, channels: Any, adds: Any,
    columns: int,
) -> None:  # fmt: skip
    """Add to the sums of each pixel what they start from, and store those that there are."""
    builder, lanes = vectors.builder, vectors.lanes
    whole = builder.and_(
        builder.icmp_signed("==", pixels, index(PIXELS)), builder.icmp_signed("==", channels, index(columns * lanes))
    )

    def row(m: int, add: bool, whole: bool) -> None:
        to = builder.gep(out, [builder.load(builder.gep(outs, [index(m)]))])
        for r, total in enumerate(sums[m * columns : (m + 1) * columns]):
            at, left = index(r * lanes), builder.sub(channels, index(r * lanes))
            if add:
                before = vectors.load(to, at) if whole else vectors.load_first(left, to, at)
            else:
                before = vectors.load(start, at)
            vectors.store_part(None if whole else left, builder.fadd(total, before), to, at)

    with builder.if_else(whole) as (then, otherwise):
        with then, builder.if_else(adds) as (onto, anew):
            with onto:
                for m in range(PIXELS):
                    row(m, True, True)
            with anew:
                for m in range(PIXELS):
                    row(m, False, True)
        with otherwise:
            for m in range(PIXELS):
                with (
                    builder.if_then(builder.icmp_signed("<", index(m), pixels)),
                    builder.if_else(adds) as (onto, anew),
                ):
                    with onto:
                        row(m, True, False)
                    with anew:
                        row(m, False, False)


@intrinsic
def channelwise_tile(
    typing_context: Any, x: Any, places: Any, places_at: Any, places_row: Any, rows: Any, rows_at: Any, taps: Any,
    weight: Any, weight_at: Any, weight_row: Any, start: Any, out: Any, out_at: Any, outs: Any, outs_at: Any,
    pixels: Any, channels: Any,
) -> Any:  # fmt: skip
    """Compute ``out[outs[m] + out_at + c] = start[c] + Σ_t x[places[rows[t], m] + c] · weight[t, c]`` for channels c.

    m runs over the first `pixels` of a tile, whose places are all in the table. Rows of the weight and `start` go on to
    the end of a vector.
    """
    integer = types.int64
    signature = types.void(
        x, places, integer, integer, rows, integer, integer, weight, integer, integer, start, out, integer, outs,
        integer, integer, integer,
    )  # fmt: skip

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (x, places, places_at, places_row, rows, rows_at, taps, weight, weight_at, weight_row, start, out, out_at,
         outs, outs_at, pixels, channels) = arguments  # fmt: skip
        kinds = signature.args
        values = [
            pointer(context, builder, kinds[0], x, index(0)),
            pointer(context, builder, kinds[1], places, places_at),
            places_row,
            pointer(context, builder, kinds[4], rows, rows_at),
            taps,
            pointer(context, builder, kinds[7], weight, weight_at),
            weight_row,
            pointer(context, builder, kinds[10], start, index(0)),
            pointer(context, builder, kinds[11], out, out_at),
            pointer(context, builder, kinds[13], outs, outs_at),
            pixels, channels,
        ]  # fmt: skip
        call_once_compiled(builder, "channelwise_tile", kinds[0].dtype, values, _channelwise_tile)
        return context.get_dummy_value()

    return signature, generate


def _channelwise_tile(vectors: Vectors, arguments: list[Any]) -> None:
    x, places, places_row, rows, taps, weight, weight_row, start, out, outs, pixels, channels = arguments
    builder, lanes, height = vectors.builder, vectors.lanes, CHANNELWISE[0]

    def channels_from(at: Any, columns: int, part: Any) -> None:
        """Emit the sums of some vectors of channels, of which the last has `part`."""
        from_x, from_weight, from_start, to_out = (builder.gep(base, [at]) for base in (x, weight, start, out))
        offsets = [index(r * lanes) for r in range(columns)]
        parts = [None] * (columns - 1) + [part]

        def add_tap(t: Any, sums: list[Any]) -> list[Any]:
            row = builder.gep(places, [builder.mul(builder.load(builder.gep(rows, [t])), places_row)])
            here = builder.gep(from_weight, [builder.mul(t, weight_row)])
            w = [vectors.load(here, offset) for offset in offsets]
            updated = []
            for m in range(height):
                base = builder.gep(from_x, [builder.load(builder.gep(row, [index(m)]))])
                for r, offset in enumerate(offsets):
                    value = vectors.load_part(parts[r], base, offset)
                    updated.append(vectors.multiply_add(value, w[r], sums[m * columns + r]))
            return updated

        begin = [vectors.load(from_start, offset) for offset in offsets]
        sums = loop(builder, taps, begin * height, add_tap, unroll=False)
        for m in range(height):
            with builder.if_then(builder.icmp_signed("<", index(m), pixels)):
                to = builder.gep(to_out, [builder.load(builder.gep(outs, [index(m)]))])
                for r, offset in enumerate(offsets):
                    vectors.store_part(parts[r], sums[m * columns + r], to, offset)

    _by_channels(vectors, channels, channels_from)


@intrinsic
def weight_tile(
    typing_context: Any, shape: Any, count: Any, left: Any, left_at: Any, right: Any, right_at: Any,
    out: Any, out_at: Any, out_row: Any, rows: Any, columns: Any, add: Any,
) -> Any:  # fmt: skip
    """Compute ``out[m·out_row + q] = Σ_i left[i, m] · right[i, q]`` over `count` packed pixels i.

    ``WEIGHT_SHAPES[shape]`` tells the rows m, and the vectors that q runs over; the first `rows` and `columns` are
    written. If `add`, what is in `out` already is added.
    """
    integer = types.int64
    signature = types.void(
        integer, integer, left, integer, right, integer, out, integer, integer, integer, integer, types.boolean
    )

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        shape, count, left, left_at, right, right_at, out, out_at, out_row, rows, columns, add = arguments
        kinds = signature.args
        values = [
            shape, count,
            pointer(context, builder, kinds[2], left, left_at),
            pointer(context, builder, kinds[4], right, right_at),
            pointer(context, builder, kinds[6], out, out_at),
            out_row, rows, columns, builder.zext(add, index(0).type),
        ]  # fmt: skip
        call_once_compiled(builder, "weight_tile", kinds[2].dtype, values, _weight_tile)
        return context.get_dummy_value()

    return signature, generate


def _weight_tile(vectors: Vectors, arguments: list[Any]) -> None:
    shape, count, left, right, out, out_row, rows, columns, add = arguments
    builder, lanes = vectors.builder, vectors.lanes
    adds = builder.icmp_signed("!=", add, index(0))

    def emit(which: int) -> None:
        height, width = WEIGHT_SHAPES[which]

        def add_pixel(i: Any, sums: list[Any]) -> list[Any]:
            here = builder.gep(left, [builder.mul(i, index(height))])
            there = builder.gep(right, [builder.mul(i, index(width * lanes))])
            values = [vectors.load(there, index(r * lanes)) for r in range(width)]
            return vectors.add_products(((here, index(m)) for m in range(height)), values, sums)

        sums = loop(builder, count, [vectors.zero] * (height * width), add_pixel, unroll=False)
        whole = builder.icmp_signed("==", columns, index(width * lanes))

        def store(m: int, onto: bool, whole: bool) -> None:
            to = builder.gep(out, [builder.mul(out_row, index(m))])
            for r, value in enumerate(sums[m * width : (m + 1) * width]):
                at, left = index(r * lanes), builder.sub(columns, index(r * lanes))
                if onto:
                    value = builder.fadd(value, vectors.load(to, at) if whole else vectors.load_first(left, to, at))
                vectors.store_part(None if whole else left, value, to, at)

        for m in range(height):
            with (
                builder.if_then(builder.icmp_signed("<", index(m), rows)),
                builder.if_else(whole) as (then, otherwise),
            ):
                for case, all_there in ((then, True), (otherwise, False)):
                    with case, builder.if_else(adds) as (onto, anew):
                        with onto:
                            store(m, True, all_there)
                        with anew:
                            store(m, False, all_there)

    switch(builder, shape, range(len(WEIGHT_SHAPES)), emit)


@intrinsic
def gather_pixels(
    typing_context: Any, out: Any, out_at: Any, out_row: Any, array: Any, places: Any, places_at: Any, at: Any,
    channels: Any, count: Any,
) -> Any:  # fmt: skip
    """Do ``out[out_at + i·out_row + c] = array[places[places_at + i] + at + c]`` for some channels of `count` pixels.

    Whole vectors are written: behind a pixel's channels are zeros, up to a vector, until the next pixel's are there.
    """
    integer = types.int64
    signature = types.void(out, integer, integer, array, places, integer, integer, integer, integer)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out, out_at, out_row, array, places, places_at, at, channels, count = arguments
        kinds = signature.args
        values = [
            pointer(context, builder, kinds[0], out, out_at), out_row,
            pointer(context, builder, kinds[3], array, at),
            pointer(context, builder, kinds[4], places, places_at), channels, count,
        ]  # fmt: skip
        call_once_compiled(builder, "gather_pixels", kinds[0].dtype, values, _gather_pixels)
        return context.get_dummy_value()

    return signature, generate


def _gather_pixels(vectors: Vectors, arguments: list[Any]) -> None:
    out, out_row, array, places, channels, count = arguments
    builder, lanes = vectors.builder, vectors.lanes
    whole = builder.sdiv(channels, index(lanes))
    rest = builder.sub(channels, builder.mul(whole, index(lanes)))

    def pixel(i: Any, carried: list[Any]) -> list[Any]:
        of, to = (
            builder.gep(array, [builder.load(builder.gep(places, [i]))]),
            builder.gep(out, [builder.mul(i, out_row)]),
        )

        def one_vector(r: Any, carried: list[Any]) -> list[Any]:
            at = builder.mul(r, index(lanes))
            vectors.store(vectors.load(of, at), to, at)
            return carried

        loop(builder, whole, [], one_vector, unroll=False)
        with builder.if_then(builder.icmp_signed(">", rest, index(0))):
            at = builder.mul(whole, index(lanes))
            vectors.store(vectors.load_first(rest, of, at), to, at)
        return carried

    loop(builder, count, [], pixel, unroll=False)


@intrinsic
def channelwise_sums(
    typing_context: Any, count: Any, x: Any, lefts: Any, y: Any, rights: Any, rights_at: Any, rights_row: Any,
    taps: Any, sums: Any, sums_at: Any, channels: Any, add: Any,
) -> Any:  # fmt: skip
    """Compute ``sums[t·channels + c] = Σ_i x[lefts[i] + c] · y[rights[t, i] + c]`` over `count` pixels i.

    There are `taps` taps t, not more than ``CHANNELWISE[0]``. If `add`, what is there already is added.
    """
    integer = types.int64
    signature = types.void(
        integer, x, lefts, y, rights, integer, integer, integer, sums, integer, integer, types.boolean
    )

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        count, x, lefts, y, rights, rights_at, rights_row, taps, sums, sums_at, channels, add = arguments
        kinds = signature.args
        values = [
            count,
            pointer(context, builder, kinds[1], x, index(0)),
            pointer(context, builder, kinds[2], lefts, index(0)),
            pointer(context, builder, kinds[3], y, index(0)),
            pointer(context, builder, kinds[4], rights, rights_at),
            rights_row, taps,
            pointer(context, builder, kinds[8], sums, sums_at),
            channels, builder.zext(add, index(0).type),
        ]  # fmt: skip
        call_once_compiled(builder, "channelwise_sums", kinds[1].dtype, values, _channelwise_sums)
        return context.get_dummy_value()

    return signature, generate


def _channelwise_sums(vectors: Vectors, arguments: list[Any]) -> None:
    count, x, lefts, y, rights, rights_row, taps, sums, channels, add = arguments
    builder, (most, _) = vectors.builder, CHANNELWISE
    adds = builder.icmp_signed("!=", add, index(0))
    # A tap that is not there is the first one once more.
    there = [builder.icmp_signed("<", index(t), taps) for t in range(most)]
    rows = [
        builder.gep(rights, [builder.select(is_there, builder.mul(rights_row, index(t)), index(0))])
        for t, is_there in enumerate(there)
    ]

    def emit(at: Any, columns: int, part: Any) -> None:
        from_x, from_y, to_sums = (builder.gep(base, [at]) for base in (x, y, sums))
        offsets = [index(r * vectors.lanes) for r in range(columns)]
        parts = [None] * (columns - 1) + [part]

        def read(base: Any) -> list[Any]:
            return [vectors.load_part(each, base, offset) for each, offset in zip(parts, offsets)]

        def add_pixel(i: Any, totals: list[Any]) -> list[Any]:
            values = read(builder.gep(from_x, [builder.load(builder.gep(lefts, [i]))]))
            updated: list[Any] = []
            for row in rows:
                others = read(builder.gep(from_y, [builder.load(builder.gep(row, [i]))]))
                for value, other in zip(values, others):
                    updated.append(vectors.multiply_add(other, value, totals[len(updated)]))
            return updated

        totals = loop(builder, count, [vectors.zero] * (most * columns), add_pixel, unroll=False)
        for t, is_there in enumerate(there):
            to = builder.gep(to_sums, [builder.mul(channels, index(t))])
            with builder.if_then(is_there), builder.if_else(adds) as (onto, anew):
                for case, more in ((onto, True), (anew, False)):
                    with case:
                        before = read(to) if more else []
                        for r, total in enumerate(totals[t * columns : (t + 1) * columns]):
                            value = builder.fadd(total, before[r]) if more else total
                            vectors.store_part(parts[r], value, to, offsets[r])

    _by_channels(vectors, channels, emit)


def _by_channels(vectors: Vectors, channels: Any, emit: Callable[[Any, int, Any], None]) -> None:
    """Emit ``emit(first channel, vectors, part)`` for blocks of whole vectors, where `part` is None, and for the rest.

    There the last vector has `part` channels, up to all.
    """
    builder, lanes, most = vectors.builder, vectors.lanes, CHANNELWISE[1]
    blocks = builder.sdiv(channels, index(most * lanes))
    done = builder.mul(blocks, index(most * lanes))
    rest = builder.sdiv(builder.add(builder.sub(channels, done), index(lanes - 1)), index(lanes))

    def block(i: Any, carried: list[Any]) -> list[Any]:
        emit(builder.mul(i, index(most * lanes)), most, None)
        return carried

    def some(columns: int) -> None:
        emit(done, columns, builder.sub(channels, builder.add(done, index((columns - 1) * lanes))))

    loop(builder, blocks, [], block, unroll=False)
    switch(builder, rest, range(1, most + 1), some)
