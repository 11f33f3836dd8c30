"""Input gradient for few channels a group: rows of the gradient, taken apart into phases while they are in a cache.

``gx[ci, i] = Σ w[ci, co, k] · gy[co, s·i + d·k - p]`` over co and k. On the last axis ``d·k - p = s·shift + r``, so an
input reads elements of phase r one after the other. Where each element is used a few times only, moving it is all the
work. Here each row of gy is read once, its phases are written side by side, and the rows of gx that need it are
computed at once, whole vectors from the sums to where they stay.

Memory: lines of a band of rows, each with its phases and zeros around; those in use stay in the first-level cache.
Parallel over images, groups, slices and bands of rows of gx. A NaN or Inf in the weights meets the zeros around gy.

Ladder, measured in docs/decisions/0019-rows.md.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdeconv.kernels.cpu import host, workspace
from fastdeconv.kernels.cpu.buffers import empty
from fastdeconv.kernels.cpu.costs import weights_of
from fastdeconv.kernels.cpu.frame import ints
from fastdeconv.kernels.cpu.jit import device_function, kernel
from fastdeconv.kernels.cpu.long_kernel.layout import declines, yields
from fastdeconv.kernels.cpu.rows import AHEAD, MOST_INTERLEAVED, SPLIT, split_rows, zero_row
from fastdeconv.kernels.cpu.tiles import ROW_COLUMNS, row_tile
from fastdeconv.kernels.geometry import Bound, Cost, Geometry, Implementation

Array = NDArray[Any]

LAYOUT = np.dtype(
    [
        ("groups", "i8"),
        ("rows", "i8"),  # input channels of a group
        ("channels", "i8"),  # output channels of a group
        ("input", "i8", (3,)),
        ("output", "i8", (3,)),
        ("kernel", "i8", (3,)),
        ("stride", "i8", (3,)),
        ("padding", "i8", (3,)),
        ("dilation", "i8", (3,)),
        ("bands", "i8"),  # of rows
        ("together", "i8"),  # rows of gx that are computed in one call
        ("lines", "i8"),  # rows of gy that a band reads, those between included
        ("line", "i8"),  # elements of one: all its phases
        ("lead", "i8"),  # zeros before its first
        ("wanted", "i8"),  # a bit for each phase that taps read
        ("width", "i8"),  # elements of a row of a tile
        ("split", "i8", (len(SPLIT),)),
    ]
)

# A sum longer than this is one of partial sums: a plain running total would lose more than rounding must.
_RUN = 2048
# Bytes of a band's lines: half of a core's second-level cache.
_CACHED = 256 << 10
_UNITS = 16
# Rows of gx that are computed in one call; fewer where they read several lines each, as nothing is read meanwhile.
_TOGETHER, _APART = 8, 2
# With more channels of x, reading a line again for each takes longer than tiles of channels do.
_FEW = 4


@device_function
def _fill_lines(
    p: Any, part: Any, gy: Any, image: int, slice_: int, top: int, reads: Any, begin: int, end: int
) -> None:  # fmt: skip
    """Take lines of all channels of a group apart, in each slice that the kernel reads; zeros outside."""
    size1, size2 = p.output[1], p.output[2]
    line = begin
    while line < end:
        if not reads[line % p.stride[1]]:
            line += 1
            continue
        lines = 1
        while line + lines < end and reads[(line + lines) % p.stride[1]]:
            lines += 1
        # Those above the first row of gy, those in it, and those below its last.
        above = min(lines, max(0, -(top + line)))
        inside = max(0, min(lines, size1 - (top + line)) - above)
        for c in range(p.channels):
            for k0 in range(p.kernel[0]):
                o0 = slice_ + p.dilation[0] * k0
                at = ((c * p.kernel[0] + k0) * p.lines + line) * p.line
                many = inside if 0 <= o0 < p.output[0] else 0
                row = (((image + c) * p.output[0] + o0) * size1 + top + line + above) * size2
                zero_row(part, at, above * p.line)
                split_rows(part, at + above * p.line + p.lead, gy, row, many, p.wanted, p.split)
                zero_row(part, at + (above + many) * p.line, (lines - above - many) * p.line)
        line += lines


@kernel("T[]", "T[]", "T[]", LAYOUT, "int[]", "int[]")
def row_units(lo: int, hi: int, gy: Any, w: Any, gx: Any, layout: Any, sizes: Any, reads: Any) -> None:
    """Compute one band of rows of one slice of the input gradient of one group, one image.

    For `sizes` see `row_tile`; `reads` tells for each row of gy, counted from the first that a row of gx reads, whether
    that or one after it does.
    """
    p = layout[0]
    size1, size2 = p.input[1], p.input[2]
    taps = p.kernel[0] * p.kernel[1] * p.kernel[2]
    part = empty(p.channels * p.kernel[0] * p.lines * p.line, gy.dtype)
    # Nothing is written to the zeros around.
    zero_row(part, 0, part.size)
    for unit in range(lo, hi):
        band = unit % p.bands
        left = unit // p.bands
        i0 = left % p.input[0]
        image = left // p.input[0]  # of a group
        g = image % p.groups
        first, end = size1 * band // p.bands, size1 * (band + 1) // p.bands
        top = p.stride[1] * first - p.padding[1]
        slice_ = p.stride[0] * i0 - p.padding[0]
        filled = 0
        for i1 in range(first, end, p.together):
            rows, line = min(p.together, end - i1), p.stride[1] * (i1 - first)
            reached = line + p.stride[1] * (rows - 1) + p.dilation[1] * (p.kernel[1] - 1) + 1
            _fill_lines(p, part, gy, image * p.channels, slice_, top, reads, max(filled, line), reached)
            filled = reached
            for m in range(p.rows):
                to = (((image * p.rows + m) * p.input[0] + i0) * size1 + i1) * size2
                weight_at = (g * p.rows + m) * p.channels * taps
                for q in range(0, size2, p.width):
                    row_tile(rows, w, weight_at, part, line * p.line + p.lead + q, gx, to + q, size2 - q, sizes)


class _Lines(NamedTuple):
    """How a line of gy lies in the buffer, and a row of gx in tiles."""

    phases: list[int]  # that taps read
    shifts: list[tuple[int, int]]  # of each tap of the last axis: number of its phase, shift
    lead: int
    keep: int
    pitch: int
    columns: int


def _lines(g: Geometry) -> _Lines:
    lanes, stride = host.lanes(g.dtype), g.stride[2]
    taps = [divmod(g.dilation[2] * k - g.padding[2], stride) for k in range(g.kernel[2])]
    phases = sorted({phase for _, phase in taps})
    shifts = [(phases.index(phase), shift) for shift, phase in taps]
    lead = max(0, -min(shift for _, shift in shifts))
    after = max(0, *(shift for _, shift in shifts))
    keep = min(-(-g.output[2] // stride), g.input[2] + after)
    most = min(ROW_COLUMNS, -(-g.input[2] // lanes))
    columns = min(range(1, most + 1), key=lambda v: (-(-g.input[2] // (v * lanes)) * v, -v))
    # Tiles read past the row.
    read = -(-g.input[2] // (columns * lanes)) * columns * lanes + after
    pitch = lead + max(keep, read)
    return _Lines(phases, shifts, lead, keep, -(-pitch // lanes) * lanes, columns)


def _rows_of_a_band(g: Geometry, bands: int) -> int:
    """Return how many rows of gy the largest band reads, those between included."""
    return (-(-g.input[1] // bands) - 1) * g.stride[1] + g.dilation[1] * (g.kernel[1] - 1) + 1


def _bands(g: Geometry, lines: _Lines) -> tuple[int, int]:
    """Return in how many bands to cut the rows, and the elements of one band's lines."""
    line = g.group_out * g.kernel[0] * len(lines.phases) * lines.pitch
    most = _CACHED // np.dtype(g.dtype).itemsize
    images, bands = g.batch * g.groups * g.input[0], 1
    while bands < g.input[1] and (images * bands < _UNITS or _rows_of_a_band(g, bands) * line > most):
        bands = min(g.input[1], 2 * bands)
    return bands, _rows_of_a_band(g, bands) * line


