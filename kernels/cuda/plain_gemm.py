"""Forward pass where no two products of a channel meet in one output: one plain matrix product, its results scattered.

``out[n, co, s·i + d·k - p] = Σ weight[ci, (co, k)] · source[n, ci, i]`` if no axis has two pairs (i, k) at one place:
where ``d·(k - 1) < s`` (k = s of a U-Net) or the input has one pixel (the first layer of a generator). Rows are (output
channel, tap), columns (image, input pixel), depth is input channels: a block loads each pixel of its columns once for
all taps, where `gather_gemm` loads it once a phase.

Memory: source and output of any strides · weights are read as they lie, (channel, row), where rows are in their order
and a whole number of vectors; else they are packed, rows (tap, channel) if channels of the output are adjacent · tiles
of 8 × rows and 8 × columns in shared memory, twice, the latter a vector longer, against bank conflicts. Column
c·V + v of a tile of vectors of V elements is pixel c + v·columns/V: neighbouring threads have neighbouring pixels, and
each store of a warp fills whole sectors. Rows whose outputs are adjacent (both taps of k2 s2, four channels of NHWC)
leave with one access of up to 16 bytes.
Parallel over tiles of columns, blocks of rows, groups. Sums run in the order of the channels. Outputs that no tap
reaches are filled by a kernel of their own. A NaN or Inf reaches the outputs it touches and no others.

Few columns (`FEW`, and up to `FEW_BLOCKS` times as many) and outputs that no tap reaches have kernels in `plain_few`.

Choice, by calculation: a tile of 128 × 128 loads 1/128 + 1/128 elements a product, one of 64 × 64 twice that; taken is
the tile with the least work of the busiest multiprocessor, where reads of shared memory count as products do.
The gradients need no such kernel: that of the weights is one product over pixels in `weight_gemm` for any stride, and
that of the input has one phase in `gather_gemm`. Where taps do not overlap, either loads each element of the output's
gradient once for each block of rows, as a plain product would. One case is open: the input gradient of inputs of one
pixel with channels first, whose taps lie side by side along the depth, and which `gather_gemm` reads across.

Not yet run on hardware.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdeconv.kernels.cuda.device import cuda, device_function, multiply_add, reader, writer
from fastdeconv.kernels.cuda.factory import kernel_factory
from fastdeconv.kernels.cuda.gather_gemm import Tile
from fastdeconv.kernels.cuda.launches import (
    THREADS,
    DeviceImplementation,
    Launch,
    Layout,
    Scratch,
    Steps,
    Target,
    blocks_for,
    extent,
    index_for,
)
from fastdeconv.kernels.cuda.packing import Lines, channel_vectors, pack, tabulate
from fastdeconv.kernels.cuda.plain_few import few_kernel, fill_kernel
from fastdeconv.kernels.cuda.plain_places import (
    CHANNELS,
    OUT_C,
    OUT_CHANNELS,
    OUTPUT_0,
    OUTPUT_1,
    OUTPUT_2,
    PITCH,
    SOURCE_C,
    bias_reader,
    decoders,
)
from fastdeconv.kernels.cuda.registers import gatherer, put, store_runs
from fastdeconv.kernels.geometry import Geometry

DEPTH = 8  # of a tile
FEW, FEW_BLOCKS = 8, 2
TILES = {
    "float32": (
        Tile(128, 128, 8, 8), Tile(64, 128, 4, 8), Tile(128, 64, 8, 4), Tile(64, 64, 4, 4), Tile(32, 128, 4, 4),
        Tile(128, 32, 4, 4),
    ),
    "float64": (Tile(64, 128, 4, 8), Tile(128, 64, 8, 4), Tile(64, 64, 4, 4), Tile(32, 128, 4, 4), Tile(128, 32, 4, 4)),
}  # fmt: skip


class Variant(NamedTuple):
    """What a kernel is compiled for.

    Attributes
    ----------
    element, places : str
        Types of elements and of places in arrays.
    run : int
        Rows whose outputs are adjacent and stored together.
    by_channels : bool
        Whether the source is read along channels, with 16 bytes an access; else one pixel after the other.
    cropped : bool
        Whether products may fall outside the output.
    lanes_on_rows : bool
        Whether neighbouring threads have neighbouring rows; else neighbouring pixels.
    """

    element: str
    places: str
    run: int = 1
    by_channels: bool = False
    cropped: bool = False
    lanes_on_rows: bool = False


@kernel_factory
def kernel(tile: Tile, variant: Variant) -> Callable[..., None]:
    """Return the kernel for one shape of tiles."""
    block_rows, block_columns, thread_rows, thread_columns = tile[:4]
    index, run, cropped = variant.places, variant.run, variant.cropped
    by_channels, lanes_on_rows = variant.by_channels, variant.lanes_on_rows
    cast, element = getattr(np, index), getattr(np, variant.element)
    lanes = 16 // np.dtype(element).itemsize
    down, across = block_rows // thread_rows, block_columns // thread_columns
    parts_a, parts_b = thread_rows // lanes, thread_columns // lanes
    far_a, far_b = block_rows // parts_a, block_columns // parts_b
    line_a, apart, quads = block_rows // lanes, block_columns // lanes, DEPTH // lanes
    pitch = block_columns + lanes
    size_a, size_b = DEPTH * block_rows, DEPTH * pitch
    room_a, room_b = 2 * size_a, 2 * size_b
    busy_a, busy_b = DEPTH * line_a, DEPTH * apart  # vectors of a tile, of which each thread loads one or two
    loads_a, loads_b = -(-busy_a // THREADS), -(-busy_b // THREADS)
    far_load_a, far_load_b = THREADS // line_a, THREADS // (quads if by_channels else apart)
    read, write = reader(lanes), writer(lanes)
    read_rows, read_columns = reader(lanes, parts_a, far_a), reader(lanes, parts_b, far_b)
    zeros = (element(0),) * (thread_rows * thread_columns)
    none, none_a, none_b = (element(0),) * lanes, (element(0),) * (loads_a * lanes), (element(0),) * (loads_b * lanes)

    row_of, column_of, source_of = decoders(index, cropped)
    rows_of = tabulate(tabulate(row_of, lanes // run, run), parts_a, far_a)
    biases = tabulate(tabulate(bias_reader(element, index), lanes), parts_a, far_a)
    columns_of = tabulate(tabulate(column_of, lanes, apart), parts_b, far_b // lanes)
    gather = gatherer(lanes if by_channels else 1)
    pixel_places = tabulate(source_of, lanes, apart)

    @device_function
    def position_place(table: Any, position: int) -> Any:
        """Return where the pixel of a column of the tile is in the source; the first column's pixel comes with it."""
        column = cast(position % block_columns)
        return source_of(table, cast(position - column + column // lanes + column % lanes * apart))

    position_places = tabulate(position_place, loads_b, far_load_b)

    @device_function
    def fetch_row(context: Any, k: int) -> Any:
        weight, at, exists, channels, line = context
        return read(weight, at + k * line) if exists and k < channels else none

    fetch_rows = tabulate(fetch_row, loads_a, far_load_a)

    def multiplied(depth: int) -> Any:
        """Return a device function that multiplies so many rows and columns; loops would be unrolled in part."""
        rest: Any = multiplied(depth - 1) if depth > 1 else None

        @device_function
        def one(rows: Any, columns: Any, row_at: int, column_at: int, cells: Any) -> Any:
            return multiply_add(read_rows(rows, row_at), read_columns(columns, column_at), cells)

        @device_function
        def joined(rows: Any, columns: Any, row_at: int, column_at: int, cells: Any) -> Any:
            cells = rest(rows, columns, row_at, column_at, cells)
            row_at, column_at = row_at + (depth - 1) * block_rows, column_at + (depth - 1) * pitch
            return multiply_add(read_rows(rows, row_at), read_columns(columns, column_at), cells)

        return one if depth == 1 else joined

    multiply_tile = multiplied(DEPTH)

    def plain_gemm(source: Any, weight: Any, bias: Any, out: Any, table: Any, has_bias: int) -> None:
        rows = cuda.shared.array(room_a, element)
        columns = cuda.shared.array(room_b, element)
        thread = cast(cuda.threadIdx.x)
        first_column = cast(cast(cuda.blockIdx.x) * block_columns)
        first_row = cast(cast(cuda.blockIdx.y) * block_rows)
        group = cast(cuda.blockIdx.z)
        channels, line = cast(table[CHANNELS]), cast(table[PITCH])
        source_c = cast(table[SOURCE_C])
        source_at = cast(group * channels * source_c)

        # What this thread loads of each tile.
        load_row, load_k = cast(first_row + thread % line_a * lanes), cast(thread // line_a)
        weight_at = cast(group * channels * line + load_row)
        loads_row = thread < busy_a and load_row < line
        if by_channels:
            places = position_places(table, cast(first_column + thread // quads))
            load_channel = cast(thread % quads * lanes)
            put_at = cast(load_channel * pitch + thread // quads)
        else:
            places = pixel_places(table, cast(first_column + thread % apart))
            load_channel = cast(thread // apart)
            put_at = cast(load_channel * pitch + thread % apart * lanes)
        loads_column = thread < busy_b

        if lanes_on_rows:
            thread_row, thread_column = cast(thread % down), cast(thread // down)
        else:
            thread_row, thread_column = cast(thread // across), cast(thread % across)
        cells, next_rows, next_columns = zeros, none_a, none_b
        tiles = cast((channels + DEPTH - 1) // DEPTH)
        now = cast(0)
        for step in range(tiles + 1):
            if step < tiles:
                next_rows = fetch_rows((weight, weight_at, loads_row, channels, line), cast(step * DEPTH + load_k))
                channel = cast(step * DEPTH + load_channel)
                more = cast(source_at + channel * source_c)
                next_columns = gather(source, places, more, loads_column and channel < channels)
                if loads_b == 2 and not by_channels:
                    channel = cast(channel + far_load_b)
                    more = cast(more + far_load_b * source_c)
                    next_columns = next_columns + gather(source, places, more, channel < channels)
            if step > 0:
                row_at, column_at = cast(now * size_a + thread_row * lanes), cast(now * size_b + thread_column * lanes)
                cells = multiply_tile(rows, columns, row_at, column_at, cells)
                now = cast(1 - now)
            if step < tiles:
                if thread < busy_a:
                    write(rows, now * size_a + thread * lanes, next_rows[:lanes])
                    if loads_a == 2:
                        write(rows, now * size_a + (thread + THREADS) * lanes, next_rows[lanes:])
                if loads_column:
                    at = cast(now * size_b + put_at)
                    if by_channels:
                        put(columns, at, pitch, next_columns[:lanes])
                        if loads_b == 2:
                            put(columns, at + far_load_b, pitch, next_columns[lanes:])
                    else:
                        write(columns, at, next_columns[:lanes])
                        if loads_b == 2:
                            write(columns, at + far_load_b * pitch, next_columns[lanes:])
                cuda.syncthreads()

        row = cast(first_row + thread_row * lanes)
        column = cast(first_column + thread_column)
        first_channel = cast(group * table[OUT_CHANNELS])
        sizes = (cast(table[OUTPUT_0]), cast(table[OUTPUT_1]), cast(table[OUTPUT_2])) if cropped else (cast(1),)
        more = biases((table, bias, first_channel, has_bias), row)
        store_runs(
            out, first_channel * table[OUT_C], sizes, columns_of(table, column), rows_of(table, row), more, cells
        )

    return plain_gemm


def _taps(g: Geometry, layout: Layout) -> NDArray[np.int64]:
    """Return each tap's place in the output and its coordinates."""
    where = np.indices(g.kernel).reshape(3, -1).T * g.dilation
    return np.hstack([where @ np.array(layout.second[2:])[:, None], where])


def _unmet(g: Geometry) -> str | None:
    """Return why products of one channel may meet in an output, or None."""
    for i, k, s, d in zip(g.input, g.kernel, g.stride, g.dilation):
        if i > 1 and d * (k - 1) >= s:
            return f"taps overlap: {k} of them, dilated by {d}, in a stride of {s}"
    return None


def _strides(g: Geometry) -> tuple[int, ...]:
    """Return strides; one pixel has one that leads out of the output."""
    axes = zip(g.input, g.stride, g.output, g.padding)
    return tuple(s if i > 1 else o + p + 1 for i, s, o, p in axes)


def _gaps(g: Geometry) -> bool:
    """Return whether there are outputs that no tap reaches."""
    for i, k, s, d, p, o in zip(g.input, g.kernel, _strides(g), g.dilation, g.padding, g.output):
        first = [d * tap - p for tap in range(k)]
        met = sum(max(0, min(i, -(-(o - f) // s)) - max(0, -(f // s))) for f in first)
        if met < o:
            return True
    return False


def _run(g: Geometry, by_tap: bool, layout: Layout, most: int) -> int:
    """Return how many rows have adjacent outputs, wherever a run of them begins."""
    if any(g.padding) or not layout.aligned:
        return 1
    image, channel, *axes = layout.second
    places = _taps(g, layout)[:, 0]
    channels = np.arange(g.group_out) * channel
    rows = (places[:, None] + channels if by_tap else channels[:, None] + places).reshape(-1)
    steps = [s * step for i, s, step in zip(g.input, g.stride, axes) if i > 1]
    steps += [image] * (g.batch > 1) + [g.group_out * channel] * (g.groups > 1)
    for run in (4, 2):
        if run <= most and rows.size % run == 0 and not any(step % run for step in steps):
            firsts = rows[::run]
            if not (firsts % run).any() and (rows.reshape(-1, run) == firsts[:, None] + np.arange(run)).all():
                return run
    return 1


def tile_for(g: Geometry, target: Target) -> Tile:
    """Return the tile with the least work of the busiest multiprocessor, reads of shared memory among it."""
    rows, columns = g.group_out * g.taps, g.batch * math.prod(g.input)

    def work(tile: Tile) -> float:
        blocks = -(-rows // tile.rows) * -(-columns // tile.columns) * g.groups
        reads = 1 / tile.thread_rows + 1 / tile.thread_columns
        return -(-blocks // target.multiprocessors) * tile.rows * tile.columns * (1 + reads)

    return min(TILES[g.dtype], key=work)


def steps(g: Geometry, layout: Layout, target: Target, tile: Tile | None = None) -> Steps:
    """Return the launches of the forward pass; a tile given is taken however few columns there are."""
    lanes = 16 // np.dtype(g.dtype).itemsize
    rows, pixels = g.group_out * g.taps, g.batch * math.prod(g.input)
    few = tile is None and pixels <= FEW * FEW_BLOCKS
    channels_last = layout.second[1] == 1 < layout.second[4]
    by_tap = channels_last and g.taps > 1 and g.group_out > 1 and not few
    direct = not by_tap and (few or (rows % lanes == 0 and layout.aligned))
    pitch = rows if direct else -(-rows // lanes) * lanes
    index = index_for(g.in_channels * pitch, extent(g.input_shape, layout.first), extent(g.output_shape, layout.second))
    table = [
        rows, pitch, g.group_in, g.group_out, g.groups, g.batch, g.taps, int(by_tap), *layout.first, *layout.second,
        *g.input, *g.output, *g.kernel, *_strides(g), *g.padding, *g.dilation,
        *_taps(g, layout).reshape(-1).tolist(),
    ]  # fmt: skip
    launches = []
    scratch = {}
    if not direct:
        block, block_step, step = (g.group_out, 1, g.taps) if by_tap else (rows, 0, 1)
        launches.append(pack(Lines(g.in_channels, rows, pitch, 1, rows, 0, block, block_step, step), g.dtype, index))
        scratch["packed"] = Scratch(g.in_channels * pitch, g.dtype)
    if few:
        columns = next(n for n in (1, 2, 4, FEW) if n >= min(pixels, FEW))
        blocks = -(-rows // (32 * lanes)) * g.groups
        wide = lanes if rows % lanes == 0 and layout.aligned and blocks >= target.multiprocessors else 1
        function = few_kernel(columns, wide, g.dtype, index)
        grid = (-(-rows // (32 * wide)), -(-pixels // columns), g.groups)
    else:
        tile = tile or tile_for(g, target)
        variant = Variant(
            g.dtype, index, _run(g, by_tap, layout, lanes), channel_vectors(g, layout, lanes), any(g.padding),
            channels_last or math.prod(g.input) == 1,
        )  # fmt: skip
        function = kernel(tile, variant)
        grid = (-(-pixels // tile.columns), -(-rows // tile.rows), g.groups)
    pointer, flag = f"{g.dtype}*", int(layout.bias)
    weights = "weight" if direct else "packed"
    launches.append(
        Launch(function, (*(pointer,) * 4, "int64*", "int32"), grid, ("source", weights, "bias", "out", "table", flag))
    )
    if _gaps(g):
        count = math.prod(g.output_shape)
        launches.append(
            Launch(
                fill_kernel(g.dtype, index), (pointer, pointer, "int64*", index, "int32"), (blocks_for(count),),
                ("bias", "out", "table", count, flag),
            )
        )  # fmt: skip
    return Steps(tuple(launches), {"table": np.array(table, np.int64)}, scratch)


def _declines(g: Geometry, target: Target) -> str | None:
    if g.dtype not in TILES:
        return f"serves {' and '.join(TILES)}, not {g.dtype}"
    return _unmet(g)


def _yields(g: Geometry, target: Target) -> str | None:
    rows = g.group_out * g.taps
    fewest = min(tile.rows for tile in TILES[g.dtype])
    return f"{rows} rows would leave over half of a tile of {fewest} empty" if 2 * rows < fewest else None


FORWARD = DeviceImplementation(
    "plain_gemm",
    "One matrix product of weights and pixels, where the taps of a stride do not overlap; its results are scattered.",
    _declines,
    steps,
    _yields,
)
