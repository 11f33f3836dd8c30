"""One pass over rows of several arrays as whole vectors and one masked one, with sums over the row.

LLVM's own vectoriser leaves rows alone where an array is read and overwritten, and float sums in any case.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastdeconv.kernels.cpu.jit import device_function
from fastdeconv.kernels.cpu.vectors import Vectors, index, loop, pointer

# ``body(vectors, read, scalars) → (written, addends)``, all of them vectors.
Body = Callable[[Vectors, list[Any], list[Any]], tuple[list[Any], list[Any]]]


@device_function
def part_of(unit: int, pieces: int, pixels: int) -> tuple[int, int, int]:
    """Return the plane that a unit of work is a piece of, and the first of its pixels there and the end."""
    piece = unit % pieces
    return unit // pieces, pixels * piece // pieces, pixels * (piece + 1) // pieces


def sweep(read: int, written: int, sums: int, body: Body) -> Any:
    """Make a function ``(arrays…, at, count, scalars…)`` for kernels, which returns a tuple of sums.

    It does `body` for the elements ``at .. at + count - 1`` of arrays of one type: first those that are read, then
    those that are written, which may be among the first. Sums run in the element type, a lane for itself, then over
    the lanes; so a row should be no longer than a few thousand elements.
    """

    @intrinsic
    def run(typing_context: Any, *arguments: Any) -> Any:
        element = arguments[0].dtype
        scalars = len(arguments) - read - written - 2
        result = types.UniTuple(element, sums) if sums else types.void
        kinds = [*arguments[: read + written], types.int64, types.int64, *[element] * scalars]

        def generate(context: Any, builder: Any, signature: Any, packed: Any) -> Any:
            values = cgutils.unpack_tuple(builder, packed[0])
            vectors = Vectors(builder, element)
            arrays, (at, count, *rest) = values[: read + written], values[read + written :]
            bases = [pointer(context, builder, kind, a, at) for kind, a in zip(kinds, arrays)]
            totals = _emit(vectors, bases[:read], bases[read:], count, [vectors.splat(s) for s in rest], sums, body)
            if not sums:
                return context.get_dummy_value()
            return context.make_tuple(builder, result, totals)

        return result(types.Tuple(kinds)), generate  # as Numba passes on what a star takes

    return run


def _emit(
    vectors: Vectors, sources: list[Any], targets: list[Any], count: Any, scalars: list[Any], sums: int, body: Body
) -> list[Any]:  # fmt: skip
    """Emit the pass and return the sums."""
    builder, lanes = vectors.builder, index(vectors.lanes)
    whole = builder.sdiv(count, lanes)

    def each(i: Any, totals: list[Any]) -> list[Any]:
        at = builder.mul(i, lanes)
        results, addends = body(vectors, [vectors.load(source, at) for source in sources], scalars)
        for value, target in zip(results, targets):
            vectors.store(value, target, at)
        return [builder.fadd(total, addend) for total, addend in zip(totals, addends)]

    totals = loop(builder, whole, [vectors.zero] * sums, each)
    done = builder.mul(whole, lanes)
    rest = builder.sub(count, done)
    before = builder.block
    with builder.if_then(builder.icmp_signed(">", rest, index(0))):
        values = [vectors.load_first(rest, source, done) for source in sources]
        results, addends = body(vectors, values, scalars)
        for value, target in zip(results, targets):
            vectors.store_first(rest, value, target, done)
        inside = vectors.first(rest)
        added = [builder.fadd(t, builder.select(inside, a, vectors.zero)) for t, a in zip(totals, addends)]
        after = builder.block
    merged = []
    for total, sum_ in zip(totals, added):
        phi = builder.phi(vectors.type)
        phi.add_incoming(total, before)
        phi.add_incoming(sum_, after)
        merged.append(phi)
    lane = ir.IntType(32)
    return [builder.extract_element(vectors.sums([total]), lane(0)) for total in merged]
