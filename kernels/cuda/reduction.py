"""Sums of many products by many threads: in ranges, that lanes share, whose sums are added in a fixed order.

A block has slots, one a result, of as many lanes each. Each lane sums what it meets in its range; a tree in shared
memory adds the lanes; `add_ranges` adds the ranges, one after the other. No float is added atomically, so that results
do not depend on which block comes first.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fastdeconv.kernels.cuda.device import barrier, cuda, device_function
from fastdeconv.kernels.cuda.elements import elements
from fastdeconv.kernels.cuda.factory import kernel_factory
from fastdeconv.kernels.cuda.launches import THREADS, Launch, Target, blocks_for

# Blocks that keep a multiprocessor busy, fewest products of a lane in a range, and the limit of a grid's second axis.
_BLOCKS, _PRODUCTS, _MOST = 8, 64, 65535


class Team(NamedTuple):
    """Who sums what.

    Attributes
    ----------
    lanes : int
        Threads that share a result, a power of two.
    lane_step, slot_step : int
        From a thread to that of the next lane, and to that of the next slot; one of them is 1.
    blocks, ranges : int
        The grid.
    """

    lanes: int
    lane_step: int
    slot_step: int
    blocks: int
    ranges: int


def team(results: int, products: int, channels_last: bool, target: Target) -> Team:
    """Return how to share so many results, each a sum of so many products.

    Neighbouring threads have neighbouring pixels of a result, or with channels last neighbouring results: in both,
    neighbours in memory.
    """
    lanes = 1 << min(max(products // 8, 1), 8 if channels_last else THREADS).bit_length() - 1
    slots = THREADS // lanes
    blocks = -(-results // slots)
    ranges = max(1, min(products // (lanes * _PRODUCTS), -(-_BLOCKS * target.multiprocessors // blocks), _MOST))
    return Team(lanes, *((slots, 1) if channels_last else (1, lanes)), blocks, ranges)


def room(results: int, products: int, target: Target) -> int:
    """Return the elements of scratch memory that teams take for their ranges, the same in all layouts."""
    return results * max(team(results, products, last, target).ranges for last in (False, True))


@device_function
def tree(sums: Any, thread: int, lane: int, lanes: int, lane_step: int) -> Any:
    """Add the lanes of each slot in shared memory; lane 0 has the sum."""
    half = lanes // 2
    while half > 0:
        barrier()
        if lane < half:
            sums[thread] += sums[thread + half * lane_step]
        half //= 2
    return sums[thread]


@cache
def stride(index: str) -> Any:
    """Return a device function: the pixel that is so many further, all by image and place on each axis."""
    cast = getattr(np, index)

    @device_function
    def carried(value: int, step: int, carry: int, size: int) -> Any:
        value = cast(value + step + carry)
        return (cast(value - size), cast(1)) if value >= size else (value, cast(0))

    @device_function
    def moved(n: int, i0: int, i1: int, i2: int, by: Any, size0: int, size1: int, size2: int) -> Any:
        i2, carry = carried(i2, by[3], cast(0), size2)
        i1, carry = carried(i1, by[2], carry, size1)
        i0, carry = carried(i0, by[1], carry, size0)
        return cast(n + by[0] + carry), i0, i1, i2

    return moved


@kernel_factory
def add_kernel(dtype: str) -> Callable[..., None]:
    """Return the kernel that adds the ranges of each result in their order; a thread has one result."""
    narrow = elements(dtype).narrow

    def add_ranges(sums: Any, out: Any, count: int, ranges: int) -> None:
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if i < count:
            total = sums[i]
            for part in range(1, ranges):
                total += sums[part * count + i]
            out[i] = narrow(total)

    return add_ranges


def add(dtype: str, count: int, ranges: int) -> Launch:
    """Return the launch that adds scratch memory "sums" to "out"."""
    element = elements(dtype)
    types = (f"{element.sum}*", element.pointer, "int64", "int64")
    return Launch(add_kernel(dtype), types, (blocks_for(count),), ("sums", "out", count, ranges))