def _declines(g: Geometry) -> str | None:
    if g.dtype not in ("float32", "float64"):
        return f"vector code is for float32 and float64, not {g.dtype}"
    if g.stride[2] > MOST_INTERLEAVED:
        return f"a stride of {g.stride[2]} along the last axis has more phases than vectors take apart"
    if g.group_out * g.taps > _RUN:
        return f"a sum of {g.group_out * g.taps} products is longer than the {_RUN} of a running total"
    if g.group_in > _FEW:
        return f"{g.group_in} input channels of a group share reads of lines better in tiles of channels"
    if g.input[2] < host.lanes(g.dtype):
        return f"rows of {g.input[2]} inputs fill no vector"
    _, elements = _bands(g, _lines(g))
    needed = elements * np.dtype(g.dtype).itemsize
    if needed > _CACHED:
        return f"lines for one row take {needed} bytes, more than the {_CACHED} that a core's cache has for them"
    return None


def _counts(g: Geometry) -> dict[str, float]:
    """Count what the kernel does: products, terms and tiles of rows, lines and their elements."""
    columns = _lines(g).columns
    width = columns * host.lanes(g.dtype)
    tiles = math.prod(g.input_shape) // g.input[2] * -(-g.input[2] // width)
    terms = tiles * g.group_out * g.taps
    read = min(g.output[1], g.input[1] * min(g.stride[1], g.kernel[1]))
    lines = g.batch * g.out_channels * g.input[0] * g.kernel[0] * read
    return {
        "product": float(terms * width), "term": terms, "tile": tiles, "line": lines,
        "gradient": lines * g.output[2], "call": 1,
    }  # fmt: skip


