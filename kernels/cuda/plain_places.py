"""What the kernels of plain products are told, and where rows and columns are: a table of integers, and its readers."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from fastdeconv.kernels.cuda.device import device_function, unravel

# A pixel or row that does not exist lies here on the first axis, outside every output.
OUTSIDE = -(1 << 30)

# What a table of sizes holds, in this order; then `TAP` entries a tap: its place in the output and its coordinates.
(ROWS, PITCH, CHANNELS, OUT_CHANNELS, GROUPS, BATCH, TAPS, BY_TAP,
 SOURCE_N, SOURCE_C, SOURCE_0, SOURCE_1, SOURCE_2, OUT_N, OUT_C, OUT_0, OUT_1, OUT_2,
 INPUT_0, INPUT_1, INPUT_2, OUTPUT_0, OUTPUT_1, OUTPUT_2, KERNEL_0, KERNEL_1, KERNEL_2, STRIDE_0, STRIDE_1, STRIDE_2,
 PADDING_0, PADDING_1, PADDING_2, DILATION_0, DILATION_1, DILATION_2) = range(36)  # fmt: skip
HEADER = 36
TAP = 4


@cache
def decoders(index: str, cropped: bool) -> tuple[Any, Any, Any]:
    """Return device functions of (table, number), each of which makes a tuple.

    What `store_runs` takes of a row · of a column · a column's place in the source, or -1. Coordinates are on three
    axes where products may fall outside the output; else there is one, of which 0 says that the row or column exists.
    """
    cast = getattr(np, index)
    unraveled = unravel(index)

    @device_function
    def row_of(table: Any, r: int) -> Any:
        if table[BY_TAP]:
            tap, channel = cast(r // cast(table[OUT_CHANNELS])), cast(r % cast(table[OUT_CHANNELS]))
        else:
            tap, channel = cast(r % cast(table[TAPS])), cast(r // cast(table[TAPS]))
        if r >= table[ROWS]:
            return (cast(0), cast(OUTSIDE), cast(0), cast(0)) if cropped else (cast(0), cast(OUTSIDE))
        at = HEADER + TAP * tap
        place = cast(channel * table[OUT_C] + table[at])
        if cropped:
            return place, cast(table[at + 1]), cast(table[at + 2]), cast(table[at + 3])
        return place, cast(0)

    @device_function
    def column_of(table: Any, column: int) -> Any:
        n, i0, i1, i2 = unraveled(cast(column), cast(table[INPUT_0]), cast(table[INPUT_1]), cast(table[INPUT_2]))
        o0 = cast(i0 * table[STRIDE_0] - table[PADDING_0])
        o1 = cast(i1 * table[STRIDE_1] - table[PADDING_1])
        o2 = cast(i2 * table[STRIDE_2] - table[PADDING_2])
        place = cast(n * table[OUT_N] + o0 * table[OUT_0] + o1 * table[OUT_1] + o2 * table[OUT_2])
        exists = n < table[BATCH]
        if cropped:
            return place, o0 if exists else cast(OUTSIDE), o1, o2
        return place, cast(0) if exists else cast(OUTSIDE)

    @device_function
    def source_of(table: Any, column: int) -> Any:
        n, i0, i1, i2 = unraveled(cast(column), cast(table[INPUT_0]), cast(table[INPUT_1]), cast(table[INPUT_2]))
        if n >= table[BATCH]:
            return (cast(-1),)
        return (cast(n * table[SOURCE_N] + i0 * table[SOURCE_0] + i1 * table[SOURCE_1] + i2 * table[SOURCE_2]),)

    return row_of, column_of, source_of


@cache
def bias_reader(element: Any, index: str) -> Any:
    """Return a device function of ((table, bias, first channel, has_bias), row): a tuple of the bias."""
    cast = getattr(np, index)

    @device_function
    def bias_of(context: Any, r: int) -> Any:
        table, bias, first, has_bias = context
        if has_bias and r < table[ROWS]:
            channel = cast(r % cast(table[OUT_CHANNELS])) if table[BY_TAP] else cast(r // cast(table[TAPS]))
            return (element(bias[first + channel]),)
        return (element(0),)

    return bias_of
