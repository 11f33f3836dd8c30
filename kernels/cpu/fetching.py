"""Lists of lines that are read next, which register tiles bring into the second cache while they multiply.

What many short rows have is known early, and no hardware foresees it. A core waits for a few lines at a time only, and
needs some of those for what it multiplies, so a tile asks for `LINES` in each turn of its loop.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastdeconv.kernels.cpu.jit import device_function
from fastdeconv.kernels.cpu.vectors import Vectors, index, pointer

# Lines that a tile asks for in a turn.
LINES = 2


@intrinsic
def address_of(typing_context: Any, array: Any, at: Any) -> Any:
    """Return the address of an element."""
    signature = types.int64(array, types.int64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = pointer(context, builder, signature.args[0], *arguments)
        return builder.ptrtoint(place, ir.IntType(64))

    return signature, generate


def ask_bytes(turns: int, tables: int, stretches: int) -> int:
    """Return the bytes that lists of lines take for tiles of so many turns, with so many tables and one more list."""
    return 8 * ((1 + tables) * turns * LINES + 6 * stretches)


def ask(vectors: Vectors, address: Any, table: Any, turn: Any) -> None:
    """Emit what asks for the lines of a turn, which lie so many bytes from an address as the table says."""
    builder = vectors.builder
    base = builder.inttoptr(address, ir.IntType(8).as_pointer())
    first = builder.gep(table, [builder.mul(turn, index(LINES))])
    for i in range(LINES):
        vectors.prefetch(base, builder.load(builder.gep(first, [index(i)])), level=2)


@device_function
def spread(
    table: Any, at: int, slots: int, lines: Any, count: int, rows: int, step: int, share: int, itemsize: int
) -> int:  # fmt: skip
    """Spread the lines of one tile evenly over the slots of a table that start at `at`; return how many rows it takes.

    Those are of `rows` that lie `step` elements apart, each with `count` lines at the elements that `lines` tells: as
    many as have a `share` of them, or as slots hold. Where slots are more than lines, a line is named several times.
    """
    once = max(1, min(rows, min(share + count - 1, slots) // max(1, count)))
    total = min(count * once, slots)
    row, line, left = 0, 0, 0
    for i in range(slots):
        table[at + i] = (row * step + lines[line]) * itemsize if total > 0 else 0
        left += total
        if left >= slots:
            left -= slots
            line += 1
            if line == count:
                line = 0
                row += 1
    return once
