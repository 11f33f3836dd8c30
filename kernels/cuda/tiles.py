"""Tiles of a matrix product: who computes what, products from shared memory, and results on their way out.

A block multiplies a tile of rows with a tile of columns, `depth` lines of each at a time, which lie one behind the
other in shared memory: a stage. A thread has ``thread_rows × thread_columns`` sums in registers, in runs of as many as
an access of 16 bytes reads; neighbouring lanes read neighbouring runs, so no banks conflict.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from fastdeconv.kernels.cuda.device import Runs, barrier, device_function, multiplier, picker, reader, writer

WARP = 32


class Tile(NamedTuple):
    """Rows and columns of a block, and those of a thread; lines of the depth that are in shared memory at once."""

    rows: int
    columns: int
    thread_rows: int
    thread_columns: int
    depth: int = 16

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.rows * self.columns // (self.thread_rows * self.thread_columns)


class Stage(NamedTuple):
    """How a tile lies in shared memory.

    Attributes
    ----------
    row_pitch, column_pitch : int
        Elements from one line to the next.
    columns : int
        Where columns begin, after the rows.
    size : int
    """

    row_pitch: int
    column_pitch: int
    columns: int
    size: int


def stage_of(tile: Tile, run: int, spare: int) -> Stage:
    """Return how a tile lies in shared memory, for runs of so many elements, and `spare` ones after a line of rows.

    Lines of columns are one run longer than the tile, and those of rows should be where lanes store to several lines at
    once: they meet different banks then.
    """
    rows, columns = tile.rows + spare, tile.columns + run
    return Stage(rows, columns, tile.depth * rows, tile.depth * (rows + columns))


@cache
def position(tile: Tile) -> Any:
    """Return a device function ``(thread) -> (row, column)`` of a thread among those of a block."""
    down, across = tile.rows // tile.thread_rows, tile.columns // tile.thread_columns
    # A warp covers four rows of eight threads, which read the least of shared memory, or what comes nearest.
    warp_down = min(4, down)
    warp_across = WARP // warp_down
    warps = across // warp_across

    @device_function
    def placed(thread: Any) -> Any:
        warp, lane = thread // WARP, thread % WARP
        return warp // warps * warp_down + lane // warp_across, warp % warps * warp_across + lane % warp_across

    return placed


@cache
def product(tile: Tile, run: int, stage: Stage) -> Any:
    """Return a device function ``(sums, room, row_at, column_at)``: the sums with a stage's products added.

    The places are those of the thread's first row and column in the first line.
    """
    row_runs, column_runs = tile.thread_rows // run, tile.thread_columns // run
    return multiplier(
        tile.depth,
        Runs(run, row_runs, tile.rows // row_runs, stage.row_pitch),
        Runs(run, column_runs, tile.columns // column_runs, stage.column_pitch),
    )


class Drain(NamedTuple):
    """How the sums of a block leave it: through shared memory, a slot of each thread at a time.

    Lanes then run along rows, or along columns, as they do in the array that takes the results. A slot is one column of
    a thread in the first case, else one row.

    Attributes
    ----------
    room : int
        Elements of shared memory.
    leave : callable
        Device function ``(sums, room, thread, context)``, for all threads of the block, that calls
        ``store(context, row, column, sum)`` for each sum.
    """

    room: int
    leave: Any


@cache
def drain(tile: Tile, run: int, rows_run: bool, store: Callable[..., None]) -> Drain:
    """Return how sums leave a block, with lanes along rows where `rows_run` says so."""
    along, across = (tile.rows, tile.columns) if rows_run else (tile.columns, tile.rows)
    count, slots = (tile.thread_rows, tile.thread_columns)[:: 1 if rows_run else -1]
    wide = tile.thread_columns
    pick = picker(count, wide, slots, 1) if rows_run else picker(count, 1, slots, wide)
    read, write = reader(1), writer(run, count // run, along * run // count)
    lines, pitch, gap = across // slots, along + run, across * run // slots
    threads, placed = tile.threads, position(tile)
    each = along * lines // threads

    @device_function
    def put(sums: Any, room: Any, thread: Any, slot: Any) -> None:
        row, column = placed(thread)
        to = column * pitch + row * run if rows_run else row * pitch + column * run
        write(room, to, pick(sums, slot))

    @device_function
    def take(room: Any, thread: Any, slot: Any, context: Any) -> None:
        first = slot // run * gap + slot % run
        for i in range(each):
            number = thread + i * threads
            place, line = number % along, number // along
            (value,) = read(room, line * pitch + place)
            other = line * run + first
            if rows_run:
                store(context, place, other, value)
            else:
                store(context, other, place, value)

    @device_function
    def leave(sums: Any, room: Any, thread: Any, context: Any) -> None:
        barrier()  # stages are read until here, and what the kernel left for `store` is there now
        for slot in range(slots):
            put(sums, room, thread, slot)
            barrier()
            take(room, thread, slot, context)
            barrier()

    return Drain(lines * pitch, leave)