def _bind(g: Geometry) -> Bound:
    lines = _lines(g)
    bands, elements = _bands(g, lines)
    rows = _rows_of_a_band(g, bands)
    line, ahead = len(lines.phases) * lines.pitch, max(1, AHEAD // g.output[2]) * g.output[2]
    layout = np.zeros(1, LAYOUT)
    for name, value in {
        "groups": g.groups, "rows": g.group_in, "channels": g.group_out, "input": g.input, "output": g.output,
        "kernel": g.kernel, "stride": g.stride, "padding": g.padding, "dilation": g.dilation, "bands": bands,
        "together": _TOGETHER if g.stride[1] == 1 else _APART, "lines": rows, "line": line,
        "lead": lines.lead, "wanted": sum(1 << phase for phase in lines.phases),
        "width": lines.columns * host.lanes(g.dtype),
        "split": (lines.pitch, line, g.output[2], ahead, g.stride[2], g.output[2], lines.keep),
    }.items():  # fmt: skip
        layout[name] = value
    k0, k1, _ = (np.arange(k) for k in g.kernel)
    along = np.array([phase * lines.pitch + shift for phase, shift in lines.shifts])
    tap_offset = np.add.outer(np.add.outer(k0 * rows * line, g.dilation[1] * k1 * line), along).reshape(-1)
    sizes = ints([lines.columns, g.group_out, g.taps, g.stride[1] * line, g.kernel[0] * rows * line, g.input[2],
                  *tap_offset])  # fmt: skip
    reads = np.zeros(g.stride[1], np.int64)
    reads[g.dilation[1] * k1 % g.stride[1]] = 1
    units = g.batch * g.groups * g.input[0] * bands
    launch = row_units.launcher(g.dtype, units, 2 * g.multiplications + math.prod(g.output_shape))

    def run(gy: Array, w: Array, gx: Array) -> None:
        launch(gy, w, gx, layout, sizes, reads)

    private = elements * np.dtype(g.dtype).itemsize
    return Bound(run, workspace.total(0, private, units))


def _yields(g: Geometry) -> str | None:
    """Return why vectors along the kernel should be faster, or None."""
    if host.REGISTERS < 32 or declines(g) is not None or yields(g) is not None:
        return None
    return f"with 32 registers vectors along a kernel of {g.kernel[2]} are faster"


INPUT_GRAD = Implementation(
    "direct_rows", "rows of the gradient, their phases taken apart in a core's cache", _declines, _bind, _yields,
    cost=Cost(_counts, weights_of("direct_rows", "input_grad")),
)  # fmt: skip
